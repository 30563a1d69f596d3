"""ClusterNS: loops over steps, the authors' numbers, and the state of its centroids."""

from typing import Any

import pytest
import torch
from torch import Tensor

from clx.losses.clusterns import ClusterNS, banded, moved_centroids
from clx.losses.further_negatives import Negatives
from clx.losses.infonce import infonce
from clx.losses.primitives.edits import DifferentIds
from clx.losses.primitives.functional import unit
from golden_case import GOLDEN, Case

T, RATE, BAND, NEAR, FAR, HARD = 0.3, 0.2, 0.5, 0.1, 0.3, 0.7


def made(**fields: Any) -> ClusterNS:
    options = {"temperature": T, "clusters": 3, "start": 1.0, "rate": RATE, "band": BAND, "near": NEAR, "far": FAR}
    options["hard_negative_logit"] = HARD
    loss = ClusterNS(**options | fields)
    loss.setup(["a", "b"], 4)
    return loss.double()


def rows(seed: int = 1) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {n: torch.randn(9, 4, generator=g, dtype=torch.float64).requires_grad_() for n in ("a", "b")}


def loops(z: dict[str, Tensor], mu: list[Tensor], labels: list[int], present: list[bool]) -> Tensor:
    """The loss of a step, whose centroids are moved in `mu`."""
    x, y = ([row / row.norm() for row, there in zip(z[n], present, strict=True) if there] for n in ("a", "b"))
    labels = [label for label, there in zip(labels, present, strict=True) if there]

    def clusters() -> list[int]:
        return [max(range(len(mu)), key=lambda k, row=row: (row @ mu[k]).item()) for row in x]

    own = clusters()
    for k in range(len(mu)):
        members = [row.detach() for row, of in zip(x, own, strict=True) if of == k]
        if members:
            moved = (1 - RATE) * mu[k] + RATE * torch.stack(members).mean(0)
            mu[k] = moved / moved.norm()
    own, terms, outside = clusters(), [], []
    for i, row in enumerate(x):
        second = sorted(mu, key=lambda m, row=row: -(row @ m).item())[1]
        columns = [y[j] for j in range(len(y)) if j == i or labels[j] != labels[i]]
        logits = torch.stack([*(row @ each / T for each in columns), row @ second / T + HARD])
        terms.append(logits.logsumexp(0) - row @ y[i] / T)
        for j in range(len(y)):
            if own[j] == own[i] and labels[j] != labels[i]:
                d = row @ y[j] - row @ y[i]
                outside.append((d + NEAR).relu() + (-d - FAR).relu())
    assert outside
    return torch.stack(terms).mean() + BAND * torch.stack(outside).mean()


@pytest.mark.parametrize("missing", [False, True])
def test_equals_the_loops_step_by_step(missing: bool) -> None:
    loss, labels = made(exclude="labels"), torch.tensor([0, 1, 2, 3, 4, 5, 6, 0, 1])
    there = torch.tensor([True] * 9)
    there[4] = not missing
    given = {"labels": labels, "present": {"a": torch.tensor([True] * 9), "b": there}}
    loss(rows(0), labels=labels)
    assert loss.started
    assert loss.log == {"clusters_waiting": 1}
    mu = list(loss.centroids.clone())
    for seed in (1, 2, 3):
        z = rows(seed)
        value, wanted = loss(z, **given), loops(z, mu, labels.tolist(), there.tolist())
        torch.testing.assert_close(value, wanted, rtol=1e-9, atol=1e-9)
        got, slopes = (torch.autograd.grad(v, list(z.values())) for v in (value, wanted))
        for a, b in zip(got, slopes, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)
        torch.testing.assert_close(loss.centroids, torch.stack(mu), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("clusterns_*.npz")), ids=lambda path: path.stem)
def test_the_published_code_is_these_parts_put_together_otherwise(path: Any) -> None:
    """There the centroids of all rows are negatives of each, and the band is a mean over all pairs, those outside of
    clusters too, of which each adds a constant."""
    c = Case(path)
    h, x, y, size = c.hyper, unit(c.z1), unit(c.z2), len(c.z1)
    after = unit(c.aux["centroids_after"].to(x.dtype))
    own, second = (x @ after.T).topk(2, dim=1).indices.unbind(1)
    inside = ((own[:, None] == own).sum() - size) / size**2
    band = banded(x, y, own, h["alpha"], h["beta"]) * inside + h["alpha"] * (1 - inside)
    row = DifferentIds(torch.arange(size))
    hard = Negatives(after[second], of=row, own_logit=h["hard_negative_logit"])
    value = infonce(x, y, h["temperature"], negatives=hard) + h["bml_weight"] * band
    if h["phase"] == "start":  # centroids are laid, and the loss is still the plain one
        value = infonce(x, y, h["temperature"])
    torch.testing.assert_close(value, c.expected.to(value.dtype), rtol=1e-5, atol=1e-6)
    got = torch.autograd.grad(value, [c.inputs[n] for n in c.grads])
    for name, grad in zip(c.grads, got, strict=True):
        torch.testing.assert_close(grad, c.grads[name].to(grad.dtype), rtol=1e-4, atol=1e-5, msg=name)


def test_centroids_wait_are_saved_and_stay_in_evaluation_and_after_a_spoiled_step() -> None:
    waiting = made(start=-1.0)
    z = rows()
    torch.testing.assert_close(waiting(z), infonce(unit(z["a"]), unit(z["b"]), T))
    assert not waiting.started
    few = made(clusters=10)
    few(z)
    assert not few.started, "there are more clusters than rows"
    loss, other = made(), made()
    loss(z)
    other.load_state_dict(loss.state_dict())
    assert torch.equal(other(rows(2)), loss(rows(2)))
    before = loss.centroids.clone()
    loss.eval()(z)
    spoiled = {n: x.detach().clone() for n, x in z.items()}
    spoiled["a"][0] = torch.nan
    assert loss.train()(spoiled).isnan()
    assert torch.equal(loss.centroids, before)
    loss(rows(3))
    assert not torch.equal(loss.centroids, before)


def test_centroids_begin_in_the_widest_of_dims() -> None:
    loss, z = made(), rows()
    loss({name: x[:, :2] for name, x in z.items()})
    assert loss.started
    assert (loss.centroids[:, 2:] == 0).all()
    assert (loss.centroids[:, :2] != 0).any()


def test_a_cluster_without_members_stays_and_an_empty_band_is_refused() -> None:
    mu = unit(torch.tensor([[1.0, 0], [0, 1], [-1, 0]]))
    moved = moved_centroids(mu, unit(torch.tensor([[1.0, 0.2], [0.1, 1]])), torch.tensor([0, 1]), 0.5)
    assert torch.equal(moved[2], mu[2])
    assert (moved[:2] != mu[:2]).any(1).all()
    with pytest.raises(ValueError, match=r"near 0\.6 is above far 0\.5"):
        ClusterNS(near=0.6)
