"""What Symile claims: it learns what only three modalities together tell, where pairs stay at chance."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from clx.losses.base import LOSSES
from clx.pipelines.config.load import load_config
from clx.pipelines.data.builtin import load_builtin
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.experiments.train import train

ALL = torch.tensor([[number >> bit & 1 for bit in range(5)] for number in range(32)], dtype=torch.float32)


def bits(manifest: Manifest, name: str) -> Tensor:
    return torch.tensor(np.stack([manifest.column(f"{name}_{k}") for k in range(5)], 1), dtype=torch.float32)


def accuracy(p: str, loss_name: str) -> float:
    """Of choosing c among all 32 given a and b, after training as in the paper's toy experiment.

    Linear encoders of 16 features, AdamW at 0.1, logit scale from -0.3, batches of 1000, 40 passes.
    """
    splits = load_builtin(f"xor:{p}")
    torch.manual_seed(0)
    rows = {name: bits(splits["train"], name) for name in "abc"}
    encoders = nn.ModuleDict({name: nn.Linear(5, 16) for name in "abc"})
    fields = {"tuples": "shuffled"} if loss_name == "symile" else {}
    loss = LOSSES[loss_name](temperature=float(np.exp(0.3)), learn_temperature=True, **fields)
    loss.setup("abc", 16)
    optimiser = torch.optim.AdamW([*encoders.parameters(), *loss.parameters()], lr=0.1)
    for _ in range(400):
        chosen = torch.randint(10_000, (1000,))
        optimiser.zero_grad()
        loss({name: encoders[name](rows[name][chosen]) for name in "abc"}).backward()
        optimiser.step()
    with torch.no_grad():
        a, b = (normalize(encoders[name](bits(splits["test"], name)), dim=1) for name in "ab")
        c = normalize(encoders["c"](ALL), dim=1)
        query = a * b if loss_name == "symile" else a + b
        found = (query @ c.T).argmax(1)
    return float((ALL[found] == bits(splits["test"], "c")).all(1).float().mean())


@pytest.mark.slow
@pytest.mark.parametrize(("p", "expected", "room"), [("1", 1.0, 0.01), ("0.5", 0.516, 0.04), ("0", 0.031, 0.015)])
def test_symile_finds_c(p: str, expected: float, room: float) -> None:
    assert abs(accuracy(p, "symile") - expected) < room


@pytest.mark.slow
@pytest.mark.parametrize("p", ["1", "0.5", "0"])
def test_pairs_stay_at_chance(p: str) -> None:
    assert accuracy(p, "clip") < 0.06  # one of 32 is 0.031


def test_xor_in_a_share_of_the_rows() -> None:
    for p, expected in (("1", 1.0), ("0.5", 0.5 + 0.5 / 32), ("0", 1 / 32)):
        train_rows = load_builtin(f"xor:{p}")["train"]
        a, b, c = (bits(train_rows, name) for name in "abc")
        assert abs(float(((a != b).float() == c).all(1).float().mean()) - expected) < 0.02
        assert train_rows.row(0)["label"] == "".join(str(int(bit)) for bit in c[0])


@pytest.mark.slow
def test_the_recipe(tmp_path: Path, silent: Any) -> None:
    train(load_config("xor"), tmp_path / "run", silent)
    found = json.loads((tmp_path / "run" / "results.json").read_text())["retrieval"]
    assert found["a+b->c"]["label@1"] > 0.95
    assert found["a->c"]["label@1"] < 0.06
    assert found["b->c"]["label@1"] < 0.06
