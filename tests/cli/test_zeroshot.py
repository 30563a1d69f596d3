"""`clx zeroshot` and `clx eval` on a trained run and on an OpenCLIP model, through the terminal's own entry point."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from clx.cli.output import plain
from clx.pipelines.builtin import write

WORDS = "zero,one,two,three,four,five,six,seven,eight,nine"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in digits as files."""
    out = tmp_path_factory.mktemp("files") / "digits"
    write("digits", out)
    return out


@pytest.fixture
def clx(clx: Any) -> Any:
    """Exit code, parsed stdout lines, and stderr of a command."""

    def call(*args: object, stdin: str = "", **given: Any) -> tuple[int, Any, str]:
        done = clx(*args, stdin=stdin, **given)
        return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr

    return call


def rows(files: Path, split: str) -> list[dict[str, str]]:
    import csv

    with (files / "manifest.csv").open() as file:
        return [row for row in csv.DictReader(file) if row["split"] == split]


def test_files_are_classified_better_than_by_chance(clx: Any, digits_run: Path, files: Path) -> None:
    some = rows(files, "test")[:100]
    code, lines, _ = clx("zeroshot", digits_run, *(files / row["image"] for row in some), "--labels", WORDS)
    assert code == 0
    assert [line["item"] for line in lines] == [str(files / row["image"]) for row in some]
    right = sum(line["label"] == row["label"] for line, row in zip(lines, some, strict=True))
    assert right > 30  # chance is 10
    assert lines[0]["top"][0] == {"label": lines[0]["label"], "probability": lines[0]["probability"]}
    assert len(lines[0]["top"]) == 3


def test_several_modalities_of_one_thing(clx: Any, digits_run: Path, files: Path, tmp_path: Path) -> None:
    row = rows(files, "test")[0]
    table = tmp_path / "row.json"
    table.write_text(json.dumps({k: v for k, v in row.items() if k.startswith("seg_") or k == "display"}))
    args = ["--labels", WORDS, "--top", "10"]
    _, [image], _ = clx("zeroshot", digits_run, files / row["image"], *args)
    _, [both], _ = clx("zeroshot", digits_run, "--image", files / row["image"], "--table", table, *args)
    _, [alone], _ = clx("zeroshot", digits_run, table, *args)
    # Pairwise spaces add the unit rows of the given modalities, so the logits add.
    logit = {
        key: {each["label"]: torch.tensor(each["probability"]).clamp(min=1e-6).log().item() for each in line["top"]}
        for key, line in {"image": image, "table": alone, "both": both}.items()
    }
    first, last = both["top"][0]["label"], both["top"][1]["label"]
    gap = {key: values[first] - values[last] for key, values in logit.items()}
    assert gap["both"] == pytest.approx(gap["image"] + gap["table"], abs=0.05)


def test_table_rows_of_a_manifest(clx: Any, digits_run: Path, files: Path) -> None:
    code, lines, _ = clx("zeroshot", digits_run, files / "manifest.csv", "--as", "table", "--labels", WORDS)
    assert code == 0
    assert len(lines) == 5188 + 140 + 1080
    assert lines[0]["item"].endswith("row 1")
    assert lines[0]["by"] == "table"


def test_rows_of_a_manifest_by_all_they_have(clx: Any, digits_run: Path, tmp_path: Path) -> None:
    rows = ["seg_a,seg_b,seg_c,seg_d,seg_e,seg_f,seg_g,display", "1,1,1,1,1,1,0,red", ",,,,,,,"]
    (tmp_path / "two.csv").write_text("\n".join(rows))
    code, lines, said = clx("zeroshot", digits_run, tmp_path / "two.csv", "--labels", WORDS)
    assert (code, [line["by"] for line in lines]) == (1, ["table"])
    assert "row 2: every cell is empty" in said


def test_a_pair_of_texts_asks_with_one_and_labels_with_the_other(
    clx: Any, tmp_path: Path, make_config: Any, silent: Any
) -> None:
    from clx.pipelines.train import train

    pairs = {"what barks": "dog", "what meows": "cat", "what moos": "cow", "what neighs": "horse"}
    lines = [json.dumps({"question": q, "answer": a}) for q, a in pairs.items()] * 8
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
    text = {"kind": "text", "layers": 1, "width": 32}
    config = make_config(
        data={"train": str(tmp_path / "pairs.jsonl")},
        modalities={"question": text, "answer": text},
        train={"steps": 60, "batch_size": 16, "lr": 0.01},
        eval=[],
    )
    train(config, tmp_path / "run", silent)
    for asked, words, expected in (("question", "dog,cat,cow,horse", "cat"), ("answer", ",".join(pairs), "what meows")):
        thing = "what meows" if asked == "question" else "cat"
        code, [line], _ = clx("zeroshot", tmp_path / "run", thing, "--as", asked, "--labels", words)
        assert (code, line["label"], line["by"]) == (0, expected, asked)


def test_folders_stdin_labels_and_templates(clx: Any, digits_run: Path, files: Path, tmp_path: Path) -> None:
    folder = tmp_path / "some"
    folder.mkdir()
    for k, row in enumerate(rows(files, "test")[:3]):
        (folder / f"{k}.png").write_bytes((files / row["image"]).read_bytes())
    (folder / "notes.md").write_text("not for the model")
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps({"even": ["zero", "two", "four"], "odd": ["one", "three"]}))
    code, lines, said = clx("zeroshot", digits_run, folder, "--labels-file", labels, "--template", "{}", "--top", 9)
    assert (code, len(lines)) == (0, 3)
    assert {each["label"] for each in lines[0]["top"]} == {"even", "odd"}
    assert "3 classified" in said
    names = f"{folder}/0.png\n{folder}/gone.png\n{folder}/1.png\n"
    code, lines, said = clx("zeroshot", digits_run, "-", "--labels", WORDS, stdin=names)
    assert (code, len(lines)) == (1, 2)
    assert "skipped" in said
    assert "gone.png" in said


@pytest.mark.parametrize(
    ("args", "word"),
    [
        (["x.png"], "--labels"),
        (["--labels", "a,b"], "INPUT"),
        (["x.png", "--labels", "a", "--template", "no place"], "{}"),
        (["x.png", "--labels", ","], "one label or more"),
    ],
)
def test_wrong_usage(clx: Any, digits_run: Path, tmp_path: Path, args: list[str], word: str) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "x.png")
    code, lines, said = clx("zeroshot", digits_run, *(str(tmp_path / a) if a == "x.png" else a for a in args))
    assert (code, lines) == (2, [])
    assert word in said
    assert said.count("\n") == 1


def test_eval_prints_what_training_saved(clx: Any, digits_run: Path) -> None:
    code, [result], _ = clx("eval", digits_run, "--json")
    assert code == 0
    saved = json.loads((digits_run / "results.json").read_text())
    assert result["zeroshot"] == plain(saved["zeroshot"])
    assert result["retrieval"] == plain(saved["retrieval"])
    assert result["rows"] == 1080
    assert result["schema"] == 2


def test_eval_on_a_manifest_of_ones_own(clx: Any, digits_run: Path, files: Path) -> None:
    code, lines, _ = clx("eval", digits_run, "--data", files / "manifest.csv", "--task", "zeroshot", "--split", "val")
    assert code == 0
    assert {line["input"] for line in lines} == {"image", "table", "image+table"}
    assert all(line["rows"] == 140 for line in lines)


TINY = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


def test_an_open_clip_checkpoint_classifies_as_open_clip_does(clx: Any, files: Path, tmp_path: Path) -> None:
    import open_clip

    from clx.modalities.openclip import quiet

    (tmp_path / "clx-small.json").write_text(json.dumps(TINY))
    open_clip.add_model_config(tmp_path / "clx-small.json")
    with quiet():
        model, _, preprocess = open_clip.create_model_and_transforms("clx-small")
    model.eval()
    torch.save(model.state_dict(), tmp_path / "small.pt")
    pictures = [files / row["image"] for row in rows(files, "test")[:4]]
    templates = ["a photo of a {}", "the number {}"]
    args = ["--labels", WORDS, "--pretrained", tmp_path / "small.pt", "--top", 10]
    for template in templates:
        args += ["--template", template]
    code, lines, said = clx("zeroshot", "clx-small", *pictures, *args)
    assert code == 0, said
    with torch.no_grad():
        classes = open_clip.build_zero_shot_classifier(
            model,
            open_clip.get_tokenizer("clx-small"),
            WORDS.split(","),
            [lambda word, t=t: t.replace("{}", word) for t in templates],
        )
        batch = torch.stack([preprocess(Image.open(path)) for path in pictures])
        logits = model.logit_scale.exp() * torch.nn.functional.normalize(model.encode_image(batch), dim=-1) @ classes
    for line, expected in zip(lines, logits.softmax(-1), strict=True):
        found = {each["label"]: each["probability"] for each in line["top"]}
        for word, probability in zip(WORDS.split(","), expected.tolist(), strict=True):
            assert found[word] == pytest.approx(probability, abs=1e-5)


def test_a_tag_without_network_is_one_line(clx: Any, files: Path) -> None:
    args = ["--labels", "a,b", "--pretrained", "laion2b_s34b_b79k"]
    code, lines, said = clx("zeroshot", "ViT-B-32", files / "manifest.csv", *args)
    assert (code, lines) == (2, [])
    assert said.count("\n") == 1
    assert "laion2b_s34b_b79k" in said
