"""What is settled when a run is built: classes, widths, windows and weights that the data say."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clx.losses.base import Loss
from clx.pipelines.batches.dataset import BatchDataset
from clx.pipelines.batches.loader import once
from clx.pipelines.config.data_schema import Balance, Data
from clx.pipelines.config.schema import Config, Term
from clx.pipelines.data.imbalance import (
    targets_of,
)
from clx.pipelines.data.splits import load_splits
from clx.pipelines.model.build import build, class_names, prepare
from clx.pipelines.system.errors import BadInput
from configs import numbers_config


def test_weights_are_refused_where_a_loss_has_no_rows_to_weigh(skewed: Path) -> None:
    made = numbers_config(skewed, balance={}).model_copy(
        update={
            "objective": Config.model_validate(
                numbers_config(skewed).model_dump() | {"objective": {"name": "align-uniform"}}
            ).objective
        }
    )
    with pytest.raises(BadInput, match="balance.by=sampling"):
        prepare(made, load_splits(made.data, 0))
    with pytest.raises(ValueError, match="needs target or label"):
        Data(train="x", balance=Balance())
    with pytest.raises(ValueError, match="odd"):
        Balance(size=4)


def test_bins_of_a_target_as_classes(skewed: Path) -> None:
    made = numbers_config(skewed, label="y", bin_width=2.0)
    splits = load_splits(made.data, 0)
    run = prepare(made, splits)
    assert run.facts.classes == class_names(made, splits["train"]) == ["0", "2", "4", "6", "8"]
    rows = BatchDataset(splits["train"], run.modalities, "y", run.class_index, bin_width=2.0, target=["y"])
    batch = rows[once(400, 400)[0]]
    assert batch.labels.tolist() == [int(v // 2) for v in batch.targets[:, 0].tolist()]


def test_a_loss_is_told_what_it_looks_at_the_classes_and_the_rows(
    skewed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[Any, ...]] = []
    monkeypatch.setattr(Loss, "setup", lambda self, *given: told.append(given))
    made = numbers_config(skewed, label="y", bin_width=2.0)
    splits = load_splits(made.data, 0)
    run = prepare(made, splits)
    assert run.facts.rows == len(splits["train"])
    tried, really = told
    assert really == (["table"], made.embed_dim, ["0", "2", "4", "6", "8"], len(splits["train"]))
    assert tried[:3] == really[:3]  # on made-up rows
    told.clear()
    build(run.config, run.facts)  # as a saved run is opened
    assert told == [(["table"], made.embed_dim, ["0", "2", "4", "6", "8"], len(splits["train"]))]


def test_widths_and_windows_are_written_into_the_config(skewed: Path) -> None:
    made = Config.model_validate(
        numbers_config(skewed).model_dump() | {"objective": [{"name": "l1"}, {"name": "conr"}]}
    )
    splits = load_splits(made.data, 0)
    run = prepare(made, splits)
    values = np.array([float(v) for v in splits["train"].column("y")])
    assert run.config.data.bin_width == pytest.approx(np.ptp(values) / 50, rel=0.01)
    assert run.config.objective[1].options["window"] == pytest.approx(values.std(ddof=1) / 10, rel=0.01)


def test_conr_follows_the_deviation_of_the_targets(skewed: Path) -> None:
    """Its weight too, which counts beside an error in the target's units; what is given stays as it is."""
    made = numbers_config(skewed)
    splits = load_splits(made.data, 0)

    def resolved(**options: Any) -> list[Term]:
        terms = [Term(name="l1"), Term.model_validate({"name": "conr", **options})]
        run = prepare(made.model_copy(update={"objective": terms}), splits)
        return run.config.objective

    deviation = targets_of(splits["train"], "y").std(ddof=1)
    first, second = resolved()
    assert first.weight == 1
    assert second.weight == pytest.approx(0.02 * deviation, rel=0.01)
    assert second.options["window"] == pytest.approx(0.1 * deviation, rel=0.01)
    assert second.options["pushing"] == pytest.approx(0.2 / deviation, rel=0.01)
    [_, given] = resolved(weight=4, window=1, pushing=0)
    assert (given.weight, given.options["window"], given.options["pushing"]) == (4, 1, 0)
