"""Work done ahead of its consumer by threads: decoding goes on while the model computes."""

import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")


def default_workers() -> int:
    """Threads that read data: one per core besides the one that drives the model, at most 8."""
    return max(1, min(8, len(os.sched_getaffinity(0)) - 1 if hasattr(os, "sched_getaffinity") else 2))


def ahead(
    items: Iterable[T], work: Callable[[T], R], size: int, workers: int, first: int = 1, wait: float = 0.2
) -> Generator[list[R], None, None]:
    """`work(item)` in the order of `items`, in groups of `size`; the first group has `first`.

    `workers` threads work a few groups ahead of the caller, so `items` may be endless. A group that is not
    full goes out when its source pauses for `wait` seconds. An error of `items` or `work` is raised in its place.
    """
    desk = _Desk(work, ahead=size * max(4, workers + 1), run=max(1, size // 8))
    feeder = threading.Thread(target=desk.feed, args=(items,), daemon=True)
    readers = [threading.Thread(target=desk.read, daemon=True) for _ in range(workers)]
    for thread in (feeder, *readers):
        thread.start()
    try:
        wanted = first
        while group := desk.take(wanted, wait):
            for done, value in group:
                if not done:
                    raise value
            yield [value for _, value in group]
            wanted = size
    finally:
        desk.close()
        for thread in readers:
            thread.join()  # the feeder may wait for a pipe that nobody writes to: it ends with the process


class _Desk:
    """What feeder, readers and consumer share, under one lock. A reader takes up to `run` items at a time."""

    def __init__(self, work: Callable[[Any], Any], ahead: int, run: int) -> None:
        self.work, self.ahead, self.run = work, ahead, run
        self.lock = threading.Lock()
        self.free, self.todo, self.ready = (threading.Condition(self.lock) for _ in range(3))
        self.waiting: deque[tuple[int, Any]] = deque()
        self.results: dict[int, tuple[bool, Any]] = {}
        self.fed = self.taken = self.awaited = 0
        self.ended = self.closed = False

    def feed(self, items: Iterable[Any]) -> None:
        try:
            for item in items:
                with self.lock:
                    while self.fed - self.taken >= self.ahead and not self.closed:
                        self.free.wait()
                    if self.closed:
                        return
                    self.waiting.append((self.fed, item))
                    self.fed += 1
                    self.todo.notify()
        except BaseException as error:  # raised again where the results are taken
            with self.lock:
                self.results[self.fed] = (False, error)
                self.fed += 1
        finally:
            with self.lock:
                self.ended = True
                self.todo.notify_all()
                self.ready.notify()

    def read(self) -> None:
        while True:
            with self.lock:
                while not self.waiting and not (self.ended or self.closed):
                    self.todo.wait()
                if self.closed or not self.waiting:
                    return
                some = [self.waiting.popleft() for _ in range(min(self.run, len(self.waiting)))]
            for number, item in some:
                if self.closed:
                    return
                try:
                    result = True, self.work(item)
                except BaseException as error:  # raised again where the results are taken
                    result = False, error
                with self.lock:
                    self.results[number] = result
                    if number == self.awaited:
                        self.ready.notify()

    def take(self, wanted: int, wait: float) -> list[tuple[bool, Any]]:
        """The next results in order: `wanted` of them, fewer after a pause or at the end; none when all are taken."""
        with self.lock:
            count = 0
            while True:
                while count < wanted and self.taken + count in self.results:
                    count += 1
                self.awaited = self.taken + count
                if count == wanted or (self.ended and self.awaited == self.fed):
                    break
                told = self.ready.wait(wait if count else None)
                if not told and self.awaited not in self.results:
                    break
            group = [self.results.pop(self.taken + k) for k in range(count)]
            self.taken += count
            self.free.notify()
            return group

    def close(self) -> None:
        with self.lock:
            self.closed = True
            for condition in (self.free, self.todo, self.ready):
                condition.notify_all()
