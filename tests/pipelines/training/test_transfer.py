"""A stage after another one or an earlier run: what is taken over, kept, fitted, resumed and refused."""

import csv
import math
import random
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clx.pipelines.batches.dataset import BatchDataset
from clx.pipelines.batches.loader import batches, once
from clx.pipelines.config.data_schema import Data
from clx.pipelines.config.schema import Config
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.data.splits import load_splits
from clx.pipelines.experiments.train import train
from clx.pipelines.model import frozen_features
from clx.pipelines.runs import checkpoint
from clx.pipelines.system.errors import BadInput, Stopped
from clx.pipelines.training.trainer import Trainer
from configs import two_stages
from trained import Heard, StopAt, weights


def write_table(path: Path, rows: int = 160, seed: int = 0) -> Path:
    """Two numbers and a category that tell a target; every fourth row is a test row."""
    draw = random.Random(seed)
    with path.open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["id", "a", "b", "kind", "y", "split"])
        for i in range(rows):
            a, b, kind = draw.gauss(0, 1), draw.gauss(0, 1), draw.choice("pqr")
            y = 50 + 10 * math.sin(a) + 5 * b + 3 * "pqr".index(kind)
            split = ("train", "train", "val", "test")[i % 4]
            lines.writerow([f"n{i}", f"{a:.4f}", f"{b:.4f}", kind, f"{y:.3f}", split])
    return path


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_table(tmp_path_factory.mktemp("table") / "table.csv")


@pytest.fixture(scope="module")
def run(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "two"
    train(Config.model_validate(two_stages(table)), out, Heard())
    return out


def towers(run: Path) -> dict[str, torch.Tensor]:
    return {name: value for name, value in weights(run).items() if name.startswith("model.towers.table.encoder")}


def test_the_first_stage_is_a_run_whose_encoder_is_kept(run: Path) -> None:
    first, second = towers(run / "stages" / "1"), towers(run)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    config = checkpoint.read_config(run / "stages" / "1")
    assert (config.embed_dim, config.train.steps, config.modalities["table"]["views"]) == (8, 6, 2)
    assert config.modalities["table"]["head"] == "linear"
    assert checkpoint.read_config(run).modalities["table"]["head"] == "norm"


def test_a_run_rebuilds_without_its_first_stage(run: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    shutil.copytree(run, alone, ignore=shutil.ignore_patterns("stages"))
    z = [torch.cat([row.flatten() for row in predictions(folder)]) for folder in (run, alone)]
    assert torch.equal(*z)
    kept = checkpoint.load(alone).model.tower("table")
    assert kept.locked
    assert not any(p.requires_grad for p in kept.encoder.parameters())


def predictions(folder: Path) -> list[torch.Tensor]:
    run = checkpoint.load(folder)
    manifest = load_splits(run.config.data, 0)["test"]
    rows = BatchDataset(manifest, run.modalities, target=run.config.data.target)
    with torch.no_grad():
        return [
            run.model.predict(run.model(b.inputs, b.present), b.present) for b in batches(rows, once(len(rows), 16))
        ]


def test_fine_tuning_moves_the_encoder(table: Path, run: Path, tmp_path: Path, silent: Any) -> None:
    config = Config.model_validate(two_stages(table, {"run": str(run / "stages" / "1")}, False))
    train(config, tmp_path / "run", silent)
    first, second = towers(run / "stages" / "1"), towers(tmp_path / "run")
    assert any(not torch.equal(first[name], second[name]) for name in first)
    assert "table.encoder, to be fine-tuned" in " ".join(silent.said)


def test_what_was_taken_over_may_be_the_best(
    table: Path, run: Path, tmp_path: Path, silent: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps that only spoil it leave the fitted beginning as the best checkpoint; a stop at once resumes."""
    spoiling: dict[str, Any] = {"first": {"run": str(run / "stages" / "1")}, "freeze": False}
    spoiling["train"] = {"steps": 8, "batch_size": 32, "validate_every": 4, "lr": 1.0, "schedule": "constant"}
    config = Config.model_validate(two_stages(table, **spoiling))
    train(config, tmp_path / "run", silent)
    assert checkpoint.best(checkpoint.checkpoints(tmp_path / "run")).step == 0
    validating = Trainer.validate

    def validate(trainer: Trainer, signals: Any) -> bool:
        signals.stop = signal.SIGTERM
        return validating(trainer, signals)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "validate", validate)
        with pytest.raises(Stopped):
            train(config, tmp_path / "stopped", silent)
    assert [one.step for one in checkpoint.checkpoints(tmp_path / "stopped")] == [0]
    with (tmp_path / "stopped" / "metrics.jsonl").open("a") as log:  # of a resumed run that was killed in between
        log.write('{"step": 0, "val_loss": 1.0}\n')
    train(checkpoint.read_config(tmp_path / "stopped"), tmp_path / "stopped", silent, resume=True)
    one, other = weights(tmp_path / "run"), weights(tmp_path / "stopped")
    assert all(torch.equal(one[name], other[name]) for name in one)
    logs = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("run", "stopped")]
    assert logs[0] == logs[1]
    assert '"step": 0' in logs[0]


def test_a_second_stage_killed_before_it_saved_leaves_no_lines_twice(run: Path, tmp_path: Path, silent: Any) -> None:
    again = Path(shutil.copytree(run, tmp_path / "again"))
    for one in checkpoint.checkpoints(again):
        shutil.rmtree(one.path)
    train(checkpoint.read_config(again), again, silent, resume=True)
    assert (again / "metrics.jsonl").read_text() == (run / "metrics.jsonl").read_text()


def test_the_predictor_begins_at_ridge_regression(table: Path, run: Path, tmp_path: Path, silent: Any) -> None:
    """With next to no steps the probe is as good as scikit-learn's on the same features."""
    from sklearn.linear_model import RidgeCV
    from sklearn.preprocessing import StandardScaler

    changes = {"first": {"run": str(run / "stages" / "1")}, "train": {"steps": 1, "batch_size": 32, "lr": 1e-9}}
    train(Config.model_validate(two_stages(table, **changes)), tmp_path / "run", silent)
    loaded = checkpoint.load(tmp_path / "run")
    splits = load_splits(loaded.config.data, 0)
    found = {}
    for split in ("train", "test"):
        rows = BatchDataset(splits[split], loaded.modalities, target=["y"])
        with torch.no_grad():
            parts = [
                (loaded.model(b.inputs, b.present)["table"], b.targets) for b in batches(rows, once(len(rows), 64))
            ]
        found[split] = [torch.cat(each).double().numpy() for each in zip(*parts, strict=True)]
    scaler = StandardScaler().fit(found["train"][0])
    mean, deviation = loaded.facts.target_mean[0], loaded.facts.target_scale[0]
    ridge = RidgeCV([10 ** (k / 2) for k in range(-8, 9)])
    ridge.fit(scaler.transform(found["train"][0]), ((found["train"][1] - mean) / deviation)[:, 0])
    expected = ridge.predict(scaler.transform(found["test"][0])) * deviation + mean
    mine = torch.cat(predictions(tmp_path / "run"))[:, 0].double()
    torch.testing.assert_close(mine, torch.from_numpy(expected), rtol=1e-3, atol=1e-2)


def test_the_predictor_begins_with_the_dropout_of_training(table: Path, run: Path, tmp_path: Path, silent: Any) -> None:
    """Fitted without it, it answers the noise of fine-tuning's first steps with errors."""
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    modalities = {"table": two_stages(table)["modalities"]["table"] | {"dropout": 0.5}}
    changes = {
        "first": {"run": str(run / "stages" / "1")},
        "freeze": False,
        "modalities": modalities,
        "train": {"steps": 1, "batch_size": 32, "lr": 1e-9},
    }
    train(Config.model_validate(two_stages(table, **changes)), tmp_path / "run", silent)
    loaded = checkpoint.load(tmp_path / "run")
    rows = BatchDataset(load_splits(loaded.config.data, 0)["train"], loaded.modalities, target=["y"])
    (batch,) = batches(rows, once(len(rows), len(rows)))
    y = (batch.targets - loaded.facts.target_mean[0]) / loaded.facts.target_scale[0]

    def pooled(noisy: bool) -> torch.Tensor:
        loaded.model.eval()
        for module in loaded.model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.train(noisy)
        with torch.no_grad():
            z = loaded.model(batch.inputs, batch.present)
            return loaded.model.pooled(z, batch.present, loaded.model.predict_from)

    plain = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-4, 4, 17)))
    plain.fit(pooled(False).double().numpy(), y.numpy())
    torch.manual_seed(0)
    errors = np.zeros(2)
    for _ in range(20):
        z = pooled(True)
        with torch.no_grad():
            errors[0] += (loaded.model.predictor(z) - y).square().mean().item()
        errors[1] += np.square(plain.predict(z.double().numpy()).reshape(-1, 1) - y.numpy()).mean()
    assert errors[0] < 0.5 * errors[1]


@pytest.mark.parametrize("at", [(3, 6), (4, 8)], ids=["in the first stage", "in the second"])
def test_stopped_in_either_stage_and_resumed_equals_unbroken(
    table: Path, run: Path, tmp_path: Path, at: tuple[int, int]
) -> None:
    out = tmp_path / "run"
    with pytest.raises(Stopped, match=f"--resume {out}\\b") as stopped:
        train(Config.model_validate(two_stages(table)), out, StopAt(at[0], of=at[1]))
    assert stopped.value.exit_code == 143
    train(checkpoint.read_config(out), out, Heard(), resume=True)
    assert all(torch.equal(value, weights(out)[name]) for name, value in weights(run).items())
    assert (out / "metrics.jsonl").read_text() == (run / "metrics.jsonl").read_text()


def test_features_of_a_kept_encoder_are_computed_once(table: Path, run: Path, tmp_path: Path) -> None:
    """They take the encoder's place, in training and validation, and change no number."""
    changes = {"first": {"run": str(run / "stages" / "1")}}
    out = [tmp_path / "kept", tmp_path / "again"]
    train(Config.model_validate(two_stages(table, **changes)), out[0], Heard())
    slow = two_stages(table, **changes)
    slow["data"] = slow["data"] | {"cache": None}
    train(Config.model_validate(slow), out[1], Heard())
    a, b = weights(out[0]), weights(out[1])
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-5, atol=1e-6)
    loaded = checkpoint.load(out[0])
    loaded.model.tower("table").encoder.forward = None  # type: ignore[assignment]
    rows = BatchDataset(load_splits(loaded.config.data, 0)["train"], loaded.modalities)
    rows.features["table"] = {int(i): torch.full((32,), 0.5) for i in rows.manifest.rows}
    batch = rows[once(len(rows), 8)[0]]
    z = loaded.model(batch.inputs, batch.present)["table"]
    torch.testing.assert_close(z, torch.ones(8, 32))  # 0.5 over its root mean square


def test_features_outlive_a_run_where_encoder_and_cells_are_the_same(
    table: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = checkpoint.load(run)
    splits = load_splits(loaded.config.data, 0)
    encoder = loaded.model.tower("table").encoder
    bias = list(encoder.parameters())[-1].detach()
    bias.add_(0.5)  # an encoder that nobody has asked before
    calls: list[int] = []
    encoder.register_forward_hook(lambda module, given, out: calls.append(len(out)))

    def asked(manifest: Manifest) -> list[torch.Tensor]:
        return list(frozen_features.features(loaded, "table", manifest).values())

    first, rows = asked(splits["train"]), len(splits["train"])
    torch.testing.assert_close(torch.stack(asked(splits["train"])), torch.stack(first), rtol=0, atol=0)
    assert sum(calls) == rows
    asked(splits["val"])
    assert sum(calls) == rows + len(splits["val"])
    calls.clear()
    other = load_splits(loaded.config.data.model_copy(update={"train": str(write_table(tmp_path / "o.csv"))}), 0)
    asked(other["train"])  # another file with the same cells
    assert not calls
    asked(load_splits(Data(train=str(write_table(tmp_path / "p.csv", seed=1))), 0)["train"])
    assert sum(calls) == rows
    calls.clear()
    before = bias.clone()
    bias.add_(1)
    changed = asked(splits["train"])
    assert sum(calls) == rows
    assert not torch.allclose(changed[0], first[0])
    monkeypatch.setattr(frozen_features, "LARGEST", 3 * rows * 32 * 4)  # three of them
    asked(splits["test"])
    calls.clear()
    asked(splits["train"])
    assert not calls
    bias.copy_(before)
    asked(splits["val"])
    assert sum(calls) == len(splits["val"])  # the oldest were forgotten


def refuse(config: dict[str, Any], out: Path, match: str) -> None:
    with pytest.raises(BadInput, match=match):
        train(Config.model_validate(config), out, Heard())
    assert not (out / "config.yaml").exists()  # before anything was written, or overwritten


def test_what_does_not_fit_is_refused(table: Path, run: Path, tmp_path: Path) -> None:
    begun = {"run": str(run / "stages" / "1")}
    other = two_stages(table, begun)
    other["modalities"] = {"table": other["modalities"]["table"] | {"width": 64}}
    refuse(other | {"embed_dim": 64}, tmp_path / "a", "not of the form")
    renamed = two_stages(table, begun)
    renamed["modalities"] = {"rows": renamed["modalities"]["table"] | {"kind": "table"}}
    refuse(renamed, tmp_path / "b", "no modality of this run")
    fewer = two_stages(table, begun)
    fewer["modalities"] = {"table": fewer["modalities"]["table"] | {"columns": ["b", "a", "kind"]}}
    refuse(fewer, tmp_path / "c", "other columns")
    nothing = two_stages(table, begun, objective={"name": "rank-n-contrast"})
    refuse(nothing, tmp_path / "d", "nothing to learn")
    refuse(two_stages(table, {"run": str(tmp_path / "none")}), tmp_path / "e", "not a run folder|no run")
    refuse(two_stages(table, {"objective": {"name": "supcon"}}), tmp_path / "f", "needs labels")
    refuse(two_stages(table, {"objective": {"name": "supremix", "windw": 2}}), tmp_path / "g", "windw.*window")
