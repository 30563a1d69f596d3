"""Neighbours by brute force, and batches whose second views are of other rows."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from clx.modalities.series import Series
from clx.pipelines.batches.batch import Key
from clx.pipelines.batches.dataset import BatchDataset
from clx.pipelines.batches.positives import Neighbours
from clx.pipelines.config.data_schema import Near
from clx.pipelines.config.schema import Config
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.model.build import prepare
from clx.pipelines.system.errors import BadInput

RNG = np.random.default_rng(0)
SUBJECT = [None if k % 17 == 3 else f"s{k}" for k in RNG.integers(6, size=60)]
TIME = np.where(RNG.random(60) < 0.1, np.nan, RNG.uniform(0, 100, 60).round(1))


def manifest(**more: Any) -> Manifest:
    """The values of row i are i, so that a view tells whose it is."""
    columns = {"series": [[float(i), float(i), float(i)] for i in range(len(SUBJECT))]}
    times = [None if np.isnan(t) else t for t in TIME.tolist()]
    table = pa.table({**columns, "subject": SUBJECT, "time": times, **more})
    return Manifest("rows.csv", Path(), table, np.arange(len(table)))


@pytest.mark.parametrize("within", [None, 7.5, 1e-9])
def test_draws_are_the_rows_in_reach(within: float | None) -> None:
    near = Near(group="subject", time=None if within is None else "time", within=within)
    rows = manifest().take(np.arange(5, 60))
    found = Neighbours(rows, near)
    g = np.random.default_rng(0)
    alone = 0
    for i in range(len(rows)):
        own = rows.row(i)
        expected = {
            j
            for j in range(len(rows))
            if j != i
            and own["subject"] is not None
            and rows.row(j)["subject"] == own["subject"]
            and (within is None or abs((rows.row(j)["time"] or np.nan) - (own["time"] or np.nan)) <= within)
        }
        alone += not expected
        assert {found.draw(i, int(g.integers(2**63))) for _ in range(30 + 20 * len(expected))} == (expected or {i})
    assert found.alone() == alone


def test_further_views_are_of_neighbours() -> None:
    modality = Series(views=3, scale="none", augmentation={"jitter": 0.0})
    near = Near(group="subject")
    data = BatchDataset(manifest(), {"series": modality}, near=near, augment=True)
    batch = data[Key(0, 0, np.arange(60))]
    own, second, third = (batch.inputs[f"series/{v}"]["x"][:, 0, 0].int().tolist() for v in range(3))
    assert own == list(range(60))
    assert second != third
    assert sum(a != b for a, b in zip(own, second, strict=True)) > 40
    for a, b in zip(own * 2, second + third, strict=True):
        assert SUBJECT[a] == SUBJECT[b]
    plain = BatchDataset(manifest(), {"series": modality}, near=near)
    assert list(plain[Key(0, 0, np.arange(4))].inputs) == ["series"]


def test_a_neighbour_may_lack_an_input_or_be_bad() -> None:
    modality = Series(views=2, scale="none", augmentation={"jitter": 0.0})
    cells = [[1.0, 1.0], None, [2.0, 2.0], [3.0]]
    table = pa.table({"series": cells, "subject": ["a", "a", "b", "b"]})
    rows = Manifest("rows.csv", Path(), table, np.arange(4))
    lenient = BatchDataset(rows, {"series": modality}, near=Near(group="subject"), augment=True, on_bad="skip")
    batch = lenient[Key(0, 0, np.arange(3))]
    assert batch.present["series/0"].tolist() == [True, False, True]
    assert batch.present["series/1"].tolist() == [False, True, True]
    assert batch.inputs["series/1"]["x"][:, 0, 0].tolist() == [1, 2]  # row 3 is bad: row 2 is its own neighbour
    assert [one.row for one in batch.bad] == [3]
    strict = BatchDataset(rows, {"series": modality}, near=Near(group="subject"), augment=True)
    assert len(strict[Key(0, 0, np.arange(3))]) == 0


@pytest.mark.parametrize(
    ("data", "series", "reason"),
    [
        ({"group": "subjct"}, {}, "no column 'subjct'"),
        ({"group": "subject"}, {"views": 1}, "views: 2"),
        ({"group": "subject"}, {"augmentation": {"crops": 0.5}}, "crops share a stretch"),
        ({"group": "subject", "time": "time", "within": 1e-12}, {}, "no row of rows.csv has a neighbour"),
    ],
)
def test_what_cannot_be_is_said(data: dict[str, Any], series: dict[str, Any], reason: str) -> None:
    config = Config.model_validate(
        {
            "data": {"train": "rows.csv", "neighbours": data},
            "modalities": {"series": {"views": 2, **series}},
            "objective": {"name": "nt-xent"},
        }
    )
    with pytest.raises(BadInput, match=reason):
        prepare(config, {"train": manifest()})
    with pytest.raises(ValueError, match="time and within go together"):
        Near(group="subject", within=3)


def test_times_may_be_dates() -> None:
    """Three hours: the first two are within reach of each other, whatever their zone."""
    hours = ["2024-02-28T23:00:00+02:00", "2024-02-28T22:00:00Z", "2024-02-29T03:00:00Z"]
    table = pa.table({"who": ["a"] * 3, "time": hours})
    rows = Manifest("rows.csv", Path(), table, np.arange(3))
    found = Neighbours(rows, Near(group="who", time="time", within=3600))
    assert [found.draw(i, 12345) for i in range(3)] == [1, 0, 2]
    days = Manifest(
        "rows.csv", Path(), pa.table({"who": ["a"] * 2, "time": ["01/02/2024", "02/02/2024"]}), np.arange(2)
    )
    with pytest.raises(BadInput, match="rows.csv row 1, .* data.neighbours.day_first=true or"):
        Neighbours(days, Near(group="who", time="time", within=86_400))
    assert Neighbours(days, Near(group="who", time="time", within=86_400, day_first=True)).alone() == 0
