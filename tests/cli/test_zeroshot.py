"""`clx zeroshot` and `clx eval` on a trained run and on an OpenCLIP model, through the terminal's own entry point."""

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from clx.pipelines.system.text import finite
from command import inside

WORDS = "zero,one,two,three,four,five,six,seven,eight,nine"


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
    code, lines, _ = clx("zeroshot", digits_run, files / "few.csv", "--as", "table", "--labels", WORDS)
    assert code == 0
    assert len(lines) == 240 + 50 + 100
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
    from clx.pipelines.experiments.train import train

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


def test_a_run_of_texts_alone_is_asked_with_rows_words_and_files(
    tmp_path: Path, make_config: Any, silent: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clx.pipelines.experiments.train import train

    (tmp_path / "rows.csv").write_text("said,rude,kind\nyou fool,1,0\nthank you,0,1\n")
    config = make_config(
        data={"train": str(tmp_path / "rows.csv"), "label": ["rude", "kind"]},
        modalities={"text": {"column": "said", "layers": 1, "width": 32}},
        objective={"name": "binary-cross-entropy", "words": "text"},
        train={"steps": 1, "batch_size": 2},
        eval=[],
    )
    train(config, tmp_path / "run", silent)
    (tmp_path / "note").write_text("thank you\n")
    asked = ['{"said": "thank you"}', "thank you", "note", "{thank you}", '{"text": "thank you"}']
    monkeypatch.chdir(tmp_path)
    done = inside("zeroshot", "run", *asked, "--labels", "rude,kind")
    lines = [json.loads(line) for line in done.out.splitlines()]
    assert [line["item"] for line in lines] == ["line 1", "thank you", "note", "{thank you}"]
    assert lines[0]["top"] == lines[1]["top"] == lines[2]["top"] != lines[3]["top"]
    assert "skipped line 5: it has none of the columns said\n" in done.err
    mistyped = inside("zeroshot", "run", "rosw.csv", "--labels", "rude,kind")
    assert (mistyped.code, "no such file: rosw.csv" in mistyped.err) == (2, True)


@pytest.mark.parametrize(
    ("name", "as_words"),
    [("x.png", False), ("my x.JPG2", True), ("photos/x", False), ("seven", True), ("A seven.", True), ("x._", True)],
)
def test_words_are_spoken_of_where_a_name_is_not_like_a_files(digits_run: Path, name: str, as_words: bool) -> None:
    done = inside("zeroshot", str(digits_run), name, "--labels", WORDS)
    words = " (words are asked about with --as and the modality of texts)" if as_words else ""
    assert (done.code, done.err) == (2, f"error: no such file: {name}{words}\n")


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
    assert result["zeroshot"] == finite(saved["zeroshot"], 6)
    assert result["retrieval"] == finite(saved["retrieval"], 6)
    assert result["rows"] == 100
    assert result["schema"] == 2


def test_eval_on_a_manifest_of_ones_own(clx: Any, digits_run: Path, files: Path) -> None:
    code, lines, _ = clx("eval", digits_run, "--data", files / "few.csv", "--task", "zeroshot", "--split", "val")
    assert code == 0
    assert {line["input"] for line in lines} == {"image", "table", "image+table"}
    assert all(line["rows"] == 50 for line in lines)


def test_a_tag_without_network_is_one_line(clx: Any, files: Path) -> None:
    args = ["--labels", "a,b", "--pretrained", "laion2b_s34b_b79k"]
    code, lines, said = clx("zeroshot", "ViT-B-32", files / "manifest.csv", *args)
    assert (code, lines) == (2, [])
    assert said.count("\n") == 1
    assert "laion2b_s34b_b79k" in said


def test_patterns_and_json_rows_on_stdin(clx: Any, digits_run: Path, files: Path, tmp_path: Path) -> None:
    [row, other] = rows(files, "test")[:2]
    for k, each in enumerate((row, other)):
        (tmp_path / f"{k}.png").write_bytes((files / each["image"]).read_bytes())
    code, lines, _ = clx("zeroshot", digits_run, "[01].p*", "--labels", WORDS, cwd=tmp_path)
    assert (code, [line["item"] for line in lines]) == (0, ["0.png", "1.png"])
    table = {k: v for k, v in row.items() if k.startswith("seg_") or k == "display"}
    given = [{"image": "0.png"}, {"id": "both", "image": "0.png", **table}, {"image": None}, {"image": "2.png"}]
    given += [{"image": 5}, {"image": {"a": 1}}, {"image": [{}]}]
    stdin = "".join(json.dumps(each) + "\n" for each in given) + "{broken\n"
    code, found, said = clx("zeroshot", digits_run, "-", "--labels", WORDS, stdin=stdin, cwd=tmp_path)
    assert code == 1
    assert [(line["item"], line["by"]) for line in found] == [("line 1", "image"), ("both", "image+table")]
    assert found[0]["top"] == lines[0]["top"]
    assert [line.split(":")[0] for line in said.splitlines()[:4]] == [f"skipped line {k}" for k in (3, 4, 5, 6)]
    assert said.count("skipped ") == 6
    code, lines, said = clx("zeroshot", digits_run, "x*.png", "--labels", WORDS, cwd=tmp_path)
    assert (code, lines) == (2, [])
    assert "x*.png" in said


def test_a_folder_with_a_manifest_is_its_rows(clx: Any, digits_run: Path, files: Path) -> None:
    code, lines, _ = clx("zeroshot", digits_run, files, "--split", "val", "--labels", WORDS)
    assert (code, len(lines)) == (0, 140)
    assert {line["by"] for line in lines} == {"image+table"}


def test_names_of_any_bytes(clx: Any, digits_run: Path, files: Path, tmp_path: Path) -> None:
    odd = os.fsencode(tmp_path) + b"/\xff.png"
    with open(odd, "wb") as file:
        file.write((files / rows(files, "test")[0]["image"]).read_bytes())
    code, [line], _ = clx("zeroshot", digits_run, tmp_path, "--labels", WORDS)
    assert (code, line["item"]) == (0, f"{tmp_path}/\ufffd.png")


def test_several_labels_may_apply(clx: Any, digits_run: Path, files: Path) -> None:
    some = [files / row["image"] for row in rows(files, "test")[:30]]
    args = ["--labels", WORDS, "--multi-label", "--top", "10", "--threshold", "0.7"]
    code, lines, _ = clx("zeroshot", digits_run, *some, *args)
    assert code == 0
    for line in lines:
        assert line["labels"] == [each["label"] for each in line["top"] if each["probability"] >= 0.7]
    assert any(sum(each["probability"] for each in line["top"]) > 1.1 for line in lines)
    code, lines, said = clx("zeroshot", digits_run, some[0], "--labels", "zero", "--multi-label")
    assert (code, lines) == (2, [])
    assert "several" in said


def test_calibration_is_kept_and_used(clx: Any, digits_run: Path, files: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(digits_run, run)
    picture = files / rows(files, "test")[0]["image"]
    args = ["zeroshot", run, picture, "--labels", WORDS, "--top", "10"]
    _, [raw], _ = clx(*args)
    code, fits, said = clx("zeroshot", run, "--calibrate", files / "few.csv", "--split", "test")
    assert (code, [fit["input"] for fit in fits]) == (0, ["image", "table", "image+table"])
    assert all(fit["rows"] == 100 for fit in fits)
    kept = json.loads((run / "calibration.json").read_text())["inputs"]
    assert "image" in kept
    assert all((fit["nll_after"] < fit["nll_before"]) == (fit["input"] in kept) for fit in fits), said
    assert "calibration.json" in said
    assert "earlier" not in said
    _, [found], said = clx(*args)
    assert "calibrated temperatures: image" in said
    assert found["probability"] != raw["probability"]
    _, [again], _ = clx(*args, "--temperature", fits[0]["temperature"])
    assert again["probability"] == pytest.approx(found["probability"], abs=1e-5)
    one_label = ["--multi-label", "--labels", "seven"]
    code, [one], _ = clx("zeroshot", run, "--calibrate", files / "few.csv", *one_label, "--as", "image")
    assert (code, one["kind"], one["labels"]) == (0, "sigmoid", 1)
    _, [found], _ = clx("zeroshot", run, picture, *one_label)
    assert found["probability"] != raw["probability"]


def test_sets_and_files_of_templates(clx: Any, digits_run: Path, files: Path, tmp_path: Path) -> None:
    picture = files / rows(files, "test")[0]["image"]
    (tmp_path / "t.txt").write_text("a {}\n\nthe {}.\n")
    args = ["zeroshot", digits_run, picture, "--labels", WORDS, "--template"]
    _, [by_file], _ = clx(*args, tmp_path / "t.txt")
    _, [by_hand], _ = clx(*args, "a {}", "--template", "the {}.")
    _, [by_name], _ = clx(*args, "simple-imagenet")
    assert by_file == by_hand != by_name


def test_jq_reads_what_a_pipe_gives_and_head_may_leave(
    commands: Path, digits_run: Path, files: Path, tmp_path: Path
) -> None:
    (tmp_path / "l.txt").write_text(WORDS.replace(",", "\n"))
    command = (
        f"find {files}/image -name '0540*.png' | {commands}/clx zeroshot {digits_run} - --labels-file l.txt --json"
    )
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {command} | head -1"], cwd=tmp_path, capture_output=True)
    assert (done.returncode, b"Traceback" in done.stderr) == (0, False)
    assert json.loads(done.stdout)["label"] in WORDS.split(",")
    if shutil.which("jq"):
        piped = f"set -o pipefail; {command} | jq -r .label"
        done = subprocess.run(["bash", "-c", piped], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0
        answers = set(done.stdout.split())
        assert answers
        assert answers <= set(WORDS.split(","))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_it_without_a_traceback(
    commands: Path, digits_run: Path, files: Path, number: int, code: int
) -> None:
    args = [commands / "clx", "zeroshot", digits_run, "-", "--labels", WORDS]
    pipe = subprocess.PIPE
    with subprocess.Popen(list(map(str, args)), stdin=pipe, stdout=pipe, stderr=pipe, text=True) as started:
        assert started.stdin is not None
        assert started.stdout is not None
        assert started.stderr is not None
        started.stdin.write(f"{files / rows(files, 'test')[0]['image']}\n")
        started.stdin.flush()
        assert json.loads(started.stdout.readline())["by"] == "image"  # while stdin stays open
        started.send_signal(number)
        assert started.wait(timeout=60) == code
        assert "Traceback" not in started.stderr.read()
