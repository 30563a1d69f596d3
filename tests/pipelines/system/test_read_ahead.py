"""Reading ahead: order, bounds, pauses, errors, and no thread left."""

import itertools
import threading
import time
from collections.abc import Iterator

import pytest

from clx.pipelines.system.read_ahead import read_ahead


@pytest.mark.parametrize("workers", [1, 3])
def test_results_come_in_order_whatever_each_takes(workers: int) -> None:
    def work(group: list[int]) -> list[int]:
        time.sleep(0.002 * (group[0] % 3))
        return [i * i for i in group]

    groups = list(read_ahead(range(50), work, 8, workers))
    assert [x for group in groups for x in group] == [i * i for i in range(50)]
    assert [len(group) for group in groups] == [1, *[8] * 6, 1]  # whatever the workers do, so that answers repeat


def test_groups_are_worked_on_side_by_side() -> None:
    both = threading.Barrier(2)

    def work(group: list[int]) -> list[int]:
        both.wait(10)
        return group

    assert list(read_ahead(range(8), work, 1, 2)) == [[i] for i in range(8)]


def test_an_endless_source_is_read_a_few_groups_ahead_and_let_go() -> None:
    given = itertools.count()
    before = threading.active_count()
    groups = read_ahead(given, list, 16, 2)
    assert next(groups) == [0]
    time.sleep(0.1)
    groups.close()
    assert next(given) <= 16 * 4 + 2
    time.sleep(0.1)
    assert threading.active_count() == before


def test_a_source_that_pauses_does_not_keep_results_back() -> None:
    go_on = threading.Event()

    def source() -> Iterator[int]:
        yield from range(4)
        go_on.wait(10)
        yield 4

    groups = read_ahead(source(), list, 64, 1, wait=0.05)
    first = next(groups) + next(groups)
    assert first == [0, 1, 2, 3]  # while the source still waits
    go_on.set()
    assert list(groups) == [[4]]


def test_errors_are_raised_in_their_place() -> None:
    def tens(group: list[int]) -> list[int]:
        return [10 // i for i in group]

    def source() -> Iterator[int]:
        yield from (1, 2)
        raise ValueError("no more")

    groups = read_ahead(source(), tens, 1, 2)
    assert [next(groups), next(groups)] == [[10], [5]]
    with pytest.raises(ValueError, match="no more"):
        next(groups)
    broken = read_ahead([1, 0, 2], tens, 1, 2)
    assert next(broken) == [10]
    with pytest.raises(ZeroDivisionError):
        next(broken)
