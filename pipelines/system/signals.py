"""SIGINT, SIGTERM and SIGUSR1: what a run in progress does about them, and what every other command does.

`raise_stopped` is for commands that leave nothing half done: `clx` installs it for all of them. Work that has something
to save watches with `Signals` instead, looks at `stop` between its steps, saves and raises `Stopped`.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from clx.pipelines.system.errors import Stopped

STOPS = (signal.SIGINT, signal.SIGTERM)


class Signals:
    """SIGINT and SIGTERM ask for a stop after the step, SIGUSR1 for a checkpoint; a second stop ends at once."""

    def __init__(self) -> None:
        self.stop: int | None = None
        """The signal that asked for a stop."""
        self.save = False

    @contextmanager
    def watched(self) -> Iterator["Signals"]:
        def on_stop(number: int, frame: object) -> None:
            if self.stop is not None:
                raise Stopped("stopped at once, at the second signal", 128 + number)
            self.stop = number

        def on_save(number: int, frame: object) -> None:
            self.save = True

        wanted: dict[int, Any] = dict.fromkeys(STOPS, on_stop)
        if hasattr(signal, "SIGUSR1"):
            wanted[signal.SIGUSR1] = on_save
        before: dict[int, Any] = {}
        with suppress(ValueError):  # signals can only be watched from the main thread
            before = {number: signal.signal(number, handler) for number, handler in wanted.items()}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def raise_stopped(number: int, frame: object) -> None:
    """A handler: `Stopped` wherever the program is; context managers on the way out clean up."""
    raise Stopped(f"stopped by {signal.Signals(number).name}", 128 + number)


FOR_PARENT = (*STOPS, getattr(signal, "SIGUSR1", signal.SIGTERM))
"""What worker processes ignore."""


@contextmanager
def withheld() -> Iterator[None]:
    """While worker processes are started: in them signals wait for `leave_to_parent`, whatever happens here.

    In this process they wait until the end where it has one thread. Another thread takes them where there is one, and
    handlers then run in between: what they raise must find the workers that were started.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows, which has no signals to a group of processes
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, FOR_PARENT)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def leave_to_parent(worker: int) -> None:
    """For worker processes: a signal to the whole group must not kill them before the parent has saved."""
    for number in FOR_PARENT:
        signal.signal(number, signal.SIG_IGN)
