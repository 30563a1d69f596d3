"""Logs of a run in progress, also when it goes on after a stop."""

from pathlib import Path

import pytest

from clx.pipelines.batches.batch import BadRow
from clx.pipelines.system.errors import BadInput
from clx.pipelines.training.logs import BadRows, Metrics
from trained import metrics


def test_lines_behind_a_step_are_forgotten_and_validations_behind_another(tmp_path: Path) -> None:
    log = Metrics(tmp_path)
    for step in (1, 2, 3):
        log.add({"step": step, "loss": float("nan") if step == 2 else 0.5})
        log.add({"step": step, "val_loss": 1.0})
    log.recall(2, 1)
    assert metrics(tmp_path) == [
        {"step": 1, "loss": 0.5},
        {"step": 1, "val_loss": 1.0},
        {"step": 2, "loss": None},
    ]


def test_a_bad_row_is_written_once_and_counts_against_the_budget_of_training(tmp_path: Path) -> None:
    def bad(row: int) -> list[BadRow]:
        return [BadRow(row, f"m.csv row {row}", "image", "no")]

    log = BadRows(tmp_path / "bad.jsonl", rows=20, budget=0.1)
    log.report(bad(1)), log.report(bad(1)), log.report(bad(2))
    log.report(bad(9), split="val")
    assert len((tmp_path / "bad.jsonl").read_text().splitlines()) == 3
    again = BadRows(tmp_path / "bad.jsonl", rows=20, budget=0.1)
    again.recall()
    again.report(bad(2))
    with pytest.raises(BadInput, match=r"3 of 20 training rows are bad, more than data.bad_row_budget = 0\.1"):
        again.report(bad(3))
