"""Tables beside what is not the user's."""

import os
from pathlib import Path
from typing import Any

import pytest

from clx.pipelines.data.folders import refuse_elsewhere
from clx.pipelines.data.splits import load_manifest
from clx.pipelines.system.errors import BadInput, ClxWarning
from samples import png

scandir, stat = os.scandir, os.stat


@pytest.fixture
def locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one in it that may not be looked into, as those of others in /tmp."""
    (tmp_path / "theirs").mkdir()

    def refusing(call: Any) -> Any:
        def refused(path: Any, *args: Any, **more: Any) -> Any:
            if str(path).startswith(str(tmp_path / "theirs")) and (call is scandir or "theirs/" in str(path)):
                raise PermissionError(13, "Permission denied", str(path))
            return call(path, *args, **more)

        return refused

    monkeypatch.setattr(os, "scandir", refusing(scandir))
    monkeypatch.setattr(os, "stat", refusing(stat))
    return tmp_path


def test_a_table_beside_a_locked_folder_is_read(locked: Path) -> None:
    (locked / "a.csv").write_text("PassengerId,Name\n" + "".join(f"{i},Body {i}\n" for i in range(30)))
    assert len(load_manifest(str(locked / "a.csv"))) == 30
    with pytest.raises(BadInput, match="theirs: Permission denied"):
        load_manifest(str(locked))


def test_files_are_not_looked_for_in_locked_folders(locked: Path) -> None:
    (locked / "mine").mkdir()
    (locked / "mine" / "a.csv").write_text("image\n" + "".join(f"{i}.png\n" for i in range(30)))
    refuse_elsewhere(load_manifest(str(locked / "mine" / "a.csv")))


def pictures(folder: Path, count: int = 4) -> Path:
    (folder / "img").mkdir()
    for i in range(count):
        (folder / "img" / f"p{i}.png").write_bytes(png(i))
    return folder


def test_a_table_without_a_line_of_names_beside_its_files_is_refused(tmp_path: Path) -> None:
    (pictures(tmp_path) / "metadata.csv").write_text("".join(f"p{i}|a bird {i}\n" for i in range(4)))
    with pytest.raises(BadInput, match="metadata.csv: the first row should name the columns, and 'p0' is one of the"):
        load_manifest(str(tmp_path))


def test_tables_left_out_of_a_folder_are_told_of_with_the_reason(tmp_path: Path) -> None:
    list_of = pictures(tmp_path) / "list.csv"
    list_of.write_text("path,caption\n" + "".join(f"C:\\me\\img\\p{i}.png,bird {i}\n" for i in range(4)))
    with pytest.warns(ClxWarning, match=r"list.csv row 1, column path: 'C:.*p0.png' is no file of this folder, so"):
        assert load_manifest(str(tmp_path)).columns == ["image"]
    list_of.write_bytes("path,Überschrift\nimg/p0.png,a\n".encode("cp1252"))
    with pytest.warns(ClxWarning, match="list.csv line 1: not UTF-8 text .*; this table is left out"):
        load_manifest(str(tmp_path))
    list_of.write_text("place,year\nhere,2024\n")
    assert load_manifest(str(tmp_path)).left_out[0].example == "list.csv"
