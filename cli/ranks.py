"""Commands that several processes do together: as a launcher has started them, or started here by `--processes`."""

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

import typer

from clx.cli.output import note

if TYPE_CHECKING:
    from clx.pipelines.system.process_group import Group
    from clx.pipelines.system.ranks import Place
    from clx.pipelines.system.shard import Shard

AGAIN = "from clx.cli.main import main; main()"
"""What a process runs that is one of several."""
RESUME = "a run that has saved a checkpoint goes on with clx train --resume"
ANEW = "the same command does it again"
ON = "the same command goes on with what is left"


def together(
    processes: int | None, then: str, check: Callable[[], object] = lambda: None
) -> AbstractContextManager["Group | None"]:
    """The processes that do this command together, met; None for one that is alone.

    With `processes` and no launcher, starts so many and ends when they have ended, after `check` has found nothing to
    say at once. `then` tells what to do where one is killed. Raises `BadInput`.
    """
    place = place_of(processes)
    if processes is not None and processes > 1 and place is None:
        check()
        from clx.pipelines.system.launch import launch

        raise typer.Exit(launch([sys.executable, "-c", AGAIN, *sys.argv[1:]], processes, then))
    if place is None:
        return nullcontext()
    from clx.pipelines.system.process_group import joined

    return joined(place, then)


def place_of(processes: int | None) -> "Place | None":
    """The place that a launcher has given this process among several; None where it is alone. Raises `BadInput`."""
    from clx.pipelines.system import ranks
    from clx.pipelines.system.errors import BadInput

    place = ranks.place_of()
    size = 1 if place is None else place.size
    if processes is not None and place is not None and processes != size:
        raise BadInput(
            f"--processes {processes}, but a launcher has started {size}: say how many to it, and leave --processes out"
        )
    return place if size > 1 else None


@contextmanager
def apart_or_together(
    shard: str | None, processes: int | None, does: str, then: str
) -> "Iterator[tuple[Shard | None, Group | None]]":
    """The share of the rows that `--shard` gives this process, which then works by itself; else those of `together`."""
    from clx.pipelines.system.errors import BadInput
    from clx.pipelines.system.shard import shard_of

    if shard is not None and processes is not None:
        raise BadInput("--shard gives this job a share of the rows, --processes shares them out: give one of the two")
    with nullcontext() if shard is not None else together(processes, then) as group:
        share, told = shard_of(shard, f"{does} a share of the rows in each")
        if shard == "env" or (told and group is None):
            note(told or f"shard {share}")
        yield share, group


def is_first(group: "Group | None") -> bool:
    """Whether this process is the one that prints: alone, or rank 0."""
    return group is None or group.rank == 0


def unheard(text: str) -> None:
    """In the place of `note`, where rank 0 says it."""


@contextmanager
def quiet(group: "Group | None") -> Iterator[None]:
    """Nothing is warned of but by rank 0."""
    with warnings.catch_warnings():
        if not is_first(group):
            warnings.simplefilter("ignore")
        yield
