"""Runs of a page by name."""

from pathlib import Path

import pytest

from clx.pipelines.report import run_facts
from clx.pipelines.system.errors import BadInput


def test_short_names() -> None:
    assert run_facts.short_names([Path("/x/a"), Path("/y/b")]) == ["a", "b"]
    assert run_facts.short_names([Path("/x/a"), Path("/y/a"), Path("/y/b")]) == ["x/a", "y/a", "y/b"]
    with pytest.raises(BadInput, match="twice"):
        run_facts.short_names([Path("/x/a"), Path("/x/a")])
