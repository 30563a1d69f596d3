"""Smoothed targets of `infonce`, `clip` and `nt-xent`: those of torch's cross-entropy over the columns that count."""

from typing import Any

import pytest
import torch
from torch import Tensor

from clx.losses.base import LOSSES
from clx.losses.primitives import tiles

E, T = 0.15, 0.4


def reference(s: Tensor, target: Tensor, out: Tensor) -> Tensor:
    """The mean over rows of the cross-entropy with smoothed targets, over the columns that are not left out."""
    terms = []
    for row, own, gone in zip(s, target.tolist(), out, strict=True):
        place = int((~gone)[:own].sum())
        terms.append(torch.nn.functional.cross_entropy(row[~gone][None], torch.tensor([place]), label_smoothing=E))
    return torch.stack(terms).mean()


@pytest.mark.parametrize("small", [True, False])
@pytest.mark.parametrize("labels", [None, torch.tensor([0, 1, 0, -1, 0])])
@pytest.mark.parametrize("name", ["infonce", "clip", "nt-xent"])
def test_smoothed(name: str, labels: Tensor | None, small: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not small:
        monkeypatch.setattr(tiles, "small_side", 0)
    g = torch.Generator().manual_seed(3)
    z = {n: torch.randn(5, 4, generator=g, dtype=torch.float64).requires_grad_() for n in ("a", "b")}
    fields: dict[str, Any] = {"temperature": T, "label_smoothing": E}
    given = {} if labels is None else {"labels": labels}
    loss = LOSSES[name](**fields, exclude="none" if labels is None else "labels")
    value = loss(z, **given)
    assert value != LOSSES[name](temperature=T, exclude=loss.exclude)(z, **given)
    x, y = (torch.nn.functional.normalize(rows, dim=1) for rows in z.values())
    ids = torch.arange(5) if labels is None else torch.where(labels < 0, -1 - torch.arange(5), labels)
    same, own = ids[:, None] == ids, torch.arange(5)
    if name == "nt-xent":
        u, own = torch.cat([x, y]), torch.arange(10).roll(5)
        out = same.repeat(2, 2) & ~torch.eye(10, dtype=torch.bool).roll(5, 0)
        expected = reference(u @ u.T / T, own, out)
    else:
        out = same & ~torch.eye(5, dtype=torch.bool)
        expected = reference(x @ y.T / T, own, out)
        if name == "clip":
            expected = (expected + reference(y @ x.T / T, own, out)) / 2
    torch.testing.assert_close(value, expected)
    leaves = list(z.values())
    for a, b in zip(torch.autograd.grad(value, leaves), torch.autograd.grad(expected, leaves), strict=True):
        torch.testing.assert_close(a, b)


def test_each_row_counts_by_its_weight() -> None:
    z = {n: torch.randn(5, 4, generator=torch.Generator().manual_seed(k)) for k, n in enumerate("ab")}
    loss, weights = LOSSES["clip"](label_smoothing=E), torch.tensor([0.5, 2, 1, 0, 1.5])
    alone = torch.stack([loss(z, weights=row) for row in torch.eye(5)])
    torch.testing.assert_close(loss(z, weights=weights), weights @ alone)
