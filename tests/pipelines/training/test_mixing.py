"""Mixed views: what the encoder is given, what losses are told, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch

from clx.pipelines.experiments.train import train
from clx.pipelines.runs.checkpoint import load
from clx.pipelines.system.errors import BadInput
from clx.pipelines.system.progress import Silent
from clx.pipelines.training.mixing import mix
from configs import Make
from trained import trainer_of

IMAGE = {"encoder": "cnn", "width": 4, "size": 8, "views": 3, "mix": {"alpha": 1.0, "views": 2}}
TEXT = {"text": {"encoder": "transformer", "layers": 1, "width": 32}}
MOIT = {"name": "moit", "inputs": ["image"], "nearest": 5, "correct": 0.3, "per_class": 4}


def made(make_config: Make, image: dict[str, Any] = IMAGE, objective: Any = MOIT, **more: Any) -> Any:
    return make_config(modalities={"image": image}, objective=objective, **more)


def test_views_are_mixed_with_others_of_the_batch(make_config: Make, tmp_path: Path) -> None:
    learner = (trainer := trainer_of(made(make_config), tmp_path)).learner
    batch = next(trainer.batches())
    given, mixed = mix(learner.model, batch.inputs, batch.present, learner.mixed, 0, 9, 0, 0)
    assert list(mixed) == ["image/0", "image/1"]
    floats = learner.model.tower("image").encoder.floats
    for name, (partner, share) in mixed.items():
        x = floats(batch.inputs[name]["x"])  # type: ignore[operator]
        assert 0.5 <= share.item() <= 1
        assert sorted(partner.tolist()) == list(range(len(batch)))
        torch.testing.assert_close(given[name]["x"], share * x + (1 - share) * x[partner])
    assert given["image/2"] is batch.inputs["image/2"]
    assert not torch.equal(mixed["image/0"][0], mixed["image/1"][0])


def test_only_rows_that_have_the_image_are_mixed_and_a_step_draws_the_same_again(
    make_config: Make, tmp_path: Path
) -> None:
    config = make_config(modalities={"image": IMAGE, **TEXT}, objective=MOIT, data__missing=0.4, eval=[])
    with pytest.warns(UserWarning, match=r"modalities\.text is in no term"):
        trainer = trainer_of(config, tmp_path)
    learner, batch = trainer.learner, next(trainer.batches())
    here = batch.present["image/0"]
    assert not here.all()
    _, mixed = mix(learner.model, batch.inputs, batch.present, learner.mixed, 0, 9, 0, 0)
    partner, _ = mixed["image/0"]
    assert here[partner[here]].all()
    assert torch.equal(partner[~here], torch.arange(len(here))[~here])
    _, again = mix(learner.model, batch.inputs, batch.present, learner.mixed, 0, 9, 0, 0)
    assert torch.equal(again["image/0"][0], partner)


@pytest.mark.parametrize("objective", [MOIT, {"name": "cross-entropy"}])
def test_a_run_trains_and_opens_again(objective: dict[str, Any], make_config: Make, tmp_path: Path) -> None:
    image = IMAGE if objective is MOIT else {**IMAGE, "views": 1, "mix": {"alpha": 0.2}}
    train(made(make_config, image, objective), tmp_path / "run", Silent())
    run = load(tmp_path / "run")
    assert run.modalities["image"].mix == image["mix"]


@pytest.mark.parametrize(
    ("image", "objective", "said"),
    [
        (IMAGE, {"name": "nt-xent"}, "loss 'nt-xent' would take mixtures .* cross-entropy, moit know of them"),
        (IMAGE, {"name": "cross-entropy"}, "of mixed views it takes one, and has image/0, image/1, image/2"),
        ({**IMAGE, "views": 1}, MOIT, "mix.views is 2, and there are 1 views"),
        ({**IMAGE, "freeze": True}, MOIT, "mix with freeze: true"),
    ],
)
def test_what_cannot_be_is_refused(
    image: dict[str, Any], objective: dict[str, Any], said: str, make_config: Make, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=said):
        trainer_of(made(make_config, image, objective), tmp_path)
