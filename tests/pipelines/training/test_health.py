"""Warnings of a run that goes wrong without failing."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from clx.pipelines.config.schema import Config
from clx.pipelines.experiments.train import train
from clx.pipelines.training.health import FEWEST, PATIENCE, Health, spread
from clx.pipelines.training.step import Contrast, Learner
from configs import Make, small
from trained import trainer_of


def test_spread_of_equal_opposite_and_isotropic_rows() -> None:
    row = torch.randn(1, 8)
    assert spread(row.repeat(50, 1)) == pytest.approx(0, abs=1e-6)
    assert spread(torch.cat([row, -3 * row])) == pytest.approx(1)
    assert spread(torch.randn(5000, 8)) == pytest.approx(1, abs=0.01)
    close = torch.zeros(2000, 8)
    close[:, 0], close[:, 1] = 1, torch.randn(2000) * 0.01
    assert spread(close) == pytest.approx(0.01, rel=0.1)


def test_a_spike_is_told_from_noise_and_from_descent() -> None:
    health = Health(warm=0)
    noise = torch.randn(300, generator=torch.Generator().manual_seed(0))
    falling = [3 * 0.99**k + 0.05 * float(noise[k]) for k in range(300)]
    assert not any(health.hear_loss(k, loss) for k, loss in enumerate(falling, 1))
    assert "loss spike: 4 at step 301" in (health.hear_loss(301, 4.0) or "")
    assert health.hear_loss(302, falling[-1]) is None
    fresh = Health(warm=0)
    assert not any(fresh.hear_loss(k, 9.0 if k == FEWEST - 1 else 1.0) for k in range(FEWEST))


def test_a_collapse_must_last_and_come_after_the_warm_up() -> None:
    health, point, wide = Health(warm=10), {"image": torch.ones(64, 16)}, {"image": torch.randn(64, 16)}
    for step in (1, 5, 10):
        assert not health.look(step, point)[1]
    assert not health.look(20, point)[1]
    assert not health.look(30, wide)[1]
    told = [bool(health.look(40 + k, point)[1]) for k in range(4)]
    assert told == [k == PATIENCE - 1 for k in range(4)]
    figures, _ = health.look(99, {"text": torch.tensor([[1.0, 0], [float("nan"), 0], [-1.0, 0]])})
    assert figures == {"text.spread": pytest.approx(1), "text.rank": pytest.approx(1)}


@pytest.mark.parametrize("classes", [2, 3])
def test_few_classes_that_lie_apart_are_no_collapse(classes: int) -> None:
    """Two classes span one direction, three two: all that there is to span is spanned."""
    centres = torch.nn.functional.normalize(torch.eye(classes) - 1 / classes, dim=1)
    z = torch.zeros(60, 32)
    z[:, :classes] = centres.repeat(60 // classes, 1)
    z += 0.01 * torch.randn(60, 32, generator=torch.Generator().manual_seed(0))
    apart, blind = Health(warm=0), Health(warm=0)
    assert not any(apart.look(k, {"table": z}, classes)[1] for k in range(1, 5))
    line = {"table": z[:, :1].repeat(1, 32) * torch.linspace(-1, 1, 60)[:, None].sign()}
    told = [text for k in range(1, 5) for text in blind.look(k, line, 60)[1]]
    assert any("collapse of table" in text for text in told), "many classes on one line are a collapse"
    point = {"table": torch.ones(60, 32)}
    assert any(apart.look(k, point, classes)[1] for k in range(5, 9)), "and so is one point, of any classes"


@pytest.mark.parametrize(
    ("objective", "label", "words", "places"),
    [
        ("cross-entropy", "kind", 0, 2),
        ("supcon", "kind", 0, 2),
        ("nt-xent", "kind", 0, None),
        ("clip", None, 3, 3),
        ("clip", None, 40, 40),
        ("clip", "kind", 40, 40),
    ],
)
def test_places_are_classes_or_different_texts(
    tmp_path: Path, objective: str, label: str | None, words: int, places: int | None
) -> None:
    rows = [f"{k},{'ab'[k % 2]},word {k % max(1, words)}" for k in range(40)]
    (tmp_path / "m.csv").write_text("\n".join(["x,kind,word", *rows]) + "\n")
    table: dict[str, Any] = {"columns": ["x"], "width": 32, "layers": 1, "views": 1 + (objective == "nt-xent")}
    text = {"text": {"column": "word", "width": 32, "layers": 1}} if words else {}
    config = Config.model_validate(
        small({"train": str(tmp_path / "m.csv"), "label": label}, {"table": table, **text}, objective)
    )
    assert trainer_of(config, tmp_path / "run").places == places


def test_a_training_run_tells_of_both_once_and_logs_them(
    tmp_path: Path, make_config: Make, silent: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Learner.contrast

    def contrast(self: Learner, *given: Any, **more: Any) -> Contrast:
        found = plain(self, *given, **more)
        constant = {"image": torch.ones_like(found.embeddings["image"])}
        leap = 50 if self.step in (30, 35) else 1
        return found._replace(loss=found.loss * leap, embeddings=found.embeddings | constant)

    monkeypatch.setattr(Learner, "contrast", contrast)
    towers = {"image": {"encoder": "cnn", "width": 4, "size": 8}, "table": {"columns": ["seg_*"], "width": 32}}
    train(make_config(modalities=towers, train__steps=40, train__validate_every=8), tmp_path / "run", silent)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    warned = [line for line in lines if "warning" in line]
    assert [(line["step"], line["warning"].partition(":")[0]) for line in warned if "spike" in line["warning"]] == [
        (31, "loss spike"),
        (36, "loss spike"),
    ]
    assert len(next(line for line in warned if "spike" in line["warning"])["rows"]) == 32
    assert [line["step"] for line in warned if "collapse of image" in line["warning"]] == [16]
    said = [text.partition(":")[2].partition(":")[0] for text in silent.said if text.startswith("warning")]
    assert said == [" collapse of image", " loss spike"]
    looked = [line for line in lines if "val_loss" in line]
    assert [line["step"] for line in looked] == [8, 16, 24, 32, 40]
    assert all(line["image.spread"] == pytest.approx(0, abs=1e-6) and line["table.rank"] > 1 for line in looked)
