"""A run as the page sees it."""

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def seen(digits_run: Path) -> Any:
    """The test rows of the digits, looked at: a `Snapshot`."""
    from clx.pipelines.data.splits import choose
    from clx.pipelines.report.snapshot import look
    from clx.pipelines.runs.checkpoint import load

    run = load(digits_run)
    (manifest,) = choose(run.config.data, 0, None, None).values()
    return look(run, manifest, 200, pytest.fail)
