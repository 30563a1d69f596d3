"""DBPM's memory against a table of all losses, and what it finds among planted bad pairs."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from clx.losses.dbpm import DBPM

N, D, BATCH = 12, 5, 6


def per_item(x: Tensor, y: Tensor, t: float) -> list[float]:
    rows = [r / r.norm() for r in (*x, *y)]
    n = len(x)
    terms = []
    for k, u in enumerate(rows):
        logits = [float(u @ v) / t for m, v in enumerate(rows) if m != k]
        terms.append(math.log(sum(map(math.exp, logits))) - float(u @ rows[(k + n) % (2 * n)]) / t)
    return [(terms[i] + terms[i + n]) / 2 for i in range(n)]


def test_weights_follow_from_the_table_of_all_losses() -> None:
    """The paper's memory: item by epoch. Some visits are missing, as batches that do not fill up are dropped."""
    g = torch.Generator().manual_seed(0)
    loss = DBPM(noisy=0.7, faulty=0.9, warmup=2).double()
    loss.set_extra_state(torch.zeros(0, 2, dtype=torch.float64))
    table: dict[int, list[float]] = {}
    weighted = 0
    for _ in range(6):
        for ids in torch.randperm(N, generator=g).split(BATCH):
            z = {name: torch.randn(BATCH, D, generator=g, dtype=torch.float64) for name in ("a", "b")}
            now = per_item(z["a"], z["b"], 0.2)
            past = {
                i: sum((e + 1) * v for e, v in enumerate(seen)) / sum(range(1, len(seen) + 1))
                for i, seen in table.items()
            }
            weights = []
            for i, value in zip(ids.tolist(), now, strict=True):
                w = 1.0
                if len(past) > 1 and len(table.get(i, [])) >= 2:
                    mu, sd = np.mean(list(past.values())), np.std(list(past.values()))
                    if past[i] < mu - 0.7 * sd or past[i] > mu + 0.9 * sd:
                        w = min(1.0, math.exp(-((value - mu) ** 2) / (2 * sd**2)) / (sd * math.sqrt(2 * math.pi)))
                        weighted += 1
                weights.append(w)
            expected = float(np.mean([w * v for w, v in zip(weights, now, strict=True)]))
            assert loss(z, sample_id=ids).item() == pytest.approx(expected, rel=1e-9)
            for i, value in zip(ids.tolist(), now, strict=True):
                table.setdefault(i, []).append(value)
            loss.eval()  # neither reads nor writes
            before = loss.memory.clone()
            assert loss(z, sample_id=ids).item() == pytest.approx(float(np.mean(now)), rel=1e-9)
            assert torch.equal(before, loss.memory)
            loss.train()
    assert weighted > 5, "the thresholds were never crossed"


def test_the_memory_goes_with_the_state() -> None:
    g = torch.Generator().manual_seed(1)
    loss, other = DBPM(), DBPM()
    z = {name: torch.randn(BATCH, D, generator=g) for name in ("a", "b")}
    loss(z, sample_id=torch.arange(BATCH) + 20)
    other.load_state_dict(loss.state_dict())
    assert torch.equal(other.memory, loss.memory)
    assert other.memory.shape == (26, 2)
    assert other.memory[:20].eq(0).all()
    other(z, sample_id=torch.arange(BATCH))
    assert not torch.equal(other.memory, loss.memory)


def test_planted_bad_pairs_are_found_and_count_less() -> None:
    """Of 200 pairs 10 do not belong together and 10 are one and the same noise, in any batch."""
    g = torch.Generator().manual_seed(2)
    clean = torch.randn(200, 16, generator=g)
    faulty, noisy = torch.arange(200) < 10, (torch.arange(200) >= 10) & (torch.arange(200) < 20)
    loss = DBPM(noisy=1.5, faulty=1.5)
    shift = torch.randn(16, generator=g)
    for _ in range(5):
        for ids in torch.randperm(200, generator=g).split(50):
            x = clean[ids] + 0.8 * torch.randn(50, 16, generator=g)
            y = clean[ids] + 0.8 * torch.randn(50, 16, generator=g)
            y[faulty[ids]] = torch.randn(int(faulty[ids].sum()), 16, generator=g)
            x[noisy[ids]] = y[noisy[ids]] = clean[ids][noisy[ids]] + shift
            loss({"a": x, "b": y}, sample_id=ids)
    past = loss.memory[:, 0]
    assert roc_auc_score(faulty, past) > 0.98
    assert roc_auc_score(noisy, -past) > 0.9
    weight = loss.weigh(loss.memory, past)
    assert weight[faulty].mean() < 0.2
    assert weight[~faulty & ~noisy].mean() > 0.95
