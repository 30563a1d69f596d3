"""Ten million rows of two short texts: how soon the first step comes, what is held in memory, resumed in the middle.

`python tests/robustness/test_many_rows.py ROWS OUT.parquet` makes the rows.
"""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROWS = 10_000_000
CONFIG = """
data: {train: rows.parquet}
modalities: {text: {width: 32}, caption: {like: text, column: caption}}
objective: [{name: clip}]
embed_dim: 32
train: {batch_size: 32, steps: 40, workers: 2, warmup: 0, schedule: constant}
eval: []
"""


LABELLED = [
    *("-s", "data.label=label", "-s", "objective=[clip, supcon]"),
    *("-s", "data.val={fraction: 0.0001}", "-s", "train.steps=5"),
]
"""With classes, and val rows drawn by what rows share: all of it looks at every row."""


def make(rows: int, out: Path, labelled: bool = False) -> None:
    """Sorted rows of two texts, as Parquet in row groups of 100,000; or of texts that two rows share, and a class."""
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    colours = ["red", "green", "blue", "small", "large", "old", "new", "wooden", "glass", "iron"]
    things = ["cat", "dog", "horse", "house", "tree", "river", "stone", "bird", "fish", "boat"]
    names = ["text", "caption", *(["label"] if labelled else [])]
    schema, share = pa.schema([(name, pa.string()) for name in names]), 2 if labelled else 1
    with ParquetWriter(out, schema) as file:
        for start in range(0, rows, 100_000):
            numbers = range(start, min(start + 100_000, rows))
            texts = [f"{colours[k % 10]} {things[k // 7 % 10]} number {k}" for k in numbers]
            captions = [f"item {k // share}: a {colours[k // 3 // share % 10]}" for k in numbers]
            cells = {"text": texts, "caption": captions, "label": [things[k % 10] for k in numbers]}
            file.write_table(pa.table({name: cells[name] for name in names}, schema=schema))


def processes(first: int) -> list[int]:
    """A process and all below it."""
    found = [first]
    try:
        for task in Path(f"/proc/{first}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += processes(int(child))
    except OSError:
        pass
    return found


def resident(first: int) -> float:
    """Bytes in memory of a process and all below it, shared pages once."""
    total = 0
    for process in processes(first):
        try:
            lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return total


def worked(process: int) -> float:
    """Seconds of all cores that a process has taken."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Seen(NamedTuple):
    seconds: float
    """To the first step."""
    work: float
    """Seconds of all cores that this took: what else the machine does counts less."""
    most: float
    """Bytes held from then on."""


def train(folder: Path, *args: str, start: bool = False) -> Seen:
    """Train to the end, watched from the first step on, or from the start."""
    log = folder / "o" / "metrics.jsonl"
    began, first, work, most = time.monotonic(), None, 0.0, 0.0
    command = [str(Path(sys.executable).with_name("clx")), "train", *args]
    environment = {**os.environ, "CLX_CACHE": "cache"}
    with open(folder / "said", "w") as said:
        running = subprocess.Popen(command, cwd=folder, stderr=said, env=environment)
        while running.poll() is None:
            if first is None and log.exists() and '"step"' in log.read_text():
                first, work = time.monotonic() - began, worked(running.pid)
            most = max(most, resident(running.pid) if start or first is not None else 0.0)
            time.sleep(0.1)
    assert running.returncode == 0, (folder / "said").read_text()
    assert first is not None, "a step comes before the end"
    return Seen(first, work, most)


def weights(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    newest = max((folder / "o" / "checkpoints").iterdir())
    return load_file(next(newest.glob("*.safetensors")))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="memory is told by Linux alone")
def test_ten_million_rows_take_little_more_than_a_thousand(tmp_path: Path) -> None:
    found, made = {}, 0.0
    for name, rows in (("few", 1000), ("many", ROWS)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "a.yaml").write_text(CONFIG)
        before = time.process_time()
        make(rows, folder / "rows.parquet")
        made = time.process_time() - before
        found[name] = train(folder, "a.yaml", "--out", "o")
    few, many = found["few"], found["many"]
    print(few, many, f"made in {made:.1f} s")
    assert many.most - few.most < 0.3e9
    assert many.work - few.work < 4 * made  # each text is read a few times, and not more

    whole = weights(tmp_path / "many")
    (tmp_path / "many" / "o").rename(tmp_path / "many" / "whole")
    train(tmp_path / "many", "a.yaml", "--out", "o", "-s", "train.steps=15")
    train(tmp_path / "many", "--resume", "o", "-s", "train.steps=40")
    resumed = weights(tmp_path / "many")
    assert whole.keys() == resumed.keys()
    assert all((whole[key] == resumed[key]).all() for key in whole)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="memory is told by Linux alone")
def test_classes_and_val_rows_of_ten_million_take_little_more(tmp_path: Path) -> None:
    most = {}
    for name, rows in (("few", 10_000), ("many", ROWS)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "a.yaml").write_text(CONFIG)
        make(rows, folder / "rows.parquet", labelled=True)
        most[name] = train(folder, "a.yaml", "--out", "o", *LABELLED, start=True).most
    print(most)
    assert most["many"] - most["few"] < 0.3e9


if __name__ == "__main__":
    make(int(sys.argv[1]), Path(sys.argv[2]))
