"""How much memory there is, within the limit of the control group."""

from contextlib import suppress
from pathlib import Path


def free_and_total() -> tuple[int, int] | None:
    """Bytes that this process could still have, and all there are; None where the system does not say."""
    if not Path("/proc/meminfo").exists():
        return None
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    total, free = (int(fields[key].split()[0]) * 1024 for key in ("MemTotal", "MemAvailable"))
    with suppress(OSError, ValueError):
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        total, free = min(total, limit), min(free, max(0, limit - used))
    return free, total
