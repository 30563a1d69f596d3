"""Heads that predict: each supervised term trains the one of its own inputs, and figures are of each."""

from pathlib import Path

import pytest
import torch

from clx.pipelines.config.heads import heads_of
from clx.pipelines.config.upgrade import upgrade
from clx.pipelines.evaluation.evaluate import evaluate_run
from clx.pipelines.experiments.train import train
from clx.pipelines.runs.checkpoint import load
from clx.pipelines.system.progress import Silent
from configs import Make
from trained import trainer_of

IMAGE = {"name": "cross-entropy", "inputs": ["image"]}
TABLE = {"name": "cross-entropy", "inputs": ["table"]}
BOTH = {"name": "cross-entropy", "inputs": ["table", "image"], "fuse": "concat"}


def test_a_term_trains_the_tower_and_the_head_of_its_inputs_alone(make_config: Make, tmp_path: Path) -> None:
    nothing = {"weight": 0.0}
    terms = [IMAGE, BOTH | nothing, {"name": "clip"} | nothing, IMAGE | nothing]
    trainer = trainer_of(make_config(objective=terms), tmp_path)
    learner, batch = trainer.learner, next(trainer.batches())
    assert list(learner.model.heads) == ["image+table", "image"]  # of the two terms on images one
    learner.contrast(batch, learner.model, learner.objective, 0).loss.backward()  # type: ignore[no-untyped-call]
    learns = {name for name, p in learner.model.named_parameters() if p.grad is not None and p.grad.any()}
    assert {".".join(name.split(".")[:2]) for name in learns} == {"towers.image", "further_heads.image"}


def test_figures_are_of_each_head(make_config: Make, tmp_path: Path) -> None:
    """The one of most inputs predicts; what an input says alone is said by its own head, where it has one."""
    train(make_config(objective=[IMAGE, BOTH, TABLE, "clip"], data__missing=0.2), tmp_path / "run", Silent())
    run = load(tmp_path / "run")
    assert [head.name for head in heads_of(run.config)] == ["image+table", "image", "table"]
    assert run.model.predict_from == {"image", "table"}
    lines = evaluate_run(tmp_path / "run", ["classification"], say=print)["classification"]
    assert set(lines) == {"image+table", "image", "table"}
    z = {name: torch.randn(4, 16) for name in ("image", "table")}
    here = {name: torch.ones(4, dtype=torch.bool) for name in z}
    alone = run.model.alone("image")
    assert alone is not None
    torch.testing.assert_close(alone(z["image"]), run.model.predict(z, here, "image"))
    assert not torch.equal(run.model.predict(z, here, "image"), run.model.predict(z, here))


@pytest.mark.parametrize("one", [["image"], None])
def test_what_earlier_versions_saved_has_the_one_head_that_they_had(one: list[str] | None) -> None:
    terms = [IMAGE | {"inputs": one}, TABLE, {"name": "clip", "inputs": ["image"]}]
    found = upgrade({"format": 4, "objective": terms}, "config.yaml")["objective"]
    every = one and ["image", "table"]
    assert [term["inputs"] for term in found] == [every, every, ["image"]]
    assert upgrade({"format": 5, "objective": terms}, "config.yaml")["objective"] == terms
