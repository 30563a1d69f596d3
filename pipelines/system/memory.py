"""How much memory this process may still take, and giving back what it does not need."""

import ctypes
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

MEMINFO = Path("/proc/meminfo")
GROUP = Path("/sys/fs/cgroup")
"""Of the control group, in Linux's version 2."""


def free_memory() -> tuple[int, int] | None:
    """Bytes that are free, and all there are, within the limit of the control group; None where that is not told."""
    try:
        fields = dict(line.split(":") for line in MEMINFO.read_text().splitlines())
    except OSError:
        return None
    total, free = (int(fields[key].split()[0]) * 1024 for key in ("MemTotal", "MemAvailable"))
    with suppress(OSError, ValueError):
        limit = int((GROUP / "memory.max").read_text())
        used = int((GROUP / "memory.current").read_text())
        total, free = min(total, limit), min(free, max(0, limit - used))
    return free, total


def give_back_freed() -> bool:
    """Have the C library return to the system what has been freed; False where it has nothing, or is not glibc."""
    trim = _trimming()
    return trim is not None and bool(trim(0))


@cache
def _trimming() -> Callable[[int], int] | None:
    """glibc's `malloc_trim`."""
    try:
        found: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (OSError, TypeError, AttributeError):  # no such library, on Windows no library without a name, no such call
        return None
    return found
