"""More losses against numbers from their authors' own code, as test_golden.py has it; `CLX_GOLDEN=DIR` likewise."""

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from clx.losses.cacr import attraction, repulsion
from clx.losses.cosent import angle_similarity, cosent, ordered_loss
from clx.losses.further_negatives import Negatives
from clx.losses.geometry import uniformity
from clx.losses.groco import GroCo
from clx.losses.hinge import energy_hinge
from clx.losses.hydra import gated_contrast
from clx.losses.infonce import infonce
from clx.losses.metric import multi_similarity, triplets
from clx.losses.prime import dynamic_margin
from clx.losses.primitives.functional import unit
from clx.losses.primitives.streaming import cross_margins
from clx.losses.sct import distilled
from clx.losses.sepclr import following, joint_entropy, sepclr
from clx.losses.sogclr import moved, next_temperatures
from clx.losses.whitening import grouped, inverse_roots, ungrouped
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


def margins(c: Case, suffix: str = "", tau: Tensor | None = None, other: Tensor | None = None) -> list[Tensor]:
    """Log-sum-exp of (s_ij - s_ii) / t over the negatives, from image to text and back, rows as they are."""
    x, y = c.inputs[f"image{suffix}"], c.inputs[f"text{suffix}"]
    if tau is None or other is None:
        return [cross_margins(a, b, 1 / c.logit_scale, both=False) for a, b in ((x, y), (y, x))]
    return [cross_margins(a / t, b, 1.0, both=False) for a, b, t in ((x, y, tau), (y, x, other))]


def fastclip_v1(c: Case) -> Tensor:
    """A first step: u is g, so the value says nothing; the gradient is divided by t there."""
    found = margins(c)
    for m, key in zip(found, ("s0_u_im", "s0_u_tt"), strict=True):
        torch.testing.assert_close(m.exp() / (len(m) - 1), c.aux[key][:, 0], rtol=1e-4, atol=1e-8)
    return torch.stack([(m - m.detach()).exp().mean() for m in found]).sum()


def fastclip_v2(c: Case) -> Tensor:
    """The last of one or two steps, with the temperatures recorded before it, which Adam moved; gamma falls."""
    n, steps = len(c.image), c.hyper["steps"]
    taus = [torch.full((n, 1), c.hyper["tau_init"])] * 2
    averages = [torch.full((n,), -math.inf)] * 2
    for step in range(steps):
        gamma = 0.5 * (1 + math.cos(math.pi * step / c.hyper["gamma_decay_epochs"])) * 0.2 + 0.8
        now = margins(c, "2" if step else "", *taus)
        averages = [moved(u, m.detach() - math.log(n - 1), gamma) for u, m in zip(averages, now, strict=True)]
        value = torch.stack([(m - math.log(n - 1) - u).exp().mean() for m, u in zip(now, averages, strict=True)]).sum()
        taus = [c.aux[f"s{step}_tau_{key}"] for key in ("im", "tt")]
        taus = [tau.view(n, 1) for tau in taus]
        wanted = [c.aux[f"s{step}_u_{key}"][:, 0] for key in ("im", "tt")]
        bound = c.aux[f"s{step}_bound_im"][:, 0]
        torch.testing.assert_close(averages[0], wanted[0].log() + bound, rtol=1e-3, atol=1e-4)
    return value


def fastclip_v3(c: Case) -> Tensor:
    """A learned temperature. The terms of the rows are added over both directions there, that of u is averaged."""
    n, s = len(c.image), c.logit_scale
    averages = [torch.full((n,), -math.inf)] * 2
    for step in range(c.hyper["steps"]):
        gamma = 0.5 * (1 + math.cos(math.pi * step / c.hyper["gamma_decay_epochs"])) * 0.2 + 0.8
        now = [m - math.log(n - 1) for m in margins(c, "2" if step else "")]
        averages = [moved(u, m.detach(), gamma) for u, m in zip(averages, now, strict=True)]
    rows = torch.stack([(m - u).exp().mean() for m, u in zip(now, averages, strict=True)]).sum()
    return rows / s.detach() + c.hyper["rho"] / s + torch.stack([u.mean() for u in averages]).sum() / (2 * s)


def isogclr(c: Case) -> Tensor:
    """The authors' own: sums begin with the row itself, u with gamma g, and both directions are added."""
    h, n = c.hyper, len(c.image)
    averages = [torch.full((n,), -math.inf)] * 2
    taus, means = [torch.full((n,), h["tau_init"])] * 2, [torch.zeros(n)] * 2
    for step in range(h["steps"]):
        total, suffix = torch.zeros(()), "2" if step else ""
        sides = [c.inputs[f"{key}{suffix}"] for key in ("image", "text")]
        for k, (x, y) in enumerate((sides, sides[::-1])):
            with torch.no_grad():
                far = x @ y.T - (x * y).sum(1, keepdim=True)
                now = (far / taus[k][:, None]).logsumexp(1) - math.log(n - 1)
                averages[k] = torch.logaddexp(averages[k] + math.log(1 - h["gamma"]), now + math.log(h["gamma"]))
                weights = (far / taus[k][:, None] - averages[k][:, None]).exp() / (n - 1)
                slope = averages[k] + h["rho"] - (weights * far).sum(1) / taus[k]
            total = total + (weights * (x @ y.T - (x * y).sum(1, keepdim=True))).sum(1).mean()
            taus[k], means[k] = next_temperatures(
                taus[k], means[k], slope, h["eta"], h["beta_u"], h["tau_min"], h["tau_max"]
            )
            wanted = c.aux[f"s{step}_tau_{'IT'[k]}"]
            torch.testing.assert_close(taus[k], wanted, rtol=1e-3, atol=1e-5)
    return total


def promcse(c: Case) -> Tensor:
    h, hard = c.hyper, Negatives(unit(c.z3))
    x, y = unit(c.z1), unit(c.z2)
    hinge = energy_hinge(x, y, h["eh_loss_margin"], negatives=hard) * h["eh_loss_weight"]
    return infonce(x, y, h["temp"], negatives=hard) + hinge


def pml(c: Case) -> Tensor:
    h, z = c.hyper, unit(c.emb)
    if "alpha" in h:
        return multi_similarity(z, c.labels, h["alpha"], h["beta"], h["base"])
    return triplets(z, c.labels, h["margin"], "all", "euclidean")


def angle(c: Case) -> Tensor:
    return ordered_loss(angle_similarity(unit(c.a), unit(c.b)) * c.hyper.get("scale", c.hyper.get("tau")), c.labels)


def separated(c: Case) -> Tensor:
    h = c.hyper
    weights = float(h["beta_salient"]), float(h["beta_reg"]), float(h["lambda_jem"])
    return sepclr([unit(c.c1), unit(c.c2)], [c.s1, c.s2], c.labels == 1, 0.5 / h["tau"], weights)


def whitened(c: Case) -> Tensor:
    """Each of three views by itself, without a gradient through the whitening; the number is that of the cubes."""
    found = []
    straight = torch.arange(c.x.shape[1]).expand(3, -1)
    for x, order in zip(c.x.chunk(3), c.aux.get("perms", straight), strict=True):
        groups, covariances = grouped(x, order, x.shape[1] // c.hyper["num_groups"])
        found.append(ungrouped(groups @ inverse_roots(covariances, 0.0).detach(), order))
    white = torch.cat(found)
    return white if c.expected.dim() else (white**3).sum()


def across_views(c: Case) -> Tensor:
    h = c.hyper
    total = torch.zeros(())
    for own, other in ("ab", "ba"):
        reference = unit(c.inputs[f"reference_{own}"])
        columns = torch.cat([c.inputs[f"queue_{own}"], reference])
        torch.testing.assert_close(columns[-h["queue"] :], c.aux[f"queue_{own}_after"])
        given = unit(c.inputs[f"predicted_{other}"]), reference, columns
        total = total + distilled(*given, h["student_temp"], h["teacher_temp"])
    return total


def simlap(c: Case) -> Tensor:
    return gated_contrast(c.z, c.gate, c.y1, c.y2, c.hyper["temperature"])


def prime(c: Case) -> Tensor:
    """A temperature of 1 turns the weights of its source off: the sum of what all negatives leave, here their number
    times a mean with even weights."""
    h, s = c.hyper, c.similarity
    positive, level = of_positives(s, c.target, c.aux["positive_index"], h)
    leave_out(c, "similarity", level)
    given = h["num_negatives"], h["margin_min"], h["margin"]
    if h["tau"] == 1:
        left = s - positive[:, None] + (s - positive[:, None]).abs().clamp(h["margin_min"], h["margin"])
        wrong = (left > 1e-12) & (c.target == 0)
        assert h["num_negatives"] >= (c.target == 0).sum(1).max()
        return (dynamic_margin(s, c.target != 0, positive, *given, 1e12) * wrong.sum(1)).mean()
    return dynamic_margin(s, c.target != 0, positive, *given, h["tau"]).mean()


def of_positives(s: Tensor, target: Tensor, drawn: Tensor, h: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """The similarity of each row's drawn positive, and the entries whose maximum of 0 and 0 passes half of a gradient
    there: here none, so they are left out of the comparison."""
    rows = torch.arange(len(s))
    positive = s[rows, drawn]
    apart = (s - positive[:, None]).detach()
    level = ((apart + apart.abs().clamp(h["margin_min"], h["margin"])).abs() < 1e-12) & (target == 0)
    level[rows, drawn] = level.any(1)
    return positive, level


def leave_out(c: Case, name: str, level: Tensor) -> None:
    c.grads[name] = c.grads[name].masked_fill(level, 0)
    c.inputs[name].register_hook(lambda g: g.masked_fill(level, 0))


def prime_of_two_stages(c: Case) -> Tensor:
    """Label vectors of two stages, of which ours has one: the last one's triplets, the first one's in both directions,
    and a regulariser that keeps the last one from falling behind the first."""
    h, f, m, t = c.hyper, c.final, c.intermediate, c.target
    total, levels = f.new_zeros(()), []
    for s, target, said in ((f, t, "final"), (m, t, "intermediate"), (m.T, t.T, "dual")):
        positive, level = of_positives(s, target, c.aux[f"positive_index_{said}"], h)
        levels.append(level)
        given = h["num_negatives"], h["margin_min"], h["margin"], h["tau"]
        total = total + h.get({"intermediate": "inter"}.get(said, said), 1) * (
            dynamic_margin(s, target != 0, positive, *given).mean()
        )
    leave_out(c, "final", levels[0])
    leave_out(c, "intermediate", levels[1] | levels[2].T)
    own = torch.arange(len(f)), c.aux["positive_index_regulariser"]
    hard = f.masked_fill(t != 0, -math.inf).topk(h["num_negatives"], 1).indices
    behind = (m - f + h["margin_reg"])[own].relu(), (f - m + h["margin_reg"]).gather(1, hard)[t.gather(1, hard) == 0]
    return total + h["reg"] * sum(each[each > 0].mean() for each in behind) / 2


def isogclr_of_views(c: Case) -> Tensor:
    """The authors' own for two views: sums are of exp(s / t), as they are, and leave the range of float32 where rows
    are long; in logarithms they do not. u of an item is the mean of its views'; both views' losses are added."""
    h, size = c.hyper, len(c.features)
    others = ~torch.eye(size, dtype=torch.bool).repeat(2, 2)
    log_u, tau, mean = torch.zeros(size), torch.full((size,), h["tau_init"]), torch.zeros(size)
    in_range = bool(c.expected.isfinite())
    for step in range(h["steps"]):
        x = c.inputs["features2" if step else "features"].transpose(0, 1).flatten(0, 1)
        s, t = x @ x.T, tau.repeat(2)
        logits = (s / t[:, None]).masked_fill(~others, -math.inf).detach()
        now = logits.logsumexp(1) - math.log(2 * size - 2)
        each = moved(log_u.repeat(2), now, h["gamma"]) if step else now
        log_u = torch.logaddexp(*each.view(2, -1)) - math.log(2)
        weights = (logits - each[:, None]).exp() / (2 * size - 2)
        value = 2 * ((weights * s).sum(1) - s.diagonal(size).repeat(2)).mean()
        slope = (each + h["rho"] - (weights * s).sum(1).detach() / t).view(2, -1).mean(0).clamp(-3, 3)
        tau, mean = next_temperatures(tau, mean, slope, h["eta"], h["beta_u"], h["tau_min"], h["tau_max"])
        if in_range:
            torch.testing.assert_close(tau, c.aux[f"s{step}_tau"], rtol=1e-4, atol=1e-6)
            torch.testing.assert_close(log_u.exp(), c.aux[f"s{step}_s"], rtol=1e-3, atol=1e-3)
    if not in_range:
        assert value.isfinite()
        c.expected, c.grads = value.detach(), {}
    return value


CHECKS: dict[str, Check] = {
    "simlap_": simlap,
    "prime_dyn": prime,
    "prime_full": prime_of_two_stages,
    "isogclr_official_unimodal": isogclr_of_views,
    "sgw_": whitened,
    "sct_": across_views,
    "st_angle": angle,
    "anglelib_angle": angle,
    "sepclr_total": separated,
    "sepclr_uniform": lambda c: uniformity(c.x, 0.5 / c.hyper["tau"]),
    "sepclr_supalign": lambda c: following(c.x, c.y.detach(), 0.5 / c.hyper["tau"]),
    "sepclr_jem": lambda c: joint_entropy(c.c, c.s, 0.5 / c.hyper["tau"]),
    "promcse_": promcse,
    "pml_triplet": pml,
    "pml_multisimilarity": pml,
    "cacr_": cacr,
    "groco_": groco,
    "sogclr_1step_s": fastclip_v1,
    "fastclipv3_": fastclip_v3,
    "anglelib_cosine": lambda c: cosent(unit(c.a), unit(c.b), c.labels, 1 / c.hyper["tau"]),
    "isogclr_1step": fastclip_v2,
    "isogclr_2step": fastclip_v2,
    "isogclr_official_bimodal": isogclr,
}
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
