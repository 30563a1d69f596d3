"""A step: what it moves, and what it leaves alone."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from clx.pipelines.experiments import train as pipeline
from clx.pipelines.experiments.train import train
from clx.pipelines.runs import checkpoint
from clx.pipelines.system.errors import BadInput, Refused
from clx.pipelines.training.parameter_groups import parameter_groups
from clx.pipelines.training.step import Contrast, Learner
from configs import Make
from trained import trainer_of, weights


def test_objective_parameters_are_trained(digits_run: Path) -> None:
    lines = [json.loads(line) for line in (digits_run / "metrics.jsonl").read_text().splitlines()]
    temperatures = [line["clip.temperature"] for line in lines if "clip.temperature" in line]
    assert len(set(temperatures)) == len(temperatures) > 1


def test_non_finite_steps_are_skipped_then_refused(
    tmp_path: Path, make_config: Make, silent: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken: set[int] = set()
    plain = Learner.contrast

    def contrast(self: Learner, batch: Any, *given: Any, **more: Any) -> Contrast:
        if self.step in broken:  # one pixel: also what batch norms remember would be spoiled
            batch.inputs["image"]["x"] = torch.full_like(batch.inputs["image"]["x"], float("inf"), dtype=torch.float32)
        return plain(self, batch, *given, **more)

    monkeypatch.setattr(Learner, "contrast", contrast)
    broken.update({1, 2})
    train(make_config(eval=[], train__bad_steps=2), tmp_path / "few", silent)
    skipped = [line for line in (tmp_path / "few" / "metrics.jsonl").read_text().splitlines() if "skipped" in line]
    assert len(skipped) == 2
    assert len(json.loads(skipped[0])["rows"]) == 32
    assert all(torch.isfinite(t).all() for t in weights(tmp_path / "few").values())
    broken.update(range(4, 6))
    with pytest.raises(Refused, match="the last checkpoint, of step 3, is kept in"):
        train(make_config(eval=[], train__bad_steps=2), tmp_path / "many", silent)
    assert checkpoint.last(tmp_path / "many").step == 3
    broken.update(range(4))
    with pytest.raises(Refused, match=r"\(train.bad_steps is 2\); no checkpoint was saved before, the first of these"):
        train(make_config(eval=[], train__bad_steps=2), tmp_path / "none", silent)


def test_frozen_towers_do_not_move(tmp_path: Path, make_config: Make, silent: Any) -> None:
    image = {"encoder": "cnn", "width": 4, "size": 8, "freeze": True}
    config = make_config(eval=[], modalities__image=image)
    run = pipeline.prepare(config, pipeline.load_splits(config.data, 0))
    before = {n: p.clone() for n, p in run.model.towers["image"].encoder.state_dict().items()}
    train(config, tmp_path / "run", silent)
    after = checkpoint.load(tmp_path / "run", "last").model.towers["image"].encoder.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)  # batch norm statistics too


def test_what_learns_nothing_is_refused(make_config: Make) -> None:
    config = make_config(eval=[])
    run = pipeline.prepare(config, pipeline.load_splits(config.data, 0))
    with pytest.raises(BadInput, match="nothing to learn: .*head: linear"):
        parameter_groups(run.model.requires_grad_(False), run.objective.requires_grad_(False), 0.1)


def test_partly_frozen_towers_move_at_the_end(tmp_path: Path, make_config: Make, silent: Any) -> None:
    image = {"encoder": "cnn", "width": 4, "size": 8, "freeze": True, "unlocked": 1}
    config = make_config(eval=[], modalities__image=image)
    run = pipeline.prepare(config, pipeline.load_splits(config.data, 0))
    train(config, tmp_path / "run", silent)
    trained = checkpoint.load(tmp_path / "run", "last")
    before, after = (r.model.towers["image"].encoder.blocks() for r in (run, trained))
    for k, (old, new) in enumerate(zip(before, after, strict=True)):
        pairs = list(zip(old.state_dict().values(), new.state_dict().values(), strict=True))
        assert all(torch.equal(a, b) for a, b in pairs) == (k < len(before) - 1)


def test_half_precision_that_never_settles_is_refused(
    tmp_path: Path, make_config: Make, silent: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clx.pipelines.training.step.MOST_OVERFLOWS", 2)
    plain = Learner.contrast

    def contrast(self: Learner, *given: Any, **more: Any) -> Contrast:
        found = plain(self, *given, **more)
        if found.loss.requires_grad:
            found.loss.register_hook(lambda gradient: gradient * float("inf"))
        return found

    monkeypatch.setattr(Learner, "contrast", contrast)
    with pytest.raises(Refused):
        train(make_config(eval=[], train__precision="fp16", train__bad_steps=1), tmp_path / "run", silent)


def test_a_spoiled_step_changes_nothing(tmp_path: Path, make_config: Make) -> None:
    """Neither weights nor their average, nor what batch norms, the optimiser and losses remember."""
    sct = {"name": "sct", "queue": 8, "layers": 1, "hidden": 1}
    trainer = trainer_of(make_config(train__ema=0.9, objective=["clip", "dbpm", sct]), tmp_path)
    learner, coming = trainer.learner, trainer.batches()
    learner.model.train()

    def state() -> dict[str, torch.Tensor]:
        assert learner.ema is not None
        found = {**learner.both.state_dict(prefix="now."), **learner.ema.state_dict(prefix="mean.")}
        for number, moments in learner.optimizer.state_dict()["state"].items():
            found |= {f"{number}.{name}": value for name, value in moments.items()}
        return {name: value.clone() for name, value in found.items()}

    begun = state()["now.objective.losses.2.queues"]
    assert learner.update(next(coming)).outcome == "taken"
    before, batch = state(), next(coming)
    queues = [before[f"{each}objective.losses.2.queues"] for each in ("now.", "mean.module.")]
    assert torch.equal(*queues)  # a queue is the same for the average
    assert not torch.equal(queues[0], begun)
    assert before["now.objective.losses.1._extra_state"][:, 1].sum() == len(batch)
    scale = learner.scaler.scale
    learner.scaler.scale = lambda loss: scale(loss) * float("inf")  # type: ignore[assignment, method-assign]
    assert learner.update(batch).outcome == "spoiled"  # after losses that were all finite
    learner.scaler.scale = scale  # type: ignore[method-assign]
    batch.inputs["image"]["x"] = torch.full_like(batch.inputs["image"]["x"], float("inf"), dtype=torch.float32)
    assert learner.update(batch).outcome == "spoiled"
    after = state()
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert [name for name in changed if not name.endswith("num_batches_tracked")] == []  # a count that nothing reads
    assert learner.step == 3
    assert learner.update(next(coming)).outcome == "taken"
    assert not torch.equal(state()["now.model.towers.image.head.weight"], before["now.model.towers.image.head.weight"])


def test_layers_near_the_input_learn_slower(tmp_path: Path, make_config: Make) -> None:
    """Rates by value: 1 for heads and the objective, then a power a block, the embeddings last."""
    towers = {
        "text": {"encoder": "transformer", "layers": 2, "width": 32},
        "table": {"columns": ["seg_*"], "encoder": "mlp", "layers": 1},
    }
    learner = trainer_of(make_config(modalities=towers, train__layer_decay=0.5), tmp_path / "run").learner
    names = {id(p): name for name, p in learner.both.named_parameters()}
    groups = learner.optimizer.param_groups
    rates = {names[id(p)]: group.get("faster", 1.0) for group in groups for p in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(rates) == len(names)
    for name, depth in (("text", 4), ("table", 2)):
        blocks = learner.model.tower(name).encoder.blocks()
        assert len(blocks) == depth
        for place, block in enumerate(blocks):
            assert {rates[names[id(p)]] for p in block.parameters()} == {0.5 ** (depth - place)}
    assert rates["model.towers.text.encoder.tokens.weight"] == 0.5**4
    assert {rate for name, rate in rates.items() if ".head." in name or name.startswith("objective")} == {1.0}
    assert all(p.ndim < 2 for group in groups if not group["weight_decay"] for p in group["params"])
    assert all(p.ndim >= 2 for group in groups if group["weight_decay"] for p in group["params"])
