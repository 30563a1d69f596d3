"""Where the time of a loop's turns goes, phase by phase. Between one mark and the next all time is one phase's.

On CUDA marks are events in the stream that computes, which nobody waits for until the figures are asked for: a phase
has the time for which the device worked on it, or had nothing to do because of it.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, Self

import torch

WARM_UP, TURNS = 3, 50
"""Turns of a loop that are not counted, since the first ones allocate and compile, and those after them that are."""
OTHER = "other"
"""The phase of all time that no other has."""


class Event(Protocol):
    """A moment of a CUDA stream."""

    def record(self, stream: Any) -> None: ...
    def elapsed_time(self, end: Self) -> float: ...
    def synchronize(self) -> None: ...


def cuda_event() -> Event:
    event: Event = torch.cuda.Event(enable_timing=True)
    return event


class Phases:
    """Measures the first turns of a loop, and what is rare in it for as long as it runs."""

    def __init__(self, turns: int = TURNS, event: Callable[[], Event] = cuda_event) -> None:
        self.turns, self.event = turns, event
        self.begin(torch.device("cpu"))
        self.runs = False
        """Whether the loop does: before and after it several threads may compute."""

    def begin(self, device: torch.device) -> None:
        """A loop on this device starts here; whatever was measured before is forgotten."""
        self.stream = torch.cuda.current_stream(device) if device.type == "cuda" else None
        self.marks: list[tuple[str, float, Event | None]] = []
        """The phase that begins, when by the host's clock in seconds, and in the device's stream."""
        self.ends: list[int] = []
        """How many marks there were at the end of each turn."""
        self.within: list[str] = [OTHER]
        self.whole: str | None = None
        """A phase that is not looked into."""
        self.done = 0
        self.rare: dict[str, list[float]] = {}
        """Seconds of each time, of phases that do not come every turn."""
        self.started = time.time()
        """When the first turn began, in seconds since 1970."""
        self.runs = True
        self.mark(OTHER)

    @property
    def measures(self) -> bool:
        """Whether turns are still looked into."""
        return self.done < WARM_UP + self.turns

    def mark(self, name: str) -> None:
        event = None
        if self.stream is not None:
            event = self.event()
            event.record(self.stream)
        self.marks.append((name, time.perf_counter(), event))

    def turn(self) -> None:
        """A turn of the loop ends here."""
        self.done += 1
        if self.done <= WARM_UP + self.turns:
            self.mark(OTHER)
            self.ends.append(len(self.marks) - 1)

    @contextmanager
    def phase(self, name: str, whole: bool, rare: bool) -> Iterator[None]:
        """The time of the block is this phase's, but for phases in it, unless it is a `whole` one."""
        if not self.runs or self.whole is not None or not (rare or self.measures):
            yield
            return
        start, marking = time.perf_counter(), self.measures
        self.within.append(name)
        self.whole = name if whole or rare else None
        if marking:
            self.mark(name)
        try:
            yield
        finally:
            self.within.pop()
            self.whole = None
            if rare:
                self.rare.setdefault(name, []).append(time.perf_counter() - start)
            if marking:
                self.mark(self.within[-1])

    def figures(self) -> dict[str, Any]:
        """Milliseconds of a turn: `turns` looked into, `each_ms`, and `phases` with `phase`, `ms` and `share`.
        `started` is when the loop began, in seconds since 1970.

        On CUDA `host_ms` beside these is what the host spent there. What is rare is spread over all turns of the loop,
        with its `times`. Waits for the device.
        """
        first = self.ends[WARM_UP - 1] if len(self.ends) > WARM_UP else 0
        last = self.ends[-1] if self.ends else 0
        counted = len(self.ends) - (WARM_UP if first else 0)
        if self.stream is not None and last:
            final = self.marks[last][2]
            assert final is not None
            final.synchronize()
        host, device = dict[str, float](), dict[str, float]()
        turns = [0.0] * counted
        turn, bounds = 0, self.ends[len(self.ends) - counted :]
        for k in range(first, last):
            (name, at, event), (_, until, end) = self.marks[k], self.marks[k + 1]
            turn += k >= bounds[turn]
            if name in self.rare:
                continue
            spent = 1000 * (until - at)
            host[name] = host.get(name, 0) + spent
            if event is not None and end is not None:
                spent = event.elapsed_time(end)
                device[name] = device.get(name, 0) + spent
            turns[turn] += spent
        return {
            "turns": counted,
            "started": self.started,
            "each_ms": turns,
            "phases": self._rows(host, device, counted),
        }

    def _rows(self, host: dict[str, float], device: dict[str, float], counted: int) -> list[dict[str, Any]]:
        times = device or host
        rows: list[dict[str, Any]] = [{"phase": name, "ms": spent / counted} for name, spent in times.items()]
        if device:
            rows = [row | {"host_ms": host[row["phase"]] / counted} for row in rows]
        for name, seconds in self.rare.items():
            rows.append({"phase": name, "ms": 1000 * sum(seconds) / max(1, self.done), "times": len(seconds)})
        rows.sort(key=lambda row: bool(row["phase"] == OTHER))  # which is last
        total = sum(row["ms"] for row in rows)
        return [row | {"share": row["ms"] / max(total, 1e-9)} for row in rows]


_measured: Phases | None = None


@contextmanager
def measured(phases: Phases) -> Iterator[Phases]:
    """Within the block `phase` and `turn` tell these."""
    global _measured
    before, _measured = _measured, phases
    try:
        yield phases
    finally:
        _measured = before


@contextmanager
def phase(name: str, whole: bool = False, rare: bool = False) -> Iterator[None]:
    """The time of the block is this phase's, where anyone measures; of a `whole` phase, what is in it too.

    A `rare` phase does not come every turn: it is whole, and measured as long as the loop runs, by the host's clock.
    """
    if _measured is None:
        yield
    else:
        with _measured.phase(name, whole, rare):
            yield


def loop_begins(device: torch.device) -> None:
    """The first turn of a loop is next."""
    if _measured is not None:
        _measured.begin(device)


def turn_ends() -> None:
    """A turn of the loop is over."""
    if _measured is not None:
        _measured.turn()


def loop_ends() -> None:
    """The last turn of the loop is over."""
    if _measured is not None:
        _measured.runs = False
