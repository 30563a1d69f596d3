"""What losses are given: by which rows and inputs, and from which random stream."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from clx.losses.base import LOSSES, Embeddings, Loss, Steps, register
from clx.losses.extras import EXTRAS
from clx.pipelines.config.schema import Config, Term
from clx.pipelines.config.schema import Second as Settings
from clx.pipelines.model.objective import Objective
from clx.pipelines.model.towers import Embedder
from clx.pipelines.system.errors import BadInput, ClxWarning
from clx.pipelines.training.extras import OF_HEADS, VALUES
from clx.pipelines.training.originals import originals_of
from clx.pipelines.training.second import Second
from configs import TIME_KEPT, Make, series_config
from trained import trainer_of


def test_every_name_that_a_loss_may_declare_has_a_value() -> None:
    assert set(VALUES) | OF_HEADS == set(EXTRAS)


def test_a_loss_that_asks_for_everything_is_given_it(tmp_path: Path) -> None:
    """Of rows with a label, a target and a weight, whose encoder has time steps."""
    given: dict[str, Any] = {}

    class Curious(Loss):
        def forward(
            self,
            z: Embeddings,
            *,
            labels: Tensor,
            label_sets: Tensor,
            levels: Tensor | None,
            features: Embeddings,
            targets: Tensor,
            predictions: Tensor,
            stands_for: None,
            present: dict[str, Tensor],
            sample_id: Tensor,
            repeats: Tensor | None,
            groups: Tensor | None,
            weights: Tensor,
            negatives: Embeddings | None,
            contents: dict[str, Tensor] | None,
            keys: Embeddings,
            steps: Steps,
            states: Embeddings,
            layers: Embeddings,
            key_layers: Embeddings,
            attention: Steps,
            masked: Steps,
            head: torch.nn.Module,
            originals: Embeddings,
            mixed: None,
            progress: float,
            generator: torch.Generator,
        ) -> Tensor:
            given.update({name: value for name, value in locals().items() if name in EXTRAS})
            return torch.zeros(())

    rows = [{"series": [k, 1.0, 2.0, 3.0], "kind": "ab"[k % 2], "y": k / 2} for k in range(16)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    raw = series_config(augmentation=TIME_KEPT)
    raw["data"] = {"train": str(tmp_path / "rows.jsonl"), "label": "kind", "target": ["y"], "balance": {}}
    trainer = trainer_of(Config.model_validate(raw | {"objective": "l1"}), tmp_path / "run")
    objective = Objective([Term(name="curious")], [Curious()])
    learner, batch = trainer.learner, next(trainer.batches())
    learner.needs, learner.model.inner = objective.needs(), {"series": ["steps", "states"]}
    learner.decoded = trainer.run.modalities
    learner.second = copy_of(learner.model)
    batch.label_sets = torch.eye(16)  # a column holds single labels or sets, never both
    learner.contrast(batch, learner.model, objective, 0, progress=0.25)
    assert given["head"](torch.zeros(3, 16)).shape == (3, 1)
    assert given["progress"] == 0.25
    assert torch.equal(given["label_sets"], torch.eye(16))
    assert set(given) == set(EXTRAS)
    assert {name: tuple(given[name].shape) for name in ("labels", "sample_id", "weights")} == {
        "labels": (16,), "sample_id": (16,), "weights": (16,)}  # fmt: skip
    assert given["targets"].tolist() == [[k / 2] for k in given["sample_id"].tolist()]
    assert given["labels"].tolist() == [k % 2 for k in given["sample_id"].tolist()]
    assert given["repeats"] is given["groups"] is given["levels"] is given["stands_for"] is None
    assert given["predictions"].shape == (16, 1)
    assert {name: tuple(rows.shape) for name, rows in given["keys"].items()} == {
        "series/0": (16, 16), "series/1": (16, 16)}  # fmt: skip
    assert set(given["present"]) == set(given["steps"]) == {"series/0", "series/1"}
    assert given["steps"]["series/0"][0].shape == given["states"]["series/0"].shape == (16, 4, 16)
    assert given["originals"]["series/0"].shape == (16, 4)
    assert given["layers"] == given["key_layers"] == given["attention"] == given["masked"] == {}  # of texts alone
    assert isinstance(given["generator"], torch.Generator)


def copy_of(model: Embedder) -> Second:
    """A second model that is the model as it was."""
    return Second(copy.deepcopy(model), ["series"], Settings(momentum=0.9), {})


def test_a_name_that_nobody_provides_is_an_error_at_registration() -> None:
    class Moonstruck(Loss):
        def forward(self, z: Embeddings, *, moon: Tensor) -> Tensor:
            return moon

    with pytest.raises(ValueError, match="loss 'moonstruck' asks for moon; there is labels"):
        register("moonstruck")(Moonstruck)
    assert "moonstruck" not in LOSSES


def test_a_heads_term_trains_its_own_inputs_alone(make_config: Make, tmp_path: Path) -> None:
    with pytest.warns(ClxWarning, match=r"modalities\.(table|text) is in no term"):
        trainer = trainer_of(make_config(objective={"name": "cross-entropy", "inputs": ["image"]}), tmp_path)
    learner, batch = trainer.learner, next(trainer.batches())
    learner.contrast(batch, learner.model, learner.objective, 0).loss.backward()  # type: ignore[no-untyped-call]
    learning = {name.split(".")[1] for name, p in learner.model.named_parameters() if p.grad is not None}
    assert learning == {"image", "weight", "bias"}  # of the tower, and of the predictor


def test_rows_without_a_heads_input_teach_it_nothing(make_config: Make, tmp_path: Path) -> None:
    with pytest.warns(ClxWarning, match=r"modalities\.(table|text) is in no term"):
        trainer = trainer_of(make_config(objective={"name": "cross-entropy", "inputs": ["image"]}), tmp_path)
    learner, batch = trainer.learner, next(trainer.batches())
    batch.present["image"][:8] = False
    batch.inputs["image"] = {name: value[8:] for name, value in batch.inputs["image"].items()}
    found = learner.contrast(batch, learner.model, learner.objective, 0)
    assert found.counts["cross-entropy.dropped_labels"] == 8


def test_what_losses_draw_follows_from_the_place_of_the_batch(make_config: Make, tmp_path: Path) -> None:
    trainer = trainer_of(make_config(objective={"name": "symile", "tuples": "shuffled"}), tmp_path)
    learner, batch = trainer.learner, next(trainer.batches())
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


def test_numbers_to_decode_are_those_of_rows_that_have_the_input(make_config: Make, tmp_path: Path) -> None:
    with pytest.warns(ClxWarning, match=r"modalities\.(table|text) is in no term"):
        trainer = trainer_of(make_config(objective={"name": "cmim", "inputs": ["image"], "hidden": 8}), tmp_path)
    learner, batch = trainer.learner, next(trainer.batches())
    batch.present["image"][:8] = False
    batch.inputs["image"] = {name: value[8:] for name, value in batch.inputs["image"].items()}
    found = originals_of(learner.decoded, batch.inputs, batch)
    assert found.keys() == {"image"}
    assert found["image"][:8].isnan().all()
    assert found["image"][8:].isfinite().all()
    learner.contrast(batch, learner.model, learner.objective, 0).loss.backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None for p in learner.objective.parameters())


def test_an_input_that_has_no_decoder_is_refused_by_name(make_config: Make, tmp_path: Path) -> None:
    static = {"modalities__text": {"encoder": "wordllama", "pretrained": False}}
    with pytest.raises(BadInput, match=r"'reconstruct': modalities\.text: tokens of wordllama are not said"):
        trainer_of(make_config(objective={"name": "reconstruct", "inputs": ["text"]}, **static), tmp_path)
    with pytest.raises(BadInput, match=r"'masked-token': modalities\.image: image has no tokens to mask: texts have"):
        trainer_of(make_config(objective={"name": "masked-token", "inputs": ["image"]}), tmp_path)
    with pytest.raises(BadInput, match=r"'replaced-token': image has no tokens that could be replaced"):
        trainer_of(make_config(objective={"name": "replaced-token", "inputs": ["image"]}), tmp_path)
