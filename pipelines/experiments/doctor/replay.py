"""`clx doctor RUN --replay`: the first step of a run that was not finite, run again, and the tensor that began it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from clx.pipelines.batches.batch import Batch
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.experiments.doctor.opened import config_of, trainer_of
from clx.pipelines.system.errors import BadInput
from clx.pipelines.system.text import finite
from clx.pipelines.training import nonfinite
from clx.pipelines.training.rows import keep_frozen_features
from clx.pipelines.training.watch import Found, spoilt, watching

ROWS = 10
"""Of those to blame, how many are named."""
TRY = {
    "input": "clx data check --config {run}/config.yaml looks at every cell: mend these rows, or leave them out",
    "weight": "-s train.lr={tenth:g} or -s train.clip=1: an earlier step left this weight so",
    "forward": "-s train.lr={tenth:g} where weights grew, -s train.precision=fp32 in half precision; else look at "
    "these rows",
    "loss": "a higher temperature, or -s train.precision=fp32; else look at these rows",
    "gradient": "a higher temperature, -s train.precision=fp32, or another objective: the values were finite, their "
    "derivative was not",
}
"""What to try, by where it began."""


def replay(out: Path, device: str | None = None, say: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
    """Run the kept step of the run in `out` again, on its rows and from its weights and random states, changing nothing
    on disk.

    Returns `run`, `step` (from 1), `loss`, `grad_norm` (null where not finite), `reproduced`, `first` (the first tensor
    that is not finite: `kind`, `tensor`, `shape`, `nan`, `inf`, and the `rows` to blame, at most 10, with `rows_blamed`
    of them in all; null where all are finite), `terms` (each loss's value), `try`, and `notes`. Raises `BadInput` where
    no step was kept.
    """
    kept, config = nonfinite.read(out), config_of(out, device)
    trainer, splits = trainer_of(out, config)
    learner = trainer.learner
    if config.data.cache == "memory":
        keep_frozen_features(trainer.run, learner, trainer.rows)
    nonfinite.take_up(kept, learner)
    batch = next(trainer.batches())
    notes = differences(kept, batch)
    for text in notes:
        say(text)
    learner.model.train(), learner.objective.train()
    nonfinite.restore_streams(kept)
    with watching(learner) as watch:
        moved = batch.to(learner.device)
        watch.batch = {id(each) for _, each in nonfinite.tensors_of(moved)}
        update = learner.update(moved)
    first = began(watch.first(), moved)
    result: dict[str, Any] = finite(
        {
            "run": str(out),
            "step": learner.step,
            "loss": update.figures["loss"],
            "grad_norm": update.figures["grad_norm"],
            "reproduced": update.outcome != "taken",
            "first": None if first is None else blamed(first, moved, splits["train"]),
            "terms": {name: value for name, value in watch.losses.items()},
            "try": None if first is None else TRY[first.kind].format(run=out, tenth=config.train.lr / 10),
            "notes": notes,
        },
        6,
    )
    return result


def differences(kept: nonfinite.Kept, batch: Batch) -> list[str]:
    """What is not as it was when the step was kept. Raises `BadInput` where the rows are others."""
    if sorted(batch.sample_id.tolist()) != sorted(kept.about["rows"]):
        raise BadInput(
            "the training data are not those of the run: the kept step had other rows; give the run its data again"
        )
    notes = []
    if kept.about["processes"] > 1:
        notes.append(
            f"the step was of {kept.about['processes']} processes and is run in one: the rows are the same, what "
            "dropout draws is not"
        )
    elif nonfinite.content(batch) != kept.about["content"]:
        notes.append("the rows are the same, but what is in them is not what it was: cells have changed since")
    return notes


def began(first: Found | None, batch: Batch) -> Found | None:
    """Where it began: at an input of the batch, if what was made of it is the first that is not finite."""
    if first is None or first.kind != "forward":
        return first
    tower = first.name.partition(" of ")[2].partition(".")[0].partition(" ")[0]
    for name, value in batch.inputs.items():
        for key, each in value.items():
            if name.partition("/")[0] == tower and spoilt(each):
                return Found("input", f"input {name} {key}", each)
    return first


def blamed(first: Found, batch: Batch, train: Manifest) -> dict[str, Any]:
    """The tensor as JSON, with the rows of the data that the places along its first axis are of, where these are few
    enough to be to blame."""
    told = first.told()
    places, ids = told.pop("places"), ids_of(first, batch)
    if ids is None or len(places) == len(ids):
        return told | {"rows": [], "rows_blamed": None if ids is None else len(places)}
    where = {int(number): i for i, number in enumerate(train.rows.tolist())}
    rows = [train.where(where[int(ids[place])]) for place in places[:ROWS]]
    return told | {"rows": rows, "rows_blamed": len(places)}


def ids_of(first: Found, batch: Batch) -> Tensor | None:
    """The `sample_id` of each place along the first axis of a tensor; None where it is not of rows."""
    if first.kind == "weight" or "the weight" in first.name or not first.tensor.dim():
        return None
    size = len(first.tensor)
    if size == len(batch):
        return batch.sample_id
    for name, here in batch.present.items():
        if name.partition("/")[0] in first.name and size == int(here.sum()):
            return batch.sample_id[here]
    return None
