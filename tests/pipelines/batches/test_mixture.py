"""Sources with shares: what each step takes of them, and that counters alone decide."""

import numpy as np
import pytest

from clx.modalities.image import Image
from clx.pipelines.batches import mixture
from clx.pipelines.batches.batch import Key
from clx.pipelines.batches.dataset import BatchDataset
from clx.pipelines.batches.loader import Order
from clx.pipelines.batches.mixture import Mixture
from clx.pipelines.training.rank_part import Part
from samples import manifest, png

PARTS = ((0, 40), (40, 47), (47, 100))


def of(shares: tuple[float, ...], batch: int = 10, parts: tuple[tuple[int, int], ...] = PARTS) -> Mixture:
    return Mixture(parts, shares, batch, seed=1)


@pytest.mark.parametrize("shares", [(0.7, 0.2, 0.1), (7, 2, 1), (1, 1, 1), (1e-3, 1e-4, 1)])
@pytest.mark.parametrize("batch", [1, 10, 33])
def test_each_source_has_its_share_of_all_rows_and_of_each_step(shares: tuple[float, ...], batch: int) -> None:
    mixed, total = of(shares, batch), np.zeros(3)
    for number in range(50):
        rows, _ = mixed.step(number)
        assert len(rows) == batch
        counts = np.array([((first <= rows) & (rows < stop)).sum() for first, stop in PARTS])
        wanted = batch * np.array(shares) / sum(shares)
        total += counts
        assert (np.abs(counts - wanted) <= 2).all()
        assert (np.abs(total - (number + 1) * wanted) <= 1).all()


def test_rows_of_a_source_come_equally_often_and_in_another_order_each_time() -> None:
    mixed = of((0.5, 0.3, 0.2))
    rows, turns = map(np.concatenate, zip(*map(mixed.step, range(30)), strict=True))
    for first, stop in PARTS:
        mine = (first <= rows) & (rows < stop)
        counts = np.bincount(rows[mine] - first, minlength=stop - first)
        assert counts.max() - counts.min() <= 1
    assert len({*zip(rows.tolist(), turns.tolist(), strict=True)}) == len(rows) == 300
    small = (rows >= 40) & (rows < 47)
    passes = [rows[small & (turns == turn)].tolist() for turn in range(3)]
    assert all(sorted(one) == list(range(40, 47)) for one in passes)
    assert passes[0] != passes[1]


def test_a_step_follows_from_its_number_alone_also_where_nothing_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    mixed = of((0.5, 0.3, 0.2))
    there = [mixed.step(number)[0].tolist() for number in range(8)]
    assert [mixed.step(number)[0].tolist() for number in (7, 3)] == [there[7], there[3]]
    assert there != [Mixture(PARTS, (0.5, 0.3, 0.2), 10, seed=2).step(number)[0].tolist() for number in range(8)]
    monkeypatch.setattr(mixture, "HELD", 5)
    computed = [mixed.step(number) for number in range(30)]
    rows, turns = map(np.concatenate, zip(*computed, strict=True))
    assert len({*zip(rows.tolist(), turns.tolist(), strict=True)}) == 300
    assert sorted(rows[(turns == 0) & (rows >= 40) & (rows < 47)].tolist()) == list(range(40, 47))


def test_a_bad_row_gives_its_place_to_one_of_its_own_source() -> None:
    rows = manifest(image=[png(0), b"junk", png(2), png(3), b"junk", png(5), png(6), png(7)])
    image = {"image": Image(encoder="cnn", size=8)}
    data = BatchDataset(rows, image, augment=True, on_bad="replace", parts=((0, 3), (3, 8)))
    found = [data[Key(epoch, 0, np.array([1, 4]))].sample_id.tolist() for epoch in range(20)]
    assert {one for one, _ in found} == {0, 2}
    assert {other for _, other in found} == {3, 5, 6, 7}


def test_an_order_of_several_sources_resumes_and_is_divided_among_ranks() -> None:
    def order(start: int) -> Order:
        return Order(100, 10, 1, start=start, stop=25, rule=of((0.5, 0.3, 0.2)))

    keys = list(order(0))
    assert [(key.epoch, key.number) for key in keys[9:12]] == [(0, 9), (1, 0), (1, 1)]
    later = list(order(13))
    assert [key.rows.tolist() for key in later] == [key.rows.tolist() for key in keys[13:]]
    ranks = [list(Part(order(0), rank, 3)) for rank in range(3)]
    for key, *parts in zip(keys, *ranks, strict=True):
        assert np.concatenate([part.rows for part in parts]).tolist() == key.rows.tolist()
        assert np.concatenate([part.turns_of_rows() for part in parts]).tolist() == key.turns_of_rows().tolist()
