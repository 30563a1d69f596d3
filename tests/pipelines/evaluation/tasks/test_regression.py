"""The task `regression`: errors in the target's units, by how many training rows are like a row."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clx.pipelines.data.splits import load_manifest
from clx.pipelines.evaluation.embeddings import embed_manifest
from clx.pipelines.evaluation.evaluate import evaluate_run
from clx.pipelines.evaluation.evaluated_rows import evaluated_rows
from clx.pipelines.evaluation.results import Settings
from clx.pipelines.evaluation.tasks.regression import training_targets
from clx.pipelines.experiments.train import train
from clx.pipelines.runs.checkpoint import load
from configs import Make


def table(tmp_path: Path, name: str, rows: int, seed: int) -> Path:
    """`price` is linear in x0, but for noise; most rows are cheap."""
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(rows, 2))
    price = 100 + 40 * np.abs(x[:, 0]) ** 1.5 * np.sign(x[:, 0]) + draw.normal(size=rows)
    lines = [f"{a:.4f},{b:.4f},{y:.4f}" for (a, b), y in zip(x, price, strict=True)]
    path = tmp_path / f"{name}.csv"
    path.write_text("\n".join(["x0,x1,price", *lines]))
    return path


@pytest.mark.parametrize("objective", ["l1", "rank-n-contrast"])
def test_regression_in_the_targets_own_units(tmp_path: Path, make_config: Make, silent: Any, objective: str) -> None:
    train_rows, test_rows = table(tmp_path, "train", 600, 0), table(tmp_path, "test", 200, 1)
    config = make_config(
        data={"train": str(train_rows), "test": str(test_rows), "target": ["price"]},
        modalities={"table": {"columns": ["x*"], "encoder": "mlp"}},
        objective={"name": objective},
        train={"steps": 120, "batch_size": 100, "lr": 0.003},
        eval=["regression"],
    )
    found = train(config, tmp_path / "run", silent)["evaluation"]["regression"]["table->price"]
    run = load(tmp_path / "run")
    embedded = embed_manifest(run, evaluated_rows(run.config.data, 0, None, None, None).rows, features=True)
    aims = embedded.targets[:, 0]
    assert found["rows"] == 200
    assert 0.5 < found["r2"] <= 1
    assert found["mae"] < 0.5 * (aims - aims.mean()).abs().mean()
    if objective == "l1":
        assert found["regressor"] == "predictor"
        predictions = run.model.predict(embedded.z, embedded.present)[:, 0].detach()
        assert found["mae"] == pytest.approx((predictions - aims).abs().mean().item(), rel=1e-4)
    else:
        assert (found["regressor"], found["features"]) == ("ridge", "encoder")
        assert [each["penalty"] for each in found["path"]] == sorted(
            (e["penalty"] for e in found["path"]), reverse=True
        )
        robust = evaluate_run(tmp_path / "run", ["regression"], Settings(regressor="l1", features="head"), say=str)
        line = robust["regression"]["table->price"]
        assert (line["regressor"], line["features"]) == ("l1", "head")
        assert line["r2"] > 0.5
    groups = found["groups"]
    assert sum(line["rows"] for line in groups.values()) == 200
    total = sum(line["rows"] * line["mae"] for line in groups.values())
    assert total / 200 == pytest.approx(found["mae"], rel=1e-6)
    total = sum(line["rows"] * line["mse"] for line in groups.values())
    assert total / 200 == pytest.approx(found["rmse"] ** 2, rel=1e-6)
    assert all(-1 <= line["pearson"] <= 1 for line in groups.values())


def test_a_cell_that_is_no_number_is_no_target(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("x,y\n1,2.5\n2,much\n3,\n4,inf\n5,7\n")
    manifest = load_manifest(str(tmp_path / "t.csv"))
    found = training_targets(manifest, "y")
    assert np.isnan(found).tolist() == [False, True, True, True, False]
    assert found[[0, 4]].tolist() == [2.5, 7.0]
    assert not len(training_targets(manifest, "z"))
