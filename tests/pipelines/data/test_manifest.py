"""Manifests: columns by name, paths that stay in their folder, rows that are taken."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from clx.pipelines.data.cell_files import resolve
from clx.pipelines.data.manifest import Manifest, seconds
from clx.pipelines.data.splits import load_manifest
from clx.pipelines.system.errors import BadInput, ClxWarning


def test_missing_column_names_the_nearest(write) -> None:
    manifest = load_manifest(write("a.csv", "caption,photo\na,b\n"))
    with pytest.raises(BadInput, match=r"no column 'captoin' \(did you mean 'caption'\?\); its columns are"):
        manifest.column("captoin")


def test_paths_stay_in_the_folder(write, tmp_path) -> None:
    write("outside.png", b"x")
    source = write("data/a.csv", "image\nin/x.png\n")
    write("data/in/x.png", b"x")
    (tmp_path / "data" / "link.png").symlink_to(tmp_path / "outside.png")
    manifest = load_manifest(source)
    assert resolve("in/x.png", manifest) == tmp_path / "data" / "in" / "x.png"
    assert resolve("in/../absent.png", manifest).name == "absent.png"
    assert resolve(str(tmp_path / "data" / "in" / "x.png"), manifest).exists()
    assert resolve(b"x", manifest) == b"x"
    for path in ("../outside.png", "in/../../outside.png", str(tmp_path / "outside.png"), "link.png", "../data"):
        with pytest.raises(BadInput, match="leaves"):
            resolve(path, manifest)
        assert resolve(path, load_manifest(source, allow_outside=True))
    with pytest.raises(BadInput, match="no path"):
        resolve("a\0b", manifest)


def test_take_keeps_row_numbers_and_pickling_keeps_rows(write) -> None:
    manifest = load_manifest(write("a.csv", "a\n0\n1\n2\n3\n")).take([3, 1])
    manifest.row(0)
    copy = pickle.loads(pickle.dumps(manifest))
    assert copy.column("a") == ["3", "1"]
    assert copy.where(0).endswith("row 4")
    assert copy.take([1]).row(0) == {"a": "1"}


def test_dates_are_seconds() -> None:
    def times(*cells: Any) -> Manifest:
        return Manifest("t.csv", Path(), pa.table({"t": cells}), np.arange(len(cells)))

    got = seconds(times("2024-02-28T23:59:59Z", None, "2024-02-29 00:00:01.5Z"), "t", "data.long")
    assert got[2] - got[0] == pytest.approx(2.5)
    assert np.isnan(got[1])
    assert seconds(times("1", "NA", "2.5"), "t", "data.long").tolist()[::2] == [1, 2.5]
    with pytest.raises(BadInput, match="t.csv row 2, column t: 'soon' is neither a number nor a date"):
        seconds(times("1", "soon"), "t", "data.long")
    with pytest.raises(BadInput, match="t.csv row 1, .*: data.long.day_first=true or data.long.day_first=false decid"):
        seconds(times("01/02/2024"), "t", "data.long")
    assert seconds(times("01/02/1970"), "t", "data.long", day_first=True)[0] == 31 * 86_400
    assert seconds(times("01/02/1970"), "t", "data.long", day_first=False)[0] == 86_400
    with pytest.warns(ClxWarning, match="1707818400000 and the like look like dates.* every = 10 counts in their unit"):
        seconds(times(1707818400000, 1707818401000), "t", "data.long", unit_of="every = 10")
