"""How far gradients are from those of one process that has the whole batch: of clx, and of schemes that are in use."""

import csv
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clx.losses.base import Tempered
from clx.pipelines.batches.batch import Batch, Key
from clx.pipelines.batches.decoded import mixed_seed
from clx.pipelines.config.schema import Config
from clx.pipelines.data.splits import load_splits
from clx.pipelines.experiments import bench_schemes as schemes
from clx.pipelines.experiments.bench_schemes import Towers, has_open_clip, open_clip_loss
from clx.pipelines.model.build import prepare
from clx.pipelines.system.errors import BadInput, Failed
from clx.pipelines.system.launch import launch
from clx.pipelines.system.process_group import Group, joined
from clx.pipelines.system.ranks import place_of
from clx.pipelines.training.rank_part import share
from clx.pipelines.training.rows import training_rows
from clx.pipelines.training.step import Learner

Row = dict[str, Any]
SEED = 1
LEFT, RIGHT = list("abcdefgh"), list("ijklmnop")
"""Columns of the two towers."""
ONE_RANK = (
    "import sys; from clx.pipelines.experiments.bench_exactness import rank_main; rank_main(sys.argv[1], sys.argv[2])"
)


def bench_exactness(batch: int = 48, chunks: int = 4, ranks: int = 2, dropout: float = 0.5) -> Iterator[Row]:
    """Gradients of CLIP's loss in float64, of two small towers and a learned temperature, in parts and at once.

    Args:
        batch: rows.
        chunks: into how many parts one process cuts them.
        ranks: processes that share the batch out; 1 leaves these out.
        dropout: of the towers, in a second measurement of each scheme; 0 leaves it out. Its yardstick is the same
            parts with the same random numbers, held in memory at once.

    Yields:
        Rows with `scheme`, `code` (who computes it), `ranks`, `chunk` (rows encoded at a time), `dropout`; of the
        towers' gradients `error` (relative 2-norm), `cosine` and `norm`, their length over the right one;
        `temperature`, its gradient over the right one. Those of one process come first.

    Raises:
        BadInput: where the batch does not have as many rows in each part.
    """
    for parts, name in ((chunks, "--chunks"), (ranks, "--ranks"), (ranks * chunks, "--ranks times --chunks")):
        if batch % parts or batch // parts < 2:
            raise BadInput(f"--batch {batch} is no multiple of {name}, {parts}, with 2 rows or more in each part")
    asked = {"batch": batch, "chunks": chunks, "installed": has_open_clip()}
    rates = [0.0, dropout] if dropout else [0.0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_rows(folder / "rows.csv", batch)
        for rate in rates:
            yield from measured(folder, asked, rate, None)
        if ranks > 1:
            request = json.dumps({**asked, "rates": rates})
            if launch([sys.executable, "-c", ONE_RANK, name, request], ranks):
                raise Failed(f"the {ranks} ranks did not come to an end: see what they say above")
            yield from json.loads((folder / "rows.json").read_text())


def rank_main(folder: str, request: str) -> None:
    """One rank of several: measure, and leave the rows of the table in the folder, which rank 0 does."""
    asked, place = json.loads(request), place_of()
    assert place is not None
    torch.set_num_threads(1)
    with joined(place) as group:
        rows = [row for rate in asked["rates"] for row in measured(Path(folder), asked, rate, group)]
        if group.rank == 0:
            (Path(folder) / "rows.json").write_text(json.dumps(rows))


def write_rows(path: Path, count: int) -> None:
    """Rows of numbers, as many for each tower, which have something in common."""
    draw = np.random.default_rng(0)
    with path.open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow([*LEFT, *RIGHT])
        lines.writerows((np.tile(draw.normal(size=(count, 8)), 2) + draw.normal(size=(count, 16))).tolist())


def learner_of(source: Path, batch: int, dropout: float, group: Group | None) -> tuple[Learner, Towers, Batch]:
    """What `clx train` takes a step with, in float64; its towers, and the batch, of several ranks this one's part."""
    tower = {"kind": "table", "width": 32, "layers": 1, "dropout": dropout, "augmentation": "none"}
    config = Config.model_validate(
        {
            "data": {"train": str(source)},
            "modalities": {"left": tower | {"columns": LEFT}, "right": tower | {"columns": RIGHT}},
            "embed_dim": 16,
            "objective": {"name": "clip", "learn_temperature": True},
            "train": {"steps": 1, "batch_size": batch, "device": "cpu", "seed": SEED},
            "eval": [],
        }
    )
    splits = load_splits(config.data, SEED)
    run = prepare(config, splits)
    run.model.double(), run.objective.double()
    learner = Learner(run, config.train, 1, group)
    learner.model.train()
    rows, _ = training_rows(run, splits["train"])
    everything = Key(0, 0, np.arange(batch))
    (here,) = learner.batches(rows, [everything])
    whole = rows[everything]
    for each in (here, whole):
        for value in each.inputs.values():
            value.update({key: t.double() for key, t in value.items() if t.is_floating_point()})
    loss = learner.objective.losses[0]
    assert isinstance(loss, Tempered)
    assert loss.log_temperature is not None
    modules = [learner.model.tower(name) for name in whole.inputs]
    return learner, Towers(modules, list(whole.inputs.values()), loss.log_temperature), here


def measured(folder: Path, asked: dict[str, Any], dropout: float, group: Group | None) -> Iterator[Row]:
    """Each scheme of one process, or of this rank with the others."""
    batch, chunks, peer = asked["batch"], asked["chunks"], "open_clip" if asked["installed"] else "formula"
    learner, towers, here = learner_of(folder / "rows.csv", batch, dropout, group)
    if group is None:
        parts = [share(batch, k, chunks) for k in range(chunks)]
        found = of_chunks(learner, towers, here, parts, peer)
        streams = [(SEED, parts)]
    else:
        found = of_ranks(learner, towers, here, group, chunks, peer)
        streams = [(seed_of(rank), [share(batch, rank, group.size)]) for rank in range(group.size)]
    for scheme, code, chunk, run in found:
        cut = streams
        if group is not None and chunk:  # parts of parts
            cut = [
                (seed, [slice(k, k + chunk) for k in range(part.start, part.stop, chunk)]) for seed, (part,) in streams
            ]
        right = gradients(towers, lambda cut=cut, code=code: schemes.held(towers, cut, code == "clx"))  # type: ignore[misc]
        torch.manual_seed(SEED if group is None else seed_of(group.rank))
        ranks, rows = 1 if group is None else group.size, chunk or batch // (1 if group is None else group.size)
        about = {"scheme": scheme, "code": code, "ranks": ranks, "chunk": rows, "dropout": dropout}
        yield about | compared(gradients(towers, run), right)


def seed_of(rank: int) -> int:
    """What `Ranks.seed` gives a rank before the first step."""
    return mixed_seed(SEED, 8, 0, rank)


Scheme = tuple[str, str, int | None, Callable[[], None]]
"""Name, whose code, rows of a chunk, and what leaves the gradients."""


def of_chunks(learner: Learner, towers: Towers, batch: Batch, parts: list[slice], peer: str) -> Iterator[Scheme]:
    """One process that encodes the batch in parts; `peer` is whose code does what open_clip does."""
    rows, count = parts[0].stop, len(parts)
    yield f"train.chunk: {rows}", "clx", rows, partial(ours, learner, batch, rows)
    for name, replay in (("GradCache", True), ("GradCache, random state not replayed", False)):
        yield name, "formula", rows, partial(schemes.cached_gradients, towers, parts, replay)
    accumulate = partial(schemes.accumulated_features, towers, parts, open_clip_loss(peer == "open_clip"))
    yield f"open_clip --accum-freq {count}", peer, rows, accumulate
    plain = partial(schemes.accumulated, towers, parts)
    yield f"plain accumulation of {count}, sentence-transformers' default", "formula", rows, plain


def of_ranks(learner: Learner, towers: Towers, batch: Batch, group: Group, chunks: int, peer: str) -> Iterator[Scheme]:
    """Several processes that share the batch out; `peer` as in `of_chunks`."""
    size, part = group.size, share(len(next(iter(towers.inputs[0].values()))), group.rank, group.size)
    rows = (part.stop - part.start) // chunks
    yield f"--processes {size}", "clx", None, partial(ours, learner, batch, None)
    yield f"--processes {size}, train.chunk: {rows}", "clx", rows, partial(ours, learner, batch, rows)

    def theirs(factor: float = 1.0, **options: bool) -> Callable[[], None]:
        loss = open_clip_loss(peer == "open_clip", rank=group.rank, size=size, **options)
        return partial(schemes.averaged, towers, part, loss, size, factor)

    yield "open_clip --gather-with-grad --local-loss", peer, None, theirs(with_gradient=True, local=True)
    yield "open_clip's default", peer, None, theirs()
    yield f"open_clip's default, loss times {size}", peer, None, theirs(float(size))
    yield "open_clip --local-loss", peer, None, theirs(local=True)
    alone = partial(schemes.averaged, towers, part, schemes.contrast, size)
    yield "nothing gathered", "formula", None, alone


def ours(learner: Learner, batch: Batch, chunk: int | None) -> None:
    """The gradient that a step of `clx train` takes."""
    learner.chunks.set(chunk)
    found = learner.contrast(batch, learner.model, learner.objective, 0, 0)
    found.loss.backward()
    if learner.ranks is not None:
        learner.ranks.sum_gradients(found.loss.detach())
    learner.chunks.set(None)


def gradients(towers: Towers, run: Callable[[], None]) -> tuple[Tensor, Tensor]:
    """Those of the towers, in one row, and that of the temperature's logarithm `[]`."""
    every = [*towers.learned, towers.log_temperature]
    for parameter in every:
        parameter.grad = None
    run()
    *rows, temperature = [torch.zeros_like(p) if p.grad is None else p.grad for p in every]
    return torch.cat([g.flatten() for g in rows]), temperature.clone()


def compared(found: tuple[Tensor, Tensor], right: tuple[Tensor, Tensor]) -> Row:
    """Gradients beside the right ones."""
    (x, t), (y, u) = found, right
    return {
        "error": float((x - y).norm() / y.norm()),
        "cosine": float(x @ y / (x.norm() * y.norm())),
        "norm": float(x.norm() / y.norm()),
        "temperature": float(t / u),
    }
