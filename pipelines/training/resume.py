"""What a run needs to go on as if it had never stopped: gathered for a checkpoint, and taken up from one."""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clx.pipelines.config.load import read_yaml
from clx.pipelines.config.schema import Config
from clx.pipelines.config.stages import LENGTHS
from clx.pipelines.runs import checkpoint
from clx.pipelines.runs.folder import CONFIG
from clx.pipelines.system.errors import BadInput
from clx.pipelines.training.health import Health
from clx.pipelines.training.schedule import plan, rate_at, rate_when, warm_up
from clx.pipelines.training.step import Learner


@dataclass
class Course:
    """How a run has gone so far, besides what it has learned."""

    health: Health
    bad_steps: int = 0
    validated: int = -1
    """The step that was validated last."""
    lowest: float = math.inf
    """Validation loss."""
    stale: int = 0
    """Validations since."""
    drawn: dict[str, Any] = field(default_factory=dict)
    """Batches that the model has decided, and not counters alone."""

    def hear(self, loss: float | None) -> None:
        """Count a validation, whose loss is None where no row could be read."""
        better = loss is not None and loss < self.lowest
        self.lowest = loss if better and loss is not None else self.lowest
        self.stale = 0 if better else self.stale + 1


def state_of(learner: Learner, course: Course) -> dict[str, Any]:
    """What only resuming needs: all state but the weights to evaluate with."""
    sharded = learner.sharded
    state = {
        "step": learner.step,
        "bad_steps": course.bad_steps,
        "overflows": learner.overflows,
        "optimizer": learner.optimizer.state_dict() if sharded is None else sharded.moments(learner.optimizer),
        "scaler": learner.scaler.state_dict(),
        "random": checkpoint.random_state(),
        "validated": course.validated,
        "lowest": course.lowest,
        "stale": course.stale,
        "seconds": learner.length.seconds,
        "chunk": learner.chunks.size,
        "health": json.dumps(course.health.state()),
        "drawn": course.drawn,
    }
    if learner.ema is not None:  # then the evaluated weights are not the trained ones
        state["trained"] = checkpoint.weights(learner.model, learner.objective)
        state["ema_updates"] = int(learner.ema.n_averaged)
    if learner.second is not None:
        state["second"] = learner.second.state(learner.model)
    return state


def restore(learner: Learner, source: checkpoint.Checkpoint) -> Course:
    """Take up the state of `source`; how that run had gone. Raises `BadInput` where that is not this run's."""
    state = checkpoint.load_trainer(source)
    checkpoint.restore(source, *learner.used)
    try:
        course = _take(learner, state)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError) as error:
        said = " ".join(str(error).split())[:100]
        raise BadInput(f"{source.path}/trainer.pt does not fit this run ({type(error).__name__}: {said})") from error
    if learner.step != source.step:
        raise BadInput(f"{source.path}/trainer.pt is of step {learner.step}")
    return course


def _take(learner: Learner, state: dict[str, Any]) -> Course:
    if learner.ema is not None:
        learner.both.load_state_dict(state["trained"])
        learner.ema.n_averaged.fill_(state["ema_updates"])
    if learner.second is not None:
        learner.second.take(learner.model, state["second"])
    optimizer, sharded = learner.optimizer, learner.sharded
    optimizer.load_state_dict(
        state["optimizer"] if sharded is None else sharded.moments_of(optimizer, state["optimizer"])
    )
    for parameter, moments in learner.optimizer.state.items():
        for name, value in moments.items():
            if not value.ndim and name != "step":  # a scalar parameter of a run saved before these had shape [1]
                moments[name] = value = value.reshape(parameter.shape)
            if value.ndim and value.shape != parameter.shape:
                raise ValueError("moments of another shape")
    if state["scaler"] and learner.scaler.is_enabled():  # a run may move between devices
        learner.scaler.load_state_dict(state["scaler"])
    learner.length.seconds = float(state.get("seconds", 0.0))
    learner.step, learner.overflows = int(state["step"]), int(state["overflows"])
    if learner.chunks.automatic and "chunk" in state:  # what dropout draws depends on it
        learner.chunks.set(state["chunk"])
        learner.chunks.planned = True
    checkpoint.restore_random(state["random"])
    health = Health(**json.loads(state["health"]))
    lowest, stale = float(state.get("lowest", math.inf)), int(state.get("stale", 0))
    drawn = dict(state.get("drawn", {}))
    return Course(health, int(state["bad_steps"]), int(state["validated"]), lowest, stale, drawn)


def relengthened(config: Config, out: Path, rows: int) -> tuple[Config, str | None]:
    """The config to go on with, and a line on what changes when its length is not that of the run in `out`.

    The schedule becomes that of the new length, except that the warm-up stays as many steps as it was: a constant
    rate goes on as it is; a cosine stands where the longer cosine stands at this step, above the zero it had come
    to. Raises `BadInput` when fewer steps are asked for than are done.
    """
    before = checkpoint.read_config(out)
    written = read_yaml((out / CONFIG).read_text(encoding="utf-8"))["train"]
    if written.get("accumulate", 1) > 1:
        raise BadInput(
            f"{out} was trained with train.accumulate = {written['accumulate']}, whose gradient was not that of the "
            f"whole batch: finish it with the version that began it, or train anew with train.batch_size = "
            f"{before.train.batch_size} and train.chunk = {before.train.chunk}"
        )
    named = next(key for key in ("minutes", "steps", "epochs") if getattr(before.train, key))
    for key in LENGTHS.keys() - {named, "steps" if named == "epochs" else named}:
        if getattr(config.train, key) not in (None, getattr(before.train, key)):
            length = getattr(before.train, named)
            raise BadInput(f"train.{key}: the length of {out} is train.{named} = {length}; set that")
    old, new = plan(before, rows).steps, plan(config, rows).steps
    if old is None or new is None:
        return _by_the_clock(config, before, out)
    if new == old:
        return config, None
    done = checkpoint.last(out).step
    if new < done:
        raise BadInput(f"train.steps: {done} steps are done already, so {out} cannot end after {new}")
    warm = warm_up(old, before.train)
    share = min(1.0, max(0.0, warm - 0.5) / new)  # rounded up, this is `warm` steps again
    config = config.model_copy(update={"train": config.train.model_copy(update={"warmup": share})})
    was, now = rate_at(min(done, old - 1), old, before.train), rate_at(min(done, new - 1), new, config.train)
    rate = f"at step {done} its learning rate ({config.train.schedule}) was {was:.2g} and goes on from {now:.2g}"
    return config, f"{out} now ends after {new} steps instead of {old}: {rate}"


def _by_the_clock(config: Config, before: Config, out: Path) -> tuple[Config, str | None]:
    """`relengthened` for a run of `train.minutes`, whose warm-up stays as many minutes as it was."""
    old, new = before.train.minutes or 0.0, config.train.minutes or 0.0
    if old == new:
        return config, None
    source = checkpoint.last(out)
    spent = float(checkpoint.load_trainer(source).get("seconds", 0.0)) / 60
    if new < min(spent, old):
        raise BadInput(f"train.minutes: {spent:.3g} minutes are spent already, so {out} cannot end after {new:g}")
    warm = min(1.0, before.train.warmup * old / new)
    config = config.model_copy(update={"train": config.train.model_copy(update={"warmup": warm})})
    was, now = rate_when(min(1.0, spent / old), before.train), rate_when(min(1.0, spent / new), config.train)
    rate = f"after {spent:.3g} its learning rate ({config.train.schedule}) was {was:.2g} and goes on from {now:.2g}"
    return config, f"{out} now ends after {new:g} minutes instead of {old:g}: {rate}"
