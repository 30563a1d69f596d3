"""Training on series: losses on time steps, the memory of bad pairs, views that keep their time."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from clx.pipelines import checkpoint
from clx.pipelines.config import BadInput, Config, Stopped
from clx.pipelines.loop import Progress
from clx.pipelines.train import train


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


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_memory_and_steps_resume_bit_for_bit(tmp_path: Path, silent: Progress, ema: float) -> None:
    raw = config(augmentation=CROPS)
    raw["objective"] = [{"name": "ts2vec"}, {"name": "dbpm", "noisy": 0.5, "faulty": 0.5}]
    raw["train"] |= {"ema": ema}
    made = Config.model_validate(raw)
    train(made, tmp_path / "whole", silent)
    with pytest.raises(Stopped):
        train(made, tmp_path / "parts", StopAt(6))
    train(checkpoint.read_config(tmp_path / "parts"), tmp_path / "parts", silent, resume=True)
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    logs = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "parts")]
    assert logs[0] == logs[1]
    assert max(json.loads(line).get("dbpm.faulty_pairs", 0) for line in logs[0].splitlines()) > 0
    if not ema:  # 4 batches of 16 an epoch of 67 rows: after 3 epochs some rows were left out once
        memory = next(value for name, value in whole.items() if name.endswith("_extra_state"))
        assert memory[:, 1].sum() == 12 * 16
        assert memory[:, 1].max() == 3


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
