"""Runs and evaluations as the report's page reads them."""

from pathlib import Path
from typing import Any

from clx.pipelines.config.schema import Config
from clx.pipelines.report.run_facts import ReportedRun

HOSTILE = ['<script>alert("x")</script>', "</script><img src=x onerror=alert(1)>", "quiet & 'plain'"]
"""Names of classes that are an attack."""


def evaluation(name: str, top1: float, step: int = 3, key: str = "k") -> dict[str, Any]:
    """A saved evaluation of three rows."""
    counts = [[1, 1, 0], [0, 1, 0], [0, 0, 0]]
    line = {"top1": top1, "top1_ci": [top1 - 0.1, top1 + 0.1], "rows": 3, "median_rank": 2.0, "top5": None}
    return {
        "schema": 2,
        "key": key,
        "step": step,
        "data": name,
        "split": "test",
        "rows": 3,
        "zeroshot": {name: line | {"confusion": {"classes": HOSTILE, "counts": counts}}},
    }


def shown(config: Config, **changes: Any) -> ReportedRun:
    """A run of nothing but its config."""
    return ReportedRun(
        **{"name": "a", "folder": Path("a"), "config": config, "metrics": [], "evaluations": []} | changes
    )
