"""Files of hours become windows; what cannot be cut is said with its row."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clx.modalities.series import Series
from clx.pipelines.batches.batch import Key
from clx.pipelines.batches.cells import cell_of, future_of
from clx.pipelines.batches.dataset import BatchDataset
from clx.pipelines.config.data_schema import Data
from clx.pipelines.config.schema import Config
from clx.pipelines.config.series_schema import Windows
from clx.pipelines.data.splits import load_splits
from clx.pipelines.system.errors import BadInput
from long_table import RNG, data, long_csv


def files(folder: Path) -> Path:
    np.save(folder / "a.npy", np.arange(100.0))
    np.save(folder / "b.npy", np.arange(21, dtype=np.float32)[:, None] + 1000)
    np.save(folder / "c.npy", np.arange(3) + 5000)
    rows = ["series,who", "a.npy,ann", "b.npy#5:,bob", "c.npy,cay"]
    (folder / "list.csv").write_text("\n".join(rows) + "\n")
    return folder / "list.csv"


def test_windows_of_files_are_pieces(tmp_path: Path) -> None:
    windows = {"length": 10, "stride": 4}
    made = Data.model_validate({"train": str(files(tmp_path)), "windows": windows})
    rows = load_splits(made, 0)["train"]
    expected = [("a.npy", a, a + 10) for a in range(0, 91, 4)] + [("b.npy", 5, 15), ("b.npy", 9, 19), ("c.npy", 0, 3)]
    assert rows.column("series") == [f"{name}#{a}:{b}" for name, a, b in expected]
    assert rows.column("recording") == [name for name, _, _ in expected]
    assert rows.column("start") == [a for _, a, _ in expected]
    assert rows.column("who")[-2:] == ["bob", "cay"]
    series = Series(scale="none")
    batch = BatchDataset(rows, {"series": series})[Key(0, 0, np.array([1, len(rows) - 2, len(rows) - 1]))]
    x = batch.inputs["series"]["x"][..., 0]
    assert x[0].tolist() == list(range(4, 14))
    assert x[1].tolist() == list(range(1009, 1019))
    assert batch.inputs["series"]["mask"].sum(1).tolist() == [10, 10, 3]
    series.fit(cell_of(rows.row(i), "series", series, rows) for i in range(len(rows)))
    assert series.state()["length"] == 10


def test_windows_of_lists_and_of_long_tables(tmp_path: Path) -> None:
    made = data(long_csv(tmp_path), windows={"length": 2, "stride": 1})
    splits = load_splits(made, 0)
    assert [row.tolist() for row in splits["test"].column("series")] == [[[10, 100], [11, 110]], [[11, 110], [13, 130]]]
    assert splits["train"].column("start") == [0, 1, 2, 3]
    assert splits["train"].column("who") == ["ann"] * 4


@pytest.mark.parametrize("stored", ["list", "file"])
def test_the_last_shares_of_a_recording_are_kept_out(tmp_path: Path, stored: str) -> None:
    """Parts follow each other in time, and neither a window nor what follows it reaches into another part."""
    if stored == "list":
        lines = ["t,x", *(f"{t},{t}" for t in RNG.permutation(200))]
        (tmp_path / "rec.csv").write_text("\n".join(lines) + "\n")
        more: dict[str, Any] = {"long": {"time": "t", "channels": ["x"]}}
    else:
        np.save(tmp_path / "rec.npy", np.arange(200.0))
        (tmp_path / "rec.csv").write_text("series\nrec.npy\n")
        more = {}
    windows = {"length": 10, "stride": 5, "horizon": 8}
    raw = {"train": str(tmp_path / "rec.csv"), "val": {"last": 0.2}, "test": {"last": 0.3}, "windows": windows, **more}
    splits = load_splits(Data.model_validate(raw), 0)
    assert [*splits] == ["train", "val", "test"]
    series = Series(scale="none")
    bounds = {"train": (0, 100), "val": (100, 140), "test": (140, 200)}
    for split, rows in splits.items():
        first, end = bounds[split]
        assert len(rows) == (end - first - 10) // 5 + 1
        for i in range(len(rows)):
            row = rows.row(i)
            start = first + 5 * i
            assert series.read(cell_of(row, "series", series, rows))[:, 0].tolist() == [*range(start, start + 10)]
            assert row["start"] == (5 * i if stored == "list" else start)
            follows = [*range(start + 10, min(start + 18, end))]
            if not follows:
                assert row["future"] is None
            elif stored == "list":
                assert row["future"].tolist() == follows
            else:
                assert row["future"] == f"rec.npy#{follows[0]}:{follows[-1] + 1}"
            if follows:
                told = future_of(row, fitted(series), rows, 8)[:, 0]
                assert told[: len(follows)].tolist() == follows
                assert told[len(follows) :].isnan().all()
    if stored == "list":
        assert splits["train"].column("recording") == ["rec"] * len(splits["train"])
        whole = load_splits(Data.model_validate(raw), 0, whole=True)
        assert whole["test"].cell(0, "times") == [str(t) for t in range(140, 200)]


def fitted(series: Series) -> Series:
    series.load_state({"channels": 1, "length": 10, "mean": [0.0], "deviation": [1.0]})
    return series


def test_shares_that_cannot_be_cut(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs windows"):
        Data.model_validate({"train": "x.csv", "test": {"last": 0.2}})
    windows = {"length": 5, "stride": 5}
    with pytest.raises(ValueError, match="leave none to train on"):
        Data.model_validate({"train": "x.csv", "val": {"last": 0.5}, "test": {"last": 0.5}, "windows": windows})
    made = data(long_csv(tmp_path), split="no", test={"last": 0.1}, windows={"length": 2, "stride": 1})
    with pytest.raises(BadInput, match="no column 'no'"):
        load_splits(made, 0)
    text = (tmp_path / "long.csv").read_text().replace(",split,", ",part,")
    (tmp_path / "long.csv").write_text(text)
    made = data(tmp_path / "long.csv", test={"last": 0.1}, windows={"length": 2, "stride": 1})
    with pytest.raises(BadInput, match="steps are too few for a part for test"):
        load_splits(made, 0)


@pytest.mark.parametrize("column", ["start", "recording", "future", "times"])
def test_columns_that_clx_makes_are_not_taken_from_the_user(tmp_path: Path, column: str) -> None:
    """None is replaced or read as if clx had made it: of a list, and of a table of time steps."""
    np.save(tmp_path / "a.npy", np.arange(40.0))
    (tmp_path / "list.csv").write_text(f"series,{column}\na.npy,2024-01-01\n")
    (tmp_path / "long.csv").write_text(f"t,x,{column}\n" + "".join(f"{t},{t},7\n" for t in range(40)))
    more = {"windows": {"length": 5, "stride": 5}, "test": {"last": 0.5}}
    listed = Data.model_validate({"train": str(tmp_path / "list.csv"), **more})
    long = {"time": "t", "channels": ["x"]}
    stepped = Data.model_validate({"train": str(tmp_path / "long.csv"), "long": long, **more})
    with pytest.raises(BadInput, match=f"long.csv.* makes a column '{column}' of its own: rename"):
        load_splits(stepped, 0)
    if column == "times":  # made of tables of time steps alone
        assert load_splits(listed, 0)["test"].column("times") == ["2024-01-01"] * 4
        return
    with pytest.raises(BadInput, match=f"list.csv: data.windows makes a column '{column}' of its own: rename"):
        load_splits(listed, 0)
    for name in ({"id": column}, {"time": column}):
        free = {**long, **name}
        (tmp_path / "long.csv").write_text(f"t,x,{column}\n" + "".join(f"{t},{t},{t * 2}\n" for t in range(40)))
        made = Data.model_validate({"train": str(tmp_path / "long.csv"), "long": free, "windows": more["windows"]})
        if "time" in name or column == "recording":
            assert load_splits(made, 0)["train"].column("start")[0] == 0
        else:
            with pytest.raises(BadInput, match="rename"):
                load_splits(made, 0)


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ("gone.npy", "row 1, column series: gone.npy: no such file"),
        ("a.npy#200:300", "holds no step; the file has 100"),
        ("../a.npy#0:5", "leaves"),
        ("list.csv", "windows are cut from .npy files"),
    ],
)
def test_windows_that_cannot_be_cut(tmp_path: Path, cell: str, reason: str) -> None:
    files(tmp_path)
    (tmp_path / "bad.csv").write_text(f"series,who\n{cell},x\n")
    made = Data(train=str(tmp_path / "bad.csv"), windows=Windows(length=10, stride=5))
    with pytest.raises(BadInput, match=reason):
        load_splits(made, 0)


def test_training_on_windows_with_neighbours_through_the_command(tmp_path: Path, clx: Any) -> None:
    """A recording of two states: windows near each other in time are positives, and the states come apart."""
    state = np.repeat(RNG.integers(2, size=40), 100)
    wave = np.sin(np.arange(4000) * np.where(state, 0.9, 0.3)) + RNG.normal(0, 0.2, 4000)
    np.save(tmp_path / "rec.npy", wave.astype(np.float32))
    (tmp_path / "list.csv").write_text("series,split\nrec.npy#:3000,train\nrec.npy#3000:,test\n")
    config = {
        "data": {
            "train": "list.csv",
            "windows": {"length": 50, "stride": 25},
            "neighbours": {"group": "recording", "time": "start", "within": 50},
        },
        "modalities": {"series": {"encoder": "tcn", "width": 16, "views": 2}},
        "embed_dim": 8,
        "objective": {"name": "nt-xent"},
        "train": {"steps": 20, "batch_size": 32},
        "eval": [],
    }
    (tmp_path / "c.yaml").write_text(json.dumps(config))
    assert Config.model_validate(config)
    done = clx("train", "c.yaml", "--out", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "119 rows" in done.stderr
    checked = clx("data", "check", "--config", "c.yaml", "--json", cwd=tmp_path)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert json.loads(checked.stdout)["splits"]["test"]["rows"] == 39
