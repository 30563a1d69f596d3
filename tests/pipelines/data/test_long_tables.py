"""Tables of time steps become series; what cannot be is said with its row."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clx.pipelines.config.data_schema import Data
from clx.pipelines.config.series_schema import Long
from clx.pipelines.data.splits import choose, load_splits
from clx.pipelines.system.errors import BadInput, ClxWarning
from long_table import data, long_csv


def test_long_tables_become_series(tmp_path: Path) -> None:
    splits = load_splits(data(long_csv(tmp_path)), 0)
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 1, "test": 1}
    row = splits["train"].row(0)
    assert sorted(row) == ["label", "series", "split", "who"], "a column that changes within a series is left out"
    assert (row["who"], row["label"]) == ("ann", "ann")
    assert row["series"][:, 0].tolist() == [0, 1, 2, 4, 5]
    assert np.isnan(row["series"][1, 1])
    assert np.array_equal(np.delete(row["series"][:, 1], 1), [0, 20, 40, 50])
    assert splits["test"].row(0)["series"].tolist() == [[10, 100], [11, 110], [13, 130]]
    (other,) = choose(data(tmp_path / "long.csv"), 0, str(tmp_path / "long.csv"), "test").values()
    assert other.row(0)["series"].shape == (3, 2)


def test_irregular_times_become_even_or_are_told(tmp_path: Path) -> None:
    even = load_splits(data(long_csv(tmp_path), long={"every": 0.5}), 0)
    assert even["train"].row(0)["series"].tolist() == [[t, 10 * t] for t in np.arange(0, 5.5, 0.5)]
    assert even["test"].row(0)["series"][-1].tolist() == [13, 130]
    told = load_splits(data(tmp_path / "long.csv", long={"stamps": True}), 0)
    assert told["train"].row(0)["series"][:, 2].tolist() == [0, 1, 1, 2, 1]
    dated = tmp_path / "dated.csv"
    dated.write_text("who,t,x\na,2024-01-01T00:00:10Z,3\na,2024-01-01T00:00:00Z,1\n")
    long = {"channels": ["x"], "every": 2.5}
    rows = load_splits(data(dated, long=long, label=None), 0)["train"]
    assert rows.row(0)["series"].tolist() == [1, 1.5, 2, 2.5, 3]


def test_steps_that_are_missing_between_even_ones_are_holes(tmp_path: Path) -> None:
    made = data(long_csv(tmp_path), long={"holes": True})
    with pytest.warns(ClxWarning, match="1 steps are missing between even times, first in ann, .* in 1 of 2 series"):
        splits = load_splits(made, 0, whole=True)
    row = splits["train"].row(0)
    assert np.array_equal(row["series"][:, 0], [0, 1, 2, np.nan, 4, 5], equal_nan=True)
    assert list(row["times"]) == ["0", "1", "2", "3", "4", "5"]
    assert splits["test"].row(0)["series"].tolist() == [[10, 100], [11, 110], [13, 130]], "too few to tell"
    for other in ({"every": 1.0}, {"stamps": True}):  # neither has holes
        rows = load_splits(data(tmp_path / "long.csv", long={"holes": True} | other), 0)["train"]
        assert not np.isnan(rows.row(0)["series"][:, 0]).any()


def test_a_window_in_a_hole_is_none(tmp_path: Path) -> None:
    days = [*range(1, 10), *range(18, 28)]
    lines = ["t,x", *(f"2024-03-{day:02d},{day}" for day in days)]
    (tmp_path / "d.csv").write_text("\n".join(lines) + "\n")
    raw = {"train": str(tmp_path / "d.csv"), "long": {"time": "t", "channels": ["x"]}}
    with pytest.warns(ClxWarning, match="8 steps are missing"):
        rows = load_splits(Data.model_validate(raw | {"windows": {"length": 3, "stride": 3}}), 0)["train"]
    assert rows.column("start") == [0, 3, 6, 15, 18, 21, 24]
    assert [(left.reason, left.count) for left in rows.left_out] == [("window without a value", 2)]
    assert np.array_equal(rows.row(3)["series"], [np.nan, np.nan, 18], equal_nan=True)


def test_times_far_apart_and_units_that_cannot_be_meant_are_refused(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("t,x\n" + "".join(f"{t},{t}\n" for t in (0, 1000, 2000, 3000, 500_000)))
    raw = {"train": str(tmp_path / "d.csv"), "long": {"time": "t", "channels": ["x"]}}
    with pytest.raises(BadInput, match="496 steps are missing between 5 .*; data.long.holes=false puts"):
        load_splits(Data.model_validate(raw), 0)
    raw["long"] = {"time": "t", "channels": ["x"], "every": 0.01}
    with pytest.raises(BadInput, match="every = 0.01 makes 5e\\+07 steps of 5: it counts in the unit of the times"):
        load_splits(Data.model_validate(raw), 0)


@pytest.mark.parametrize(
    ("line", "more", "reason"),
    [
        ("ann,2,9,9,n,train,ann", {}, "ann has this t twice"),
        ("ann,9,9,9,n,train,eve", {}, "'label' changes within who ann"),
        ("ann,9,many,9,n,train,ann", {}, "long.csv row 3, column x: 'many' is not a number"),
        ("ann,,9,9,n,train,ann", {}, "long.csv row 3, column t: empty"),
        ("ann,noon,9,9,n,train,ann", {}, "long.csv row 3, column t: 'noon' is neither a number nor a date"),
        (None, {"channels": ["z*"]}, "no column 'z\\*'"),
        (None, {"id": "whom"}, "did you mean 'who'"),
    ],
)
def test_what_is_wrong_with_a_long_table(tmp_path: Path, line: str | None, more: dict[str, Any], reason: str) -> None:
    path = long_csv(tmp_path, at={3: line} if line else {})
    with pytest.raises(BadInput, match=reason):
        load_splits(data(path, long=more), 0)


def test_every_and_stamps_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="equally far apart"):
        Long(id="a", time="t", channels=["x"], every=1, stamps=True)


def test_even_times_are_told_as_they_were_written(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("t,x\n2024-01-01T00:00:00,1\n2024-01-01T00:00:05,2\n")
    long = {"time": "t", "channels": ["x"], "every": 2}
    made = Data.model_validate({"train": str(tmp_path / "d.csv"), "long": long})
    times = load_splits(made, 0, whole=True)["train"].cell(0, "times")
    assert [time[:19] for time in times] == [f"2024-01-01T00:00:0{k}" for k in (0, 2, 4)]


@pytest.mark.parametrize("every", [1, 0.1])
def test_even_steps_of_a_part_know_nothing_of_what_is_behind_it(tmp_path: Path, every: float) -> None:
    """Values on both sides of each cut are far apart in time: no line between them reaches into the part before."""
    times = [*range(0, 9), 12, *range(14, 17), *range(23, 30)]  # cuts at 12 and 21
    found = []
    for changed in (0, 12, 23):
        lines = ["t,x", *(f"{t * every:.1f},{t + (1000 if changed and t >= changed else 0)}" for t in times)]
        (tmp_path / "rec.csv").write_text("\n".join(lines) + "\n")
        raw = {
            "train": str(tmp_path / "rec.csv"),
            "val": {"last": 0.3},
            "test": {"last": 0.3},
            "long": {"time": "t", "channels": ["x"], "every": every},
            "windows": {"length": 2, "stride": 1},
        }
        splits = load_splits(Data.model_validate(raw), 0, whole=True)
        found.append({split: np.ravel(rows.cell(0, "series")).tolist() for split, rows in splits.items()})
    before, val, test = found
    assert before["train"] == [*range(9), 8, 8, 8]
    assert before["val"] == pytest.approx([*range(12, 17), 16, 16, 16, 16])
    assert before["test"] == [*range(21, 30)]
    assert val["train"] == test["train"] == before["train"]
    assert val["val"] != before["val"]
    assert test["val"] == before["val"]
    assert test["test"] != before["test"]


def test_only_series_that_are_cut_are_sampled_in_parts(tmp_path: Path) -> None:
    """A test series of a split column is whole: a straight line goes over where the training series is cut."""
    lines = ["who,t,x,split"]
    lines += [f"{who},{t},{t},{split}" for who, split in (("a", "train"), ("b", "test")) for t in (0, 1, 2, 8, 9)]
    (tmp_path / "rec.csv").write_text("\n".join(lines) + "\n")
    long = {"id": "who", "time": "t", "channels": ["x"], "every": 1}
    raw = {"train": str(tmp_path / "rec.csv"), "long": long, "val": {"last": 0.5}}
    made = Data.model_validate({**raw, "windows": {"length": 2, "stride": 1}})
    splits = load_splits(made, 0, whole=True)
    found = {split: np.ravel(rows.cell(0, "series")).tolist() for split, rows in splits.items()}
    assert found == {"train": [0, 1, 2, 2, 2], "val": [5, 6, 7, 8, 9], "test": [*range(10)]}
