"""The loop: it learns, resumes as if never stopped, skips what is not finite, and refuses to train nothing."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from clx.pipelines.experiments import train as pipeline
from clx.pipelines.experiments.train import train
from clx.pipelines.runs import checkpoint
from clx.pipelines.runs.folder import CHANGEABLE
from clx.pipelines.system.errors import BadInput, Refused, Stopped
from clx.pipelines.training.schedule import plan, rate_at
from clx.pipelines.training.step import Contrast, Learner

Make = Callable[..., Any]


def final_weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(checkpoint.last(out).path / "model.safetensors")


class StopAt:
    """Progress that sends this process a signal after a step."""

    def __init__(self, step: int, number: int = signal.SIGTERM) -> None:
        self.at, self.number = step, number

    def step(self, done: int, total: int, **shown: float) -> None:
        if done == self.at:
            os.kill(os.getpid(), self.number)

    def say(self, text: str) -> None:
        pass


def test_learns_and_reports(digits_run: Path) -> None:
    result = json.loads((digits_run / "results.json").read_text())
    assert result["zeroshot"]["table"]["top1"] > 0.5  # chance is 0.1
    lines = [json.loads(line) for line in (digits_run / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < losses[0] - 0.5
    assert lines[-1]["step"] == 60
    assert (digits_run / "config.yaml").exists()


def test_objective_parameters_are_trained(digits_run: Path) -> None:
    lines = [json.loads(line) for line in (digits_run / "metrics.jsonl").read_text().splitlines()]
    temperatures = [line["clip.temperature"] for line in lines if "clip.temperature" in line]
    assert len(set(temperatures)) == len(temperatures) > 1


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"train__workers": 2, "train__accumulate": 2},
        {"train__ema": 0.9, "data__missing": 0.3, "modalities__image": {"encoder": "cnn", "width": 4, "views": 2}},
    ],
    ids=["plain", "workers and accumulation", "ema, missing cells and views"],
)
def test_stopped_and_resumed_equals_unbroken(
    tmp_path: Path, make_config: Make, silent: Any, changes: dict[str, Any]
) -> None:
    config = make_config(eval=[], **changes)
    train(config, tmp_path / "whole", silent)
    with pytest.raises(Stopped, match="--resume") as stopped:
        train(config, tmp_path / "parts", StopAt(4))
    assert stopped.value.exit_code == 143
    assert checkpoint.last(tmp_path / "parts").step == 4
    train(checkpoint.read_config(tmp_path / "parts"), tmp_path / "parts", silent, resume=True)
    whole, parts = final_weights(tmp_path / "whole"), final_weights(tmp_path / "parts")
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    logs = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "parts")]
    assert logs[0] == logs[1]


def test_interrupt_says_130(tmp_path: Path, make_config: Make) -> None:
    with pytest.raises(Stopped) as stopped:
        train(make_config(eval=[]), tmp_path / "run", StopAt(2, signal.SIGINT))
    assert stopped.value.exit_code == 130


def test_usr1_saves_and_goes_on(tmp_path: Path, make_config: Make) -> None:
    config = make_config(eval=[], data={"train": "sklearn:iris", "label": "label"}, train__keep=9)
    config = config.model_copy(update={"modalities": {"table": {"columns": ["*"], "views": 2}}})
    train(config, tmp_path / "run", StopAt(2, signal.SIGUSR1))
    assert [c.step for c in checkpoint.checkpoints(tmp_path / "run")] == [2, 6]


def test_unbroken_runs_are_equal(tmp_path: Path, make_config: Make, silent: Any) -> None:
    config = make_config(eval=[], train__steps=3)
    for name in ("a", "b"):
        train(config, tmp_path / name, silent)
    a, b = final_weights(tmp_path / "a"), final_weights(tmp_path / "b")
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_load_gives_the_saved_model(digits_run: Path) -> None:
    run = checkpoint.load(digits_run, "last")
    saved = final_weights(digits_run)
    state = checkpoint.weights(run.model, run.objective)
    assert all(torch.equal(saved[name], state[name]) for name in saved)


def test_non_finite_steps_are_skipped_then_refused(
    tmp_path: Path, make_config: Make, silent: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken: set[int] = set()
    plain = Learner.contrast

    def contrast(self: Learner, batch: Any, *given: Any) -> Contrast:
        if self.step in broken:  # one pixel: also what batch norms remember would be spoiled
            batch.inputs["image"]["x"][0, 0, 0, 0] = float("inf")
        return plain(self, batch, *given)

    monkeypatch.setattr(Learner, "contrast", contrast)
    broken.update({1, 2})
    train(make_config(eval=[], train__bad_steps=2), tmp_path / "few", silent)
    skipped = [line for line in (tmp_path / "few" / "metrics.jsonl").read_text().splitlines() if "skipped" in line]
    assert len(skipped) == 2
    assert len(json.loads(skipped[0])["rows"]) == 32
    assert all(torch.isfinite(t).all() for t in final_weights(tmp_path / "few").values())
    broken.update(range(4, 6))
    with pytest.raises(Refused, match="non-finite"):
        train(make_config(eval=[], train__bad_steps=2), tmp_path / "many", silent)
    assert checkpoint.last(tmp_path / "many").step == 3


def test_nothing_to_train_is_refused_before_anything_is_written(tmp_path: Path, make_config: Make, silent: Any) -> None:
    with pytest.raises(BadInput, match="only 5188 training rows"):
        train(make_config(train__batch_size=6000), tmp_path / "run", silent)
    assert not (tmp_path / "run").exists()
    with pytest.raises(BadInput, match="accumulate"):
        plan(make_config(train={"epochs": 1, "batch_size": 10, "accumulate": 3}), 20)


def test_existing_folders(tmp_path: Path, make_config: Make, silent: Any) -> None:
    out = tmp_path / "run"
    config = make_config(eval=[], train__steps=1)
    train(config, out, silent)
    with pytest.raises(BadInput, match="--overwrite"):
        train(config, out, silent)
    train(config, out, silent, overwrite=True)
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_text("x")
    with pytest.raises(BadInput, match="not a run folder"):
        train(config, tmp_path / "precious", silent, overwrite=True)
    assert (tmp_path / "precious" / "thesis.txt").exists()


def test_rate_rises_then_falls(make_config: Make) -> None:
    settings = make_config(train={"lr": 1.0, "warmup": 0.1, "steps": 100}).train
    rates = [rate_at(step, 100, settings) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[10] == 1.0
    assert all(a > b for a, b in zip(rates[10:], rates[11:], strict=False))
    assert rates[-1] < 0.001


def test_frozen_towers_do_not_move(tmp_path: Path, make_config: Make, silent: Any) -> None:
    image = {"encoder": "cnn", "width": 4, "size": 8, "freeze": True}
    config = make_config(eval=[], modalities__image=image)
    run = pipeline.prepare(config, pipeline.load_splits(config.data, 0))
    before = {n: p.clone() for n, p in run.model.towers["image"].encoder.state_dict().items()}
    train(config, tmp_path / "run", silent)
    after = checkpoint.load(tmp_path / "run", "last").model.towers["image"].encoder.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)  # batch norm statistics too


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


def test_predictions_train_in_the_units_of_the_target(tmp_path: Path, make_config: Make, silent: Any) -> None:
    config = make_config(
        data={"train": "sklearn:diabetes", "target": ["target"]},
        objective=[{"name": "l1"}],
        eval=[],
        train={"steps": 60, "batch_size": 64, "lr": 0.01},
    )
    config = config.model_copy(update={"modalities": {"table": {"columns": ["*"], "encoder": "mlp"}}})
    train(config, tmp_path / "run", silent)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[0] > 50  # the target's spread is about 77
    assert losses[-1] < losses[0] * 0.9


def test_validation_mixes_a_manifest_sorted_by_class(tmp_path: Path, make_config: Make, silent: Any) -> None:
    """Batches of one class alone would all have the same loss, or none."""
    lines = ["text,label,split"]
    for split, count in (("train", 64), ("val", 32)):
        lines += [f"{word},{word},{split}" for word in ("red", "green", "blue", "black") for _ in range(count // 4)]
    (tmp_path / "sorted.csv").write_text("\n".join(lines))
    text = {"kind": "text", "column": "text", "layers": 1, "width": 32}
    config = make_config(
        data={"train": str(tmp_path / "sorted.csv"), "label": "label"},
        modalities={"a": text, "b": text},
        objective={"name": "clip", "exclude": "labels", "temperature": 0.1},
        train={"steps": 12, "batch_size": 8, "validate_every": 4, "lr": 0.01},
        eval=[],
    )
    train(config, tmp_path / "run", silent)
    found = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    scores = [line["val_loss"] for line in found if "val_loss" in line]
    assert scores[0] > 0.05
    assert scores[-1] < scores[0]


def test_best_passes_over_what_is_not_finite() -> None:
    made = [checkpoint.Checkpoint(Path("x"), k, score) for k, score in enumerate([float("nan"), 0.5, 0.3, 0.3, None])]
    assert checkpoint.best(made).step == 3
    assert checkpoint.best(made[:1]).step == 0


def test_a_bad_test_row_is_told_after_training(tmp_path: Path, make_config: Make, silent: Any) -> None:
    rows = ["size,label,split"] + [f"{k % 7},{'ab'[k % 2]},{'train' if k < 16 else 'test'}" for k in range(20)]
    rows.append("big,a,test")
    (tmp_path / "t.csv").write_text("\n".join(rows))
    config = make_config(
        data={"train": str(tmp_path / "t.csv"), "label": "label"},
        modalities={"table": {"columns": ["size"]}, "text": {"column": "label", "layers": 1, "width": 32}},
        train={"steps": 2, "batch_size": 8},
        eval=["zeroshot"],
    )
    with pytest.raises(BadInput, match="trained and saved in .* row 21"):
        train(config, tmp_path / "fail", silent)
    assert checkpoint.last(tmp_path / "fail").step == 2
    skipping = config.model_copy(update={"data": config.data.model_copy(update={"on_bad_row": "skip"})})
    summary = train(skipping, tmp_path / "skip", silent)
    assert summary["evaluation"]["rows"] == 4
    assert "row 21" in (tmp_path / "skip" / "bad_rows.jsonl").read_text()


def test_a_run_finds_its_data_from_another_folder(
    tmp_path: Path, make_config: Make, silent: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clx.pipelines.evaluation.evaluate import evaluate_run

    rows = ["size,label"] + [f"{k % 7},{'ab'[k % 2]}" for k in range(16)]
    (tmp_path / "t.csv").write_text("\n".join(rows))
    monkeypatch.chdir(tmp_path)
    config = make_config(
        data={"train": "t.csv", "label": "label"},
        modalities={"table": {"columns": ["*"]}, "text": {"column": "label", "layers": 1, "width": 32}},
        train={"steps": 1, "batch_size": 8},
    )
    train(config, tmp_path / "run", silent)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    result = evaluate_run(tmp_path / "run", ["zeroshot"], say=print)
    assert result["rows"] == 16
    assert checkpoint.read_config(tmp_path / "run").modalities["table"]["columns"] == ["size"]


def test_half_precision_that_never_settles_is_refused(
    tmp_path: Path, make_config: Make, silent: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clx.pipelines.training.step.MOST_OVERFLOWS", 2)
    plain = Learner.contrast

    def contrast(self: Learner, *given: Any) -> Contrast:
        found = plain(self, *given)
        if found.loss.requires_grad:
            found.loss.register_hook(lambda gradient: gradient * float("nan"))
        return found

    monkeypatch.setattr(Learner, "contrast", contrast)
    with pytest.raises(Refused):
        train(make_config(eval=[], train__precision="fp16", train__bad_steps=1), tmp_path / "run", silent)


@pytest.mark.parametrize("schedule", ["constant", pytest.param("cosine", marks=pytest.mark.slow)])
def test_a_finished_run_can_be_made_longer(tmp_path: Path, make_config: Make, silent: Any, schedule: str) -> None:
    """With a constant rate as if it had been that long from the start; a cosine stands where the longer one does."""
    change = {"train__schedule": schedule, "train__warmup": 0.3, "train__keep": 9, "eval": ["zeroshot"]}
    train(make_config(**change), tmp_path / "run", silent)
    first = {c.step: load_file(c.path / "model.safetensors") for c in checkpoint.checkpoints(tmp_path / "run")}
    results = (tmp_path / "run" / "results.json").read_text()
    longer = checkpoint.read_config(tmp_path / "run", ["train.steps=10"])
    stopping, told = StopAt(8), []
    stopping.say = told.append
    with pytest.raises(Stopped):
        train(longer, tmp_path / "run", stopping, resume=True)
    assert not (tmp_path / "run" / "results.json").exists()
    train(checkpoint.read_config(tmp_path / "run"), tmp_path / "run", silent, resume=True)
    assert [c.step for c in checkpoint.checkpoints(tmp_path / "run")] == [3, 6, 8, 9, 10]
    for step, weights in first.items():
        again = checkpoint.weights(*(lambda r: (r.model, r.objective))(checkpoint.load(tmp_path / "run", str(step))))
        assert all(torch.equal(again[name], weights[name]) for name in weights)
    assert (tmp_path / "run" / "results.json").read_text() != results
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    rates = {line["step"]: line["lr"] for line in lines if "lr" in line}
    saved = checkpoint.read_config(tmp_path / "run").train
    assert saved.steps == 10
    assert rates[10] == rate_at(9, 10, saved)
    if schedule == "constant":  # two steps of warm-up, as the short run had
        whole = make_config(**{**change, "train__steps": 10, "train__warmup": 0.2})
        train(whole, tmp_path / "whole", silent)
        whole_weights, weights = final_weights(tmp_path / "whole"), final_weights(tmp_path / "run")
        assert all(torch.equal(whole_weights[name], weights[name]) for name in weights)
    was, now = rate_at(5, 6, make_config(**change).train), rate_at(6, 10, saved)
    assert told[0].endswith(f"at step 6 its learning rate ({schedule}) was {was:.2g} and goes on from {now:.2g}")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ([], "is finished: all its 60 steps"),
        (["train.steps=60"], "is finished"),
        (["train.steps=40"], "60 steps are done already"),
        (["train.epochs=3"], "train.epochs: the length of .* is train.steps = 60"),
        (["train.lr=1"], f"only {', '.join(CHANGEABLE)} may change"),
        (["train.steps=0"], "train.steps = 0"),
    ],
)
def test_what_a_finished_run_refuses(digits_run: Path, silent: Any, settings: list[str], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        train(checkpoint.read_config(digits_run, settings), digits_run, silent, resume=True)
    assert checkpoint.last(digits_run).step == 60
    assert (digits_run / "results.json").exists()
