"""How a run stands: whether a process trains in its folder now, and how the last one that did ended.

A process that trains holds the folder's lock, which the system takes back however it ends, and writes `state.json`. So
a run that was killed is told from one that goes on, also across machines that share a disk.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from clx.pipelines.runs.folder import LAST, META, STATE, checkpoints
from clx.pipelines.system.durable_files import is_locked, write_text
from clx.pipelines.system.errors import Failed, Stopped

KINDS = {
    **{"state": str, "steps": int, "started": str, "ended": str, "error": str, "rows_per_s": float},
    **{"train_rows": int, "val_rows": int, "test_rows": int},
}
"""What `state.json` tells, where it tells of it."""


@contextmanager
def recorded(out: Path, steps: int | None, resume: bool) -> Iterator[None]:
    """Write into `state.json` that a run trains for `steps`, where that is known, and in the end how that ended.

    With `resume` it keeps the date of its first start.
    """
    started = read(out).get("started") if resume else None
    state: dict[str, Any] = {"state": "running", "started": started or _now()}
    state |= {} if steps is None else {"steps": steps}
    state |= {"ended": None, "error": None}
    write_text(out / STATE, json.dumps(state))
    try:
        yield
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt | Stopped):
            state["state"] = "interrupted"
        else:
            state |= {"state": "failed", "error": " ".join(str(error).split()) or type(error).__name__}
        with suppress(Failed):  # a full disk must not hide what went wrong
            write_text(out / STATE, json.dumps(state | {"ended": _now()}, ensure_ascii=False))
        raise
    write_text(out / STATE, json.dumps(read(out) | state | {"state": "finished", "ended": _now()}))


def note(out: Path, **told: float) -> None:
    """Write into `state.json` what is known at the end of the steps: `rows_per_s` of those just done, `steps`, and the
    rows of each split."""
    write_text(out / STATE, json.dumps(read(out) | told))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def read(out: Path) -> dict[str, Any]:
    """What `state.json` says; nothing where it is absent or damaged."""
    try:
        state = json.loads((out / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(state, dict):
        return {}
    return {key: value for key, value in state.items() if value is None or isinstance(value, KINDS.get(key, ()))}


def recorded_state(out: Path) -> str:
    """What a folder says when nobody trains in it: `finished`, `failed`, or `interrupted`, also by a kill."""
    state = read(out).get("state")
    if state is None:  # written by a version that kept no state, or exported
        whole = (out / LAST).exists() or (out / META).exists()
        return "finished" if whole and checkpoints(out) else "interrupted"
    return "interrupted" if state == "running" else str(state)


def state_of(out: Path) -> str:
    """`running`, or what the folder says."""
    return "running" if is_locked(out) else recorded_state(out)
