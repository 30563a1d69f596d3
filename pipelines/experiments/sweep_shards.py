"""Sweeps that several jobs share out, on one folder that all of them see.

SWEEP/_shards.json                     how many shards there are, and the runs that they share out
SWEEP/_shards/00003-of-00016/          what one shard alone writes, besides its runs: its lock and its `sweep.json`
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from clx.pipelines.experiments.sweep_grid import Point
from clx.pipelines.system.durable_files import locked
from clx.pipelines.system.errors import BadInput
from clx.pipelines.system.shard import Shard, agree

MANIFEST = "_shards.json"


def share(found: Sequence[Point], shard: Shard | None) -> list[Point]:
    """The runs of a shard: every `count`-th, so that each shard has of each kind. All without one."""
    return list(found if shard is None else found[shard.number :: shard.count])


def home(folder: Path, shard: Shard | None) -> Path:
    """The folder for what is noted of the runs of a shard, or of all."""
    return folder if shard is None else folder / "_shards" / shard.name


def notes(folder: Path) -> list[Path]:
    """Every `sweep.json`, those of shards last: where both name a run, a shard knows better."""
    return [folder / "sweep.json", *sorted(folder.glob("_shards/*/sweep.json"))]


@contextmanager
def taken(folder: Path, shard: Shard | None, found: Sequence[Point]) -> Iterator[None]:
    """Keep out others of the same shard; without a shard, others of any. Raises `BadInput` where one is at work, or the
    folder is of another number of shards, or of other runs."""
    with ExitStack() as held:
        if shard is None:
            held.enter_context(locked(folder))
            if (folder / MANIFEST).exists():
                count = int(agree(folder / MANIFEST, {}).get("shards", 0))
                for number in range(count):
                    held.enter_context(locked(home(folder, Shard(number, count))))
        else:
            _join(folder, shard, found)
            held.enter_context(locked(home(folder, shard)))
        yield
        if shard is None:  # it knows all that they noted, and has written it
            for path in notes(folder)[1:]:
                path.unlink()


def _join(folder: Path, shard: Shard, found: Sequence[Point]) -> None:
    if (folder / "sweep.json").exists() and not (folder / MANIFEST).exists():
        raise BadInput(f"{folder} was begun without --shard: go on without it, or choose another --out")
    plan = {"shards": shard.count, "runs": [point.name for point in found]}
    earlier = agree(folder / MANIFEST, plan)
    if earlier.get("shards") != shard.count:
        raise BadInput(
            f"{folder} is shared out among {earlier.get('shards')} shards, not {shard.count}: choose another --out"
        )
    if earlier.get("runs") != plan["runs"]:
        raise BadInput(
            f"{folder} is shared out with other runs: choose another --out, or go on without --shard, which takes any"
        )
