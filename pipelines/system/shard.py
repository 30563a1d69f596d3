"""One job of several that share work out among themselves: which one this is, and what all of them agree on."""

import json
import os
import re
import secrets
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clx.pipelines.system.durable_files import sync, unwritable
from clx.pipelines.system.errors import BadInput
from clx.pipelines.system.ranks import LAUNCHERS

RANKS = tuple((rank, size) for _, (rank, _, size) in LAUNCHERS)
"""Variables with the number of a process, from 0, and how many there are, as launchers set them."""


@dataclass(frozen=True)
class Shard:
    """Shard `number`, from 0, of `count`."""

    number: int
    count: int

    @classmethod
    def of(cls, text: str, environment: Mapping[str, str] = os.environ) -> "Shard":
        """What `3/16` says, or for `env` the launcher's variables. Raises `BadInput`.

        >>> Shard.of("3/16")
        Shard(number=3, count=16)
        >>> Shard.of("env", {"SLURM_ARRAY_TASK_ID": "4", "SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_COUNT": "16"})
        Shard(number=3, count=16)
        """
        if text == "env":
            found = launched(environment)
            if not found:
                names = ", ".join(["SLURM_ARRAY_TASK_ID", *(rank for rank, _ in RANKS)])
                raise BadInput(f"--shard env: none of {names} is set: give --shard NUMBER/COUNT")
            several = {name: shard for name, shard in found.items() if shard.count > 1} or found
            if len(set(several.values())) > 1:
                said = " and ".join(f"{name} says {shard}" for name, shard in several.items())
                raise BadInput(f"--shard env: {said}: give --shard NUMBER/COUNT, made of those that you mean")
            return next(iter(several.values()))
        parts = re.fullmatch(r"(\d+)/(\d+)", text)
        if not parts:
            raise BadInput(f"--shard {text}: expected NUMBER/COUNT, such as 3/16, or env")
        return cls(int(parts[1]), int(parts[2])).checked(f"--shard {text}")

    def checked(self, said: str) -> "Shard":
        """Itself. Raises `BadInput`, which begins with `said`, where there is no such shard."""
        if not self.number < self.count:
            known = f"{self.count} shards are 0/{self.count} to {self.count - 1}/{self.count}"
            raise BadInput(f"{said}: {known if self.count else 'there are no 0 shards'}")
        return self

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @property
    def name(self) -> str:
        """As in names of files: `00003-of-00016`."""
        return f"{self.number:05d}-of-{self.count:05d}"

    def slice(self, length: int) -> range:
        """Places among `length` things in order that are this shard's: shards hold them in order, sizes differ by 1.

        >>> [list(Shard(k, 3).slice(7)) for k in range(3)]
        [[0, 1], [2, 3], [4, 5, 6]]
        """
        return range(length * self.number // self.count, length * (self.number + 1) // self.count)


def launched(environment: Mapping[str, str] = os.environ) -> dict[str, Shard]:
    """Which one of several processes this is, by each variable of a launcher that says so. Raises `BadInput`."""
    found = {}
    if "SLURM_ARRAY_TASK_ID" in environment:
        found["SLURM_ARRAY_TASK_ID"] = _of_array(environment)
    for rank, size in RANKS:
        if rank == "SLURM_PROCID" and not (environment.get("SLURM_STEP_ID") or environment.get("SLURM_STEPID")):
            continue  # the script of a batch job, which is alone whatever the number of tasks
        if rank in environment and size in environment:
            number, count = _number(environment, rank), _number(environment, size)
            found[rank] = Shard(number, count).checked(f"{rank}={number} with {size}={count}")
    return found


def _of_array(environment: Mapping[str, str]) -> Shard:
    """The place of a task in its array, which may begin at any number and go by steps."""
    name = "SLURM_ARRAY_TASK_"
    task, count = _number(environment, f"{name}ID"), _number(environment, f"{name}COUNT")
    first = _number(environment, f"{name}MIN", 0)
    step = _number(environment, f"{name}STEP", 1) or 1
    last = _number(environment, f"{name}MAX", first + (count - 1) * step)
    number, rest = divmod(task - first, step)
    if rest or not 0 <= number < count or last != first + (count - 1) * step:
        raise BadInput(
            f"{name}ID={task}: its array of {count} tasks does not go by {step} from {first} on: give --shard "
            "NUMBER/COUNT"
        )
    return Shard(number, count)


def _number(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = environment.get(name)
    if text is None and default is not None:
        return default
    if text is None or not re.fullmatch(r"\d+", text):
        raise BadInput(f"{name}: expected a number, found {'nothing' if text is None else repr(text)}")
    return int(text)


def shard_of(asked: str | None, work: str) -> tuple[Shard | None, str | None]:
    """The shard that is asked for, None for all of the work; and a line for one of several processes that is not told
    to do its share."""
    if asked is not None:
        return Shard.of(asked), None
    with suppress(BadInput):  # variables that nobody asked for need not be right
        for name, shard in launched().items():
            if shard.count > 1:
                told = f"{name} says that this is process {shard.number} of {shard.count}, and it does all of the work"
                return None, f"{told}; --shard env {work}"
    return None, None


def agree(path: Path, plan: dict[str, Any]) -> dict[str, Any]:
    """What the first of several processes wrote there as the plan of all: this one's where it is the first.

    Of any number that come at once one is the first, and none sees half a file. Raises `BadInput` for a damaged file.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            _write_once(path, json.dumps(plan, ensure_ascii=False))
    except OSError as error:
        raise unwritable(path, error) from None
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} cannot be read ({error}): remove it, or choose another folder with --out") from None
    return found


def _write_once(path: Path, text: str) -> None:
    """Make a file unless there is one, whole at once. Raises `OSError`."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        beside.write_text(text, encoding="utf-8")
        sync(beside)
        try:
            os.link(beside, path)
        except FileExistsError:
            return
        except OSError:  # a file system without links: whoever makes the empty file fills it
            _fill(path, beside)
        sync(path.parent)
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)


def _fill(path: Path, beside: Path) -> None:
    """Put `beside` in the place of `path`, if this process is the one that makes a file for it."""
    first = path.with_name(f".{path.name}.first.tmp")
    try:
        with open(first, "x"):
            os.replace(beside, path)
    except FileExistsError:
        end = time.monotonic() + 10
        while not path.exists():
            if time.monotonic() > end:  # its maker was killed in between
                raise BadInput(f"{first} is there, {path.name} is not: remove it") from None
            time.sleep(0.05)


def difference(mine: Any, other: Any, at: str = "") -> str | None:
    """The first place in which two plans differ, with both values; None where they are equal."""
    if isinstance(mine, dict) and isinstance(other, dict):
        pairs = [(str(key), mine.get(key), other.get(key)) for key in dict.fromkeys([*mine, *other])]
    elif isinstance(mine, list) and isinstance(other, list) and len(mine) == len(other):
        pairs = [(str(k), *both) for k, both in enumerate(zip(mine, other, strict=True))]
    else:
        return None if mine == other else f"{at} was {json.dumps(other)} and is {json.dumps(mine)}"
    found = (difference(one, two, f"{at}.{key}" if at else key) for key, one, two in pairs)
    return next((line for line in found if line is not None), None)
