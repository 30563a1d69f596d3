"""Jobs that share work out: `--shard`, at once and in any order, killed, on one folder."""

import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from command import CLX, ended, start


@pytest.fixture(scope="module")
def some(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 300 rows of digits: 10 blocks of batches of 4."""
    folder = tmp_path_factory.mktemp("some")
    lines = (files / "manifest.csv").read_text().splitlines()
    (folder / "some.csv").write_text("\n".join(lines[:1] + lines[-300:]) + "\n")
    shutil.copytree(files / "image", folder / "image", copy_function=os.link)
    return folder


@pytest.fixture(scope="module")
def args(digits_run: Path, some: Path) -> list[Any]:
    return ["embed", digits_run, "--data", some / "some.csv", "--batch-size", "4"]


@pytest.fixture(scope="module")
def whole(clx: Any, args: list[Any], some: Path) -> pa.Table:
    """The rows as one process makes them."""
    assert clx(*args, "--out", some / "whole.parquet").returncode == 0
    return pq.read_table(some / "whole.parquet")


def content(table: pa.Table) -> bytes:
    """Every byte of the rows, in whatever pieces they were."""
    sink = pa.BufferOutputStream()
    table = table.replace_schema_metadata(None).combine_chunks()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return bytes(sink.getvalue())


def rows_of(folder: Path) -> pa.Table:
    return pa.concat_tables([pq.read_table(path) for path in sorted(folder.glob("part-*.parquet"))])


def until(there: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not there() and time.monotonic() < end:
        time.sleep(0.005)


@pytest.mark.slow
def test_shards_killed_twice_give_the_rows_of_one_process(args: list[Any], whole: pa.Table, tmp_path: Path) -> None:
    out, draw = tmp_path / "parts", random.Random(0)

    def begin(number: int) -> int:
        words = [*args, "--out", out, "--shard", f"{number}/3", "--workers", "2"]
        return start(words, tmp_path / f"{number}.out", tmp_path / f"{number}.err")

    processes = {number: begin(number) for number in (2, 1, 0)}
    unfinished = out / "_part-00001-of-00003.parquet.parts"
    for _ in range(2):
        had = len(list(unfinished.glob("0*.parquet")))
        until(lambda had=had: len(list(unfinished.glob("0*.parquet"))) > had)  # type: ignore[misc]
        time.sleep(draw.uniform(0, 0.05))
        os.kill(processes[1], signal.SIGKILL)
        assert ended(processes[1]) == -9
        processes[1] = begin(1)
    for number, process in processes.items():
        assert ended(process) == 0, (tmp_path / f"{number}.err").read_text()
    assert "parts are there already" in (tmp_path / "1.err").read_text()
    assert sorted(path.name for path in out.iterdir()) == [
        *("_manifest.json", "part-00000-of-00003.parquet", "part-00001-of-00003.parquet"),
        "part-00002-of-00003.parquet",
    ]
    assert content(rows_of(out)) == content(whole)


@pytest.mark.slow
def test_shards_killed_at_many_moments(args: list[Any], whole: pa.Table, tmp_path: Path) -> None:
    """By the executable, ten times: one shard of three is killed twice, at any moment from its start to its end."""
    draw = random.Random(1)
    for turn in range(10):
        out = tmp_path / f"parts{turn}"

        def begin(number: int, out: Path = out, turn: int = turn) -> "subprocess.Popen[bytes]":
            words = [CLX, *map(str, args), "--out", str(out), "--shard", f"{number}/3", "--workers", "2"]
            with (out.parent / f"{turn}.{number}.err").open("ab") as err:
                return subprocess.Popen(words, stderr=err)

        killed = draw.randrange(3)
        processes = {number: begin(number) for number in draw.sample(range(3), 3)}
        for _ in range(2):
            time.sleep(draw.uniform(0, 15))
            processes[killed].kill()
            processes[killed].wait()
            processes[killed] = begin(killed)
        for number, process in processes.items():
            assert process.wait() == 0, (tmp_path / f"{turn}.{number}.err").read_text()
        assert content(rows_of(out)) == content(whole)


def test_another_count_weights_or_data_are_refused(
    clx: Any, args: list[Any], some: Path, digits_run: Path, tmp_path: Path
) -> None:
    out = tmp_path / "parts"
    done = clx(*args, "--out", out, "--shard", "9/10", "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["shard"], summary["shards"], summary["rows"], summary["skipped"]) == (9, 10, 12, 0)
    part = (out / "part-00009-of-00010.parquet").read_bytes()
    shorter = some / "shorter.csv"
    shorter.write_text("\n".join((some / "some.csv").read_text().splitlines()[:260]) + "\n")
    wrong = [
        ([*args, "--shard", "1/5"], "shards was 10 and is 5"),
        ([*args, "--shard", "1/10", "--overwrite", "--normalize"], "normalize was false and is true"),
        ([*args, "--shard", "1/10", "--checkpoint", "30"], "step was 60 and is 30"),
        (["embed", digits_run, "--data", shorter, "--batch-size", "3", "--shard", "1/10"], "shorter.csv"),
        ([*args, "--shard", "10/10"], "10 shards are 0/10 to 9/10"),
        ([*args, "--shard", "1/11"], "300 rows are 10 blocks of 8 batches of 4"),
        ([*args, "--shard", "env"], "SLURM_ARRAY_TASK_ID"),
        ([*args, "--shard", "3of16"], "expected NUMBER/COUNT"),
    ]
    for words, said in wrong:
        done = clx(*words, "--out", out)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
        assert said in done.stderr
    assert sorted(path.name for path in out.iterdir()) == ["_manifest.json", "part-00009-of-00010.parquet"]
    assert (out / "part-00009-of-00010.parquet").read_bytes() == part
    for name, said in ((some, "is no folder of shards"), (tmp_path / "a.parquet", "parts in a folder")):
        done = clx(*args, "--out", name, "--shard", "0/2")
        assert (done.returncode, said in done.stderr) == (2, True), done.stderr
    searched = clx("search", out, "seven")
    assert (searched.returncode, searched.stderr.count("\n")) == (2, 1)
    assert "lacks 9 of its 10 parts: for k in $(seq 0 8); do clx embed ... --shard $k/10; done" in searched.stderr


def test_slurm_says_which_shard_and_a_forgotten_one_is_told_of(
    clx: Any, args: list[Any], whole: pa.Table, tmp_path: Path
) -> None:
    for task in (4, 2):
        told = {"ID": str(task), "MIN": "2", "MAX": "4", "STEP": "2", "COUNT": "2"}
        environment = {f"SLURM_ARRAY_TASK_{name}": value for name, value in told.items()}
        done = clx(*args, "--out", tmp_path / "parts", "--shard", "env", env=environment)
        assert done.returncode == 0, done.stderr
        assert f"shard {task // 2 - 1}/2" in done.stderr
    assert content(rows_of(tmp_path / "parts")) == content(whole)
    done = clx(*args, "--out", tmp_path / "one.parquet", env=environment)
    assert (done.returncode, "it does all of the work; --shard env embeds" in done.stderr) == (0, True)


@pytest.fixture(scope="module")
def parts(clx: Any, args: list[Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two parts."""
    out = tmp_path_factory.mktemp("parts") / "out"
    for number in (1, 0):
        assert clx(*args, "--out", out, "--shard", f"{number}/2").returncode == 0
    return out


def test_parts_are_searched_as_one_file(clx: Any, parts: Path, whole: pa.Table, some: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(parts, tmp_path / "parts"))
    last = whole.column("row")[-1].as_py()
    for words in (
        ["seven"],
        ["zero", "--in", "text"],
        ["--row", last, "--row", last - 299],
        [some / "image/05400.png"],
    ):
        answers = [clx("search", place, *words, "--top", "200", "--json") for place in (out, some / "whole.parquet")]
        assert answers[0].returncode == 0, answers[0].stderr
        assert answers[0].stdout == answers[1].stdout
        hits = json.loads(answers[0].stdout.splitlines()[0])["hits"]
        assert sum(len(hit["rows"]) for hit in hits) >= 200
    (out / "part-00000-of-00002.parquet").write_bytes((out / "part-00001-of-00002.parquet").read_bytes())
    mixed = clx("search", out, "seven")
    assert (mixed.returncode, "part-00000-of-00002.parquet is not of the folder" in mixed.stderr) == (2, True)


@pytest.fixture(scope="module")
def hits(clx: Any, parts: Path, whole: pa.Table) -> list[tuple[str, float]]:
    """Ids and scores that `clx search` finds for the last row."""
    done = clx("search", parts, "--row", whole.column("row")[-1].as_py(), "--top", "10", "--json")
    assert done.returncode == 0, done.stderr
    return [(hit["id"], hit["score"]) for hit in json.loads(done.stdout)["hits"]]


def unit_rows(table: pa.Table) -> np.ndarray[Any, Any]:
    vectors = table.column("image").combine_chunks()
    rows = vectors.flatten().to_numpy().reshape(len(table), vectors.type.list_size)
    return np.ascontiguousarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def test_faiss_takes_a_folder_of_parts(parts: Path, hits: list[tuple[str, float]]) -> None:
    faiss = pytest.importorskip("faiss", reason="faiss-cpu is not installed")
    table = pyarrow.dataset.dataset(parts).to_table()
    rows = unit_rows(table)
    index = faiss.IndexFlatIP(rows.shape[1])
    index.add(rows)
    scores, places = index.search(rows[-1:], 11)
    found = [(table.column("id")[int(k)].as_py(), float(s)) for k, s in zip(places[0], scores[0], strict=True)]
    assert found[0][0] == table.column("id")[-1].as_py()
    assert [score for _, score in found[1:]] == pytest.approx([score for _, score in hits], abs=1e-5)
    assert {name for name, _ in found[1:-1]} <= {name for name, _ in hits}


def test_lance_takes_a_folder_of_parts(parts: Path, hits: list[tuple[str, float]], tmp_path: Path) -> None:
    """The format of LanceDB, whose search wants lists of one length."""
    lance = pytest.importorskip("lance", reason="pylance is not installed")
    data = lance.write_dataset(pyarrow.dataset.dataset(parts), tmp_path / "lance")
    asked = {"column": "image", "q": unit_rows(data.to_table())[-1], "k": 11, "metric": "cosine"}
    table = data.to_table(columns=["id", "_distance"], nearest=asked)
    assert [1 - far for far in table.column("_distance").to_pylist()[1:]] == pytest.approx(
        [score for _, score in hits], abs=1e-5
    )
    assert set(table.column("id").to_pylist()[1:-1]) <= {name for name, _ in hits}


def test_an_index_and_shorter_codes_tell_their_recall(clx: Any, parts: Path) -> None:
    row = 300
    true = [hit["row"] for hit in json.loads(clx("search", parts, "--row", row, "--json").stdout)["hits"]]
    for words, way in (
        (["--precision", "int8"], "int8, 4 times as many rescored"),
        (["--precision", "binary", "--rescore", "30"], "binary, 30 times as many rescored"),
        (["--index", "usearch"], "usearch"),
        (["--approximate", "--precision", "int8", "--rescore", "2"], "usearch, int8, 2 times as many rescored"),
    ):
        if "usearch" in way:
            pytest.importorskip("usearch", reason="the extra `search` is not installed")
        done = clx("search", parts, "--row", row, "--json", *words)
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        assert len({hit["row"] for hit in told["hits"]} & set(true)) >= 8
        assert 0.8 <= told["recall"] <= 1
        assert done.stderr.strip() == f"recall@10 {told['recall']:.3f} of 64 rows that ask by image ({way})"
    by_text = clx("search", parts, "seven", "--json", "--precision", "int8")
    assert "rows that ask by text" in by_text.stderr
    exact = clx("search", parts, "seven", "--json")
    assert "recall" not in json.loads(exact.stdout)
    assert not [path.name for path in parts.iterdir() if path.name[0] != "_" and path.suffix != ".parquet"]
    wrong = clx("search", parts, "seven", "--rescore", "4")
    assert (wrong.returncode, "--rescore is about --precision" in wrong.stderr) == (2, True)
