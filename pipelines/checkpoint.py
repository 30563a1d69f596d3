"""Run folders: what a run leaves behind, written so that a crash never leaves half a file under a real name.

config.yaml              the resolved config
facts.json               statistics and class names learned from the training data, format version
metrics.jsonl            one line per logged step and validation
bad_rows.jsonl           rows that could not be used, if any
results.json             the last evaluation
checkpoints/step-N/      model.safetensors, trainer.pt and meta.json, in a folder renamed into place when whole
"""

import json
import math
import os
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from clx.pipelines.build import Facts, Run, build
from clx.pipelines.config import BadInput, Config, dump, parse

FORMAT = 1


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; it takes `path`'s place, on disk for certain, when the block ends well."""
    beside = path.with_name(f".{path.name}.tmp")
    try:
        yield beside
        with open(beside, "rb") as file:
            os.fsync(file.fileno())
        os.replace(beside, path)
        _sync_folder(path.parent)
    finally:
        beside.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")


def create(out: Path, run: Run) -> None:
    """Start a run folder: config and facts."""
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "config.yaml", dump(run.config))
    write_text(out / "facts.json", json.dumps({"format": FORMAT, **asdict(run.facts)}))


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint on disk."""

    path: Path
    step: int
    score: float | None
    """Validation loss, lower is better; None without validation."""


def checkpoints(folder: Path) -> list[Checkpoint]:
    """Whole checkpoints of a run, oldest first; half-written ones do not count."""
    found = []
    for path in (folder / "checkpoints").glob("step-*"):
        try:
            meta = json.loads((path / "meta.json").read_text())
            found.append(Checkpoint(path, int(meta["step"]), meta["score"]))
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return sorted(found, key=lambda c: c.step)


def last(folder: Path) -> Checkpoint:
    """The newest whole checkpoint of a run. Raises `BadInput` when there is none."""
    found = checkpoints(folder)
    if not found:
        raise BadInput(f"{folder} has no checkpoint to continue from")
    return found[-1]


def best(found: list[Checkpoint]) -> Checkpoint:
    """The checkpoint of the lowest validation loss, the newest of equals; the newest of all when none was validated."""
    scored = [(c.score, -c.step, c) for c in found if c.score is not None and math.isfinite(c.score)]
    return min(scored)[2] if scored else found[-1]


def weights(model: nn.Module, objective: nn.Module) -> dict[str, Tensor]:
    """Model and objective as one flat dictionary of copies on the CPU."""
    both = nn.ModuleDict({"model": model, "objective": objective}).state_dict()
    return {name: value.detach().to("cpu", copy=True).contiguous() for name, value in both.items()}


def save(
    out: Path, step: int, used: dict[str, Tensor], trainer: dict[str, Any], score: float | None, keep: int
) -> None:
    """Write checkpoint `step`, then drop all but the `keep` newest and the best.

    `used` are the weights to evaluate with; `trainer` is what only resuming needs.
    """
    folder = out / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    beside, place = folder / f".step-{step:08d}.tmp", folder / f"step-{step:08d}"
    for leftover in folder.glob(".step-*.tmp"):  # of a run that was killed while it saved
        shutil.rmtree(leftover, ignore_errors=True)
    beside.mkdir()
    try:
        save_file(used, beside / "model.safetensors")
        (beside / "model.safetensors").chmod(0o644)  # safetensors keeps it to the owner
        torch.save(trainer, beside / "trainer.pt")
        meta = {"format": FORMAT, "step": step, "score": score, "torch": torch.__version__}
        (beside / "meta.json").write_text(json.dumps(meta))
        for file in beside.iterdir():
            with open(file, "rb") as handle:
                os.fsync(handle.fileno())
        _sync_folder(beside)
        shutil.rmtree(place, ignore_errors=True)
        os.rename(beside, place)
        _sync_folder(folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    found = checkpoints(out)
    for old in found[:-keep]:
        if old != best(found):
            shutil.rmtree(old.path, ignore_errors=True)


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


def read_config(folder: Path) -> Config:
    """The resolved config of a run folder."""
    try:
        raw = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise BadInput(f"{folder} is not a run folder: it has no config.yaml") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise BadInput(f"{folder}/config.yaml cannot be read: {' '.join(str(error).split())}") from None
    return parse(Config, raw, f"{folder}/config.yaml")


def read_facts(folder: Path) -> Facts:
    """What a run learned from its training data. Unknown formats are refused."""
    path = folder / "facts.json"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        if raw.pop("format") != FORMAT:
            raise BadInput(f"{path}: written by another version of clx; this one reads format {FORMAT}")
        return Facts(**raw)
    except BadInput:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"{path} cannot be read: {error}") from None


def load(folder: Path, which: str = "best", device: torch.device | str = "cpu") -> Run:
    """A run rebuilt from its folder, with the weights of its best or last checkpoint, or of step `which`."""
    config, facts = read_config(folder), read_facts(folder)
    found = checkpoints(folder)
    if not found:
        raise BadInput(f"{folder} has no checkpoint")
    if which in ("best", "last"):
        chosen = best(found) if which == "best" else found[-1]
    else:
        steps = {str(c.step): c for c in found}
        if which not in steps:
            raise BadInput(f"{folder} has no checkpoint {which!r}; it has best, last, {', '.join(steps)}")
        chosen = steps[which]
    run = build(config, facts, load=False)
    restore(chosen, run.model, run.objective)
    run.model.eval().to(device)
    run.objective.eval().to(device)
    return run


def restore(checkpoint: Checkpoint, model: nn.Module, objective: nn.Module) -> None:
    """Load a checkpoint's weights into model and objective."""
    path = checkpoint.path / "model.safetensors"
    try:
        state = load_file(path)
        nn.ModuleDict({"model": model, "objective": objective}).load_state_dict(state)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise BadInput(f"{path} does not fit this run: {' '.join(str(error).split())[:200]}") from None


def load_trainer(checkpoint: Checkpoint) -> dict[str, Any]:
    """What only resuming needs. Never unpickles objects."""
    path = checkpoint.path / "trainer.pt"
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        raise BadInput(f"{path} cannot be read: {' '.join(str(error).split())[:200]}") from None
    return state
