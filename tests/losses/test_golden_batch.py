"""More losses against numbers from their authors' own code, as test_golden.py has it; `CLX_GOLDEN=DIR` likewise."""

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from clx.losses.cacr import attraction, repulsion
from clx.losses.groco import GroCo
from golden_case import GOLDEN, Case

Check = Callable[[Case], Tensor]


def views(c: Case) -> list[Tensor]:
    return [c.inputs[name] for name in sorted(c.inputs)]


def cacr(c: Case) -> Tensor:
    """Rows as they are. The debiased form takes `tau_plus` of a cost whose sign is not that of the weighted ones."""
    h, z = c.hyper, views(c)
    apart = [repulsion(x, y, h.get("tau_neg", 1.0)) for x, y in itertools.combinations(z, 2)]
    if share := h.get("tau_plus"):
        own = [(x - y).square().sum(1).mean() for x, y in itertools.combinations(z, 2)]
        apart = [(term - share * pair) / (1 - share) for term, pair in zip(apart, own, strict=True)]
    return h["alpha"] * attraction(z, h.get("tau_pos", 1.0)) + h["beta"] * torch.stack(apart).mean()


def groco(c: Case) -> Tensor:
    h = c.hyper
    loss = GroCo(nearest=h["topk_neg"], steepness=h["steepness"], stop_gradient=h["stop_grad"])
    value: Tensor = loss({str(k): z for k, z in enumerate(views(c))})
    return value


CHECKS: dict[str, Check] = {"cacr_": cacr, "groco_": groco}
"""By the beginning of the file's name; the longest that fits is meant."""


def files() -> list[Path]:
    return [path for path in sorted(GOLDEN.glob("*.npz")) if path.name.startswith(tuple(CHECKS))]


@pytest.mark.parametrize("path", files(), ids=lambda path: path.stem)
def test_golden(path: Path) -> None:
    case = Case(path)
    value = CHECKS[max((name for name in CHECKS if path.name.startswith(name)), key=len)](case)
    exact = {"rtol": 1e-6, "atol": 1e-9} if case.expected.dtype == torch.float64 else {"rtol": 1e-4, "atol": 1e-6}
    torch.testing.assert_close(value.to(case.expected.dtype), case.expected, **exact)
    for name, wanted in case.grads.items():
        (got,) = torch.autograd.grad(value.sum(), [case.inputs[name]], retain_graph=True)
        torch.testing.assert_close(got, wanted, **exact)


def test_every_family_is_there() -> None:
    found = {name for path in files() for name in CHECKS if path.name.startswith(name)}
    assert found == set(CHECKS)
