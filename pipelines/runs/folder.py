"""Run folders: what a run leaves behind, written so that a crash never leaves half a file under a real name.

config.yaml              the resolved config
facts.json               statistics and class names learned from the training data, format version
metrics.jsonl            one line per logged step and validation
bad_rows.jsonl           rows that could not be used, if any
remembered.csv           what losses remember of each training row, if they do: doubted labels, temperatures
results.json             the evaluation that ended training
card.md                  what the run is, for a reader (see card.py)
nonfinite/               the first step whose loss or gradient was not finite (see training/nonfinite.py)
evaluations/             those of clx eval
stages/                  runs of the stages before the last, by their number
checkpoints/step-N/      model.safetensors, trainer.pt, copies of config.yaml and facts.json, and, written last,
                         meta.json with the size and digest of each, in a folder renamed into place when whole
state.json               how the run stands (see state.py)
.lock                    held by the process that trains here

A run that `clx export` wrote has its weights, a file per modality, and meta.json in the folder itself.

Here is what reads them without torch, so that looking at runs costs nothing; checkpoint.py does the rest.
"""

import difflib
import fnmatch
import math
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard
from warnings import warn

import yaml

from clx.pipelines.config.load import override, set_key
from clx.pipelines.config.options import parse
from clx.pipelines.config.schema import Config
from clx.pipelines.config.upgrade import upgrade
from clx.pipelines.runs.stages import PRETRAIN, STAGES, stage_folders
from clx.pipelines.system.durable_files import Damaged, digest, is_used, unseal
from clx.pipelines.system.errors import BadInput, ClxWarning

CONFIG, FACTS, META, CARD = "config.yaml", "facts.json", "meta.json", "card.md"
WEIGHTS, TRAINER = "model.safetensors", "trainer.pt"
METRICS, BAD_ROWS, STATE, PROFILE = "metrics.jsonl", "bad_rows.jsonl", "state.json", "profile.json"
NONFINITE = "nonfinite"
LAST, FOLDER = "results.json", "evaluations"
DRAWN, TRACKERS = "results.npz", "trackers.json"
"""The resamples of the figures in `LAST`; what trackers call the run."""
"""The evaluation that ended training, and the folder of the others."""
COPIED = (CONFIG, FACTS)
"""Files of the run that each checkpoint has a copy of: without the facts the weights are worth nothing."""
FILES = (WEIGHTS, TRAINER, *COPIED)
LOGS = (METRICS, BAD_ROWS)
CHANGEABLE = (
    "train.steps",
    "train.epochs",
    "train.minutes",
    "train.chunk",
    "train.shard",
    "train.device",
    "data.on_bad_row",
    "data.bad_row_budget",
)
"""Keys that a run may be resumed with; any other makes another run."""


def is_number(value: Any) -> TypeGuard[int | float]:
    """A float, or an integer that a 64-bit one holds; true and false are none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, float) or abs(value) < 2**63


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
        """Read the files named, by patterns too, or all. Raises `Damaged` when one is not what was written."""
        for name, known in self.files.items():
            if names and not any(fnmatch.fnmatchcase(name, pattern) for pattern in names):
                continue
            path = self.path / name
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
    meta = unseal(path / META)
    try:
        exported = path.parent.name != "checkpoints"
        names = [*COPIED, *meta["files"]] if exported else FILES
        files = {name: {key: meta["files"][name][key] for key in ("size", "digest")} for name in names}
        if not is_number(0 if meta["score"] is None else meta["score"]):
            raise ValueError
        return Checkpoint(path, int(meta["step"]), meta["score"], files)
    except (ValueError, KeyError, TypeError, OverflowError):
        raise Damaged("meta.json is not what was written") from None


def checkpoints(folder: Path) -> list[Checkpoint]:
    """Checkpoints of a run, oldest first, but for those without a whole meta.json. Their files are not looked at."""
    return listed(folder)[0]


def listed(folder: Path) -> tuple[list[Checkpoint], dict[Path, str]]:
    """Checkpoints, oldest first, and those that are none, with the reason."""
    found, damaged = [], {}
    exported = [folder] if (folder / META).exists() else []
    for path in [*exported, *(folder / "checkpoints").glob("step-*")]:
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
    found, damaged = listed(folder)
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
            warn(f"{_damage(folder, damaged)}; using {chosen.path.name} instead", ClxWarning, stacklevel=2)
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


def near_run(folder: Path) -> str:
    """A hint such as ` (did you mean 'runs/digits'?)` where a run of nearly that name lies beside it or in `runs`."""
    known: dict[str, str] = {}
    for place in (folder.parent, Path("runs")):
        with suppress(OSError):
            for one in sorted(place.iterdir()):
                if one != folder and (one / CONFIG).is_file():
                    known.setdefault(one.name, str(one))
    near = difflib.get_close_matches(folder.name, known, n=1)
    return f" (did you mean {known[near[0]]!r}?)" if near else ""


def read_config(folder: Path, settings: Sequence[str] = (), flags: Mapping[str, Any] | None = None) -> Config:
    """The resolved config of a run folder, with what may change when it is resumed: `key=value` settings, and values of
    flags by dotted key, None for one that was not given."""
    given = {key: value for key, value in (flags or {}).items() if value is not None}
    for setting in [*settings, *(f"{key}={value}" for key, value in given.items())]:
        if setting.partition("=")[0] not in CHANGEABLE:
            raise BadInput(f"-s {setting}: a run is resumed as it is; only {', '.join(CHANGEABLE)} may change")
    path = folder / CONFIG
    try:
        raw = upgrade(yaml.safe_load(path.read_text(encoding="utf-8")), str(path))
        config = parse(Config, raw, str(path))
        for setting in settings:
            override(raw, setting)
        for key, value in given.items():
            set_key(raw, key, value, f"{key} = {value!r}")
        return parse(Config, raw, "--resume") if settings or given else config
    except (FileNotFoundError, NotADirectoryError):
        raise BadInput(f"{folder} is not a run folder: it has no config.yaml{near_run(folder)}") from None
    except BadInput as error:
        said = str(error)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        said = f"{path} cannot be read: {' '.join(str(error).split())}"
    found = checkpoints(folder)
    hint = f"; {found[-1].path}/config.yaml is the one it was trained with" if found else ""
    raise BadInput(said + hint)


def begun(out: Path) -> bool:
    """Whether a run, or a stage of it, has a checkpoint to go on from."""
    return any(checkpoints(folder) for folder in [out, *stage_folders(out)])


def refuse_existing(out: Path, overwrite: bool) -> None:
    """A folder with something in it is only written to when it is a run and `overwrite` is said."""
    if not out.exists():
        return
    if not out.is_dir():
        raise BadInput(f"{out} is a file, not a folder for a run")
    if is_used(out):
        ours = (out / CONFIG).exists()
        if ours and not begun(out):
            return  # an earlier try that ended before its first checkpoint
        if not overwrite:
            raise BadInput(
                f"{out} already exists: choose another name with --out, continue it with --resume, or replace it "
                "with --overwrite"
            )
        if not ours:
            raise BadInput(f"{out} is not a run folder, so --overwrite leaves it alone; choose another --out")


def clear(out: Path, *, marked: bool = False) -> None:
    """Remove what an earlier run left in its folder; with `marked` all but its config, which marks it as ours."""
    for name in ("checkpoints", "tensorboard", PRETRAIN, STAGES, FOLDER, NONFINITE):
        if (out / name).exists():  # the folder itself may be a link to another disk, and stays
            for path in (out / name).iterdir():
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    for name in (LAST, DRAWN, STATE, BAD_ROWS, METRICS, PROFILE, FACTS, CARD, TRACKERS):
        (out / name).unlink(missing_ok=True)
    if not marked:
        (out / CONFIG).unlink(missing_ok=True)  # last


def run_name(text: str) -> str:
    """A folder name from any text: no separators, no control characters, nothing hidden.

    >>> run_name("lr=1e-3, ../x")
    'lr-1e-3-..-x'
    """
    return re.sub(r"[^\w.]+", "-", text).strip("-.")[:100] or "run"
