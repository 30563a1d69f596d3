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
from clx.losses.masked_token import MaskedToken
from clx.losses.replaced_token import ReplacedToken, replaced_tokens
from clx.losses.token_network import tokens_in
from golden_case import Case
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


def test_judging_tokens_is_the_authors_number() -> None:
    """There padding counts, as not replaced."""
    for path in sorted(GOLDEN.glob("diffcse_rtd_*.npz")):
        case = Case(path)
        replaced = (case.ids != case.generated) & (case.mask == 1)
        found = case.hyper["weight"] * replaced_tokens(case.logits, replaced, torch.ones_like(replaced))
        torch.testing.assert_close(found, case.expected, rtol=1e-6, atol=1e-9)
        (gradient,) = torch.autograd.grad(found, [case.logits])
        torch.testing.assert_close(gradient, case.grads["logits"], rtol=1e-6, atol=1e-9)


def words(loss: Any) -> dict[str, Any]:
    """Three texts of up to four of six tokens; the second lacks its first token, the third is absent."""
    torch.manual_seed(0)
    loss.setup(["text"], 4)
    loss.setup_decoders({"text": 5}, {"text": 6})
    loss.double()
    text = torch.tensor([[1.0, 4, 2, torch.nan, torch.nan], [torch.nan, 3, 5, 0, torch.nan], [1.0] * 5])
    here = {"text": torch.tensor([True, True, False])}
    return {"z": {"text": torch.randn(3, 4).double()}, "originals": {"text": text}, "present": here}


def test_a_text_is_said_token_by_token() -> None:
    """As the chain rule has it: each token's probability follows from the embedding and the tokens before it alone."""
    loss = Reconstruct(hidden=8)
    d = words(loss)
    x, per_row = d["originals"]["text"], []
    for i in (0, 1):
        known = [t for t in range(5) if not x[i, t].isnan()]
        errors = []
        for t in known:
            cut = x[i : i + 1, : t + 1].clone()
            cut[0, t] = 0  # whatever stands there
            there = ~cut.isnan()
            logits = loss.decoders[0](cut.nan_to_num().long(), there, d["z"]["text"][i : i + 1])
            errors.append(-logits[0, t].log_softmax(0)[int(x[i, t])])
        per_row.append(torch.stack(errors))
    torch.testing.assert_close(loss(**d), torch.stack([errors.mean() for errors in per_row]).mean())
    codes = CMIM(hidden=8, deviation=0.5)
    d = words(codes)
    total, count, tokens = codes.errors("text", d["z"]["text"], d["originals"]["text"])
    assert tokens
    assert count.tolist() == [3, 3, 5]
    eps = torch.randn(3, 4, generator=torch.Generator().manual_seed(3)).double()
    z, scale = d["z"]["text"], codes.log_scale(d["z"]["text"])
    here = d["present"]["text"]
    latent = latent_terms(torch.where(here[:, None], z, 0), scale, eps, 0.1, here)[:2]
    code = (z + scale.exp() * eps)[:2]
    wanted = (latent + codes.errors("text", code, d["originals"]["text"][:2])[0]).mean()
    torch.testing.assert_close(codes(**d, generator=torch.Generator().manual_seed(3)), wanted)


def test_masked_tokens_are_guessed_from_their_places() -> None:
    loss = MaskedToken()
    torch.manual_seed(0)
    loss.setup(["text"], 4)
    loss.setup_decoders({"text": 8}, {"text": 6})
    states, tokens = torch.randn(3, 2, 8), torch.tensor([[1, 5], [2, -1], [0, 0]])
    here, weights = {"text": torch.tensor([True, True, False])}, torch.tensor([2.0, 0.5, 9])
    logits = loss.heads[0](states).log_softmax(2)
    each = [-2 * logits[0, 0, 1], -2 * logits[0, 1, 5], -0.5 * logits[1, 0, 2]]
    found = loss({"text": torch.zeros(3, 4)}, masked={"text": (states, tokens)}, present=here, weights=weights)
    torch.testing.assert_close(found, torch.stack(each).mean())
    assert loss.log["asked"] == 3


@pytest.mark.parametrize("fill", ["likeliest", "drawn"])
def test_some_tokens_are_replaced_by_what_is_guessed(fill: Any) -> None:
    loss = ReplacedToken(hidden=8, share=0.5, fill=fill)
    d = words(loss)
    loss.guessers[0].out.bias.data += torch.tensor([0.0, 0, 0, 0, 0, 50])  # it always guesses 5
    x, there = tokens_in(d["originals"]["text"], d["present"]["text"])
    draws = torch.rand(2, 3, 5, generator=torch.Generator().manual_seed(4))
    made, guess = loss.replace(loss.guessers[0], x, there, draws, None)
    changed = made != x
    first = [draws[0, i].masked_fill(~there[i], 2).argsort()[:2].tolist() for i in (0, 1)]
    assert made[changed].tolist() == [5] * int(changed.sum())
    assert [changed[i].nonzero()[:, 0].tolist() for i in (0, 1)] == [
        sorted(t for t in places if x[i, t] != 5) for i, places in enumerate(first)
    ]
    assert not changed[2].any()
    wanted = torch.stack([-50.0 * (x[i, t] != 5) for i, places in enumerate(first) for t in places]).mean()
    assert abs(guess + wanted) < 3  # its other logits are small
    value = loss(**d, generator=torch.Generator().manual_seed(4))
    logits = loss.judges[0](made[:, :4], there[:, :4], torch.where(d["present"]["text"][:, None], d["z"]["text"], 0))
    each = -logits.log_softmax(2).gather(2, changed[:, :4, None].long())[..., 0]
    torch.testing.assert_close(value, each[there[:, :4]].mean() + guess)
    assert loss.log["replaced"] == changed.sum()


def test_texts_alone_have_tokens_to_replace() -> None:
    with pytest.raises(ValueError, match="image has no tokens that could be replaced"):
        ReplacedToken().setup_decoders({"image": 3})


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
