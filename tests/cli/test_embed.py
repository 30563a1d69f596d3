"""`clx embed` and `clx search` through the command: what is in the file, kills, bad rows, and neighbours."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from clx.pipelines.use.embedding_files import dense
from command import CLX


@pytest.fixture(scope="module")
def embedded(clx: Any, digits_run: Path, files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("embedded") / "e.parquet"
    done = clx("embed", digits_run, "--data", files / "few.csv", "--split", "test", "--out", out, "--json")
    assert (done.returncode, done.stderr.count("Traceback")) == (0, 0), done.stderr
    assert json.loads(done.stdout)["rows"] == 100
    return out


def vectors(path: Path, name: str) -> np.ndarray[Any, Any]:
    column = pq.read_table(path).column(name)
    return np.concatenate([dense(chunk) for chunk in column.chunks])


def test_the_file_holds_what_the_model_gives(digits_run: Path, files: Path, embedded: Path) -> None:
    from clx.pipelines.data.splits import load_manifest, split_by
    from clx.pipelines.model.scoring import embed
    from clx.pipelines.runs.checkpoint import load

    table = pq.read_table(embedded)
    assert table.column_names == [
        "row", "id", "split", "label", "image", "image_content", "table", "table_content", "text", "text_content"
    ]  # fmt: skip
    manifest = split_by(load_manifest(str(files / "few.csv")), "split")["test"]
    assert table.column("row").to_pylist() == (manifest.rows + 1).tolist()
    assert table.column("id").to_pylist() == manifest.column("image")
    assert table.column("label").to_pylist() == manifest.column("label")
    assert set(table.column("split").to_pylist()) == {"test"}
    run = load(digits_run)
    image = run.modalities["image"]
    some = [0, 50, 99]
    expected = embed(run, "image", [image.read(files / manifest.cell(i, "image")) for i in some])
    np.testing.assert_allclose(vectors(embedded, "image")[some], expected, atol=1e-5)
    meta = json.loads(table.schema.metadata[b"clx"])
    assert (meta["run"], meta["format"], meta["embed_dim"]) == (str(digits_run.resolve()), 1, 16)
    assert meta["step"] > 0


def test_arrays_stand_beside_their_ids(clx: Any, digits_run: Path, files: Path, embedded: Path, tmp_path: Path) -> None:
    args = ["embed", digits_run, "--data", files / "few.csv", "--split", "test", "--dtype", "float16", "--normalize"]
    assert clx(*args, "--out", "one.npy", "--modality", "image", cwd=tmp_path).returncode == 0
    one = np.load(tmp_path / "one.npy")
    assert (one.dtype, one.shape) == (np.float16, (100, 16))
    raw = vectors(embedded, "image")
    np.testing.assert_allclose(one, raw / np.linalg.norm(raw, axis=1, keepdims=True), atol=1e-3)
    assert pq.read_table(tmp_path / "one.ids.parquet").column("row").to_pylist()[0] == 291
    two = clx(*args, "--out", "two.npy", "--modality", "image", "--modality", "text", "--json", cwd=tmp_path)
    assert json.loads(two.stdout)["files"] == ["two.image.npy", "two.text.npy", "two.ids.parquet"]
    assert sorted(path.name for path in tmp_path.glob("two*")) == ["two.ids.parquet", "two.image.npy", "two.text.npy"]


@pytest.mark.slow
def test_killed_and_started_again_it_gives_the_same_file(
    clx: Any, commands: Path, digits_run: Path, files: Path, tmp_path: Path
) -> None:
    lines = (files / "manifest.csv").read_text().splitlines()
    (tmp_path / "some.csv").write_text("\n".join(lines[:1] + lines[-600:]) + "\n")
    shutil.copytree(files / "image", tmp_path / "image", copy_function=os.link)
    args = ["embed", str(digits_run), "--data", "some.csv", "--batch-size", "4"]
    ends = (("killed", signal.SIGKILL, CLX), ("stopped", signal.SIGTERM, str(commands / "clx")))
    for out, number, command in ends:
        parts = tmp_path / f"{out}.parquet.parts"
        with subprocess.Popen(
            [command, *args, "--out", f"{out}.parquet"], cwd=tmp_path, stderr=subprocess.PIPE
        ) as started:
            end = time.monotonic() + 100
            while len(list(parts.glob("0*.parquet"))) < 3 and time.monotonic() < end:
                time.sleep(0.01)
            started.send_signal(number)
            assert started.wait(timeout=60) == (-9 if number == signal.SIGKILL else 143)
            assert started.stderr is not None
            assert b"Traceback" not in started.stderr.read()
        assert not (tmp_path / f"{out}.parquet").exists()
        done = clx(*args, "--out", f"{out}.parquet", cwd=tmp_path)
        assert done.returncode == 0
        assert "parts are there already" in done.stderr
        assert not parts.exists()
    assert clx(*args, "--out", "unbroken.parquet", cwd=tmp_path).returncode == 0
    unbroken = (tmp_path / "unbroken.parquet").read_bytes()
    assert (tmp_path / "killed.parquet").read_bytes() == unbroken
    assert (tmp_path / "stopped.parquet").read_bytes() == unbroken
    again = clx(*args, "--out", "killed.parquet", cwd=tmp_path)
    assert (again.returncode, "whole already" in again.stderr) == (0, True)
    other = clx(*args[:-1], "8", "--out", "killed.parquet", cwd=tmp_path)
    assert (other.returncode, "--overwrite" in other.stderr) == (2, True)


def test_bad_rows_are_named_and_left_out(clx: Any, digits_run: Path, files: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes((files / "image" / "05400.png").read_bytes())
    (tmp_path / "b.png").write_text("no picture")
    (tmp_path / "m.csv").write_text("image,text,name\na.png,zero,first\nb.png,one,second\n,two,third\n")
    args = ["embed", digits_run, "--data", "m.csv", "--out", "m.parquet", "--id", "name"]
    strict = clx(*args, "--strict", cwd=tmp_path)
    assert (strict.returncode, strict.stderr.strip().splitlines()[-1].startswith("error: m.csv row 2")) == (2, True)
    done = clx(*args, cwd=tmp_path)
    assert done.returncode == 1
    assert "skipped m.csv row 2, column image: not an image" in done.stderr
    table = pq.read_table(tmp_path / "m.parquet")
    assert table.column("id").to_pylist() == ["first", "third"]
    assert table.column("image").null_count == 1
    assert [d is None for d in table.column("text").to_pylist()] == [False, False]
    found = clx("search", "m.parquet", "two", "--in", "text", "--top", "1", "--json", cwd=tmp_path)
    assert json.loads(found.stdout)["hits"][0]["id"] == "third"
    found = clx("search", "m.parquet", "a.png", "--json", cwd=tmp_path)  # the row without an image is no answer
    assert [hit["id"] for hit in json.loads(found.stdout)["hits"]] == ["first"]


@pytest.mark.parametrize(
    ("args", "word"),
    [
        (["--out", "e.txt"], ".parquet or .npy"),
        (["--out", "e.parquet", "--modality", "imag"], "image"),
        (["--out", "e.parquet", "--id", "nam"], "nam"),
        (["--out", "e.parquet", "--keep", "rows"], "--keep rows: "),
        (["--out", "nowhere/e.parquet"], "nowhere"),
    ],
)
def test_wrong_usage_is_one_line(clx: Any, digits_run: Path, tmp_path: Path, args: list[str], word: str) -> None:
    (tmp_path / "m.csv").write_text("text,name\nzero,a\n")
    done = clx("embed", digits_run, "--data", "m.csv", *args, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert word in done.stderr
    assert os.listdir(tmp_path) == ["m.csv"]


def test_neighbours_of_files_sentences_rows_and_both(
    clx: Any, digits_run: Path, files: Path, embedded: Path, tmp_path: Path
) -> None:
    from clx.pipelines.model.scoring import embed
    from clx.pipelines.runs.checkpoint import load

    run, unit = load(digits_run), torch.nn.functional.normalize
    rows = {name: unit(torch.from_numpy(vectors(embedded, name)), dim=1) for name in ("image", "text", "table")}
    picture = files / "image" / "05400.png"
    asked = {
        "text": unit(embed(run, "text", [run.modalities["text"].read("seven")])[0], dim=0),
        "image": unit(embed(run, "image", [run.modalities["image"].read(picture)])[0], dim=0),
        "two": unit(embed(run, "text", [run.modalities["text"].read("two")])[0], dim=0),
    }
    fused = asked["text"] + asked["image"]
    cases = [
        (["seven"], asked["text"], "image"),
        ([picture], asked["image"], "image"),
        ([picture, "--in", "table"], asked["image"], "table"),
        (["--text", "seven", "--image", picture, "--in", "table"], fused, "table"),
        (["--text", "seven", "--image", picture], fused, "image"),
        (["seven", "--and", picture, "--minus", "two"], fused - asked["two"], "image"),
        (
            ["--text", "seven", "--image", picture, "--minus", "two", "--in", "table"],
            fused / fused.norm() - asked["two"],
            "table",
        ),
    ]
    for args, query, among in cases:
        done = clx("search", embedded, *args, "--top", "7", "--json")
        assert done.returncode == 0, done.stderr
        [line] = map(json.loads, done.stdout.splitlines())
        scores = rows[among] @ query
        assert line["in"] == among
        assert [hit["score"] for hit in line["hits"]] == pytest.approx(scores.topk(7).values.tolist(), abs=1e-5)
        places = [hit["row"] - 291 for hit in line["hits"]]
        assert scores[places].tolist() == pytest.approx(scores.topk(7).values.tolist(), abs=1e-5)
    done = clx("search", embedded, "--row", "293", "--row", "299", "--top", "4", "--json")
    for number, line in zip((2, 8), map(json.loads, done.stdout.splitlines()), strict=True):
        scores = rows["image"] @ rows["image"][number]
        scores[number] = -1
        assert [hit["score"] for hit in line["hits"]] == pytest.approx(scores.topk(4).values.tolist(), abs=1e-5)
        assert number + 291 not in [hit["row"] for hit in line["hits"]]
    [line] = map(json.loads, done.stdout.splitlines()[:1])
    again = clx("search", embedded, "--row", str(line["hits"][0]["row"]), "--top", "4", "--json")
    assert 293 in [hit["row"] for hit in json.loads(again.stdout)["hits"]], "the number of a hit asks with that hit"
    done = clx("search", embedded, "--row", "3")
    assert (done.returncode, "has rows 291 to" in done.stderr) == (2, True)
    done = clx("search", embedded, "seven", "--minus", "gone.png")
    assert (done.returncode, done.stdout, "error: --minus gone.png: " in done.stderr) == (2, "", True)
    done = clx("search", embedded, "--row", "293", "--and", "seven")
    assert (done.returncode, "--and and --minus go with a query" in done.stderr) == (2, True)
    done = clx("search", embedded, "-", "--top", "1", stdin=f"seven\n{tmp_path}/gone.png\n{picture}\n")
    assert done.returncode == 1
    assert [json.loads(line)["query"] for line in done.stdout.splitlines()] == ["seven", str(picture)]
    assert "gone.png" in done.stderr


def test_other_weights_are_refused(clx: Any, embedded: Path, digits_run: Path, tmp_path: Path) -> None:
    import shutil

    from clx.pipelines.runs import checkpoint

    other = tmp_path / "other"
    shutil.copytree(digits_run, other)
    run = checkpoint.load(other)
    twice = {name: value * 2 for name, value in checkpoint.weights(run.model, run.objective).items()}
    shutil.rmtree(other / "checkpoints")
    checkpoint.save(other, 60, twice, {}, None, keep=1)
    done = clx("search", embedded, "seven", "--run", other)
    assert (done.returncode, done.stdout, "other weights" in done.stderr) == (2, "", True)


def test_what_is_another_s_is_left_alone(clx: Any, digits_run: Path, files: Path, tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.png").write_bytes((files / "image" / f"0540{'ab'.index(name)}.png").read_bytes())
    (tmp_path / "m.csv").write_text("image,other,text\na.png,b.png,zero\n,,one\n")
    args = ["embed", digits_run, "--data", "m.csv", "--modality", "image", "--batch-size", "1"]
    np.save(tmp_path / "x.npy", np.ones(3))
    refused = clx(*args, "--out", "x.npy", cwd=tmp_path)
    assert (refused.returncode, "--overwrite" in refused.stderr) == (2, True)
    assert np.load(tmp_path / "x.npy").tolist() == [1, 1, 1]
    assert clx(*args, "--out", "y.npy", cwd=tmp_path).returncode in (0, 1)
    other = clx(*args, "--column", "image=other", "--out", "y.npy", cwd=tmp_path)
    assert (other.returncode, "--overwrite" in other.stderr) == (2, True)
    first = (tmp_path / "y.npy").read_bytes()
    (tmp_path / "y.npy").unlink()
    assert clx(*args, "--out", "y.npy", cwd=tmp_path).returncode in (0, 1)
    assert (tmp_path / "y.npy").read_bytes() == first
    assert clx(*args, "--column", "image=other", "--out", "y.npy", "--overwrite", cwd=tmp_path).returncode in (0, 1)
    assert (tmp_path / "y.npy").read_bytes() != first


def test_parts_without_their_plan_or_in_use_are_not_taken(
    clx: Any, digits_run: Path, files: Path, tmp_path: Path
) -> None:
    from clx.pipelines.system.durable_files import locked

    args = ["embed", digits_run, "--data", files / "few.csv", "--split", "test", "--out", "z.parquet"]
    args += ["--modality", "image"]
    parts = tmp_path / "z.parquet.parts"
    parts.mkdir()
    (parts / "000000.parquet").write_bytes(b"of another plan")
    with locked(parts):
        busy = clx(*args, cwd=tmp_path)
    assert (busy.returncode, "by another process" in busy.stderr) == (2, True)
    (parts / "plan.json").write_text("{")
    damaged = clx(*args, cwd=tmp_path)
    assert (damaged.returncode, "plan.json" in damaged.stderr) == (2, True)
    (parts / "plan.json").unlink()
    assert clx(*args, cwd=tmp_path).returncode == 0
    assert pq.read_table(tmp_path / "z.parquet").num_rows == 100


def test_the_input_is_not_replaced_even_with_overwrite(clx: Any, digits_run: Path, files: Path, tmp_path: Path) -> None:
    import pyarrow.csv

    pq.write_table(pyarrow.csv.read_csv(files / "manifest.csv").slice(0, 5), tmp_path / "rows.parquet")
    before = (tmp_path / "rows.parquet").read_bytes()
    args = ["embed", digits_run, "--data", "rows.parquet", "--modality", "table", "--overwrite"]
    done = clx(*args, "--out", "rows.parquet", cwd=tmp_path)
    assert done.returncode == 2
    assert "is what the rows are read from" in done.stderr
    (tmp_path / "rows.parquet").rename(tmp_path / "rows.ids.parquet")
    args[3] = "rows.ids.parquet"
    assert clx(*args, "--out", "rows.npy", cwd=tmp_path).returncode == 2  # its ids would take that place
    assert (tmp_path / "rows.ids.parquet").read_bytes() == before


def test_a_table_of_time_steps_is_not_replaced_either(clx: Any, tmp_path: Path) -> None:
    steps = {"who": np.repeat(np.arange(8), 20), "t": np.tile(np.arange(20), 8), "x": np.arange(160) % 7.0}
    pq.write_table(pa.table(steps), tmp_path / "long.parquet")
    before = (tmp_path / "long.parquet").read_bytes()
    config = {
        "data": {"train": "long.parquet", "long": {"id": "who", "time": "t", "channels": ["x"]}},
        "modalities": {"series": {"encoder": "dilated", "width": 8, "layers": 2, "views": 2}},
        "embed_dim": 8,
        "objective": {"name": "nt-xent"},
        "train": {"steps": 1, "batch_size": 4},
        "eval": [],
    }
    (tmp_path / "long.yaml").write_text(json.dumps(config))
    assert clx("train", "long.yaml", "-o", "run", cwd=tmp_path).returncode == 0
    done = clx("embed", "run", "--out", "long.parquet", "--overwrite", cwd=tmp_path)
    assert done.returncode == 2
    assert "is what the rows are read from" in done.stderr
    assert (tmp_path / "long.parquet").read_bytes() == before
