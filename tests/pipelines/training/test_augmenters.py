"""Views that are learned: by their own criterion, and nothing to the encoder."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from clx.pipelines.config.schema import Config
from configs import series_config
from trained import trainer_of


def test_views_learn_by_their_own_criterion_and_the_encoder_by_its_objective(tmp_path: Path) -> None:
    made = Config.model_validate(series_config(augmentation="autotcl"))
    trainer = trainer_of(made, tmp_path)
    batch = next(trainer.batches())
    trainer.learner.contrast(batch, trainer.learner.model, trainer.learner.objective, 0).loss.backward()  # type: ignore[no-untyped-call]
    learned = {name for name, p in trainer.learner.model.named_parameters() if p.grad is not None}
    assert learned
    assert not any(".view." in name for name in learned)
    trainer.learner.model.zero_grad()
    assert trainer.learner.train_augmenters(batch)["series/1.relevance"] > 0
    learned = {name for name, p in trainer.learner.model.named_parameters() if p.grad is not None}
    assert learned
    assert all(".view." in name for name in learned)
    with torch.no_grad():
        batch.inputs["series/0"] = batch.inputs["series/1"]
        z = trainer.learner.model(batch.inputs, batch.present)
        plain = trainer.learner.model({"series": batch.inputs["series/0"]}, {"series": batch.present["series/0"]})
    torch.testing.assert_close(z["series/0"], plain["series"])  # the first view is not learned, nor what is embedded
    assert not torch.allclose(z["series/1"], plain["series"])


@pytest.mark.parametrize("encoder", ["dilated", "tsai:InceptionTimePlus"])
def test_what_views_learn_is_nothing_to_the_encoder(encoder: str, tmp_path: Path, monkeypatch: Any) -> None:
    """Neither the size of their gradients, which would share its clip, nor its running statistics."""

    def updated(teach: bool) -> dict[str, Tensor]:
        torch.manual_seed(0)
        raw = series_config(augmentation="autotcl", encoder=encoder)
        raw |= {"objective": {"name": "infonce"}, "train": raw["train"] | {"clip": 1e-3}}
        made = Config.model_validate(raw)
        trainer = trainer_of(made, tmp_path)
        trainer.learner.step = 1  # views learn in every second
        if not teach:
            monkeypatch.setattr(trainer.learner, "train_augmenters", lambda *_: {})
        trainer.learner.update(next(trainer.batches()))
        return {name: value.clone() for name, value in trainer.learner.model.state_dict().items()}

    alone, both = updated(False), updated(True)
    assert all(torch.equal(both[name], value) for name, value in alone.items() if ".view." not in name)
    assert any(not torch.equal(both[name], value) for name, value in alone.items() if ".view." in name)


@pytest.mark.parametrize(
    ("weight", "low", "high", "freeze"),
    [
        (0.0, 0.95, 1.0, False),
        pytest.param(0.0, 0.95, 1.0, True, marks=pytest.mark.slow),
        (5.0, 0.2, 0.5, False),
    ],
)
def test_the_weight_of_hiding_says_how_much_is_hidden(
    tmp_path: Path, weight: float, low: float, high: float, freeze: bool
) -> None:
    raw = series_config(augmentation={"autotcl": weight}, freeze=freeze, head="linear")
    made = Config.model_validate(raw)
    trainer = trainer_of(made, tmp_path)
    batch, view = next(trainer.batches()), trainer.learner.model.tower("series").view
    assert view is not None
    adam = torch.optim.Adam(trainer.learner.augmenters, lr=0.01)
    for _ in range(60):
        adam.zero_grad()
        trainer.learner.train_augmenters(batch)
        adam.step()
    kept = view(**batch.inputs["series/1"])[1].mean().item()
    assert low < kept < high
