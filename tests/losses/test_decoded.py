"""Losses with decoders, against golden numbers and loops."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from clx.losses.base import LOSSES
from clx.losses.decoded import CMIM, Reconstruct, latent_terms
from loss_inputs import batch, make

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("cmim_*.npz")), ids=lambda path: path.stem)
def test_codes_cost_what_the_source_says(path: Path) -> None:
    with np.load(path) as file:
        known = {key: torch.from_numpy(np.asarray(file[key])) for key in file.files if file[key].dtype.kind == "f"}
        hyper = json.loads(str(file["hyper"]))
    mean, log_scale = known["in_mean"].requires_grad_(), known["in_log_scale"].requires_grad_()
    there = torch.ones(len(mean), dtype=torch.bool)
    found = latent_terms(
        mean, log_scale, known["aux_eps"], hyper["temperature"], there, by_width=hyper["normalize_loss"]
    )
    torch.testing.assert_close(found, known["expected"], rtol=1e-9, atol=1e-9)
    for got, key in zip(torch.autograd.grad(found.sum(), [mean, log_scale]), ("mean", "log_scale"), strict=True):
        expected = known[f"grad_{key}"]
        scale = expected.norm() / got.norm()  # of the sum of the rows, or of their mean
        assert min(abs(scale - 1), abs(scale - 1 / len(mean))) < 1e-6
        torch.testing.assert_close(got * scale, expected, rtol=1e-7, atol=1e-9)


def given(missing: bool) -> dict[str, Any]:
    d = batch()
    d["originals"] = {name: rows[:, :3] * 2 - 1 for name, rows in d["z"].items()}
    d["originals"]["text"][:, 1] = torch.nan
    d["weights"] = torch.linspace(0.5, 1.5, 6, dtype=torch.float64)
    if missing:
        d["present"]["text"][:2] = False
        d["present"]["image"][3] = False
        for name, there in d["present"].items():
            d["z"][name][~there] = d["originals"][name][~there] = torch.nan
    return {key: d[key] for key in ("z", "originals", "present", "weights")}


def linear(layer: Any, x: Tensor) -> Tensor:
    return torch.stack([(x * row).sum() + bias for row, bias in zip(layer.weight, layer.bias, strict=True)])


def decoded(loss: Any, name: str, x: Tensor) -> Tensor:
    first, _, last = loss.decoders[("image", "text", "audio").index(name.partition("/")[0])]
    return linear(last, torch.stack([h * (1 + torch.erf(h / math.sqrt(2))) / 2 for h in linear(first, x)]))


@pytest.mark.parametrize("missing", [False, True])
def test_an_auto_encoder_is_the_mean_of_squares(missing: bool) -> None:
    loss, d = make("reconstruct").double(), given(missing)
    by_name = []
    for name, rows in d["z"].items():
        terms = []
        for i in d["present"][name].nonzero()[:, 0]:
            said, is_said = decoded(loss, name, rows[i]), d["originals"][name][i]
            errors = [(a - b) ** 2 for a, b in zip(said, is_said, strict=True) if b == b]
            terms.append(torch.stack(errors).mean() * d["weights"][i])
        by_name.append(torch.stack(terms).mean())
    torch.testing.assert_close(loss(**split(d)), torch.stack(by_name).mean())


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("contrast", [False, True])
def test_cmim_is_its_formula(missing: bool, contrast: bool) -> None:
    loss, d, tau, s = make("cmim", contrast=contrast, deviation=0.5).double(), given(missing), 0.1, 0.5
    eps = torch.randn(6, 4, generator=torch.Generator().manual_seed(3)).double()
    by_name = []
    for name, rows in d["z"].items():
        there, terms = d["present"][name].nonzero()[:, 0].tolist(), []
        log_scales = {i: linear(loss.log_scale, rows[i]) for i in there}
        codes = {i: rows[i] + log_scales[i].exp() * eps[i] for i in there}
        for i in there:
            z = codes[i]
            alike = [math.exp(torch.cosine_similarity(z, codes[j], 0).item() / tau) for j in there if j != i]
            k = 1 / tau - math.log(math.exp(1 / tau) + sum(alike) / len(alike)) if contrast else 0.0
            q = torch.distributions.Normal(rows[i], log_scales[i].exp()).log_prob(z).sum()
            p = torch.distributions.Normal(0, 1).log_prob(z).sum()
            numbers = d["originals"][name][i]
            known = ~numbers.isnan()
            said = torch.distributions.Normal(decoded(loss, name, z)[known], s).log_prob(numbers[known]).sum()
            terms.append((-said - (q + p) / 2 - k) * d["weights"][i])
        by_name.append(torch.stack(terms).mean())
    value = loss(**split(d), generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(value, torch.stack(by_name).mean())


def split(d: dict[str, Any]) -> dict[str, Any]:
    return {"z": d["z"], **{key: d[key] for key in d if key != "z"}}


def test_other_views_are_said_in_place_of_the_own() -> None:
    torch.manual_seed(0)
    z = {f"image/{k}": torch.randn(5, 4) for k in range(2)}
    numbers = {name: torch.randn(5, 3) for name in z}
    plain, across = (Reconstruct(hidden=3, other_view=other) for other in (False, True))
    for loss in (plain, across):
        torch.manual_seed(1)
        loss.setup(list(z), 4)
        loss.setup_decoders({"image": 3})
    swapped = {"image/0": numbers["image/1"], "image/1": numbers["image/0"]}
    torch.testing.assert_close(across(z, originals=numbers), plain(z, originals=swapped))
    assert across(z, originals=numbers) != plain(z, originals=numbers)


def test_the_contrast_hardly_depends_on_how_many_rows_there_are() -> None:
    """As negatives count by their mean, a batch written twice costs about what it does once."""
    torch.manual_seed(0)
    x, there = torch.randn(64, 16).double(), torch.ones(128, dtype=torch.bool)
    none = torch.full((128, 16), -20.0).double()
    once, twice = (
        latent_terms(x.repeat(n, 1), none[: 64 * n], none[: 64 * n] * 0, 0.1, there[: 64 * n]) for n in (1, 2)
    )
    assert LOSSES["cmim"] is CMIM
    assert abs(once.mean() - twice.mean()) < 0.5 < math.log(2)
