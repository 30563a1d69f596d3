"""What is kept by row is what was put, or nothing: after kills, damage, a full disk, and from other processes."""

import errno
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from clx.pipelines.system import row_store
from clx.pipelines.system.row_store import HEAD, WIDTH, RowStore

A, B = b"a" * 16, b"b" * 16


@pytest.fixture(params=["memory", "disk"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> RowStore:
    return RowStore(tmp_path / "s" if request.param == "disk" else None)


def test_rows_are_what_was_put_under_their_key(store: RowStore) -> None:
    store.put(3, A, b"three")
    store.put(100_000, A, b"far")
    store.put(0, A, b"")
    assert [store.get(row, A) for row in (3, 100_000, 0)] == [b"three", b"far", b""]
    assert store.get(3, B) is store.get(4, A) is store.get(10**9, A) is None
    store.put(3, B, b"changed")
    assert store.get(3, A) is None
    assert store.get(3, B) == b"changed"
    assert store.trouble() is None


def test_other_processes_have_the_same(store: RowStore) -> None:
    store.put(1, A, b"mine")
    child = os.fork()
    if child == 0:  # a worker: what it has is a copy
        ok = store.get(1, A) == b"mine"
        for row in range(10, 300):
            store.put(row, A, b"%d" % row * row)
        os._exit(0 if ok else 1)
    for row in range(300, 600):
        store.put(row, A, b"%d" % row * row)
    assert os.waitpid(child, 0)[1] == 0
    assert [store.get(row, A) for row in range(10, 600)] == [b"%d" % row * row for row in range(10, 600)]
    code = f"import pickle; s = pickle.loads({pickle.dumps(store)!r})\n"
    code += f"assert s.get(11, {A!r}) == b'11' * 11; s.put(7, {A!r}, b'x')"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    assert store.get(7, A) == b"x"


def test_what_is_damaged_is_not_given(tmp_path: Path) -> None:
    store = RowStore(tmp_path)
    for row in range(4):
        store.put(row, A, b"%d" % row * 1000)
    with (tmp_path / "data").open("r+b") as data, (tmp_path / "index").open("r+b") as index:
        data.seek(1500)
        data.write(b"?")  # in row 1
        index.seek(len(HEAD) + 1 + 2 * WIDTH + 18)
        index.write(b"?")  # of row 2
        data.truncate(3500)  # in row 3
    again = RowStore(tmp_path)
    assert [again.get(row, A) for row in range(4)] == [b"0" * 1000, None, None, None]
    again.put(3, A, b"new")
    assert again.get(3, A) == b"new"
    (tmp_path / "index").write_bytes(b"of another version")
    assert RowStore(tmp_path).get(0, A) is None


def test_a_killed_process_leaves_whole_rows(tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
from clx.pipelines.system.row_store import RowStore
store = RowStore(Path({str(tmp_path)!r}))
print(flush=True)
for row in range(10**6):
    store.put(row, {A!r}, row.to_bytes(4, "little") * 5000)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(0.2)
        writer.send_signal(signal.SIGKILL)
    store = RowStore(tmp_path)
    kept = [store.get(row, A) for row in range(20_000)]
    count = sum(one is not None for one in kept)
    assert count > 10
    for row, one in enumerate(kept):
        assert (one is None) == (row >= count)
        assert one is None or one == row.to_bytes(4, "little") * 5000


def test_a_full_disk_ends_the_keeping_and_is_said(store: RowStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put(0, A, b"x" * 100)
    write = os.write

    def half(file: int, content: Any) -> int:
        return write(file, content[: len(content) // 2])

    monkeypatch.setattr(row_store.os, "write", half)
    store.put(1, A, b"y" * 100)
    monkeypatch.undo()
    assert store.trouble() is not None
    assert "almost full" in str(store.trouble())
    store.put(2, A, b"z" * 100)
    assert [store.get(row, A) is not None for row in range(3)] == [True, False, False]
    store.say(0)

    def none(file: int, content: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(row_store.os, "write", none)
    store.put(1, A, b"y" * 100)
    monkeypatch.undo()
    assert "almost full" in str(store.trouble())
    store.say(0)
    store.put(1, A, b"y" * 100)
    assert store.get(1, A) == b"y" * 100
    monkeypatch.setattr(store, "room", lambda size: False)
    store.written = row_store.STEP
    store.put(2, A, b"z" * 100)
    assert "almost full" in str(store.trouble())
    assert RowStore(store.folder).trouble() is None, "the next run looks anew"


def test_what_nothing_leads_to_does_not_grow_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_store, "WASTE", 1000)
    for version in range(20):
        store = RowStore(tmp_path)
        for row in range(10):
            store.put(row, bytes([version]) * 16, b"x" * 500)
        assert store.size <= 2 * 5000 + 1000 + 5000
        assert store.get(9, bytes([version]) * 16) == b"x" * 500
