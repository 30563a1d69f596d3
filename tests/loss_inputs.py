"""A small batch for every registered loss, with all the extras that one may ask for."""

from collections.abc import Callable, Collection, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor

from clx.losses.base import LOSSES, Loss

EVERY = sorted(LOSSES)
NAMES = ("image", "text", "audio/0")
FIELDS: dict[str, dict[str, Any]] = {
    "supremix": {"window": 3.0},  # so that the targets below have hard positives
    **dict.fromkeys(("reconstruct", "cmim"), {"hidden": 3}),
    "replaced-token": {"hidden": 4},
    "self-guided": {"hidden": 3, "temperature": 0.1},
    "sct": {"queue": 0, "layers": 1, "hidden": 2},  # as above; test_sct.py has a queue
    "whitened": {"channels": 2},
    "hydra": {"embedding": 3, "hidden": 5},
    "amcl": {"heads": 2, "min_temperature": 0.1},
    "moit": {"per_class": 0},  # so that a second call finds no rows of the first
    "isogclr": {"rate": 0.0},  # so that a second call finds the temperatures of the first; test_sogclr.py moves them
    "moco": {"queue": 8},
    **dict.fromkeys(("simsiam", "byol", "moco-v3"), {"hidden": 3}),
    "swav": {"prototypes": 3},
    "dino": {"prototypes": 3},
    "clusterns": {"clusters": 3, "start": 1.0},
    "beclr": {"memory_rows": 64, "prototypes": 3, "hidden": 3},
}

TOKENS, OF_TOKENS = 7, {"masked-token": 0, "replaced-token": 5}
"""How many tokens there are, and the losses that ask for them, with how many a text has."""
WIDE_SETS = {"laso": 1, "label-prototypes": 1}
"""How many classes there are to a loss that makes as many outputs as a label set below is wide."""


def make(name: str, width: int = 4, **fields: Any) -> Loss:
    loss = LOSSES[name](**FIELDS.get(name, {}) | fields)
    torch.default_generator.manual_seed(0)  # torch.manual_seed also takes notes of the stack for three kinds of device
    loss.setup(NAMES, width, ("a", "b", "c")[: WIDE_SETS.get(name)], 1000)
    tokens = dict.fromkeys(("image", "text", "audio"), TOKENS) if name in OF_TOKENS else None
    loss.setup_decoders(
        dict.fromkeys(("image", "text", "audio"), width if name == "masked-token" else OF_TOKENS.get(name, 3)), tokens
    )
    return loss


def name_of(loss: Loss) -> str:
    """What a loss is registered by."""
    return next(name for name, kind in LOSSES.items() if kind is type(loss))


def of_each_kind() -> set[str]:
    """The first of the losses that ask for the same, for tests of what is not the loss itself."""
    found: dict[object, str] = {}
    for name, loss in LOSSES.items():
        found.setdefault((loss().requires(), loss.compares_times, loss.trains_predictions), name)
    return set(found.values())


def quick_and_slow(names: Iterable[str], quick: Collection[str]) -> list[Any]:
    """Names to parametrize by; those that are not `quick` are for `pytest -m slow`."""
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in names]


def with_buffers() -> set[str]:
    """The losses that keep something from step to step."""
    return {name for name in LOSSES if list(make(name).buffers())}


class Head(torch.nn.Module):
    """Of three outputs; and with two prototypes of a label."""

    def __init__(self, width: int) -> None:
        super().__init__()
        rows = torch.tensor([[1.0, -1, 0.5, 0], [0, 2, 1, 1]]).repeat(1, -(-width // 4))[:, :width]
        self.register_buffer("rows", rows)

    def forward(self, rows: Tensor) -> Tensor:
        return rows[:, :3] * 2


def batch(size: int = 6, width: int = 4, dtype: torch.dtype = torch.float64, seed: int = 1) -> dict[str, Any]:
    g = torch.Generator().manual_seed(seed)
    z = {name: torch.randn(size, width, generator=g, dtype=torch.float64).to(dtype) for name in NAMES}
    return {
        "z": z,
        "labels": torch.arange(size) % 3,
        "label_sets": (torch.arange(size) % 2).to(torch.float64)[:, None],
        "targets": (torch.arange(size) % 4).to(torch.float64)[:, None],
        "predictions": torch.randn(size, 1, generator=g, dtype=torch.float64).to(dtype),
        "present": {name: torch.ones(size, dtype=torch.bool) for name in NAMES},
        "sample_id": torch.arange(size),
        "repeats": None,
        "groups": None,
        "weights": None,
        "stands_for": None,
        "levels": None,
        "features": {name: x.detach() for name, x in z.items()},
        "negatives": None,  # test_only_negatives.py has some
        "contents": None,
        "progress": 0.0,
        "mixed": None,
        "head": Head(width),
    }


def keys_of(z: dict[str, Tensor]) -> dict[str, Tensor]:
    """Embeddings by a second model that follow from the first's, absent ones too."""
    order = torch.arange(next(iter(z.values())).shape[1]).roll(1)
    return {name: rows.detach()[:, order] for name, rows in z.items()}


def steps_of(z: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Five time steps that follow from the embeddings, so that what holds for these holds for steps."""
    beat = torch.tensor([-1, 0.5, 1, -0.25, 2])[:, None]  # exact in half precision
    mask = torch.ones(len(next(iter(z.values()))), 5, dtype=torch.bool)
    return {name: (rows[:, None] * beat.to(rows.dtype), mask) for name, rows in z.items()}


def states_of(z: dict[str, Tensor]) -> dict[str, Tensor]:
    """What an encoder makes of each of those steps: something that the embeddings of steps do not tell."""
    beat = torch.tensor([1, -1, 0.5, 2, -0.25])[:, None]
    return {name: (rows.detach()[:, None] - 1) * beat.to(rows.dtype) for name, rows in z.items()}


def inner_of(z: dict[str, Tensor], name: str) -> dict[str, Any]:
    """All that a loss of this name asks for of encoders and of a second model; it follows from the embeddings."""
    tokens = torch.tensor([[0, 3, -1], [6, 2, 5]])
    depth = torch.tensor([1, -0.5, 2])[:, None]
    beat = torch.tensor([-1, 0.5, 1, -0.25, 2])[:, None, None]

    def masked() -> dict[str, tuple[Tensor, Tensor]]:
        return {n: (x[:, :3], tokens[(z[n][:, 0] > 0).long()]) for n, (x, _) in steps_of(z).items()}

    def layers() -> dict[str, Tensor]:
        return {name: rows[:, None] * depth.to(rows.dtype) for name, rows in z.items()}

    def attention() -> dict[str, tuple[Tensor, Tensor]]:
        exact = {n: x.to(torch.promote_types(x.dtype, torch.float32)) for n, x in z.items()}
        pairs = torch.ones(len(next(iter(z.values()))), 5, dtype=torch.bool)
        return {n: (1 + x[:, None, :, None] * beat / 16, pairs) for n, x in exact.items()}  # [B, 5, D, 1]

    made: dict[str, Callable[[], Any]] = {
        "steps": lambda: steps_of(z),
        "states": lambda: states_of(z),
        "keys": lambda: keys_of(z),
        "originals": lambda: originals_of(z) if name != "replaced-token" else texts_of(z),
        "masked": masked,
        "layers": layers,
        "key_layers": lambda: {n: x[..., torch.arange(x.shape[2]).roll(1)].detach() for n, x in layers().items()},
        "attention": attention,
    }
    return {key: make() for key, make in made.items() if key in LOSSES[name].needs()}


def texts_of(z: dict[str, Tensor]) -> dict[str, Tensor]:
    """Texts of five tokens at most, by the sign of the numbers of each row."""
    beat = torch.tensor([1, 2, 3, 1, 0])
    found = {name: ((rows.detach()[:, :1] > 0) * 3 + beat).float() for name, rows in z.items()}
    return {n: x.masked_fill(torch.arange(5) > 3, torch.nan) if n == "text" else x for n, x in found.items()}


def originals_of(z: dict[str, Tensor]) -> dict[str, Tensor]:
    """Three numbers that each encoder was given, which follow from the embeddings; one of them is not known."""
    found = {
        name: rows.detach()[:, :3].to(torch.promote_types(rows.dtype, torch.float32)) * 2 - 1
        for name, rows in z.items()
    }
    return {
        name: rows.index_fill(1, torch.tensor([1]), torch.nan) if name == "text" else rows
        for name, rows in found.items()
    }
