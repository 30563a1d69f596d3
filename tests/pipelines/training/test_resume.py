"""A run that was stopped and resumed is one that never was."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from clx.pipelines.config.schema import Config
from clx.pipelines.data.splits import load_splits
from clx.pipelines.experiments.train import train
from clx.pipelines.model.build import prepare
from clx.pipelines.runs import checkpoint, listing
from clx.pipelines.runs.folder import CHANGEABLE
from clx.pipelines.system.errors import BadInput, Stopped
from clx.pipelines.system.progress import Progress
from clx.pipelines.training import schedule
from clx.pipelines.training.rechunked import check_rechunked
from clx.pipelines.training.schedule import rate_at
from configs import TIME_KEPT, Make, series_config
from trained import Heard, StopAt, ticking, trainer_of, weights

pytestmark = pytest.mark.longest


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


@pytest.mark.parametrize("ema", [0.0, pytest.param(0.9, marks=pytest.mark.slow)])
def test_memory_and_steps_resume_bit_for_bit(tmp_path: Path, silent: Progress, ema: float) -> None:
    raw = series_config(augmentation=TIME_KEPT)
    raw["objective"] = [{"name": "ts2vec"}, {"name": "dbpm", "noisy": 0.5, "faulty": 0.5}, {"name": "sogclr"}]
    raw["objective"] += [{"name": "isogclr"}, {"name": "sct", "queue": 32, "layers": 1, "hidden": 2}]
    raw["train"] |= {"ema": ema}
    made = Config.model_validate(raw)
    whole, log = whole_as_in_parts(made, 6, tmp_path, silent)
    assert max(json.loads(line).get("dbpm.faulty_pairs", 0) for line in log.splitlines()) > 0
    if not ema:  # 4 batches of 16 an epoch of 67 rows: after 3 epochs some rows were left out once
        memory = next(value for name, value in whole.items() if name.endswith("_extra_state"))
        assert memory[:, 1].sum() == 12 * 16
        assert memory[:, 1].max() == 3


def test_sources_with_shares_resume_bit_for_bit(tmp_path: Path, silent: Progress, write: Any) -> None:
    one = write("a.csv", "text,caption\n" + "".join(f"a word {i},item {i}\n" for i in range(40)))
    other = write("b.csv", "text,caption\n" + "".join(f"another {i},thing {i}\n" for i in range(10)))
    made = Config.model_validate(
        {
            "data": {"train": [{"source": one, "share": 2}, {"source": other, "share": 1}]},
            "modalities": {"text": {"width": 32, "layers": 1}, "caption": {"like": "text", "column": "caption"}},
            "embed_dim": 8,
            "objective": [{"name": "clip"}],
            "train": {"batch_size": 8, "steps": 9},
            "eval": [],
        }
    )
    whole_as_in_parts(made, 4, tmp_path, silent)


def test_labels_known_in_part_resume_bit_for_bit(tmp_path: Path, silent: Progress, write: Any) -> None:
    cells = "".join(f"word {i},{i % 2},{'' if i % 3 == 0 else i // 2 % 2}\n" for i in range(40))
    made = Config.model_validate(
        {
            "data": {"train": write("a.csv", "text,a,b\n" + cells), "label": ["a", "b"]},
            "modalities": {"text": {"width": 32, "layers": 1}},
            "embed_dim": 8,
            "objective": [{"name": "binary-cross-entropy"}],
            "train": {"batch_size": 8, "steps": 9},
            "eval": [],
        }
    )
    _, log = whole_as_in_parts(made, 4, tmp_path, silent)
    assert any("binary-cross-entropy.unknown_labels" in json.loads(line) for line in log.splitlines())


SIMILAR = {"near": ["at"], "then": "similar", "refresh": 1.5}


@pytest.mark.parametrize("batches", [{"classes": 2, "rows": 4}, {"together": "label"}, {"distinct": "text"}, SIMILAR])
def test_batches_by_a_column_resume_bit_for_bit(
    tmp_path: Path, silent: Progress, write: Any, batches: dict[str, Any]
) -> None:
    # a pass of fewer batches than an epoch; three steps until rows are compared, and the next stop is in their middle
    rows = "".join(f"a word {i % 15},{'aaab'[i % 4]},{i % 15}\n" for i in range(20))
    made = Config.model_validate(
        {
            "data": {"train": write("a.csv", f"text,label,at\n{rows}"), "label": "label"},
            "modalities": {"text": {"width": 32, "layers": 1, "dropout": 0.1}},
            "embed_dim": 8,
            "objective": "supcon",
            "train": {"batch_size": 8, "steps": 6, "batches": batches},
            "eval": [],
        }
    )
    for stop in [3, 4] if batches == SIMILAR else [3]:
        whole_as_in_parts(made, stop, tmp_path / str(stop), silent)


@pytest.mark.parametrize("loss", [pytest.param("ts2vec", marks=pytest.mark.slow), "infonce"])
def test_learned_views_resume_bit_for_bit(tmp_path: Path, silent: Progress, loss: str) -> None:
    raw = series_config(augmentation={"crops": 0.5, "autotcl": 0.1})
    raw |= {"objective": {"name": loss}}
    raw["train"] |= {"chunk": 5} if loss == "infonce" else {}
    made = Config.model_validate(raw)
    whole, log = whole_as_in_parts(made, 5, tmp_path, silent)
    tenth = [line for line in map(json.loads, log.splitlines()) if line["step"] == 10 and "loss" in line]
    assert [line["series/1.relevance"] > 0 for line in tenth] == [True]
    begun = prepare(made, load_splits(made.data, 3))
    start = checkpoint.weights(begun.model, begun.objective)
    assert not torch.equal(start["model.towers.series.view.out.weight"], whole["model.towers.series.view.out.weight"])


def test_an_encoder_over_the_steps_of_a_frozen_one_resumes_bit_for_bit(tmp_path: Path, silent: Progress) -> None:
    raw = series_config(augmentation="none")
    over = {"layers": 1, "width": 8, "dropout": 0.3, "crop": 0.3, "mask": 0.2, "noise": 0.3}
    raw["modalities"]["series"] |= {"views": 1, "freeze": True, "step_encoder": over}
    raw |= {"objective": {"name": "supcon"}, "embed_dim": 8}
    raw["data"] |= {"label": "label", "cache": "memory"}
    whole_as_in_parts(Config.model_validate(raw), 4, tmp_path, silent)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, marks=pytest.mark.slow),
        {"train__workers": 2, "train__chunk": 10, "train__chunk_statistics": "chunk"},
        {"objective": "cross-entropy", "modalities__image__drop": 0.5, "modalities__table__drop": 0.5},
        {"train__ema": 0.9, "data__missing": 0.3, "modalities__image": {"encoder": "cnn", "width": 4, "views": 2}},
    ],
    ids=["plain", "workers and chunks", "inputs left out of a gated head", "ema, missing cells and views"],
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
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    logs = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "parts")]
    assert logs[0] == logs[1]


def test_a_chunk_may_change_where_nothing_tells(tmp_path: Path, make_config: Make, silent: Any) -> None:
    towers = {"text": {"encoder": "transformer", "layers": 1, "width": 32}}
    towers["table"] = {"columns": ["seg_*"], "dropout": 0.0}
    config = make_config(modalities=towers)
    train(config, tmp_path / "whole", silent)
    with pytest.raises(Stopped):
        train(config, tmp_path / "parts", StopAt(4))
    train(checkpoint.read_config(tmp_path / "parts", ["train.chunk=10"]), tmp_path / "parts", silent, resume=True)
    assert checkpoint.read_config(tmp_path / "parts").train.chunk == 10
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-3, atol=1e-4)


def test_a_chunk_may_not_change_what_dropout_draws(tmp_path: Path, make_config: Make) -> None:
    model, rows, before = (t := trainer_of(make_config(), tmp_path)).learner.model, t.rows, t.settings
    norms = {name: b.clone() for name, b in model.named_buffers()}
    for chunk, statistics, said in [
        (10, "chunk", "encoder of image has batch norms, whose statistics"),
        (10, "batch", "encoder of image has batch norms, whose statistics"),
        ("auto", "batch", "had none and cannot go on with auto .* encoder of .* has dropout or the like"),
    ]:
        now = before.model_copy(update={"chunk": chunk, "chunk_statistics": statistics})
        with pytest.raises(BadInput, match=said):
            check_rechunked(model, rows, before, now)
    check_rechunked(model, rows, before, before.model_copy(update={"chunk": 32}))  # a batch
    assert all(torch.equal(b, norms[name]) for name, b in model.named_buffers())


@pytest.mark.parametrize("schedule", ["constant", pytest.param("cosine", marks=pytest.mark.slow)])
def test_a_finished_run_can_be_made_longer(tmp_path: Path, make_config: Make, silent: Any, schedule: str) -> None:
    """With a constant rate as if it had been that long from the start; a cosine stands where the longer one does."""
    change = {"train__schedule": schedule, "train__warmup": 0.3, "train__keep": 9, "eval": ["zeroshot"]}
    train(make_config(**change), tmp_path / "run", silent)
    first = {c.step: load_file(c.path / "model.safetensors") for c in checkpoint.checkpoints(tmp_path / "run")}
    results = (tmp_path / "run" / "results.json").read_text()
    longer = checkpoint.read_config(tmp_path / "run", ["train.steps=10"])
    stopping = StopAt(8)
    with pytest.raises(Stopped):
        train(longer, tmp_path / "run", stopping, resume=True)
    assert not (tmp_path / "run" / "results.json").exists()
    train(checkpoint.read_config(tmp_path / "run"), tmp_path / "run", silent, resume=True)
    assert [c.step for c in checkpoint.checkpoints(tmp_path / "run")] == [3, 6, 8, 9, 10]
    for step, expected in first.items():
        again = checkpoint.weights(*(lambda r: (r.model, r.objective))(checkpoint.load(tmp_path / "run", str(step))))
        assert all(torch.equal(again[name], expected[name]) for name in expected)
    assert (tmp_path / "run" / "results.json").read_text() != results
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    rates = {line["step"]: line["lr"] for line in lines if "lr" in line}
    saved = checkpoint.read_config(tmp_path / "run").train
    assert saved.steps == 10
    assert rates[10] == rate_at(9, 10, saved)
    if schedule == "constant":  # two steps of warm-up, as the short run had
        whole = make_config(**{**change, "train__steps": 10, "train__warmup": 0.2})
        train(whole, tmp_path / "whole", silent)
        again, now = weights(tmp_path / "whole"), weights(tmp_path / "run")
        assert all(torch.equal(again[name], now[name]) for name in now)
    was, now = rate_at(5, 6, make_config(**change).train), rate_at(6, 10, saved)
    assert stopping.said[0].endswith(
        f"at step 6 its learning rate ({schedule}) was {was:.2g} and goes on from {now:.2g}"
    )


def test_a_run_of_minutes_goes_on_with_the_time_that_is_left(
    tmp_path: Path, make_config: Make, silent: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock of equal steps it is bit for bit the unbroken run, so nothing but the clock is lost."""
    config = make_config(train={"minutes": 1, "batch_size": 32, "validate_every": 3, "lr": 0.01})
    monkeypatch.setattr(schedule, "time", ticking(10))
    train(config, tmp_path / "whole", silent)
    out, heard = tmp_path / "parts", StopAt(2)
    with pytest.raises(Stopped, match=r"stopped at step 2, 0\.33 of 1 minutes"):
        train(config, out, heard)
    assert any("rows, 1 minutes, " in line for line in heard.said)
    train(checkpoint.read_config(out), out, silent, resume=True)
    assert (checkpoint.last(out).step, listing.summary(out)["steps"]) == (6, 6)
    one, other = weights(tmp_path / "whole"), weights(out)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert (out / "metrics.jsonl").read_text() == (tmp_path / "whole" / "metrics.jsonl").read_text()
    for settings, said in (
        ([], "is finished: all its 1 minutes are done.*train.minutes=N"),
        (["train.minutes=0.5"], "1 minutes are spent already"),
        (["train.steps=9"], "train.steps: the length of .* is train.minutes = 1"),
    ):
        with pytest.raises(BadInput, match=said):
            train(checkpoint.read_config(out, settings), out, silent, resume=True)
    longer = Heard()
    train(checkpoint.read_config(out, ["train.minutes=1.5"]), out, longer, resume=True)
    assert (longer.steps, checkpoint.read_config(out).train.warmup) == ([7, 8, 9], pytest.approx(0.05 / 1.5))
    assert "now ends after 1.5 minutes instead of 1: after 1 its learning rate (cosine) was 0 " in longer.said[0]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ([], "is finished: all its 60 steps"),
        (["train.steps=60"], "is finished"),
        (["train.steps=40"], "60 steps are done already"),
        (["train.epochs=3"], "train.epochs: the length of .* is train.steps = 60"),
        (["train.minutes=3"], "train.minutes: the length of .* is train.steps = 60"),
        (["train.lr=1"], f"only {', '.join(CHANGEABLE)} may change"),
        (["train.steps=0"], "train.steps = 0"),
    ],
)
def test_what_a_finished_run_refuses(digits_run: Path, silent: Any, settings: list[str], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        train(checkpoint.read_config(digits_run, settings), digits_run, silent, resume=True)
    assert checkpoint.last(digits_run).step == 60
    assert (digits_run / "results.json").exists()
