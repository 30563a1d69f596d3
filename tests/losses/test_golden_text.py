"""Recipes of text encoders are InfoNCE on rows that their networks make: against numbers from their authors' own code.

Only the networks of a published method that are no part of a loss, one layer each, are written out here; see
test_golden.py.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from clx.losses.further_negatives import Negatives
from clx.losses.infonce import clip, infonce, nt_xent
from clx.losses.primitives.edits import DifferentIds
from clx.losses.primitives.functional import unit
from golden_case import GOLDEN, Case


def simcse(c: Case) -> Tensor:
    row, more = DifferentIds(torch.arange(len(c.z1))), c.hyper.get("hard_negative_logit", 0.0)
    hard = Negatives(unit(c.z3), of=row, own_logit=more) if "z3" in c.inputs else None
    return infonce(unit(c.z1), unit(c.z2), c.hyper["temperature"], negatives=hard)


def cached(c: Case) -> Tensor:
    """In two passes there, by parts of the batch, which changes nothing. The gradient is that of the encoder."""
    c.grads["W"] = c.aux["grad_W"]
    c.W.requires_grad_()
    x, y = (unit(torch.tanh(rows @ c.W)) for rows in (c.x0, c.x1))
    return infonce(x, y, 1 / c.hyper["scale"])


def matryoshka(c: Case) -> Tensor:
    """The sum over widths, where a term's `dims` is the mean."""
    widths = c.hyper["dims"]
    weights = c.hyper["weights"] or [1] * len(widths)
    terms = [w * infonce(unit(c.a[:, :d]), unit(c.b[:, :d]), 0.05) for w, d in zip(weights, widths, strict=True)]
    return torch.stack(terms).sum()


def mcse(c: Case) -> Tensor:
    """Two views of a text with each other, and each with its picture in a space of their own."""
    image = unit(torch.tanh(c.image @ c.Wv.T + c.bv))
    grounded = [unit(torch.tanh(rows @ c.Wg.T + c.bg)) for rows in (c.cls1, c.cls2)]
    seen = torch.stack([infonce(rows, image, c.hyper["temperature_image"]) for rows in grounded]).mean()
    return infonce(unit(c.proj1), unit(c.proj2), c.hyper["temperature"]) + c.hyper["weight"] * seen


def compcse(c: Case) -> Tensor:
    """A text with the mean of its halves, the layer behind that; of the first columns."""
    both = c.whole, (c.left + c.right) / 2
    whole, parts = (torch.tanh(rows @ c.W.T + c.b)[:, : c.hyper["d0"]] for rows in both)
    return infonce(unit(whole), unit(parts), c.hyper["temperature"])


CHECKS: dict[str, Callable[[Case], Tensor]] = {
    "consert_s": lambda c: 2 * nt_xent(unit(c.h1), unit(c.h2), c.hyper["temperature"]),  # both directions are added
    "consert_m": lambda c: 2 * nt_xent(unit(c.h1), unit(c.h2), c.hyper["temperature"]),
    "simcse_unsup": simcse,
    "simcse_sup_": simcse,
    "st_cached_mnr": cached,
    "st_matryoshka_mnr": matryoshka,
    "mcse_": mcse,
    "compcse_": compcse,
    "sample4geo_loss": lambda c: clip(
        unit(c.query), unit(c.reference), 1 / c.scale, smoothing=c.hyper["label_smoothing"]
    ),
}
"""By the beginning of the file's name."""


@pytest.mark.parametrize("name", CHECKS)
def test_matches(name: str) -> None:
    paths = sorted(GOLDEN.glob(f"{name}*.npz"))
    assert paths
    for case in map(Case, paths):
        value = CHECKS[name](case)
        torch.testing.assert_close(value, case.expected, rtol=1e-6, atol=1e-9)
        assert case.grads
        for part, wanted in case.grads.items():
            (got,) = torch.autograd.grad(value, [case.inputs[part]], retain_graph=True)
            torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-9)
