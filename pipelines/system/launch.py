"""One command as several processes on this machine: started, watched and ended together."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

from clx.pipelines.system.cores import usable_cores
from clx.pipelines.system.errors import Failed

LIFELINE = "CLX_LIFELINE"
"""Variable with the number of a file that is at its end when the process that has started the others is gone."""
GRACE = 5.0
"""Seconds in which the other processes may end by themselves, after one has ended with an error."""
LOOK = 0.05
PASSED_ON = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP")


def launch(command: Sequence[str], count: int, then: str = "") -> int:
    """Run `command` as `count` ranks until all have ended; the exit code, 0 or that of the first that failed.

    Rank 0 has this process's stdin and stdout; all have its stderr. Signals are passed on. Raises `Failed` where one
    was killed, with its rank and exit code and what to do `then`, after the others have been ended.
    """
    reading, writing = os.pipe()
    ranks: list[subprocess.Popen[bytes]] = []
    try:
        with _passed_on(ranks):
            for rank, environment in enumerate(_environments(count, reading)):
                quiet = None if rank == 0 else subprocess.DEVNULL
                ranks.append(
                    subprocess.Popen(
                        command,
                        env=environment,
                        stdin=quiet,
                        stdout=quiet,
                        pass_fds=(reading,),
                        start_new_session=True,  # else a terminal's signals come twice, from it and from here
                    )
                )
            return _watched(ranks, then)
    finally:
        for process in ranks:
            with suppress(ProcessLookupError):
                process.kill()
            process.wait()
        os.close(reading)
        os.close(writing)


def _environments(count: int, lifeline: int) -> Iterator[dict[str, str]]:
    """The variables of each rank, as torchrun sets them."""
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, usable_cores() // count))
    shared = {
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "OMP_NUM_THREADS": threads,
        LIFELINE: str(lifeline),
    }
    for rank in range(count):
        yield {**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}


def free_port() -> int:
    """A port of this machine that nobody listens at now."""
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        return int(door.getsockname()[1])


@contextmanager
def _passed_on(ranks: list["subprocess.Popen[bytes]"]) -> Iterator[None]:
    """Signals go to all ranks, which know what to do about them."""

    def pass_on(number: int, frame: FrameType | None) -> None:
        for process in ranks:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    os.kill(process.pid, number)

    before = {}
    with suppress(ValueError):  # signals can only be watched from the main thread
        for number in (getattr(signal, name) for name in PASSED_ON if hasattr(signal, name)):
            if signal.getsignal(number) is not signal.SIG_IGN or number == getattr(signal, "SIGUSR1", None):
                before[number] = signal.signal(number, pass_on)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _watched(ranks: list["subprocess.Popen[bytes]"], then: str) -> int:
    """Wait for all; the exit code. After an error the others have `GRACE` seconds, after a kill none."""
    failed: tuple[int, int] | None = None
    until = float("inf")
    while any(process.poll() is None for process in ranks) and time.monotonic() < until:
        time.sleep(LOOK)
        codes = [(rank, process.poll()) for rank, process in enumerate(ranks)]
        killed = [(rank, -code) for rank, code in codes if code is not None and code < 0]
        if killed:
            raise Failed(_said(*killed[0], len(ranks), then))
        ended = [(rank, code) for rank, code in codes if code]
        if failed is None and ended:
            failed, until = ended[0], time.monotonic() + GRACE
    codes = [(rank, process.poll()) for rank, process in enumerate(ranks)]
    if failed is None:  # all may have ended between two looks
        killed = [(rank, -code) for rank, code in codes if code is not None and code < 0]
        if killed:
            raise Failed(_said(*killed[0], len(ranks), then))
        return next((code for _, code in codes if code), 0)
    if any(code is None for _, code in codes):
        rank, code = failed
        print(f"rank {rank} ended with exit code {code}: the other ranks were ended", file=sys.stderr, flush=True)
    return failed[1]


def _said(rank: int, number: int, count: int, then: str) -> str:
    killed = f"rank {rank} of {count} was killed by {signal.Signals(number).name} (exit code {128 + number})"
    return f"{killed}, so the others were ended" + (then and f"; {then}")
