"""Embeddings that several jobs make, each its share of the rows: a folder of parts.

OUT/part-00003-of-00016.parquet   a file of embeddings (see embedding_files.py); together they hold the rows in order
OUT/_manifest.json                which weights, data and options all parts are of, and how many there are

What is no part begins with `_` or `.`, which readers of folders of Parquet leave out.
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from clx.pipelines.system.durable_files import is_used
from clx.pipelines.system.errors import BadInput
from clx.pipelines.system.shard import Shard, agree, difference

MANIFEST = "_manifest.json"
BATCHES = 8
"""Batches in a block: what a kill loses at most, besides the batch that is being made."""

Block = list[tuple[int, int]]
"""The source and the number of each of its batches."""


def blocks(lengths: Sequence[int], batch_size: int, shard: Shard | None = None) -> list[Block]:
    """The rows of sources of these lengths in order, cut at places that do not depend on the shards; those of one.

    Raises `BadInput` where there are fewer blocks than shards.
    """
    counts = [-(-length // batch_size) for length in lengths]
    total = -(-sum(counts) // BATCHES)
    if shard is not None and shard.count > total:
        raise BadInput(
            f"--shard {shard}: {sum(lengths)} rows are {total} blocks of {BATCHES} batches of {batch_size}, and a "
            f"shard has one at least: {total} shards at most, or a smaller --batch-size"
        )
    mine = range(total) if shard is None else shard.slice(total)
    every = ((source, number) for source, count in enumerate(counts) for number in range(count))
    batches = islice(every, mine.start * BATCHES, mine.stop * BATCHES)
    return [list(islice(batches, BATCHES)) for _ in mine]


def part_file(folder: Path, shard: Shard) -> Path:
    return folder / f"part-{shard.name}.parquet"


def join(folder: Path, meta: dict[str, Any], shard: Shard) -> Path:
    """The file of a shard in a folder that all of them share.

    Raises `BadInput` where the folder is something else, or its shards are others: of other weights, data or options,
    or of another number.
    """
    if folder.suffix in (".parquet", ".npy"):
        raise BadInput(f"--out {folder}: shards are parts in a folder, whose name ends in neither .parquet nor .npy")
    try:
        foreign = folder.exists() and is_used(folder) and not (folder / MANIFEST).exists()  # in this order: others come
    except NotADirectoryError:
        foreign = True
    if foreign:
        raise BadInput(f"--out {folder} exists and is no folder of shards: choose another")
    plan = {"shards": shard.count, **meta}
    if (what := difference(plan, agree(folder / MANIFEST, plan))) is not None:
        raise BadInput(f"{folder} is of other shards ({what}): choose another --out, or remove the folder")
    return part_file(folder, shard)


def parts_of(folder: Path, plan: dict[str, Any]) -> Iterator[Path]:
    """The parts that a folder's manifest promises, in order. Raises `BadInput` where some are not there."""
    count = plan.get("shards")
    if type(count) is not int or count < 1:
        raise BadInput(f"{folder / MANIFEST} is not that of clx embed (shards: {count!r})")
    files = [part_file(folder, Shard(number, count)) for number in range(count)]
    if absent := [number for number, file in enumerate(files) if not file.is_file()]:
        alone = f"run clx embed with --shard {absent[0]}/{count}"
        several = f"{loop(absent, f'clx embed ... --shard $k/{count}')} makes them, as the others were made"
        lacking = f"{folder} lacks {len(absent)} of its {count} parts"
        raise BadInput(f"{lacking}: {several if len(absent) > 1 else alone}")
    yield from files


def loop(numbers: Sequence[int], command: str) -> str:
    """A loop of a shell that gives a command the ascending `numbers` as `$k`.

    >>> loop([1, 2, 5, 6, 7, 8], "do-it $k")
    'for k in 1 2 $(seq 5 8); do do-it $k; done'
    """
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    named = [f"$(seq {run[0]} {run[-1]})" if len(run) > 3 else " ".join(map(str, run)) for run in runs]
    return f"for k in {' '.join(named)}; do {command}; done"
