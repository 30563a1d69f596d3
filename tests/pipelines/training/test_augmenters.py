"""Training on series: losses on time steps, the memory of bad pairs, views that keep their time."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from clx.pipelines.config.schema import Config
from clx.pipelines.data.splits import load_splits
from clx.pipelines.experiments.train import train
from clx.pipelines.model.build import prepare
from clx.pipelines.runs import checkpoint
from clx.pipelines.system.errors import BadInput, Stopped
from clx.pipelines.system.progress import Progress
from clx.pipelines.training.schedule import plan
from clx.pipelines.training.trainer import Trainer


def config(data: str = "aeon:ItalyPowerDemand", eval: tuple[str, ...] = (), **series: Any) -> dict[str, Any]:
    options = {"encoder": "dilated", "width": 16, "head": "none", "views": 2, **series}
    return {
        "data": {"train": data},
        "modalities": {"series": options},
        "embed_dim": 16,
        "objective": {"name": "ts2vec"},
        "train": {"steps": 12, "batch_size": 16, "validate_every": 4, "seed": 3},
        "eval": list(eval),
    }


CROPS = {"crops": 0, "time_mask": 0.5}


class StopAt:
    """Asks for a stop as a signal would."""

    def __init__(self, step: int) -> None:
        self.at = step

    def step(self, done: int, total: int, **shown: float) -> None:
        if done == self.at:
            import os
            import signal

            os.kill(os.getpid(), signal.SIGTERM)

    def say(self, text: str) -> None: ...


def weights(folder: Path) -> dict[str, torch.Tensor]:
    run = checkpoint.load(folder, "last")
    return checkpoint.weights(run.model, run.objective)


def whole_as_in_parts(made: Config, stop: int, folder: Path, silent: Progress) -> tuple[dict[str, torch.Tensor], str]:
    """Weights and log of a run, which are those of one that was stopped at a step and resumed."""
    train(made, folder / "whole", silent)
    with pytest.raises(Stopped):
        train(made, folder / "parts", StopAt(stop))
    train(checkpoint.read_config(folder / "parts"), folder / "parts", silent, resume=True)
    whole, parts = weights(folder / "whole"), weights(folder / "parts")
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    logs = [(folder / name / "metrics.jsonl").read_text() for name in ("whole", "parts")]
    assert logs[0] == logs[1]
    return whole, logs[0]


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_memory_and_steps_resume_bit_for_bit(tmp_path: Path, silent: Progress, ema: float) -> None:
    raw = config(augmentation=CROPS)
    raw["objective"] = [{"name": "ts2vec"}, {"name": "dbpm", "noisy": 0.5, "faulty": 0.5}]
    raw["train"] |= {"ema": ema}
    made = Config.model_validate(raw)
    whole, log = whole_as_in_parts(made, 6, tmp_path, silent)
    assert max(json.loads(line).get("dbpm.faulty_pairs", 0) for line in log.splitlines()) > 0
    if not ema:  # 4 batches of 16 an epoch of 67 rows: after 3 epochs some rows were left out once
        memory = next(value for name, value in whole.items() if name.endswith("_extra_state"))
        assert memory[:, 1].sum() == 12 * 16
        assert memory[:, 1].max() == 3


@pytest.mark.parametrize("loss", ["ts2vec", "infonce"])
def test_learned_views_resume_bit_for_bit(tmp_path: Path, silent: Progress, loss: str) -> None:
    raw = config(augmentation={"crops": 0.5, "autotcl": 0.1})
    raw |= {"objective": {"name": loss}}
    raw["train"] |= {"accumulate": 2 if loss == "infonce" else 1}
    made = Config.model_validate(raw)
    whole, log = whole_as_in_parts(made, 5, tmp_path, silent)
    assert all("series/1.relevance" in json.loads(line) for line in log.splitlines() if '"step": 10,' in line)
    begun = prepare(made, load_splits(made.data, 3))
    start = checkpoint.weights(begun.model, begun.objective)
    assert not torch.equal(start["model.towers.series.view.out.weight"], whole["model.towers.series.view.out.weight"])


def test_views_learn_by_their_own_criterion_and_the_encoder_by_its_objective(tmp_path: Path) -> None:
    made = Config.model_validate(config(augmentation="autotcl"))
    splits = load_splits(made.data, 3)
    trainer = Trainer(prepare(made, splits), splits, plan(made, len(splits["train"])), tmp_path)
    batch = next(trainer.groups())[0]
    trainer.learner.contrast(batch, trainer.learner.model, trainer.learner.objective, 0).loss.backward()  # type: ignore[no-untyped-call]
    learned = {name for name, p in trainer.learner.model.named_parameters() if p.grad is not None}
    assert learned
    assert not any(".view." in name for name in learned)
    trainer.learner.model.zero_grad()
    assert trainer.learner.train_augmenters(batch, 1.0)["series/1.relevance"] > 0
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
        raw = config(augmentation="autotcl", encoder=encoder)
        raw |= {"objective": {"name": "infonce"}, "train": raw["train"] | {"clip": 1e-3}}
        made = Config.model_validate(raw)
        splits = load_splits(made.data, 3)
        trainer = Trainer(prepare(made, splits), splits, plan(made, len(splits["train"])), tmp_path)
        trainer.learner.step = 1  # views learn in every second
        if not teach:
            monkeypatch.setattr(trainer.learner, "train_augmenters", lambda *_: {})
        trainer.learner.update(next(trainer.groups()))
        return {name: value.clone() for name, value in trainer.learner.model.state_dict().items()}

    alone, both = updated(False), updated(True)
    assert all(torch.equal(both[name], value) for name, value in alone.items() if ".view." not in name)
    assert any(not torch.equal(both[name], value) for name, value in alone.items() if ".view." in name)


@pytest.mark.parametrize(
    ("weight", "low", "high", "freeze"), [(0.0, 0.95, 1.0, False), (0.0, 0.95, 1.0, True), (5.0, 0.2, 0.5, False)]
)
def test_the_weight_of_hiding_says_how_much_is_hidden(
    tmp_path: Path, weight: float, low: float, high: float, freeze: bool
) -> None:
    raw = config(augmentation={"autotcl": weight}, freeze=freeze, head="linear")
    made = Config.model_validate(raw)
    splits = load_splits(made.data, 3)
    trainer = Trainer(prepare(made, splits), splits, plan(made, len(splits["train"])), tmp_path)
    batch, view = next(trainer.groups())[0], trainer.learner.model.tower("series").view
    assert view is not None
    adam = torch.optim.Adam(trainer.learner.augmenters, lr=0.01)
    for _ in range(60):
        adam.zero_grad()
        trainer.learner.train_augmenters(batch, 1.0)
        adam.step()
    kept = view(**batch.inputs["series/1"])[1].mean().item()
    assert low < kept < high


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"augmentation": "mild"}, "do not keep their time"),
        ({"augmentation": {"crops": 0, "permutation": 3}}, "do not keep their time"),
        ({"views": 1, "augmentation": CROPS}, "two"),
        ({"encoder": "tsai:FCN", "augmentation": CROPS}, "tcn or dilated"),
        ({"augmentation": {"jiter": 1}}, "'jitter'"),
        ({"augmentation": {"crop": 2}}, "0 to 0.95"),
        ({"augmentation": "wild"}, "wild"),
        ({"views": 1, "augmentation": "autotcl"}, "views: 2"),
    ],
)
def test_what_cannot_work_is_refused_before_training(
    tmp_path: Path, silent: Progress, options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(BadInput, match=reason):
        train(Config.model_validate(config(**options)), tmp_path / "run", silent)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_motions_are_told_by_words(tmp_path: Path, clx: Any) -> None:
    """Trained on pairs, tested on held-out series."""
    done = clx("train", "motions", "--out", "run", "--json", cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)["evaluation"]["zeroshot"]["series"]
    assert result["rows"] == 40
    assert result["top1"] >= 0.9
