"""`from` and `until` of a term: shares of the steps between which it counts."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from clx.pipelines.config.schema import Config
from clx.pipelines.experiments.train import train
from clx.pipelines.runs.checkpoint import load
from clx.pipelines.system.progress import Silent
from configs import Make, tiny
from trained import trainer_of


def test_a_term_counts_from_and_until(make_config: Make, tmp_path: Path) -> None:
    terms = [{"name": "clip", "until": 0.5}, {"name": "siglip", "from": 0.5}]
    trainer = trainer_of(make_config(objective=terms), tmp_path)
    learner, batch = trainer.learner, next(trainer.batches())
    alone = {}
    for name in ("clip", "siglip"):
        other = trainer_of(make_config(objective=name), tmp_path / name).learner
        other.model.load_state_dict(learner.model.state_dict())
        learner.model.eval(), other.model.eval()
        alone[name] = other.contrast(batch, other.model, other.objective, 0).loss.item()
    for progress, name in ((0.0, "clip"), (0.49, "clip"), (0.5, "siglip"), (0.99, "siglip"), (1.0, "siglip")):
        found = learner.contrast(batch, learner.model, learner.objective, 0, progress=progress)
        assert found.loss.item() == pytest.approx(alone[name], rel=1e-6)


def test_a_run_is_scored_and_validated_by_what_counts_at_the_end(make_config: Make, tmp_path: Path) -> None:
    terms = [{"name": "clip", "until": 0.5}, {"name": "siglip", "from": 0.5}]
    train(make_config(objective=terms), tmp_path / "run", Silent())
    run = load(tmp_path / "run")
    assert run.objective.leading is run.objective.losses[1]
    saved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["objective"]
    assert [(term["from"], term["until"]) for term in saved] == [(0.0, 0.5), (0.5, 1.0)]


@pytest.mark.parametrize(
    ("terms", "said"),
    [
        ([{"name": "clip", "until": 0.5}], "no term counts after a share of 0.5"),
        ([{"name": "clip", "until": 0.3}, {"name": "siglip", "from": 0.4}], "after a share of 0.3"),
        ([{"name": "clip", "from": 0.1}], "after a share of 0 "),
        ([{"name": "clip", "from": 0.5, "until": 0.5}], "from must be below until"),
        ([{"name": "clip", "until": 1.5}], "less than or equal to 1"),
    ],
)
def test_times_that_cannot_be_are_refused(terms: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Config.model_validate(tiny(objective=terms))
