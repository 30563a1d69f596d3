"""`clx data check` and `clx init`: every bad cell named, leaks found, recipes that load."""

import io
import json
import wave
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from clx.modalities.base import MODALITIES
from clx.pipelines.batches.check import check, check_source, summary
from clx.pipelines.batches.columns import check_columns
from clx.pipelines.config.load import load_config
from clx.pipelines.config.objects import make_losses, make_modalities
from clx.pipelines.config.schema import Data
from clx.pipelines.data.guess_columns import infer_modalities
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.data.splits import load_splits
from clx.pipelines.data.write_recipe import recipe_for, write_recipe
from clx.pipelines.system.errors import BadInput

DATA = Path(__file__).parents[3].parent / "shared" / "data"


def png(seed: int) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(256, size=(8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def wav(seed: int, samples: int = 4000) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(np.random.default_rng(seed).integers(-999, 999, samples).astype("<i2").tobytes())
    return buffer.getvalue()


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """60 good rows of image, audio, series, text, table and label; every tenth is test."""
    lines = ["photo,clip,curve,caption,height,label,split"]
    for i in range(60):
        (tmp_path / f"{i}.png").write_bytes(png(i))
        (tmp_path / f"{i}.wav").write_bytes(wav(i, 4000 + 100 * i))
        np.save(tmp_path / f"{i}.npy", np.random.default_rng(i).normal(size=50 + i).astype(np.float32))
        split = "test" if i % 10 == 9 else "train"
        word = "cat" if i % 2 else "dog"
        lines.append(f"{i}.png,{i}.wav,{i}.npy,a photo of a {word} {i},{i / 7:.3f},{word},{split}")
    (tmp_path / "pairs.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "pairs.csv"


def table(**columns: list) -> Manifest:
    rows = np.arange(len(next(iter(columns.values()))))
    return Manifest("t.csv", Path(), pa.table(columns), rows)


def test_columns_of_files_are_known_by_extension_and_the_rest_by_content(pairs) -> None:
    found = infer_modalities(load_splits(Data(train=str(pairs)), 0)["train"])
    assert found.modalities == {
        "image": {"column": "photo"},
        "audio": {"column": "clip"},
        "series": {"column": "curve"},
        "text": {"column": "caption"},
        "table": {"columns": ["height"]},
    }
    assert (found.label, found.target, found.split, found.unused) == ("label", [], "split", {})


def test_bytes_are_known_by_their_first_ones_and_arrays_are_series() -> None:
    found = infer_modalities(
        table(picture=[png(0), png(1)], sound=[wav(0), wav(1)], curve=[[1.0, 2.0], [3.0]], junk=[b"?", b"!"])
    )
    assert list(found.modalities) == ["image", "audio", "series"]
    assert found.unused == {"junk": "bytes of an unknown type"}


def test_two_columns_of_a_kind_are_two_inputs() -> None:
    found = infer_modalities(table(**{"sentence1": ["a b c", "d"], "sentence 2": ["e f g", "h i j"]}))
    assert found.modalities == {"sentence1": {"kind": "text"}, "sentence_2": {"kind": "text", "column": "sentence 2"}}


def test_numbers_identifiers_constants_and_targets_are_told_apart() -> None:
    n = 30
    found = infer_modalities(
        table(
            id=[str(i) for i in range(n)],
            code=[f"x{i}" for i in range(n)],
            width=[str(i / 2) for i in range(n)],
            colour=["red", "blue"] * (n // 2),
            unit=["cm"] * n,
            empty=[""] * n,
            score=[i / 3 for i in range(n)],
        )
    )
    assert found.modalities == {"table": {"columns": ["width", "colour"]}}
    assert found.target == ["score"]
    assert set(found.unused) == {"id", "code", "unit", "empty"}


@pytest.mark.parametrize(
    "source", ["digits", "digits-sum", "aeon:GunPoint", "aeon:Covid3Month", "sklearn:iris", "sklearn:linnerud"]
)
def test_a_written_recipe_loads_and_fits_its_data(source, tmp_path) -> None:
    write_recipe(source, tmp_path / "r.yaml")
    config = load_config(str(tmp_path / "r.yaml"))
    splits = load_splits(config.data, config.train.seed)
    assert config.train.batch_size <= len(splits["train"])
    assert make_losses(config)
    modalities = make_modalities(config)
    for manifest in splits.values():
        check_columns(config, modalities, manifest)
    with pytest.raises(BadInput, match="exists already"):
        write_recipe(source, tmp_path / "r.yaml")


def test_a_recipe_for_numbers_of_a_table_has_no_noise(tmp_path) -> None:
    source = tmp_path / "t.csv"
    source.write_text("a,b,target\n" + "\n".join(f"{i}.5,{i % 7},{i / 3:.3f}" for i in range(60)))
    write_recipe(str(source), tmp_path / "r.yaml")
    config = load_config(str(tmp_path / "r.yaml"))
    (options,) = config.modalities.values()
    assert (options["dropout"], options["augmentation"], options["head"]) == (0, "none", "norm")
    assert (config.data.target, config.eval, config.train.lr) == (["target"], ["regression"], 4e-3)


def test_awkward_names_survive_the_recipe(tmp_path) -> None:
    source = tmp_path / "my: data, #1.csv"
    rows = "\n".join(f'"what, is: #{i} it",{i % 2},{i}.5' for i in range(60))
    source.write_text(f'"a: caption, ""quoted"" #",class,no\n{rows}\n')
    write_recipe(str(source), tmp_path / "r.yaml")
    config = load_config(str(tmp_path / "r.yaml"))
    assert config.data.train == str(source)
    assert config.data.label == "class"
    assert config.modalities["text"] == {"column": 'a: caption, "quoted" #'}
    assert config.modalities["table"] == {"columns": ["no"]}


def test_one_input_is_contrasted_with_another_view_of_itself(tmp_path) -> None:
    for name in ("a/1.png", "b/2.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(png(0))
    assert "text: {column: label}" in recipe_for(str(tmp_path))  # class names are words to align with
    for old, new in (("a", "1"), ("b", "2")):
        (tmp_path / old).rename(tmp_path / new)
    assert "image: {views: 2}" in recipe_for(str(tmp_path))


def test_nothing_to_learn_from_is_said(tmp_path) -> None:
    (tmp_path / "a.csv").write_text("id,label\n1,a\n2,b\n")
    with pytest.raises(BadInput, match="no column looks like an input; found id"):
        recipe_for(str(tmp_path / "a.csv"))


def test_good_data_passes(pairs) -> None:
    report = check_source(str(pairs), None)
    assert report["ok"], report["findings"]
    assert report["findings"] == []
    train = report["splits"]["train"]
    assert (train["rows"], train["classes"]) == (54, {"dog": 30, "cat": 24})
    assert train["inputs"]["audio"]["length"] == {"unit": "seconds", "min": 0.5, "median": 0.8625, "max": 1.225}
    assert train["inputs"]["series"]["length"]["max"] == 108
    assert train["inputs"]["text"]["length"]["unit"] == "characters"
    assert len(summary(report)) == 10


def test_every_bad_cell_is_named(pairs) -> None:
    folder = pairs.parent
    (folder / "1.png").write_bytes(png(1)[:60])
    (folder / "2.png").unlink()
    (folder / "3.wav").write_bytes(b"")
    np.save(folder / "4.npy", np.array(["a"]))
    lines = pairs.read_text().splitlines()
    lines[6] = lines[6].replace("5.png", "../5.png").replace("5.wav", "")
    pairs.write_text("\n".join(lines))
    report = check_source(str(pairs), None)
    assert not report["ok"]
    assert report["errors"] == {"bad cell": 5}
    found = [(finding["where"], finding["column"]) for finding in report["findings"]]
    expected = [(2, "photo"), (3, "photo"), (4, "clip"), (5, "curve"), (6, "photo")]
    assert found == [(f"{pairs} row {row}", column) for row, column in expected]
    reasons = [finding["reason"] for finding in report["findings"]]
    assert reasons[1].startswith("2.png: ")
    assert "leaves" in reasons[4]
    assert report["splits"]["train"]["inputs"]["audio"]["missing"] == 1


def test_leaks_and_duplicates_are_found_by_content(pairs) -> None:
    folder = pairs.parent
    (folder / "9.png").write_bytes((folder / "0.png").read_bytes())  # row 10 is test, row 1 is train
    (folder / "2.wav").write_bytes((folder / "1.wav").read_bytes())
    report = check_source(str(pairs), None)
    leak, duplicate = report["findings"]
    assert leak["level"] == "error"
    assert leak["where"] == f"{pairs} row 10"
    assert leak["reason"] == f"test has the same content as {pairs} row 1 of train"
    assert (duplicate["level"], duplicate["column"]) == ("warning", "clip")
    assert "1 of 54 cells" in duplicate["reason"]
    assert report["errors"] == {"leak": 1}


def test_classes_that_training_lacks_and_empty_rows_are_warnings(tmp_path) -> None:
    source = tmp_path / "a.csv"
    source.write_text("text,label,split\none two three,a,train\n,a,train\nfour five six,b,test\n")
    report = check_source(str(source), None)
    assert report["ok"]
    assert report["counts"] == {"empty row": 1, "unknown class": 1}


def test_a_config_says_what_columns_are(pairs) -> None:
    config = pairs.parent / "c.yaml"
    config.write_text(
        f"data: {{train: {pairs}, target: [caption]}}\n"
        "modalities: {label: {kind: text}}\nobjective: {name: clip}\n"
    )
    report = check_source(None, str(config))
    assert list(report["splits"]["train"]["inputs"]) == ["label"]
    assert report["errors"] == {"bad cell": 60}
    with pytest.raises(BadInput, match="name the data to check"):
        check_source(None, None)


def test_long_lists_are_cut_but_counted() -> None:
    manifest = table(image=[f"{i}.png" for i in range(1500)])
    report = check({"train": manifest}, {"image": MODALITIES["image"]()})
    assert (len(report["findings"]), report["counts"]) == (1000, {"bad cell": 1500})


@pytest.mark.parametrize("name", ["aeon:JapaneseVowels", "sklearn:wine"])
def test_built_in_data_is_clean(name) -> None:
    report = check_source(name, None)
    assert report["ok"], report["findings"][:3]


def test_commands(clx, tmp_path) -> None:
    for i in range(4):
        (tmp_path / f"{i}.png").write_bytes(png(i)[: 60 if i == 3 else None])
    (tmp_path / "pairs.csv").write_text("image,text\n" + "".join(f"{i}.png,a picture of {i}\n" for i in range(4)))
    done = clx("data", "check", "pairs.csv", cwd=tmp_path)
    assert done.returncode == 3, done.stderr
    assert done.stderr.strip() == "error: pairs.csv: 1 bad cell"
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row.get("input") for row in rows] == ["image", "text", None]
    assert rows[-1]["where"] == "pairs.csv row 4"
    done = clx("init", "pairs.csv", "-o", "r.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert load_config(str(tmp_path / "r.yaml")).data.train == "pairs.csv"
    done = clx("data", "check", "no.csv", "--json", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: data no.csv: no such file or folder")


def test_make_and_list_commands(clx, tmp_path) -> None:
    done = clx("data", "make", "aeon:UnitTest", "out", cwd=tmp_path)
    assert (done.returncode, done.stdout.strip()) == (0, "out/manifest.csv")
    assert clx("data", "make", "aeon:UnitTest", "out", cwd=tmp_path).returncode == 2
    names = [json.loads(line)["name"] for line in clx("data", "list", cwd=tmp_path).stdout.splitlines()]
    assert {"digits", "digits-sum", "aeon:GunPoint", "sklearn:iris"} <= set(names)


@pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data")
def test_real_speech_is_clean() -> None:
    report = check_source(str(DATA / "fsdd"), None)
    assert report["ok"], report["findings"][:3]
    assert report["splits"]["test"]["inputs"]["audio"]["cells"] == 300
