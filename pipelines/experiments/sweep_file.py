"""`sweep.json` of a sweep's folder: which runs were asked for, with which settings, and how they ended."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clx.pipelines.config.upgrade import FORMAT, upgrade
from clx.pipelines.experiments.sweep_grid import Point
from clx.pipelines.experiments.sweep_shards import MANIFEST, home, notes
from clx.pipelines.runs.listing import flat
from clx.pipelines.runs.state import read, state_of
from clx.pipelines.system.durable_files import is_used, write_text
from clx.pipelines.system.errors import BadInput
from clx.pipelines.system.shard import Shard

SCHEMA = 1


@dataclass
class SweepFile:
    """`sweep.json`: the settings that each run of the folder was asked for with, and which ones failed.

    It knows what every shard noted, and writes what `shard` has to.
    """

    folder: Path
    asked: dict[str, dict[str, Any]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    halving: dict[str, Any] = field(default_factory=dict)
    """The `settings` of a search by halving, and what each of its `rungs` decided."""
    shard: Shard | None = None

    @classmethod
    def open(cls, folder: Path, shard: Shard | None = None) -> "SweepFile":
        """What is noted of a folder. Raises `BadInput` when the folder is something else."""
        file = cls(folder, shard=shard)
        if folder.exists() and (not folder.is_dir() or is_used(folder)):
            if not any((folder / name).exists() for name in ("sweep.json", MANIFEST)):
                raise BadInput(f"{folder} exists and is no sweep: choose another folder with --out")
            for path in filter(Path.exists, notes(folder)):
                file._read(path)
        return file

    def _read(self, path: Path) -> None:
        """Add what one file notes."""
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
            if told["schema"] != SCHEMA:
                raise BadInput(f"{path} was written by another version of clx")
            saved = {name: upgrade(config, str(path)) for name, config in dict(told["asked"]).items()}
            failed = {name: error for name, error in self.failed.items() if name not in saved}
            self.asked, self.failed = self.asked | saved, failed | dict(told["failed"])
            self.halving |= dict(told.get("halving", {}))
        except (OSError, ValueError, KeyError, TypeError) as error:
            if isinstance(error, BadInput):
                raise
            raise BadInput(f"{path} cannot be read ({error}): choose another --out") from None

    def write(self, mine: Sequence[Point] = ()) -> None:
        """Note what is known of the runs `mine`; without a shard, of all."""
        names = {point.name for point in mine} if self.shard else self.asked.keys() | self.failed.keys()
        saved = {name: {"format": FORMAT} | config for name, config in self.asked.items() if name in names}
        failed = {name: error for name, error in self.failed.items() if name in names}
        told = {"schema": SCHEMA, "asked": saved, "failed": failed}
        told |= {"halving": self.halving} if self.halving else {}
        write_text(home(self.folder, self.shard) / "sweep.json", json.dumps(told, ensure_ascii=False, indent=1))

    def changed(self, point: Point) -> str | None:
        """The first setting in which a run differs from the one of its name that was asked for before, and of which
        something is there: its folder, its failure, or what a search decided by it."""
        decided = any(point.name in rung["values"] for rung in self.halving.get("rungs", []))
        if point.name not in self.asked or (self.outcome(point) == "new" and not decided):
            return None
        old, new = flat(self.asked[point.name]), flat(asked(point))
        keys = [key for key in dict.fromkeys([*old, *new]) if old.get(key) != new.get(key)]
        return f"{keys[0]} was {old.get(keys[0])} and is {new.get(keys[0])}" if keys else None

    def outcome(self, point: Point) -> str:
        """`finished`, `failed`, `running`, `interrupted`, `stopped at step N` by halving, or `new`."""
        if point.name in self.failed:
            return "failed"
        out = self.folder / point.name
        if not read(out):
            return "new"
        state = state_of(out)
        for rung in self.halving.get("rungs", []):
            if state == "interrupted" and point.name in rung["stopped"]:
                return f"stopped at step {rung['steps'][point.name]}"
        return "interrupted" if state == "failed" else state  # the sweep ended before it could note the failure


def asked(point: Point) -> dict[str, Any]:
    """What a run's config says beyond the defaults, which another version of clx may have others of."""
    return point.config.model_dump(mode="json", exclude_unset=True)
