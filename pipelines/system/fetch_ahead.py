"""Files elsewhere, asked for before they are wanted: many at once, since each takes long and is little work."""

import os
import threading
from collections.abc import Callable, Hashable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

AT_ONCE = 16
MOST = 4096
"""Files that are asked for and not taken: beyond them the first are given up."""


K = TypeVar("K", bound=Hashable)


class FetchAhead(Generic[K]):
    """What this process has asked for. A forked one begins with nothing."""

    def __init__(self, fetch: Callable[[K], bytes]) -> None:
        self.fetch = fetch
        self._begin()

    def _begin(self) -> None:
        self.process, self.lock = os.getpid(), threading.Lock()
        self.pool: ThreadPoolExecutor | None = None
        self.coming: dict[K, Future[bytes]] = {}

    def ask(self, names: Iterable[K]) -> None:
        """Begin to fetch what is not on its way. What goes wrong is raised where it is taken."""
        if self.process != os.getpid():
            self._begin()
        with self.lock:
            for name in names:
                if name not in self.coming:
                    self.pool = self.pool or ThreadPoolExecutor(AT_ONCE, "fetch")
                    self.coming[name] = self.pool.submit(self.fetch, name)
            while len(self.coming) > MOST:
                self.coming.pop(next(iter(self.coming))).cancel()

    def take(self, name: K) -> bytes:
        """The bytes of a file, asked for or not. Raises as `fetch`."""
        if self.process != os.getpid():
            self._begin()
        with self.lock:
            coming = self.coming.pop(name, None)
        return self.fetch(name) if coming is None else coming.result()
