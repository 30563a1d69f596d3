"""Rows that hang together, and the drawing of very many."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from clx.pipelines.config.data_schema import Data, Fraction
from clx.pipelines.data import draw as drawing
from clx.pipelines.data import groups
from clx.pipelines.data.draw_many import chosen_of_many
from clx.pipelines.data.groups import components, shared_keys, sizes_of
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.data.stretches import blocks, pieces


def by_hand(keys: list[Any], rows: int) -> list[int]:
    """Groups by joining one row to another until nothing changes."""
    group = list(range(rows))
    for _ in range(rows):
        for each in keys:
            for i in range(rows):
                for j in range(i):
                    if each[i] and each[i] == each[j]:
                        group[i] = group[j] = min(group[i], group[j])
    names = sorted(set(group))
    return [names.index(g) for g in group]


@pytest.mark.parametrize("by_block", [False, True])
def test_groups_are_those_of_joined_rows_in_the_order_of_their_first(
    by_block: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if by_block:
        monkeypatch.setattr(groups, "blocks", lambda rows: blocks(rows, 5))
    draw = np.random.default_rng(0)
    for _ in range(30):
        rows, columns = int(draw.integers(1, 16)), int(draw.integers(1, 4))
        keys = [draw.integers(0, draw.integers(2, 20), rows) for _ in range(columns)]
        found = components(keys, rows)
        assert found.tolist() == by_hand(keys, rows)
        assert sizes_of(found, int(found.max()) + 1).tolist() == np.bincount(found).tolist()


def test_keys_of_one_row_alone_are_none_also_where_there_are_many() -> None:
    draw = np.random.default_rng(1)
    keys = draw.integers(-(1 << 62), 1 << 62, 100_000)
    keys[::2] = keys[0]
    keys[1:1000:2] = keys[1001:2000:2]
    keys[5] = 0
    found = shared_keys(keys)
    alike = np.unique(keys, return_inverse=True, return_counts=True)
    assert ((found >= 0) == ((alike[2][alike[1]] > 1) & (keys != 0))).all()
    shared = found >= 0
    assert len({*zip(found[shared].tolist(), keys[shared].tolist(), strict=True)}) == len(set(found[shared].tolist()))
    assert sorted(set(found[shared].tolist())) == list(range(int(found.max()) + 1))


def test_pieces_are_all_cells_in_the_order_of_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clx.pipelines.data.stretches.ROWS", 4)
    table = pa.table({"a": pa.chunked_array([list(range(5)), list(range(5, 12)), [12]])})
    for rows in (np.arange(13), np.arange(13)[::2], np.array([12, 3, 3, 7, 0, 6, 5, 4])):
        found = np.empty(len(rows), dtype=np.int64)
        for where, cells in pieces(Manifest("a", Path(), table, rows), "a"):
            assert len(cells) <= 4
            found[where] = cells.to_numpy()
        assert found.tolist() == rows.tolist()


@pytest.mark.parametrize("classes", [1, 4])
def test_of_very_many_rows_whole_groups_of_each_class_are_drawn(classes: int) -> None:
    rows = np.arange(60_000)
    together, strata = rows // 3, (rows // 3) % classes
    chosen = chosen_of_many(together, strata if classes > 1 else None, 6000, seed=1)
    assert (chosen.reshape(-1, 3).sum(1) % 3 == 0).all()
    assert np.abs(np.bincount(strata[chosen], minlength=classes) - 6000 / classes).max() <= 3
    assert (chosen == chosen_of_many(together, strata if classes > 1 else None, 6000, seed=1)).all()
    assert (chosen != chosen_of_many(together, strata if classes > 1 else None, 6000, seed=2)).any()
    assert abs(np.corrcoef(chosen, rows)[0, 1]) < 0.02


def test_a_class_is_never_drawn_whole() -> None:
    strata = np.array([0] * 99_999 + [1])
    chosen = chosen_of_many(np.arange(100_000), strata, 50_000, seed=0)
    assert not chosen[-1]
    assert chosen.sum() == 50_000


def test_a_draw_of_very_many_has_the_shares_of_the_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    table = pa.table({"text": [f"one text of {k // 2}" for k in range(4000)], "label": ["a", "a", "a", "a", "b"] * 800})
    manifest, data = Manifest("a", Path(), table, np.arange(4000)), Data(train="a", label="label")
    few = drawing.draw(manifest, Fraction(fraction=0.1), data, 0, {"text": False})
    monkeypatch.setattr(drawing, "LARGE", 100)
    train, val = drawing.draw(manifest, Fraction(fraction=0.1), data, 0, {"text": False})
    assert (train.split_from, val.drawn_by) == (few[0].split_from, few[1].drawn_by)
    assert not {*train.column("text")} & {*val.column("text")}
    assert abs(len(val) - 400) <= 4
    assert abs(val.column("label").count("b") - 80) <= 4
    assert sorted([*train.rows, *val.rows]) == list(range(4000))
