"""Work done ahead of its consumer by threads: several groups at once, their results in order."""

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from typing import Any, TypeVar

from clx.pipelines.system.cores import usable_cores

T = TypeVar("T")
R = TypeVar("R")


def default_workers() -> int:
    """Threads that read data and run the model: one per core, at most 8."""
    return min(8, usable_cores())


def read_ahead(
    items: Iterable[T], work: Callable[[list[T]], R], size: int, workers: int, wait: float = 0.2
) -> Generator[R, None, None]:
    """`work(group)` for groups of `size` of the `items`, in their order; the first has one item.

    `workers` threads work a few groups ahead of the caller, so `items` may be endless. A group that is not full
    is worked on when its source pauses for `wait` seconds. An error of `items` or `work` is raised in its place.
    """
    desk = _OrderedResults(work, size, most=size * max(4, workers + 1), wait=wait)
    feeder = threading.Thread(target=desk.feed, args=(items,), daemon=True)
    threads = [threading.Thread(target=desk.work_on, daemon=True) for _ in range(workers)]
    for thread in (feeder, *threads):
        thread.start()
    try:
        while (result := desk.take()) is not None:
            done, value = result
            if not done:
                raise value
            yield value
    finally:
        desk.close()
        for thread in threads:
            thread.join()  # the feeder may wait for a pipe that nobody writes to: it ends with the process


class _OrderedResults:
    """What feeder, workers and consumer share, under one lock."""

    def __init__(self, work: Callable[[list[Any]], Any], size: int, most: int, wait: float) -> None:
        self.work, self.size, self.most, self.wait = work, size, most, wait
        self.wanted = 1
        self.lock = threading.Lock()
        self.free, self.todo, self.ready = (threading.Condition(self.lock) for _ in range(3))
        self.waiting: deque[Any] = deque()
        self.results: dict[int, tuple[int, bool, Any]] = {}
        """By number of the group: how many items it had, and its result or its error."""
        self.inside = 0  # items fed and not yet taken
        self.started = self.taken = 0  # groups
        self.fed_at = 0.0
        self.error: BaseException | None = None
        self.ended = self.closed = False

    def feed(self, items: Iterable[Any]) -> None:
        try:
            for item in items:
                with self.lock:
                    while self.inside >= self.most and not self.closed:
                        self.free.wait()
                    if self.closed:
                        return
                    self.waiting.append(item)
                    self.inside += 1
                    self.fed_at = time.monotonic()
                    self.todo.notify()
        except BaseException as error:  # raised again where the results are taken
            self.error = error
        finally:
            with self.lock:
                self.ended = True
                self.todo.notify_all()
                self.ready.notify()

    def work_on(self) -> None:
        while group := self.group():
            number, items = group
            try:
                result = len(items), True, self.work(items)
            except BaseException as error:  # raised again where the results are taken
                result = len(items), False, error
            with self.lock:
                self.results[number] = result
                self.ready.notify()

    def group(self) -> tuple[int, list[Any]] | None:
        """The next items to work on with their group's number; None when there are no more."""
        with self.lock:
            while not self.closed:
                pause = self.wait - (time.monotonic() - self.fed_at) if self.waiting else None
                if len(self.waiting) >= self.wanted or (self.waiting and (self.ended or (pause or 0) <= 0)):
                    items = [self.waiting.popleft() for _ in range(min(self.wanted, len(self.waiting)))]
                    self.wanted = self.size
                    self.started += 1
                    return self.started - 1, items
                if self.ended:
                    break
                self.todo.wait(pause)
            self.ready.notify()
            return None

    def take(self) -> tuple[bool, Any] | None:
        """The next group's result, or what stopped it; None when all are taken."""
        with self.lock:
            while self.taken not in self.results:
                if self.ended and not self.waiting and self.taken == self.started:
                    error, self.error = self.error, None
                    return None if error is None else (False, error)
                self.ready.wait()
            count, done, value = self.results.pop(self.taken)
            self.taken += 1
            self.inside -= count
            self.free.notify()
            return done, value

    def close(self) -> None:
        with self.lock:
            self.closed = True
            for condition in (self.free, self.todo, self.ready):
                condition.notify_all()
