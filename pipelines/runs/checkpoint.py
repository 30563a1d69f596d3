"""Checkpoints: a run's weights and everything that resuming needs, in a folder as folder.py describes it."""

import json
import os
import random
import shutil
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any
from warnings import warn

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from clx.pipelines.config.load import dump
from clx.pipelines.config.schema import Config
from clx.pipelines.model.build import Facts, Run, build
from clx.pipelines.model.joined import joined
from clx.pipelines.runs.folder import (
    CHANGEABLE,
    CONFIG,
    COPIED,
    FACTS,
    FILES,
    LOGS,
    META,
    TRAINER,
    WEIGHTS,
    Checkpoint,
    best,
    checkpoints,
    choose,
    last,
    listed,
    read_config,
)
from clx.pipelines.runs.stages import stages_before
from clx.pipelines.runs.weight_parts import load_parts, save_parts
from clx.pipelines.system.durable_files import FORMAT, Damaged, digest, seal, sync, unseal, write_text
from clx.pipelines.system.errors import BadInput, ClxWarning, Failed, out_of_memory

__all__ = ["Checkpoint", "best", "checkpoints", "last", "read_config"]


def create(out: Path, run: Run) -> None:
    """Start a run folder: config and facts."""
    write_text(out / CONFIG, dump(run.config))
    write_text(out / FACTS, seal({"format": FORMAT, **asdict(run.facts)}))


def weights(model: nn.Module, objective: nn.Module) -> dict[str, Tensor]:
    """Model and objective as one flat dictionary of copies on the CPU."""
    both = nn.ModuleDict({"model": model, "objective": objective}).state_dict()
    return {name: value.detach().to("cpu", copy=True).contiguous() for name, value in both.items()}


def save(
    out: Path, step: int, used: dict[str, Tensor], trainer: dict[str, Any], score: float | None, keep: int
) -> None:
    """Write checkpoint `step`, then drop all but the `keep` newest and the best.

    `used` are the weights to evaluate with; `trainer` is what only resuming needs. Raises `Failed`, with the earlier
    checkpoints as they were, when the disk does not take it.
    """
    folder = out / "checkpoints"
    beside, place = folder / f".step-{step:08d}.tmp", folder / f"step-{step:08d}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob(".step-*.tmp"):  # of a run that was killed while it saved
            shutil.rmtree(leftover)
        beside.mkdir()
        _fill(beside, out, step, used, trainer, score)
        shutil.rmtree(place, ignore_errors=True)
        os.rename(beside, place)
        sync(folder)
    except (OSError, SafetensorError, RuntimeError) as error:  # torch and safetensors hide the error of the disk
        cause = error.__context__ if isinstance(error.__context__, OSError) else error
        said = getattr(cause, "strerror", None) or " ".join(str(error).split())[:200]
        raise Failed(
            f"step {step} could not be saved in {folder}: {said}; what was saved before is as it was: make room and "
            f"clx train --resume {out}"
        ) from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    found = checkpoints(out)
    for old in found[:-keep]:
        if old != best(found):
            shutil.rmtree(old.path, ignore_errors=True)


def _fill(
    beside: Path, out: Path, step: int, used: dict[str, Tensor], trainer: dict[str, Any], score: float | None
) -> None:
    """Every file of a checkpoint, on disk for certain before meta.json says that it is whole."""
    save_file(used, beside / WEIGHTS)
    (beside / WEIGHTS).chmod(0o644)  # safetensors keeps it to the owner
    with open(beside / TRAINER, "wb") as file:  # given a path, torch would hide why it cannot write
        torch.save(trainer, file)
    for name in COPIED:
        shutil.copyfile(out / name, beside / name)
    files = {name: {"size": (beside / name).stat().st_size, "digest": digest(beside / name)} for name in FILES}
    logs = [path for name in LOGS if (path := out / name).exists()]
    for path in (*logs, *(beside / name for name in FILES)):
        sync(path)
    meta = {"format": FORMAT, "step": step, "score": score, "torch": str(torch.__version__), "files": files}
    (beside / META).write_text(seal(meta))
    sync(beside / META)
    sync(beside)


def rescore(checkpoint: Checkpoint, score: float | None) -> None:
    """Give a checkpoint the validation loss that it was saved without."""
    meta = unseal(checkpoint.path / META)
    write_text(checkpoint.path / META, seal(meta | {"score": score}))


def set_aside(out: Path, step: int) -> None:
    """Rename the checkpoints after `step`, which are damaged, else `step` would not be the one to continue from."""
    found, damaged = listed(out)
    for path in (*(c.path for c in found if c.step > step), *damaged):
        aside = path.with_name(f"damaged-{path.name}")
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)


def random_state() -> dict[str, Any]:
    """Every global random stream, as values that `torch.load(weights_only=True)` accepts."""
    numpy_state = np.random.get_state(legacy=False)
    assert isinstance(numpy_state, dict)
    return {
        "python": json.dumps(random.getstate()),
        "numpy": json.dumps(numpy_state, default=lambda array: array.tolist()),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random(state: dict[str, Any]) -> None:
    version, internal, gauss = json.loads(state["python"])
    random.setstate((version, tuple(internal), gauss))
    numpy_state = json.loads(state["numpy"])
    numpy_state["state"]["key"] = np.array(numpy_state["state"]["key"], dtype=np.uint32)
    np.random.set_state(numpy_state)
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"][: torch.cuda.device_count()])


def warn_of_change(folder: Path, checkpoint: Checkpoint) -> None:
    """A config may be changed by hand, when data has moved; it may also have rotted. Some keys may change."""
    if (checkpoint.path / CONFIG).read_bytes() == (folder / CONFIG).read_bytes():
        return
    now, then = (config.model_dump() for config in (read_config(folder), read_config(checkpoint.path)))
    for key in (*CHANGEABLE, "train.warmup"):  # a share of the length
        section, name = key.split(".")
        now[section][name] = then[section][name] = None
    if now != then:
        warn(
            f"{folder}/config.yaml is not the one that {checkpoint.path.name} was trained with; it counts all the same",
            ClxWarning,
            stacklevel=3,
        )


def read_facts(folder: Path) -> Facts:
    """What a run learned from its training data; from a checkpoint's copy, with a warning, where the run's own is
    damaged. Unknown formats are refused."""
    path = folder / FACTS
    try:
        return _facts(path)
    except Damaged as reason:
        for one in reversed(checkpoints(folder)):
            with suppress(Damaged):
                one.verify(FACTS)
                found = _facts(one.path / FACTS)
                warn(f"{folder}/{reason}; using the copy in {one.path.name}", ClxWarning, stacklevel=2)
                return found
        raise BadInput(f"{folder}/{reason}") from None


def _facts(path: Path) -> Facts:
    content = unseal(path)
    content.pop("format")
    try:
        return Facts(**content)
    except TypeError:
        raise Damaged(f"{path.name} is not what was written") from None


def pick(folder: Path, which: str = "best") -> Checkpoint:
    """The whole checkpoint of a run that is its best or last, or of step `which`. Raises `BadInput`.

    Where the best or last one is damaged, the next takes its place, with a warning.
    """
    if which in ("best", "last"):
        return choose(folder, best if which == "best" else lambda found: found[-1], "*.safetensors")
    steps = {str(c.step): c for c in checkpoints(folder)}
    if which not in steps:
        raise BadInput(f"{folder} has no checkpoint {which!r}; it has {', '.join(['best', 'last', *steps])}")
    try:
        steps[which].verify("*.safetensors")
    except Damaged as reason:
        raise BadInput(f"checkpoint {which} of {folder} is damaged: {reason}") from None
    return steps[which]


def load(folder: Path, which: str = "best", device: torch.device | str = "cpu", alone: bool = False) -> Run:
    """A run rebuilt from its folder, with the weights of its best or last checkpoint, or of step `which`; joined with
    its earlier stages where its `keep` says so, unless it is wanted `alone`."""
    config, facts, chosen = read_config(folder), read_facts(folder), pick(folder, which)
    warn_of_change(folder, chosen)
    run = rebuild(folder, config, facts)
    restore(chosen, run.model, run.objective)
    run.step, run.folder = chosen.step, folder
    run.model.eval().to(device)
    run.objective.eval().to(device)
    if config.keep == "concat" and not alone:
        return joined(
            run, [load(place, its, device, by_itself) for place, its, by_itself in stages_before(config, folder)]
        )
    return run


def rebuild(folder: Path, config: Config, facts: Facts) -> Run:
    """A run without its weights. Raises `BadInput` for facts that the config has no use for."""
    try:
        return build(config, facts, load=False)
    except BadInput:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError) as error:
        said = " ".join(str(error).split())[:100]
        raise BadInput(f"{folder}/facts.json does not fit its config.yaml ({type(error).__name__}: {said})") from error


def restore(checkpoint: Checkpoint, model: nn.Module, objective: nn.Module) -> None:
    """Load a checkpoint's weights into model and objective."""
    path = checkpoint.path / WEIGHTS
    try:
        state = load_file(path) if path.exists() else load_parts(checkpoint.path)
        nn.ModuleDict({"model": model, "objective": objective}).load_state_dict(state)
    except (OSError, SafetensorError, RuntimeError) as error:
        if out_of_memory(error):
            raise
        raise BadInput(f"{path} does not fit this run: {' '.join(str(error).split())[:200]}") from None


def save_weights(out: Path, run: Run, step: int, score: float | None) -> None:
    """Write a run with nothing but its weights, a file for each tower, into a folder, as `load` takes it.

    Raises `BadInput` for a modality of a name that is another file's.
    """
    if run.config.keep == "concat":
        raise BadInput("keep: concat joins the towers of stages: they are no run; --format onnx writes them as one")
    for name in run.modalities:
        if name in ("objective", "model"):
            raise BadInput(f"a modality called {name!r} cannot be exported: a file of that name is another's")
    create(out, run)
    save_parts(out, weights(run.model, run.objective), run.model.towers)
    names = [*COPIED, *(path.name for path in out.glob("*.safetensors"))]
    files = {name: {"size": (out / name).stat().st_size, "digest": digest(out / name)} for name in names}
    meta = {"format": FORMAT, "step": step, "score": score, "torch": str(torch.__version__), "files": files}
    write_text(out / META, seal(meta))


def load_trainer(checkpoint: Checkpoint) -> dict[str, Any]:
    """What only resuming needs. Never unpickles objects."""
    path = checkpoint.path / TRAINER
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        if out_of_memory(error):
            raise
        raise BadInput(f"{path} cannot be read: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(state, dict):
        raise BadInput(f"{path} is not what was written")
    return state
