"""Run folders: what a run leaves behind, written so that a crash never leaves half a file under a real name.

config.yaml              the resolved config
facts.json               statistics and class names learned from the training data, format version
metrics.jsonl            one line per logged step and validation
bad_rows.jsonl           rows that could not be used, if any
results.json             the last evaluation
checkpoints/step-N/      model.safetensors, trainer.pt, copies of config.yaml and facts.json, and, written last,
                         meta.json with the size and digest of each, in a folder renamed into place when whole
.lock                    held by the process that trains here
"""

import json
import math
import os
import random
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from warnings import warn

import numpy as np
import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from clx.pipelines.build import Facts, Run, build
from clx.pipelines.config import BadInput, Config, Failed, Heed, dump, parse
from clx.pipelines.disk import FORMAT, Damaged, digest, seal, sync, unseal, write_text

COPIED = ("config.yaml", "facts.json")
"""Files of the run that each checkpoint has a copy of: without the facts the weights are worth nothing."""
FILES = ("model.safetensors", "trainer.pt", *COPIED)
LOGS = ("metrics.jsonl", "bad_rows.jsonl")


def create(out: Path, run: Run) -> None:
    """Start a run folder: config and facts."""
    write_text(out / "config.yaml", dump(run.config))
    write_text(out / "facts.json", seal({"format": FORMAT, **asdict(run.facts)}))


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk whose meta.json is whole."""

    path: Path
    step: int
    score: float | None
    """Validation loss, lower is better; None without validation."""
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Size and digest of each file by name."""

    def verify(self, *names: str) -> None:
        """Read the files named, or all. Raises `Damaged` when one is not what was written."""
        for name in names or self.files:
            path, known = self.path / name, self.files[name]
            try:
                if (size := path.stat().st_size) != known["size"]:
                    raise Damaged(f"{name} has {size} bytes of {known['size']}")
                if digest(path) != known["digest"]:
                    raise Damaged(f"{name} is not what was written")
            except FileNotFoundError:
                raise Damaged(f"{name} is missing") from None
            except OSError as error:
                raise Damaged(f"{name}: {error.strerror}") from None


def _read_meta(path: Path) -> Checkpoint:
    meta = unseal(path / "meta.json")
    try:
        return Checkpoint(path, int(meta["step"]), meta["score"], {name: dict(meta["files"][name]) for name in FILES})
    except (ValueError, KeyError, TypeError):
        raise Damaged("meta.json is not what was written") from None


def checkpoints(folder: Path) -> list[Checkpoint]:
    """Checkpoints of a run, oldest first, but for those without a whole meta.json. Their files are not looked at."""
    return _listed(folder)[0]


def _listed(folder: Path) -> tuple[list[Checkpoint], dict[Path, str]]:
    """Checkpoints, oldest first, and those that are none, with the reason."""
    found, damaged = [], {}
    for path in (folder / "checkpoints").glob("step-*"):
        try:
            found.append(_read_meta(path))
        except Damaged as reason:
            damaged[path] = str(reason)
    return sorted(found, key=lambda c: c.step), damaged


def last(folder: Path) -> Checkpoint:
    """The newest whole checkpoint of a run; warns of damaged ones. Raises `BadInput` when there is none."""
    return choose(folder, lambda found: found[-1])


def choose(folder: Path, favourite: Callable[[list[Checkpoint]], Checkpoint], *names: str) -> Checkpoint:
    """The favourite among the checkpoints whose files (those named, or all) are whole.

    One warning names those passed over. Raises `BadInput` when none is left.
    """
    found, damaged = _listed(folder)
    while found:
        chosen = favourite(found)
        try:
            chosen.verify(*names)
        except Damaged as reason:
            if not chosen.path.exists():  # a run in progress has removed it in favour of others
                return choose(folder, favourite, *names)
            damaged[chosen.path] = str(reason)
            found.remove(chosen)
            continue
        if damaged:
            warn(f"{_damage(folder, damaged)}; using {chosen.path.name} instead", Heed, stacklevel=2)
        return chosen
    if damaged:
        raise BadInput(f"{_damage(folder, damaged)}; {folder} has no other checkpoint")
    raise BadInput(f"{folder} has no checkpoint")


def _damage(folder: Path, damaged: dict[Path, str]) -> str:
    named = [f"{path.name} ({reason})" for path, reason in sorted(damaged.items())]
    return f"damaged checkpoint{'s' * (len(named) > 1)} in {folder}: {', '.join(named)}"


def best(found: list[Checkpoint]) -> Checkpoint:
    """The checkpoint of the lowest validation loss, the newest of equals; the newest of all when none was validated."""
    scored = [(c.score, -c.step, c) for c in found if c.score is not None and math.isfinite(c.score)]
    return min(scored, key=lambda one: one[:2])[2] if scored else found[-1]


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
        said = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
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
    save_file(used, beside / "model.safetensors")
    (beside / "model.safetensors").chmod(0o644)  # safetensors keeps it to the owner
    with open(beside / "trainer.pt", "wb") as file:  # given a path, torch would hide why it cannot write
        torch.save(trainer, file)
    for name in COPIED:
        shutil.copyfile(out / name, beside / name)
    files = {name: {"size": (beside / name).stat().st_size, "digest": digest(beside / name)} for name in FILES}
    logs = [path for name in LOGS if (path := out / name).exists()]
    for path in (*logs, *(beside / name for name in FILES)):
        sync(path)
    meta = {"format": FORMAT, "step": step, "score": score, "torch": str(torch.__version__), "files": files}
    (beside / "meta.json").write_text(seal(meta))
    sync(beside / "meta.json")
    sync(beside)


def rescore(checkpoint: Checkpoint, score: float | None) -> None:
    """Give a checkpoint the validation loss that it was saved without."""
    meta = unseal(checkpoint.path / "meta.json")
    write_text(checkpoint.path / "meta.json", seal(meta | {"score": score}))


def set_aside(out: Path, step: int) -> None:
    """Rename the checkpoints after `step`, which are damaged, else `step` would not be the one to continue from."""
    found, damaged = _listed(out)
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


def read_config(folder: Path) -> Config:
    """The resolved config of a run folder."""
    path = folder / "config.yaml"
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
        return parse(Config, raw, str(path))
    except (FileNotFoundError, NotADirectoryError):
        raise BadInput(f"{folder} is not a run folder: it has no config.yaml") from None
    except BadInput as error:
        said = str(error)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        said = f"{path} cannot be read: {' '.join(str(error).split())}"
    found = checkpoints(folder)
    hint = f"; {found[-1].path}/config.yaml is the one it was trained with" if found else ""
    raise BadInput(said + hint)


def _warn_of_change(folder: Path, checkpoint: Checkpoint) -> None:
    """A config may be changed by hand, when data has moved; it may also have rotted."""
    if (checkpoint.path / "config.yaml").read_bytes() != (folder / "config.yaml").read_bytes():
        warn(
            f"{folder}/config.yaml is not the one that {checkpoint.path.name} was trained with; it counts all the same",
            Heed,
            stacklevel=3,
        )


def read_facts(folder: Path) -> Facts:
    """What a run learned from its training data; from a checkpoint's copy, with a warning, where the run's own is
    damaged. Unknown formats are refused."""
    path = folder / "facts.json"
    try:
        return _facts(path)
    except Damaged as reason:
        for one in reversed(checkpoints(folder)):
            with suppress(Damaged):
                one.verify("facts.json")
                found = _facts(one.path / "facts.json")
                warn(f"{folder}/{reason}; using the copy in {one.path.name}", Heed, stacklevel=2)
                return found
        raise BadInput(f"{folder}/{reason}") from None


def _facts(path: Path) -> Facts:
    content = unseal(path)
    content.pop("format")
    try:
        return Facts(**content)
    except TypeError:
        raise Damaged(f"{path.name} is not what was written") from None


def load(folder: Path, which: str = "best", device: torch.device | str = "cpu") -> Run:
    """A run rebuilt from its folder, with the weights of its best or last checkpoint, or of step `which`.

    Where the best or last one is damaged, the next takes its place, with a warning.
    """
    config, facts = read_config(folder), read_facts(folder)
    if which in ("best", "last"):
        chosen = choose(folder, best if which == "best" else lambda found: found[-1], "model.safetensors")
    else:
        steps = {str(c.step): c for c in checkpoints(folder)}
        if which not in steps:
            raise BadInput(f"{folder} has no checkpoint {which!r}; it has {', '.join(['best', 'last', *steps])}")
        chosen = steps[which]
        try:
            chosen.verify("model.safetensors")
        except Damaged as reason:
            raise BadInput(f"checkpoint {which} of {folder} is damaged: {reason}") from None
    _warn_of_change(folder, chosen)
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
