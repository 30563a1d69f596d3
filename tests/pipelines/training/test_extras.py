"""What losses are given: by which rows and inputs, and from which random stream."""

from pathlib import Path

import pytest
import torch

from clx.losses.base import EXTRAS
from clx.pipelines.config.schema import Config
from clx.pipelines.system.errors import ClxWarning
from clx.pipelines.training.extras import VALUES
from configs import Make
from trained import trainer_of


def test_every_name_that_a_loss_may_declare_has_a_value() -> None:
    assert set(VALUES) == set(EXTRAS)


def test_a_heads_term_trains_its_own_inputs_alone(make_config: Make, tmp_path: Path) -> None:
    trainer = trainer_of(make_config(objective={"name": "cross-entropy", "inputs": ["image"]}), tmp_path)
    learner, batch = trainer.learner, next(trainer.groups())[0]
    learner.contrast(batch, learner.model, learner.objective, 0).loss.backward()  # type: ignore[no-untyped-call]
    learning = {name.split(".")[1] for name, p in learner.model.named_parameters() if p.grad is not None}
    assert learning == {"image", "weight", "bias"}  # of the tower, and of the predictor


def test_rows_without_a_heads_input_teach_it_nothing(make_config: Make, tmp_path: Path) -> None:
    trainer = trainer_of(make_config(objective={"name": "cross-entropy", "inputs": ["image"]}), tmp_path)
    learner, batch = trainer.learner, next(trainer.groups())[0]
    batch.present["image"][:8] = False
    batch.inputs["image"] = {name: value[8:] for name, value in batch.inputs["image"].items()}
    found = learner.contrast(batch, learner.model, learner.objective, 0)
    assert found.counts["cross-entropy.dropped_labels"] == 8


def test_what_losses_draw_follows_from_the_place_of_the_batch(make_config: Make, tmp_path: Path) -> None:
    trainer = trainer_of(make_config(objective={"name": "symile", "tuples": "shuffled"}), tmp_path)
    learner, batch = trainer.learner, next(trainer.groups())[0]
    learner.model.eval()

    def loss(*place: int) -> float:
        torch.rand(7)  # whatever else is drawn
        return learner.contrast(batch, learner.model, learner.objective, *place).loss.item()

    assert loss(3, 0) == loss(3, 0)
    assert len({loss(3, 0), loss(4, 0), loss(3, 1)}) == 3


def test_a_term_that_reaches_nothing_that_learns_is_warned_of(make_config: Make, tmp_path: Path) -> None:
    frozen = make_config(modalities__image={"encoder": "cnn", "width": 4, "size": 8, "freeze": True, "head": "norm"})
    frozen = frozen.model_copy(update={"embed_dim": 16, "objective": frozen.objective})
    raw = frozen.model_dump(mode="json")
    raw["objective"] = [{"name": "clip"}, {"name": "supcon", "inputs": ["image"]}]
    with pytest.warns(ClxWarning, match="loss 'supcon' changes nothing"):
        trainer_of(Config.model_validate(raw), tmp_path)
