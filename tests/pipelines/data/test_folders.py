"""Tables beside what is not the user's."""

import os
from pathlib import Path
from typing import Any

import pytest

from clx.pipelines.data.folders import refuse_elsewhere
from clx.pipelines.data.splits import load_manifest
from clx.pipelines.system.errors import BadInput

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
