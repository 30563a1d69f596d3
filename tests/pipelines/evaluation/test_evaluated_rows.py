"""Which rows are asked about, and which are learned from."""

from pathlib import Path

import numpy as np
import pytest

from clx.pipelines.config.data_schema import Data
from clx.pipelines.evaluation.evaluated_rows import evaluated_rows
from clx.pipelines.system.errors import BadInput


def test_rows_are_not_learned_from_to_be_asked(tmp_path: Path) -> None:
    lines = [f"{k},{k % 2}" for k in range(20)]
    for name, some in (("train", lines[:10]), ("val", lines[10:15]), ("test", lines[15:])):
        (tmp_path / f"{name}.csv").write_text("\n".join(["x,label", *some]) + "\n")
    train_rows, val_rows, test_rows = (str(tmp_path / f"{name}.csv") for name in ("train", "val", "test"))
    data = Data(train=train_rows, val=val_rows, label="label")
    own = evaluated_rows(data, 0, train_rows, None, None)
    assert (own.split, own.train, own.drawn) == ("all", None, True)  # asked is a part, learned from the others
    val = evaluated_rows(data, 0, val_rows, None, None)
    assert val.train is not None
    assert (val.train.name, val.val) == (train_rows, None)
    other = evaluated_rows(data, 0, test_rows, None, None)
    assert (other.train is None, other.val is None) == (False, False)
    drawn = Data.model_validate({"train": train_rows, "val": {"fraction": 0.3}, "label": "label"})
    apart = evaluated_rows(drawn, 0, None, None, train_rows)
    assert apart.train is not None
    assert not set(apart.rows.rows.tolist()) & set(apart.train.rows.tolist())
    for source, learn in ((test_rows, test_rows), (train_rows, train_rows)):
        with pytest.raises(BadInput, match="these are the rows to evaluate"):
            evaluated_rows(data, 0, source, None, learn)
    several = Data.model_validate({"train": [train_rows, test_rows], "val": {"fraction": 0.3}, "label": "label"})
    with pytest.raises(BadInput, match="train.csv: one of the sources of the run"):
        evaluated_rows(several, 0, None, None, train_rows)
    with pytest.raises(BadInput, match="no row has the split 'test'"):
        evaluated_rows(several, 0, train_rows, "test", None)


def test_another_source_is_cut_into_windows_too(tmp_path: Path) -> None:
    np.save(tmp_path / "r.npy", np.zeros(20))
    (tmp_path / "m.csv").write_text("series\nr.npy\n")
    listed = str(tmp_path / "m.csv")
    data = Data.model_validate({"train": listed, "windows": {"length": 10, "stride": 10}})
    found = evaluated_rows(data, 0, listed, None, None)
    assert found.rows.column(data.windows.column) == ["r.npy#0:10", "r.npy#10:20"]  # type: ignore[union-attr]
