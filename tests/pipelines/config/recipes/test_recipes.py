"""What the README claims of the built-in recipes, and more on real data where they are at hand. Minutes long."""

import json
from pathlib import Path
from typing import Any

import pytest

from clx.pipelines.config.load import load_config
from clx.pipelines.data.builtin_digits import digits_bayes_rate
from clx.pipelines.experiments.train import train

FSDD = Path(__file__).parents[4].parent / "shared" / "data" / "fsdd"
pytestmark = pytest.mark.slow


def accuracies(out: Path, silent: Any, recipe: str, *settings: str) -> dict[str, float]:
    """Zero-shot top-1 on the test split by input."""
    result = train(load_config(recipe, settings), out, silent)["evaluation"]["zeroshot"]
    return {name: line["top1"] for name, line in result.items() if isinstance(line, dict)}


def test_digits_also_with_missing_cells(tmp_path: Path, silent: Any) -> None:
    whole = accuracies(tmp_path / "whole", silent, "digits")
    assert whole["image"] >= 0.95
    assert whole["audio"] >= 0.97
    assert whole["series"] >= 0.95
    assert abs(whole["table"] - digits_bayes_rate()) <= 0.03
    holes = accuracies(tmp_path / "holes", silent, "digits", "data.missing=0.3")
    assert all(holes[name] > whole[name] - 0.05 for name in whole)


def test_only_symile_learns_the_sum(tmp_path: Path, silent: Any) -> None:
    assert accuracies(tmp_path / "symile", silent, "digits-sum")["image+audio"] >= 0.90
    pairs = accuracies(tmp_path / "clip", silent, "digits-sum", "objective.name=clip")["image+audio"]
    assert abs(pairs - 0.10) <= 0.05


@pytest.mark.skipif(not FSDD.is_dir(), reason="needs the Free Spoken Digit Dataset in ../shared/data/fsdd")
@pytest.mark.parametrize("settings", [(), ("modalities.text.encoder=hf:minilm", "modalities.text.freeze=true")])
def test_spoken_digits(tmp_path: Path, silent: Any, settings: tuple[str, ...]) -> None:
    found = accuracies(tmp_path / "run", silent, "speech-digits", f"data.train={FSDD}", *settings)
    assert found["audio"] >= 0.97


@pytest.mark.slow
def test_motions_are_told_by_words(tmp_path: Path, clx: Any) -> None:
    """Trained on pairs, tested on held-out series."""
    done = clx("train", "motions", "--out", "run", "--json", cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)["evaluation"]["zeroshot"]["series"]
    assert result["rows"] == 40
    assert result["top1"] >= 0.9
