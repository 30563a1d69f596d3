"""All time between two marks is one phase's; what is rare is spread over all turns."""

from typing import Any

import pytest
import torch

from clx.pipelines.system import phases
from clx.pipelines.system.phases import Phases, loop_begins, loop_ends, measured, phase, turn_ends
from pretend_cuda import pretending

MOMENTS = {"host": 0.0, "device": 0.0}


@pytest.fixture(autouse=True)
def clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time passes only by `spend`."""
    MOMENTS.update(host=0.0, device=0.0)
    monkeypatch.setattr(phases.time, "perf_counter", lambda: MOMENTS["host"])


def spend(milliseconds: float, device: float = 0.0) -> None:
    MOMENTS["host"] += milliseconds / 1000
    MOMENTS["device"] += device


class Event:
    """A CUDA event by the device's pretended clock."""

    waits = 0

    def record(self, stream: Any) -> None:
        assert stream is not None
        self.at = MOMENTS["device"]

    def elapsed_time(self, end: "Event") -> float:
        return end.at - self.at

    def synchronize(self) -> None:
        Event.waits += 1


def turn(k: int) -> None:
    with phase("rows"):
        spend(2, 1)
        with phase("moving"):
            spend(3)
    with phase("encoding"):
        spend(4, 40)
    with phase("backward", whole=True):
        spend(5, 50)
        with phase("encoding"):
            spend(1, 10)
    if k % 5 == 4:
        with phase("validation", rare=True), phase("encoding"):
            spend(100)
    spend(0.5)
    turn_ends()


def run(count: int, device: str = "cpu", **options: Any) -> dict[str, Any]:
    with measured(Phases(**options)) as found:
        with phase("encoding"):
            spend(1000)  # before the loop
        loop_begins(torch.device(device))
        for k in range(count):
            turn(k)
        loop_ends()
        with phase("validation", rare=True):
            spend(1000)
    return found.figures()


@pytest.mark.parametrize("count", [10, 100])
def test_exclusive_times_of_a_few_turns(count: int) -> None:
    found = run(count, turns=6)
    rows = {row["phase"]: row for row in found["phases"]}
    assert {name: row["ms"] for name, row in rows.items()} == pytest.approx(
        {"rows": 2, "moving": 3, "encoding": 4, "backward": 6, "other": 0.5, "validation": 20}
    )
    assert rows["validation"]["times"] == count // 5
    assert sum(row["share"] for row in rows.values()) == pytest.approx(1)
    assert found["turns"] == 6
    assert found["each_ms"] == pytest.approx([15.5] * 6)


def test_what_is_measured_is_bounded() -> None:
    with measured(Phases(turns=5)) as found:
        loop_begins(torch.device("cpu"))
        for k in range(8):
            turn(k)
        marks = len(found.marks)
        for k in range(20):
            turn(k)
        assert len(found.marks) == marks


@pytest.mark.parametrize(("count", "counted"), [(0, 0), (1, 1), (3, 3), (4, 1)])
def test_a_short_loop_counts_its_first_turns_only_if_it_has_no_others(count: int, counted: int) -> None:
    found = run(count)
    assert (found["turns"], len(found["each_ms"])) == (counted, counted)
    assert [row["ms"] for row in found["phases"] if row["phase"] == "backward"] == pytest.approx([6] * (count > 0))


def test_a_device_is_waited_for_once_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Event, "waits", 0)
    with pretending() as pretence:
        found = run(10, "cuda", turns=6, event=Event)
        assert pretence.waits == 0
    assert Event.waits == 1
    rows = {row["phase"]: row for row in found["phases"]}
    assert {name: (row["ms"], row.get("host_ms")) for name, row in rows.items() if name != "validation"} == {
        "rows": pytest.approx((1, 2)),
        "moving": pytest.approx((0, 3)),
        "encoding": pytest.approx((40, 4)),
        "backward": pytest.approx((60, 6)),
        "other": pytest.approx((0, 0.5)),
    }


def test_nobody_measures_unless_asked() -> None:
    with measured(Phases()) as found:
        pass
    marks = len(found.marks)
    loop_begins(torch.device("cpu"))
    turn(4)
    assert (len(found.marks), found.rare) == (marks, {})
