"""Every shape of data in the table own_data.py, through the command."""

import json
import shlex
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from command import inside
from own_data import CASES, Case


def write(files: Any, root: Path) -> None:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, pa.Table):
            parquet.write_table(content, path)
        elif isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content, encoding="utf-8")


def at(report: Any, path: str) -> Any:
    """The value at a dotted path; numbers index lists."""
    for key in path.split("."):
        report = report[int(key)] if isinstance(report, list) else report[key]
    return report


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_case(tmp_path: Path, case: Case) -> None:
    write(case.files, tmp_path)
    done = inside(*shlex.split(case.command), "--json", cwd=tmp_path)
    expected = case.code if case.code is not None else 0 if case.error is None else 2
    assert done.code == expected, done.err
    for words in case.hears:
        assert words in done.err
    if case.error is not None:
        assert case.error in done.err
        assert done.err.count("error: ") == 1, done.err
        assert "Traceback" not in done.err
    report = json.loads(done.out) if case.says else None
    for path, value in case.says.items():
        found = at(report, path)
        assert value(found) if callable(value) else found == value, f"{path} is {found!r}"


def test_names_are_unique() -> None:
    names = [case.name for case in CASES]
    assert len(names) == len(set(names))
