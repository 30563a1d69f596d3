"""The order of very many rows is computed, not held."""

import itertools

import numpy as np
import pytest

from clx.pipelines.batches import loader
from clx.pipelines.batches.loader import Order, once
from clx.pipelines.data.permutation import BlockPermutation, Permutation


@pytest.mark.parametrize("count", [1, 2, 3, 17, 256, 257, 1000, 4097])
def test_every_number_stands_once_and_stretches_fit_together(count: int) -> None:
    order = Permutation(count, [3, 2, 0])
    whole = order.stretch(0, count)
    assert sorted(whole.tolist()) == list(range(count))
    parts = [order.stretch(start, min(start + 7, count)) for start in range(0, count, 7)]
    assert np.concatenate(parts).tolist() == whole.tolist()


def test_epochs_and_seeds_differ() -> None:
    orders = [Permutation(1000, seed).stretch(0, 1000).tolist() for seed in ([0, 2, 0], [0, 2, 1], [1, 2, 0])]
    assert all(a != b for a, b in itertools.combinations(orders, 2))


def test_a_million_sorted_rows_are_mixed() -> None:
    rows = 1_000_000
    place = np.arange(rows, dtype=np.float32)
    found = np.concatenate([Permutation(rows, [5, 2, 0]).stretch(at, at + 100_000) for at in range(0, rows, 100_000)])
    centred, mean = found - found.mean(), place.mean()
    correlation = float((centred * (place - mean)).mean() / (found.std() * place.std()))
    assert abs(correlation) < 0.02
    assert abs(np.corrcoef(found[:-1:10], found[1::10])[0, 1]) < 0.02  # of neighbours in the stream
    batches = found[: 1000 * 256].reshape(1000, 256)
    assert batches.std(1).mean() > 0.98 * rows / np.sqrt(12)  # a batch has rows from all over the file


def test_a_large_order_resumes_in_the_middle_of_an_epoch_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "HELD", 50_000)
    rows = 51_000
    whole = Order(rows, 128, seed=1, start=0, stop=416)
    resumed = Order(rows, 128, seed=1, start=380, stop=416)
    assert whole.per_epoch == 398
    for ours, theirs in zip(resumed, itertools.islice(whole, 380, None), strict=True):
        assert (ours.epoch, ours.number) == (theirs.epoch, theirs.number)
        assert ours.rows.tolist() == theirs.rows.tolist()
    first = np.concatenate([key.rows for key in Order(rows, 128, 1, 0, whole.per_epoch)])
    assert len(np.unique(first)) == len(first) == whole.per_epoch * 128


def test_the_order_of_few_rows_is_as_it_was() -> None:
    key = next(iter(Order(100, 10, seed=7, start=0, stop=1)))
    assert key.rows.tolist() == np.random.default_rng([7, 2, 0]).permutation(100)[:10].tolist()


UNEVEN = np.r_[0, np.cumsum(np.random.default_rng(0).integers(1, 40, 50))]


@pytest.mark.parametrize("starts", [UNEVEN, np.array([0, 5, 9]), np.array([0, 1, 2, 3, 4, 5, 6, 7])])
@pytest.mark.parametrize("window", [1, 4, 16])
def test_blocks_are_mixed_a_window_at_a_time(starts: np.ndarray, window: int) -> None:
    rows = int(starts[-1])
    whole = BlockPermutation(starts, [3, 2, 0], window).stretch(0, rows)
    assert sorted(whole.tolist()) == list(range(rows))
    order = BlockPermutation(starts, [3, 2, 0], window)
    parts = [order.stretch(start, min(start + 7, rows)) for start in range(0, rows, 7)]
    assert np.concatenate(parts).tolist() == whole.tolist()
    block = np.searchsorted(starts, whole, "right") - 1
    for each in range(len(starts) - 1):  # comes once, and no more blocks than the window's are in use at any place
        places = np.flatnonzero(block == each)
        assert len(np.unique(block[places[0] : places[-1] + 1])) <= window
    another = BlockPermutation(starts, [3, 2, 1], window).stretch(0, rows).tolist()
    assert another != whole.tolist()


def test_a_million_rows_of_sorted_blocks_are_mixed() -> None:
    for blocks in (250, 1000):
        starts = np.linspace(0, 1_000_000, blocks + 1).astype(np.int64)
        for seed in range(3):
            found = BlockPermutation(starts, [seed, 2, 0], 16).stretch(0, 1_000_000)
            assert abs(np.corrcoef(found, np.arange(1_000_000))[0, 1]) < 0.02
            assert abs(np.corrcoef(found[:-1], found[1:])[0, 1]) < 0.02
            batches = found[: 3900 * 256].reshape(3900, 256)
            assert batches.std(1).mean() > 0.98 * 1_000_000 / np.sqrt(12)


def test_an_order_by_blocks_resumes_in_the_middle_of_an_epoch() -> None:
    whole = list(Order(int(UNEVEN[-1]), 16, seed=1, start=0, stop=150, blocks=UNEVEN))
    resumed = list(Order(int(UNEVEN[-1]), 16, seed=1, start=70, stop=150, blocks=UNEVEN))
    assert [key.rows.tolist() for key in resumed] == [key.rows.tolist() for key in whole[70:]]
    assert whole[0].rows.tolist() != whole[len(whole) // 2].rows.tolist()
    keys = once(int(UNEVEN[-1]), 16, 0, UNEVEN)
    assert sorted(np.concatenate([key.rows for key in keys]).tolist()) == list(range(int(UNEVEN[-1])))
