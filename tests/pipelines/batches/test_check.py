"""`clx data check`: every bad cell named, leaks found."""

from pathlib import Path

import numpy as np
import pytest

from clx.modalities.registry import MODALITIES
from clx.pipelines.batches.check import check, check_source
from clx.pipelines.batches.check_summary import summary, target_summary
from clx.pipelines.config.load import dump
from clx.pipelines.system.errors import BadInput, ClxWarning
from configs import pair_config
from samples import manifest, png

DATA = Path(__file__).parents[3].parent / "shared" / "data"


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
    source.write_text("text,label,split\none two three,a,train\n,c,train\nfour five six,b,test\n")
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
    rows = manifest(image=[f"{i}.png" for i in range(1500)])
    report = check({"train": rows}, {"image": MODALITIES["image"]()})
    assert (len(report["findings"]), report["counts"]) == (1000, {"bad cell": 1500})


@pytest.mark.parametrize("name", ["aeon:JapaneseVowels", "sklearn:wine"])
def test_built_in_data_is_clean(name) -> None:
    report = check_source(name, None)
    assert report["ok"], report["findings"][:3]


@pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data")
def test_real_speech_is_clean() -> None:
    with (
        pytest.warns(ClxWarning, match="300 of 300 test rows have a speaker of training rows"),
        pytest.warns(ClxWarning, match="--group speaker keeps these in one split"),
    ):
        report = check_source(str(DATA / "fsdd"), None)
    assert report["ok"], report["findings"][:3]
    assert report["splits"]["test"]["inputs"]["audio"]["cells"] == 300


def test_check_tells_the_spread_of_a_target(skewed: Path) -> None:
    found = check_source(str(skewed), None)["targets"]["y"]
    assert found["train"]["rows"] == sum(count for _, count in found["train"]["histogram"]) == 400
    assert found["train"]["many"] + found["train"]["median"] + found["train"]["few"] == 400
    assert found["train"]["histogram"][0][1] > 50


def test_a_target_without_any_number_has_no_bars() -> None:
    report = check({"train": manifest(x=[1, 2, 3], time=["29:38", "30:01", "31:59"])}, {}, target=["time"])
    assert report["errors"] == {"bad cell": 3}
    assert target_summary(report)[0]["histogram"] == ""


def test_data_check_opens_both_columns(sentence_pairs: Path, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(dump(pair_config(sentence_pairs)))
    told = check_source(None, str(path))["splits"]["train"]["inputs"]["text"]
    assert told["column"] == ["first", "second"]
    assert (told["cells"], told["missing"]) == (32, 8)
    assert told["length"]["max"] == 7
