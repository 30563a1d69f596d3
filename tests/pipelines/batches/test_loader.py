"""Which rows come in which batch, and what becomes of rows that cannot be read."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest

from clx.modalities.image import Image
from clx.modalities.text import Text
from clx.pipelines.batches import loader
from clx.pipelines.batches.batch import BadRow
from clx.pipelines.batches.dataset import BatchDataset
from clx.pipelines.batches.loader import Order, batches, came_before, once, usual_workers
from clx.pipelines.system.errors import BadInput, Stopped
from clx.pipelines.system.signals import leave_to_parent
from samples import manifest, png


def test_an_epoch_has_every_row_once_but_for_a_last_short_batch() -> None:
    keys = list(Order(rows=10, batch_size=3, seed=1, start=0, stop=7))
    assert [(key.epoch, key.number) for key in keys] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (2, 0)]
    epochs = [np.concatenate([key.rows for key in keys if key.epoch == epoch]).tolist() for epoch in range(2)]
    assert [len(set(rows)) for rows in epochs] == [9, 9]
    assert epochs[0] != epochs[1]


def test_the_order_follows_from_the_seed_and_from_where_it_begins() -> None:
    def rows(seed: int, start: int) -> list[list[int]]:
        return [key.rows.tolist() for key in Order(rows=10, batch_size=3, seed=seed, start=start, stop=8)]

    assert rows(1, 4) == rows(1, 0)[4:]
    assert rows(1, 0) != rows(2, 0)
    assert len(Order(10, 3, 1, start=4, stop=8)) == 4


def test_rows_that_are_drawn_twice_are_told_apart() -> None:
    assert came_before(np.array([4, 2, 4, 4, 1, 2])).tolist() == [0, 0, 1, 2, 0, 1]
    keys = list(Order(rows=10, batch_size=5, seed=1, start=1, stop=4, weights=np.r_[9.0, np.ones(9)]))
    for key in keys:
        assert key.turns is not None
        part = key.part(slice(1, 3))
        assert [part.rows.tolist(), part.turns_of_rows().tolist()] == [key.rows[1:3].tolist(), key.turns[1:3].tolist()]
        assert len({*zip(key.rows.tolist(), key.turns.tolist(), strict=True)}) == 5
    assert max(int(key.turns_of_rows().max()) for key in keys) > 1
    assert next(iter(Order(10, 5, 1, start=0, stop=1))).turns is None


def test_rows_of_very_many_are_drawn_batch_by_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "HELD", 5)
    weights = np.r_[6.0, 3.0, 0.0, np.ones(7) / 7]
    keys = list(Order(10, 5, 1, start=0, stop=400, weights=weights))
    rows = np.concatenate([key.rows for key in keys])
    np.testing.assert_allclose(np.bincount(rows, minlength=10)[:3] / len(rows), [0.6, 0.3, 0], atol=0.04)
    for one, other in zip(keys[::2], keys[1::2], strict=True):
        visits = [(r, t) for key in (one, other) for r, t in zip(key.rows.tolist(), key.turns.tolist(), strict=True)]
        assert one.epoch == other.epoch
        assert len({*visits}) == 10
    later = list(Order(10, 5, 1, start=13, stop=400, weights=weights))
    assert [key.rows.tolist() for key in later] == [key.rows.tolist() for key in keys[13:]]


def test_a_pass_over_all_rows_is_in_order_or_mixed_by_a_seed() -> None:
    assert [key.rows.tolist() for key in once(5, 2)] == [[0, 1], [2, 3], [4]]
    mixed = np.concatenate([key.rows for key in once(50, 8, seed=3)]).tolist()
    assert mixed != sorted(mixed) == list(range(50))
    assert mixed == np.concatenate([key.rows for key in once(50, 8, seed=3)]).tolist()


@pytest.mark.parametrize("workers", [0, 2])
def test_rows_that_cannot_be_read_end_it_or_are_told(tmp_path: Path, workers: int) -> None:
    rows = manifest(image=[png(0), png(1), b"junk", png(3)])
    told: list[BadRow] = []
    lenient = BatchDataset(rows, {"image": Image(encoder="cnn", size=8)}, on_bad="skip")
    found = list(batches(lenient, once(4, 2), workers, report=told.extend))
    assert [batch.sample_id.tolist() for batch in found] == [[0, 1], [3]]
    assert [(one.row, one.where, one.column) for one in told] == [(2, "t.csv row 3", "image")]
    with pytest.raises(BadInput, match=r"t\.csv row 3, column image: "):
        list(batches(BatchDataset(rows, {"image": Image(encoder="cnn", size=8)}), once(4, 2), workers))


@pytest.mark.skipif(multiprocessing.get_start_method() != "fork", reason="the worker's beginning is patched here")
def test_a_signal_to_the_group_spares_workers_that_have_only_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = multiprocessing.Event()

    def late(worker: int) -> None:
        begun.set()
        time.sleep(0.5)
        leave_to_parent(worker)

    def stop() -> None:
        begun.wait()
        for worker in multiprocessing.active_children():
            os.kill(int(worker.pid or 0), signal.SIGTERM)

    monkeypatch.setattr(loader, "leave_to_parent", late)
    rows = manifest(text=["a", "b", "c", "d"])
    stopping = threading.Thread(target=stop)
    stopping.start()
    assert len(list(batches(BatchDataset(rows, {"text": Text()}), once(4, 2), workers=1))) == 2
    stopping.join()


@pytest.mark.parametrize("begun", ["one of them", "all"])
def test_workers_are_ended_where_a_handler_raises_while_they_are_started(
    monkeypatch: pytest.MonkeyPatch, begun: str
) -> None:
    start, started = BaseProcess.start, list[BaseProcess]()

    def stopped(process: BaseProcess) -> None:
        start(process)
        started.append(process)
        if begun == "one of them":
            raise Stopped("stopped", 143)

    @contextmanager
    def unblocked() -> Iterator[None]:
        yield
        raise Stopped("stopped", 143)

    monkeypatch.setattr(BaseProcess, "start", stopped)
    monkeypatch.setattr(loader, "withheld", unblocked)
    with pytest.raises(Stopped) as caught:
        list(batches(BatchDataset(manifest(text=["a", "b"]), {"text": Text()}), once(2, 1), workers=2))
    for process in started:
        process.join(20)
    assert [process.exitcode for process in started] == [-signal.SIGKILL] * (1 if begun == "one of them" else 2)
    del caught


def test_workers_are_for_files(monkeypatch: pytest.MonkeyPatch) -> None:
    files = BatchDataset(manifest(image=[None, png(1)]), {"image": Image(size=8)})
    numbers = BatchDataset(manifest(image=[np.zeros((8, 8), dtype=np.uint8).tolist()]), {"image": Image(size=8)})
    words = BatchDataset(manifest(text=["a"]), {"text": Text()})
    for cores, processes, expected in ((1, "1", 1), (2, "1", 1), (64, "1", 8), (8, "4", 1), (8, "", 4)):
        monkeypatch.setattr("clx.pipelines.system.cores.usable_cores", lambda cores=cores: cores)
        monkeypatch.setattr("torch.accelerator.is_available", lambda: False)
        monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
        assert usual_workers(files) == expected
        assert usual_workers(numbers) == usual_workers(words) == 0
    monkeypatch.setattr("torch.accelerator.is_available", lambda: True)
    assert usual_workers(files) == 7
    assert len(next(batches(words, once(1, 2), "auto"))) == 1
