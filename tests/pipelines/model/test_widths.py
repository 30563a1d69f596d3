"""`dims`: a loss at several widths of its embeddings."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from clx.losses.base import LOSSES, Loss
from clx.pipelines.config.objects import make_losses
from clx.pipelines.config.schema import Config
from clx.pipelines.model.widths import at_widths, first_columns
from clx.pipelines.system.errors import BadInput
from configs import Make
from loss_inputs import FIELDS, OF_TOKENS

NAMES, ROWS, WIDTH = ("image", "text", "audio"), 6, 8
TAKERS = sorted(name for name, loss in LOSSES.items() if loss.compares_embeddings and not loss.trains_predictions)


def given(loss: Loss, name: str) -> dict[str, Any]:
    """Whatever losses ask for, the whole width wide."""
    draw = torch.Generator().manual_seed(3)
    there = {name: torch.ones(ROWS, dtype=torch.bool) for name in NAMES}
    there["text"][0] = False
    steps = {name: (rows(draw, 3), torch.ones(ROWS, 3, dtype=torch.bool)) for name in NAMES}
    values = {
        "present": there,
        "labels": torch.arange(ROWS) % 2,
        "label_sets": torch.tensor([[1.0, 0, 1], [0, 1, 0]] * (ROWS // 2), dtype=torch.float64),
        "targets": torch.arange(float(ROWS))[:, None] ** 1.5,
        "predictions": rows(draw)[:, :1],
        "sample_id": torch.arange(ROWS),
        "steps": steps,
        "states": {name: rows(draw, 3) for name in NAMES},
        "originals": {name: rows(draw)[:, :3] for name in NAMES},
        "key_layers": {name: rows(draw, 2) for name in NAMES},
        "keys": {name: rows(draw) for name in NAMES},
        "generator": torch.Generator().manual_seed(4),
    }
    if name in OF_TOKENS:
        values |= {"originals": {each: torch.arange(ROWS * 3).view(ROWS, 3) % 5.0 for each in NAMES}}
    if "negatives" in loss.needs():
        values |= {"negatives": {"wrong": rows(draw)}, "present": there | {"wrong": there["image"]}}
        steps["wrong"] = rows(draw, 3), torch.ones(ROWS, 3, dtype=torch.bool)
    return {name: value for name, value in values.items() if name in loss.needs()}


def rows(draw: torch.Generator, *steps: int) -> Tensor:
    return torch.randn(ROWS, *steps, WIDTH, generator=draw, dtype=torch.float64)


@pytest.mark.parametrize("name", TAKERS)
def test_it_is_the_mean_of_the_loss_at_each_width(name: str) -> None:
    torch.manual_seed(0)
    loss = LOSSES[name](**FIELDS.get(name, {}))
    loss.setup(NAMES, WIDTH, ["a", "b", "c"], 100)
    loss.setup_decoders(dict.fromkeys(NAMES, 3), dict.fromkeys(NAMES, 5) if name in OF_TOKENS else None)
    loss.double()
    draw = torch.Generator().manual_seed(1)
    z = {each: rows(draw).requires_grad_() for each in NAMES}
    again, plain = given(loss, name), []  # its generator goes on from one width to the next
    for width in (3, 8):
        cut = dict(again)
        cut |= {"negatives": first_columns(cut["negatives"], width)} if "negatives" in cut else {}
        cut |= {"keys": first_columns(cut["keys"], width)} if "keys" in cut else {}
        cut |= {"steps": {n: (h[..., :width], m) for n, (h, m) in cut["steps"].items()}} if "steps" in cut else {}
        alone = copy.deepcopy(loss)
        alone.remembers = width == 8  # what a loss remembers, or begins with, is of the widest
        plain.append(alone(first_columns(z, width), **cut))
    value = at_widths(loss, [3, 8], z, given(loss, name))
    torch.testing.assert_close(value, torch.stack(plain).mean(), rtol=1e-12, atol=1e-12)


def test_columns_beyond_the_widest_learn_nothing() -> None:
    draw = torch.Generator().manual_seed(1)
    z = {each: rows(draw).requires_grad_() for each in NAMES[:2]}
    at_widths(LOSSES["clip"](), [2, 5], z, {}).backward()
    for each in z.values():
        assert each.grad is not None
        assert each.grad[:, :5].abs().min() > 0
        assert each.grad[:, 5:].abs().max() == 0


def test_rows_are_remembered_once_a_step() -> None:
    loss, draw = LOSSES["dbpm"](), torch.Generator().manual_seed(1)
    z = {each: rows(draw) for each in NAMES}
    alone = copy.deepcopy(loss)
    for _ in range(2):
        at_widths(loss, [2, 4, 8], z, {"sample_id": torch.arange(ROWS)})
        alone(z, sample_id=torch.arange(ROWS))
    assert torch.equal(loss.get_extra_state(), alone.get_extra_state())
    assert loss.get_extra_state()[:, 1].tolist() == [2] * ROWS


def asked(make: Make, *terms: dict[str, Any]) -> Config:
    return make(objective=list(terms), embed_dim=16)


def test_widths_are_sorted_and_each_is_there_once(make_config: Make) -> None:
    config = asked(make_config, {"name": "clip", "dims": [16, 4, 8, 4]})
    assert config.objective[0].dims == [4, 8, 16]
    assert config.dims == [4, 8]
    assert make_losses(config)


@pytest.mark.parametrize(
    ("terms", "said"),
    [
        ([{"name": "clip", "dims": [8, 32]}], "objective.dims: 32 is above embed_dim = 16, the whole width"),
        ([{"name": "clip", "dims": [4, 8]}], "add 16 to dims, or set embed_dim: 8"),
        (
            [{"name": "clip"}, {"name": "cross-entropy", "dims": [8, 16]}],
            "objective.1.dims: cross-entropy is of a head's predictions",
        ),
        (
            [{"name": "clip"}, {"name": "attention", "dims": [8, 16]}],
            "objective.1.dims: attention is of inner states of an encoder",
        ),
    ],
)
def test_what_cannot_be(make_config: Make, terms: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(BadInput) as error:
        make_losses(asked(make_config, *terms))
    assert said in str(error.value)
