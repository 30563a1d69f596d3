"""Trainings on several ranks and on one, of the same few rows: what they lose, learn and end with.

`python together.py FOLDER RANKS` is one rank of several that go through all cases, started by `on_ranks`.
"""

import csv
import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn

from clx.losses.base import LOSSES
from clx.pipelines.batches.batch import Batch
from clx.pipelines.config.schema import Config
from clx.pipelines.data.splits import load_splits
from clx.pipelines.evaluation import embeddings
from clx.pipelines.experiments.train import train
from clx.pipelines.model.build import prepare
from clx.pipelines.system.errors import BadInput, Stopped
from clx.pipelines.system.launch import free_port
from clx.pipelines.system.process_group import Group, joined
from clx.pipelines.system.ranks import place_of
from clx.pipelines.system.signals import Signals
from clx.pipelines.training import rank_part, schedule
from clx.pipelines.training.schedule import plan
from clx.pipelines.training.step import Contrast, Learner
from clx.pipelines.training.trainer import Trainer
from clx.pipelines.use.embed import embed
from clx.pipelines.use.embedding_tables import EmbeddingOptions
from clx.pipelines.use.predict import Predictor
from configs import TIME_KEPT
from loss_inputs import of_each_kind, with_buffers
from samples import png
from trained import Heard, StopAt, ticking

ROWS = 96
STEPS = {2: 3, 4: 20}
"""Steps of a training, by the number of ranks."""
ENDS = {2: [0, 1, 32], 4: [0, 5, 5, 6, 32]}
"""Where the parts of the ranks end, of a batch of 32 rows, by the number of ranks."""


@dataclass
class Case:
    """One training."""

    objective: list[dict[str, Any]]
    data: dict[str, Any] = field(default_factory=dict)
    modalities: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)
    ends: dict[int, list[int]] = field(default_factory=lambda: ENDS)
    fewest: int = 0
    """Pairs of rows from which on they are shared out."""
    double: bool = True
    exact: float = 1e-12
    """How near ranks come to one process; 1e-5 without `double`. They are near each other in any case."""
    still: bool = False
    """Whether learned views draw nothing at random."""
    full: str = ""
    """Where the last rank's memory runs out with more than 4 rows at a time: `forward` or `backward`."""
    tick: float = 0.0
    """Seconds that rank 0's clock goes on each time it is read; those of other ranks are slower."""
    plain: bool = True
    """By gradient descent with momentum, else AdamW."""


@dataclass
class Course:
    """What came of it on one rank."""

    losses: list[float] = field(default_factory=list)
    val: list[float] = field(default_factory=list)
    gradients: dict[str, Tensor] = field(default_factory=dict)
    """Of the first step."""
    weights: dict[str, Tensor] = field(default_factory=dict)
    chunk: int | None = None
    """Rows at a time in the end."""
    learned: tuple[int, int] = (0, 0)
    """Numbers that are learned, and the tensors that they are in."""
    calls: int = 0
    bytes: int = 0
    """Collectives of the second step, and what this rank put into them."""


def write_rows(folder: Path) -> None:
    """A table of five numbers, an image, a series, a class, a set of classes and a target; every sixth row is val.
    Three labels of 1 and 0 are not known of some rows, and none of every ninth."""
    draw = np.random.default_rng(0)
    with (folder / "rows.csv").open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(
            ["a", "b", "c", "d", "e", "photo", "broken", "curve", "kind", "kinds", "y", "z", "split", "l0", "l1", "l2"]
        )
        for i in range(ROWS):
            v = draw.normal(size=5)
            (folder / f"{i}.png").write_bytes(png(i))
            np.save(folder / f"{i}.npy", draw.normal(size=6 + i % 7).astype(np.float32))
            broken = "none.png" if i in (3, 40) else f"{i}.png"
            cells = [*(f"{x:.4f}" for x in v), f"{i}.png", broken, f"{i}.npy", "rst"[i % 3], ["r|s", "s", "t|r"][i % 3]]
            cells += [f"{v[0] + v[3]:.4f}", f"{v[1] - v[2]:.4f}", "val" if i % 6 == 5 else "train"]
            lines.writerow([*cells, *("" if i % 9 == 4 or (i + k) % 4 == 3 else int(v[k] > 0) for k in range(3))])


def table(*columns: str, **more: Any) -> dict[str, Any]:
    plain = {"encoder": "mlp", "width": 32, "layers": 1, "dropout": 0.0, "augmentation": "none"}
    return {"kind": "table", "columns": list(columns), **plain, **more}


TWO = {"p": table("a", "b"), "q": table("c", "d", "e")}
SERIES = {"column": "curve", "encoder": "dilated", "width": 16, "head": "none", "views": 2, "augmentation": TIME_KEPT}
STEPPED = ("ts2vec", "dense", "late")
NORMS = {
    "photo": {
        "kind": "image",
        "encoder": "cnn",
        "norm": "batch",
        "width": 4,
        "size": 8,
        "augmentation": "none",
        "head": "mlp",
    },
    "p": table("a", "b", head="mlp"),
}
SPARSE = {"missing": 0.6}
PROMPT = {"tokens": 3, "count": 3, "router": 2, "negative": True}
HOLES = {2: [0, 0, 32], 4: [0, 5, 5, 6, 32]}


AS_WELL = {"chunks", "norms", "memory, backward", "shard", "adam"}
"""Harder cases of which another one holds the same and more."""


def cases(size: int | None = None) -> dict[str, Case]:
    """Every registered objective with what it asks for, a sum of some, and what is harder.

    On two ranks, for the quick tests, an objective of each kind and those that keep something from step to step; those
    of them that ask for nothing more are in the sum alone.
    """
    found, few = _cases(), of_each_kind() | with_buffers()
    plain = Case([{}], data={"label": "kind", "target": ["y"]})
    same = {name for name in few if replace(found[name], objective=[{}], train={}) == plain}
    summed = sorted(name for name in same if LOSSES[name].family != "decoders")
    terms = [{"name": name, "weight": 0.1} for name in summed]
    found["sum"] = replace(plain, objective=terms, train={"second": {"momentum": 0.9}})
    if size == 2:
        few -= {*summed}
        return {n: case for n, case in found.items() if n in few or n not in {*LOSSES, *AS_WELL}}
    return found


def _cases() -> dict[str, Case]:
    found = {name: Case([{"name": name}], data={"label": "kind", "target": ["y"]}) for name in sorted(LOSSES)}
    del found["cross-entropy"].data["target"]
    for name in (name for name in found if "label_sets" in LOSSES[name].required()):
        found[name].data = {"label": "kinds", "several": "|"}
    for name in (name for name in found if LOSSES[name]().asks_second()):
        found[name].train = {"second": {"momentum": 0.9}}
    found["sepclr"].objective[0] |= {"beta_salient": 1.0, "beta_background": 1.0}  # at 1000 plain descent diverges
    found["whitened"].exact = 1e-11  # whitening multiplies what is rounded: 2e-12 after 20 steps of four ranks
    found["label-prototypes"].objective[0]["prototypes_per_label"] = 2
    found["label-prototypes"].modalities = {"p": TWO["p"]}
    found["distil"].objective[0]["teacher_temperature"] = 0.5  # else it has nothing to learn in the first step
    for name in ("core-tuning", "moit"):  # classes by one input
        found[name].modalities = {"p": TWO["p"]}
        del found[name].data["target"]
    for name in ("granularities", "distil-scores"):  # which choose among several
        found[name].modalities = {**TWO, "r": table("a", "e")}
    found["distil-scores"].data["target"] = ["y", "z"]
    words = {"kind": "text", "column": "photo", "width": 32, "layers": 1, "max_length": 8}
    found["self-guided"].objective[0] |= {"hidden": 16, "temperature": 0.1}
    found["self-guided"].modalities = {"p": {**words, "head": "none", "augmentation": "none"}}
    found["attention"].modalities = {"p": {**words, "views": 2, "augmentation": {"feature_cutoff": 0.3}}}
    for name in ("masked-token", "replaced-token"):
        found[name].modalities = {"p": {**words, "augmentation": "none"}}
        found[name].objective[0] |= {"hidden": 16} if name == "replaced-token" else {}
    for name in STEPPED:
        found[name].modalities = {"series": SERIES}
        found[name].data, found[name].exact = {}, 1e-8  # views are float32, and rounded as their batch is padded
    mixed = [{"name": "clip", "learn_temperature": True}, {"name": "supremix", "weight": 0.1}, {"name": "l1"}]
    target = {"label": "kind", "target": ["y"]}
    clip = [{"name": "clip", "learn_temperature": True, "temperature": 0.1}]
    prompted = [{"name": "cross-entropy", "inputs": ["p"], "words": "text"}, {"name": "clip", "inputs": ["p", "text"]}]
    worded = [{"name": "binary-cross-entropy", "inputs": ["p"], "words": "text", "labels_per_step": 1}]
    labels = {"p": TWO["p"], "text": {**words, "column": "kinds", "templates": ["a {}", "{}"], "dropout": 0.2}}
    named = {"p": TWO["p"], "text": {**words, "column": "kind", "dropout": 0.0, "prompt": PROMPT}}
    of_sets = ("binary-cross-entropy", "asymmetric", "mlcd", "label-ranking", "sparsemax", "relation")
    return found | {
        "partial sets": Case([{"name": name} for name in of_sets], data={"label": ["l?"]}, ends=HOLES),
        "features": Case([{"name": "relation", "by": "features", "of": "p"}], data=SPARSE, ends=HOLES),
        "mixed": Case(mixed, data=target | SPARSE),
        "sparse": Case([{"name": "siglip"}], data=SPARSE, ends=HOLES),
        "negatives": Case(
            [{"name": "infonce", "inputs": ["p", "q"], "negatives": ["n"]}],
            modalities={**TWO, "n": table("b", "e")},
        ),
        "chunks": Case(clip, data=SPARSE, train={"chunk": 5}, ends=HOLES),
        "statistics of chunks": Case(
            clip, modalities=NORMS, train={"chunk": 5, "chunk_statistics": "chunk"}, ends=HOLES, exact=math.inf
        ),
        "learned views": Case(
            [{"name": "nt-xent"}],
            modalities={"series": SERIES | {"augmentation": "autotcl", "head": "mlp"}},
            ends=HOLES,
            double=False,
            still=True,
        ),
        "words": Case(worded, modalities=labels, data={"label": "kinds", "several": "|"}, ends=HOLES),
        "shard, words": Case(
            [*worded, {"name": "mlcd", "inputs": ["q"], "words": "other"}, {"name": "clip", "inputs": ["p", "text"]}],
            modalities={**TWO, **dict.fromkeys(("text", "other"), labels["text"] | {"dropout": 0.0})},
            data={"label": "kinds", "several": "|"},
            train={"shard": True, "chunk": 5},
            ends=HOLES,
        ),
        "prompts": Case(prompted, modalities=named, data={"label": "kind"}, ends=HOLES),
        "norms": Case(clip, modalities=NORMS, ends=HOLES),
        "norms, some missing": Case(clip, modalities=NORMS, data=SPARSE, ends=HOLES),
        "memory, forward": Case(clip, data=SPARSE, train={"chunk": "auto"}, ends=HOLES, full="forward"),
        "memory, backward": Case(clip, data=SPARSE, train={"chunk": "auto"}, ends=HOLES, full="backward"),
        "memory, shard": Case(clip, data=SPARSE, train={"chunk": "auto", "shard": True}, ends=HOLES, full="backward"),
        "shard": Case(clip, data=SPARSE, train={"shard": True}, ends=HOLES),
        "shard, chunks": Case(clip, data=SPARSE, train={"shard": True, "chunk": 5}, ends=HOLES),
        "shard, norms": Case(clip, modalities=NORMS, data=SPARSE, train={"shard": True, "clip": 0.05}, ends=HOLES),
        "shard, adam": Case(
            mixed, data=target, double=False, plain=False, train={"shard": True, "ema": 0.9, "clip": 0.1}
        ),
        "adam": Case(mixed, data=target, double=False, plain=False, train={"ema": 0.9}),
        "minutes": Case(clip, train={"steps": None, "minutes": 1}, tick=20),
        "similar": Case(clip, double=False, train={"batches": {"near": ["a", "b"], "then": "similar", "refresh": 0.5}}),
    }


def config_of(case: Case, folder: Path, steps: int) -> Config:
    source = str(folder / "rows.csv")
    train = {"steps": steps, "batch_size": 32, "clip": None, "validate_every": 2, "lr": 0.01, **case.train}
    return Config.model_validate(
        {
            "data": {"train": source, **case.data},
            "modalities": case.modalities or TWO,
            "embed_dim": 32 if case.objective[0]["name"] == "self-guided" else 16,  # as wide as its encoder
            "objective": case.objective,
            "train": train,
            "eval": [],
        }
    )


def learn(case: Case, folder: Path, group: Group | None, steps: int = 3) -> Course:
    """Train, through the code that `clx train` runs."""
    config = config_of(case, folder, steps)
    splits = load_splits(config.data, 0)
    run = prepare(config, splits)
    if case.double:
        run.model.double(), run.objective.double()
    out = folder / f"run-{0 if group is None else group.size}"
    out.mkdir(exist_ok=True)
    trainer = Trainer(run, splits, plan(config, len(splits["train"])), out, group)
    clock = patch.object(schedule, "time", ticking(case.tick / (1 + (group.rank if group else 0))))
    learner, course = trainer.learner, Course()
    if learner.ranks is not None:
        learner.ranks.fewest_pairs = case.fewest
        if case.double:
            lift(learner.ranks.plain)
    if case.plain:
        learner.optimizer = torch.optim.SGD(learner.optimizer.param_groups, lr=0.01, momentum=0.9)
    if case.full and (group is None or group.rank == group.size - 1):
        encoder = learner.model.tower("q").encoder
        encoder.forward = bounded(encoder.forward, case.full)  # type: ignore[method-assign]
    taken, given = learner.optimizer.step, learner.batches
    named = [*learner.model.named_parameters(), *learner.objective.named_parameters()]

    def gradient(p: nn.Parameter) -> Tensor | None:
        if learner.sharded is None or id(p) not in learner.sharded.parts:
            return None if p.grad is None else p.grad.clone()
        part = learner.sharded.parts[id(p)].grad
        return None if part is None else learner.sharded.gathered(part, p.shape)

    def step(*args: Any, **kwargs: Any) -> Any:
        if not course.gradients:
            course.gradients = {name: g for name, p in named if (g := gradient(p)) is not None}
        return taken(*args, **kwargs)

    def batches(*args: Any) -> Iterator[Batch]:
        for batch in given(*args):
            if case.double:
                lift(batch.inputs)
            yield batch

    learner.optimizer.step = step  # type: ignore[method-assign]
    learner.batches = batches  # type: ignore[method-assign]
    trainer.metrics.add = lambda line: course.val.append(line["val_loss"]) if "val_loss" in line else None  # type: ignore
    update = learner.update
    sent = [(0, 0)]

    def counted(*args: Any) -> Any:
        found = update(*args)
        course.losses.append(found.figures["loss"])
        if group is not None:
            sent.append((group.calls, group.bytes))
            if len(sent) == 3:  # validation comes after the second step
                course.calls, course.bytes = (now - before for before, now in zip(*sent[1:], strict=True))
        return found

    learner.update = counted  # type: ignore[method-assign]
    trainer.save = lambda: None  # type: ignore[method-assign]
    with clock if case.tick else nullcontext(), patch.object(torch, "rand_like", half) if case.still else nullcontext():
        trainer.loop(Heard(), Signals())
    course.chunk = learner.chunks.size
    tensors = [p for _, p in named if p.requires_grad]
    course.learned = sum(p.numel() for p in tensors), len(tensors)
    course.weights = {n: t.clone() for part in (learner.model, learner.objective) for n, t in part.state_dict().items()}
    return course


def bounded(run: Callable[..., Tensor], where: str) -> Callable[..., Tensor]:
    """A forward that has no memory for more than 4 rows at a time, or whose backward has none."""

    def refuse(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    def forward(*, x: Tensor, **more: Tensor) -> Tensor:
        if len(x) > 4 and where == "forward":
            refuse()
        made = run(x=x, **more)
        if len(x) > 4 and made.requires_grad:
            made.register_hook(refuse)
        return made

    return forward


def half(like: Tensor) -> Tensor:
    """What learned views draw where nothing is to be random."""
    return torch.full_like(like, 0.5)


def lift(inputs: dict[str, dict[str, Tensor]]) -> None:
    """Make floats double, in place."""
    for value in inputs.values():
        value.update({key: t.double() for key, t in value.items() if t.is_floating_point()})


def shares(ends: list[int]) -> Callable[[int, int, int], slice]:
    """Parts that end there, also of batches that have fewer rows."""
    return lambda rows, rank, size: slice(min(rows, ends[rank]), min(rows, ends[rank + 1]) if rank + 1 < size else rows)


def play(folder: Path, group: Group | None) -> dict[str, Any]:
    """What happens to a run: it is stopped and resumed; it has bad rows; its last rank meets what is not finite."""
    size = 0 if group is None else group.size
    if group is not None:  # one process has no parts, and this module is for all tests of it
        rank_part.share = shares([0, 7, 7, 20]) if size == 4 else shares([0, 7])
    found: dict[str, Any] = {}
    case = Case(
        [{"name": "clip", "learn_temperature": True}],
        modalities={"p": table("a", "b", dropout=0.2), "q": table("c", "d", "e", augmentation="mild")},
        train={"ema": 0.9, "workers": 1},
    )
    same = replace(case, modalities=TWO)  # no dropout
    split = replace(same, train={**same.train, "shard": group is not None})
    runs = (("whole", False, case), ("stopped", True, case), ("begun", True, same), ("split", True, split))
    for name, stops, what in runs:
        hears = stops and group is not None and group.rank == size - 1
        try:
            train(config_of(what, folder, 6), folder / f"{name}-{size}", StopAt(3) if hears else Heard(), group=group)
        except Stopped as error:
            found[name] = str(error)
            if group is not None:
                group.wait()
    if group is not None:
        train(config_of(case, folder, 6), folder / f"stopped-{size}", Heard(), resume=True, group=group)
        if group.rank == 0:
            shutil.copytree(folder / f"split-{size}", folder / f"split-then-{size}")
        group.wait()
        train(config_of(split, folder, 6), folder / f"split-{size}", Heard(), resume=True, group=group)
    photo = {"photo": NORMS["photo"] | {"column": "broken"}, "p": table("a", "b")}
    bad = Case([{"name": "clip"}], modalities=photo, data={"on_bad_row": "skip", "bad_row_budget": 0.5})
    train(config_of(bad, folder, 3), folder / f"bad-{size}", Heard(), group=group)
    bad.data = {}
    try:
        train(config_of(bad, folder, 3), folder / f"fail-{size}", Heard(), group=group)
    except BadInput as error:
        found["bad"] = str(error).replace(f"fail-{size}", "fail")
    told = config_of(TOLD, folder, 3).model_copy(update={"eval": ["retrieval", "probe", "classification"]})
    with patch.object(embeddings, "ROWS", 4):
        train(told, folder / f"told-{size}", Heard(), group=group)
    use(folder / f"told-{size}", folder / "rows.csv", group)
    plain = Learner.contrast

    def poisoned(self: Learner, batch: Batch, *given: Any, **more: Any) -> Contrast:
        if self.step == 1 and (group is None or group.rank == size - 1):
            batch.inputs["p"]["x"][0] = torch.inf
        return plain(self, batch, *given, **more)

    Learner.contrast = poisoned  # type: ignore[method-assign]
    train(config_of(case, folder, 6), folder / f"skipped-{size}", Heard(), group=group)
    Learner.contrast = plain  # type: ignore[method-assign]
    return found


TOLD = Case([{"name": "clip"}, {"name": "cross-entropy"}], data={"label": "kind"})


def use(run: Path, rows: Path, group: Group | None, to: str = "") -> None:
    """Embed rows, and predict their classes, into files beside the run."""
    embed(run, run.with_name(f"{run.name}{to}.parquet"), str(rows), EmbeddingOptions(batch_size=2), group=group)
    predictions = Predictor(run, batch_size=2).predict(str(rows), group=group)
    if group is None or group.rank == 0:
        predictions.save(run.with_name(f"{run.name}{to}.csv"))
    else:
        assert not list(predictions)


def on_ranks(folder: Path, size: int, python: Path) -> list[tuple[dict[str, Course], dict[str, Any]]]:
    """All cases on so many ranks, which `python` starts, and what `play` saw: by rank."""
    shared = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    processes = [
        subprocess.Popen(
            [python, __file__, str(folder), str(size)],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
        )
        for rank in range(size)
    ]
    assert [process.wait() for process in processes] == [0] * size
    return [torch.load(folder / f"{size}-{rank}.pt", weights_only=False) for rank in range(size)]


def main(folder: Path, size: int) -> None:
    torch.set_num_threads(1)
    found, seconds = {}, {}
    place = place_of()
    assert place is not None
    with joined(place) as group:
        for name, case in cases(size).items():
            start = time.monotonic()
            os.environ.get("CLX_TIMES") and print(name, group.rank, file=sys.stderr, flush=True)
            rank_part.share = shares(case.ends[size])
            found[name] = learn(case, folder, group, STEPS[size])
            seconds[name] = round(time.monotonic() - start, 2)
        seen = play(folder, group)
        torch.save((found, seen), folder / f"{size}-{group.rank}.pt")
    if os.environ.get("CLX_TIMES"):
        print(json.dumps(seconds))


if __name__ == "__main__":
    import together  # what is saved is then of this module, and not of `__main__`

    together.main(Path(sys.argv[1]), int(sys.argv[2]))
