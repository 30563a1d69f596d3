"""The folder of a run that is being trained: begun, locked, and held by one process for all that train together."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from clx.pipelines.model.build import Run
from clx.pipelines.runs import checkpoint, state
from clx.pipelines.runs.folder import clear, refuse_existing
from clx.pipelines.system.durable_files import locked
from clx.pipelines.system.process_group import Group

Claim = Callable[[Run], None] | None
"""Makes a folder a new run's own; None where it is that already."""


def writes(group: Group | None) -> bool:
    """Whether this process is the one that writes: alone, or rank 0."""
    return group is None or group.rank == 0


@contextmanager
def held(out: Path, run: Run, steps: int | None, claim: Claim, group: Group | None) -> Iterator[None]:
    """The folder locked, begun where there is a `claim`, and its state recorded: by rank 0, for which others wait."""
    if not writes(group):
        assert group is not None
        group.wait()
        yield
        return
    with locked(out):
        if claim is not None:
            claim(run)
        if group is not None:
            group.wait()
        with state.recorded(out, steps, resume=claim is None):
            yield


def claimed(out: Path, overwrite: bool, run: Run) -> None:
    """Begin a run folder, under its lock: another run may have been there first."""
    refuse_existing(out, overwrite)
    clear(out)
    checkpoint.create(out, run)
