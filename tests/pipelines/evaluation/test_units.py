"""What is drawn for an interval."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from clx.pipelines.config.data_schema import Data
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.evaluation.embeddings import embed_manifest
from clx.pipelines.evaluation.evaluated_rows import evaluated_rows
from clx.pipelines.evaluation.results import Settings
from clx.pipelines.evaluation.task_context import RUNS, Learning, TaskContext
from clx.pipelines.evaluation.units import part_of, units_of
from clx.use import load

ROWS, TEN = torch.arange(30), [i // 3 for i in range(30)]


def told(groups: list[Any] | None = None, absent: tuple[int, ...] = (), **numbers: list[int]) -> Any:
    """As much of an evaluation of 30 rows as is asked, with a patient for each row where `groups` are given."""
    given = {n: torch.tensor(v) for n, v in numbers.items()}
    there = torch.ones(30, dtype=torch.bool)
    there[list(absent)] = False
    val = {"fraction": 0.1, "by": "patient"} if groups else None
    config = SimpleNamespace(data=Data.model_validate({"train": "a.csv", "val": val}), modalities={}, only_negatives=())
    run = SimpleNamespace(modalities={n: SimpleNamespace(kind=n) for n in numbers}, config=config)
    manifest = Manifest("m", Path(), pa.table({"patient": groups or [None] * 30}), np.arange(30))
    embedded = SimpleNamespace(z=given, present=dict.fromkeys(given, there), manifest=manifest, rows=ROWS)
    return SimpleNamespace(run=run, embedded=embedded, contents=given.__getitem__)


def test_intervals_draw_pictures_and_not_their_captions() -> None:
    """Ten images of three captions have the interval of ten images, and captions of many images that of rows."""
    several, rows = told(image=TEN, text=list(range(30))), ROWS
    for names in (["image", "text"], ["text", "image"], ["text"]):
        assert units_of(several, rows, names).tolist() == TEN  # type: ignore[union-attr]
    classes = told(image=list(range(30)), text=TEN)
    assert units_of(classes, rows, ["image", "text"]) is None
    assert units_of(told(image=[0] * 30), rows, ["image"]) is None, "of one thing there is no interval"


def test_rows_of_a_patient_are_drawn_together_and_rows_without_stay_alone() -> None:
    patients: list[Any] = [f"p{i // 6}" for i in range(30)]
    found = units_of(told(patients, image=TEN), ROWS, ["image"])
    assert found is not None
    assert len(found.unique()) == 5
    assert part_of(found, torch.arange(24)) is None, "of four the interval would be too narrow"
    assert part_of(found, torch.arange(25)).tolist() == found[:25].tolist()  # type: ignore[union-attr]
    few = units_of(told([f"p{i // 10}" for i in range(30)], image=TEN), ROWS, ["image"])
    assert few is not None
    assert len(few.unique()) == 10, "of three patients neither"
    missing = units_of(told(None, (0, 1), image=TEN), ROWS, ["image"])
    assert missing is not None
    assert len(missing.unique()) == 12


@pytest.mark.parametrize(("task", "input"), [("zeroshot", "image"), ("knn", "image"), ("probe", "image")])
def test_rows_that_share_their_image_make_no_interval_narrower(copy: Path, task: Any, input: str) -> None:
    run = load(copy)
    once = embed_manifest(run, evaluated_rows(run.config.data, 0, None, None, None).rows, features=True)
    known = Learning(once.take(torch.arange(60)), None)

    def interval(repeats: int) -> Any:
        asked = once.take(torch.arange(60, len(once)).repeat(repeats))
        line = RUNS[task](TaskContext(run, asked, lambda: known, Settings(resamples=50)))[input]
        return line["top1_ci"] + line["mean_per_class_ci"]

    assert interval(3) == pytest.approx(interval(1))
