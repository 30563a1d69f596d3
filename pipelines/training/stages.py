"""The stages of a run, asked before the first of them begins whether all of them can be trained."""

from pathlib import Path
from typing import NamedTuple

import torch

from clx.pipelines.batches.meetings import meetings_of
from clx.pipelines.config.schema import Config
from clx.pipelines.config.stage_configs import trained_before
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.data.shared_content import inputs_of
from clx.pipelines.data.splits import load_splits
from clx.pipelines.model.build import Run, prepare
from clx.pipelines.runs.checkpoint import load
from clx.pipelines.runs.stages import stage_config
from clx.pipelines.system.errors import BadInput
from clx.pipelines.training.rows import training_rows
from clx.pipelines.training.schedule import Plan, check_patience, length_of, plan
from clx.pipelines.training.second import second_of
from clx.pipelines.training.transfer import follow


class Checked(NamedTuple):
    """Stages that can be trained, as far as anyone can tell before."""

    before: dict[int, tuple[Config, Plan]]
    """The configs of those before the last that are trained here, with their length, by their number from 0."""
    last: Run
    """With weights that nobody has trained."""


def check_stages(config: Config, splits: dict[str, Manifest]) -> Checked:
    """Prepare every stage, each upon the one before; `splits` are the last one's. Raises `BadInput`."""
    earlier = config.stages[0].run
    source = None if earlier is None else load(Path(earlier), config.stages[0].checkpoint, alone=True)
    found: dict[int, tuple[Config, Plan]] = {}
    for k, one in trained_before(config).items():
        try:
            rows = load_splits(one.data, one.train.seed, inputs=inputs_of(one))
            length = plan(one, len(rows["train"]))
            source = _prepared(stage_config(config, k, one, Path()), rows, source, k)
        except BadInput as error:
            raise BadInput(f"stage {k + 1} of {len(config.stages)}: {error}") from None
        found[k] = one, length
    return Checked(found, _prepared(config, splits, source, len(config.stages) - 1))


def _prepared(config: Config, splits: dict[str, Manifest], source: Run | None, k: int) -> Run:
    """Stage `k` as it will be trained, but for the weights."""
    run = prepare(config, splits) if source is None else follow(config, splits, source, f"stage {k}")
    check_patience(config, splits)
    second = second_of(run, torch.device("cpu"), source)
    if second is not None:
        second.check(run, splits["train"])
    training_rows(run, splits["train"])
    meetings_of(run.config, splits["train"])
    return run


def told(config: Config, k: int, one: Config, length: Plan) -> str:
    """A line on stage `k`, whose config is `one`, as it begins."""
    terms = " + ".join(term.name for term in one.objective)
    return f"stage {k + 1} of {len(config.stages)}: {terms} on {one.data.named}, {length_of(one.train, length.steps)}"
