"""The losses against numbers that came from running the authors' or the peers' own code.

A golden file is matched in value and in every gradient, to 1e-6 in float64 and 1e-4 in float32. Where its source
departs from its paper or has a defect, the check here adds the defect's own term to the formula and says so; the
clean formula is then held against the loops of test_oracles.py. `CLX_GOLDEN=DIR` checks another folder: a file
is dispatched by how its name begins, everything else is read from it.
"""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import golden_mixtures
from clx.losses.cosent import cosent
from clx.losses.dbpm import nt_xent_per_item
from clx.losses.dcl import dcl, von_mises
from clx.losses.further_negatives import Negatives
from clx.losses.geometry import alignment, uniformity
from clx.losses.infonce import clip, infonce, log_sum_of_negatives, nt_xent
from clx.losses.multiview import mv_dhel, mv_infonce, poly_view
from clx.losses.negatives import hard_negatives
from clx.losses.primitives.edits import DifferentIds, off_diagonal
from clx.losses.primitives.functional import lse, paired_similarity, softplus, unit
from clx.losses.primitives.streaming import cross, gram
from clx.losses.ranknc import rank_n_contrast
from clx.losses.siglip import siglip
from clx.losses.supcon import supcon
from clx.losses.supremix import linear, squared, supremix
from clx.losses.symile import mip, symile, symile_shuffled
from clx.losses.ts2vec import ts2vec
from clx.losses.view_baselines import average_view
from golden_case import GOLDEN, Case

FAMILIES = (
    *("align", "uniform", "clip_", "siglip", "symile", "mv_", "supcon", "dcl_", "dclw_", "debiased", "hcl"),
    *("supremix", "conr", "rnc", "lightly_ntxent", "lightly_dcl", "lightly_hypersphere", "pml_ntxent"),
    *("pml_supcon", "autotcl_global", "dbpm_ntxent", "ts2vec", "st_cosent", "st_mnr_m.", "st_mnr_s.", "st_mnr_hard1"),
    *("st_mnr_hard3", "st_mnr_sym"),
    *golden_mixtures.FAMILIES,
)
OTHERS = ("clip_distill",)  # begins like one of ours and is not


def files() -> list[Path]:
    found = sorted(GOLDEN.glob("*.npz"))
    return [p for p in found if p.name.startswith(FAMILIES) and not p.name.startswith(OTHERS)]


def views_first(features: Tensor) -> Tensor:
    """`[B, V, d]` as rows `[V B, d]`, view 0 first."""
    return features.transpose(0, 1).flatten(0, 1)


def one(c: Case) -> dict[str, Callable[[], Tensor]]:
    """Checks by the beginning of the name; the longest that fits is meant."""
    h = c.hyper
    t = h.get("temperature", h.get("tau"))

    def factors() -> list[Tensor]:
        return [c.inputs[k] for k in sorted(c.inputs) if k.startswith("r")]

    def views(normalise: bool = True) -> list[Tensor]:
        return list((unit(c.z) if normalise else c.z).chunk(h["V"]))

    def pairs(loss: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        u = views()
        terms = [loss(u[a], u[b]) for a in range(len(u)) for b in range(a)]
        return torch.stack(terms).mean()

    return {
        "align": lambda: alignment(c.x, c.y, h["alpha"]),
        "uniform": lambda: uniformity(c.x, h["t"]),
        "clip_": lambda: clip(c.image, c.text, 1 / c.logit_scale),
        "siglip": lambda: siglip(c.image, c.text, 1 / c.logit_scale, c.logit_bias),
        "symile_nsq": lambda: symile(factors(), 1 / c.logit_scale),
        "symile_n_": lambda: symile_shuffled(factors(), 1 / c.logit_scale, [list(orders) for orders in c.aux["perms"]]),
        "symile_mip": lambda: mip_scores(c),
        # its docstring says average, the code sums the three pairs
        "symile_clip_sum": lambda: sum(
            (clip(x, y, 1 / c.logit_scale) for x, y in ((c.r0, c.r1), (c.r1, c.r2), (c.r0, c.r2))),
            start=torch.zeros(()),
        ),
        "symile_clip_retrieval": lambda: retrieval_scores(c),
        "mv_mvinfonce": lambda: mv_infonce(views(), t),
        "mv_mvdhel_": lambda: mv_dhel(views(), t),
        "mv_mvdhel_pwe": lambda: pairs(lambda x, y: mv_dhel([x, y], t)),
        "mv_mvdhel_avg": lambda: average_view(views(), t, "mv-dhel", renormalise=True),
        "mv_ntxent_pwe": lambda: pairs(lambda x, y: nt_xent(x, y, t)),
        "mv_ntxent_avg": lambda: average_view(views(), t, "nt-xent"),
        "mv_ntxent_default": lambda: nt_xent(*views(), t),
        # all views as positives of each other: SupCon with every item its own label
        "mv_ntxent_mv": lambda: supcon(unit(c.z), items(c), t)[0].mean(),
        "mv_pvc_geometric": lambda: poly_view(views(), t),
        "mv_pvc_arithmetic_asis": lambda: arithmetic_as_published(views(), t),
        "mv_cl1": lambda: cross_view_energy(views(), t),
        "mv_cl2": lambda: anchor_wise_dhel(views(), t),
        "supremix": lambda: supremix_as_published(c),
        "supremix_dm_only": lambda: distance_magnifying(c),
        "conr": lambda: conr_as_published(c),
        "conr_nyud2": lambda: conr_nyud2_as_published(c),
        "rnc": lambda: rank_n_contrast(views_first(c.features), c.labels.repeat(c.features.shape[1], 1), t),
        "lightly_ntxent": lambda: nt_xent(unit(c.z0), unit(c.z1), t),
        "lightly_dcl_": lambda: dcl(unit(c.z0), unit(c.z1), t)[0].mean(),
        "lightly_dclw": lambda: dcl(
            unit(c.z0), unit(c.z1), t, weight=von_mises(unit(c.z0), unit(c.z1), h["sigma"]).detach()
        )[0].mean(),
        "lightly_hypersphere": lambda: (
            alignment(unit(c.z0), unit(c.z1), h["alpha"])
            + h["lam"] * (uniformity(unit(c.z0), h["t"]) + uniformity(unit(c.z1), h["t"])) / 2
        ),
        "pml_ntxent": lambda: over_positive_pairs(unit(c.emb), c.labels, t),
        "pml_supcon": lambda: over_nonzero(unit(c.emb), c.labels, t),
        "supcon": lambda: supcon_as_published(c),
        "dcl_": lambda: one_way_dcl(c, 1.0),
        "dclw_": lambda: one_way_dcl(c, von_mises(c.z1, c.z2, h["sigma"])),  # weights not detached there
        "debiased": lambda: hard_negatives(c.z1, c.z2, t, h["tau_plus"]),
        "debiased_off": lambda: nt_xent(c.z1, c.z2, t),
        "hcl": lambda: hard_negatives(c.z1, c.z2, t, h["tau_plus"], h["beta"]),
        "autotcl_global": lambda: infonce(unit(c.z1.amax(1)), unit(c.z2.amax(1)), t),
        "dbpm_ntxent": lambda: nt_xent_per_item(unit(c.z1), unit(c.z2), t),
        "st_cosent": lambda: cosent(unit(c.a), unit(c.b), c.labels, 1 / h["scale"]),
        "st_mnr": lambda: infonce(unit(c.anchor), unit(c.positive), 1 / h["scale"], negatives=hard_negative_rows(c)),
        "st_mnr_sym": lambda: clip(unit(c.anchor), unit(c.positive), 1 / h["scale"]),
        "ts2vec": lambda: ts2vec(c.z1, c.z2, alpha=h["alpha"], temporal_unit=h["temporal_unit"]),
        **golden_mixtures.checks(c),
    }


def items(c: Case) -> Tensor:
    return torch.arange(len(c.z) // c.hyper["V"]).repeat(c.hyper["V"])


def hard_negative_rows(c: Case) -> Negatives | None:
    """Every hard negative of every row, which all anchors share."""
    rows = [unit(c.inputs[name]) for name in sorted(c.inputs) if name.startswith("negative")]
    return Negatives(torch.cat(rows)) if rows else None


def mip_scores(c: Case) -> Tensor:
    queries = [c.inputs[k] for k in sorted(c.inputs) if k.startswith("q")]
    return torch.stack([mip([*(q[:, None] for q in queries), c.candidates[None]])])[0]


def retrieval_scores(c: Case) -> Tensor:
    scale = 2.0  # applied by the source's caller; so is the term of the queries among themselves
    queries = [c.inputs[k] for k in sorted(c.inputs) if k.startswith("q")]
    scores = sum((q @ c.candidates.T for q in queries), start=torch.zeros(()))
    among = sum(
        ((queries[a] * queries[b]).sum(1, keepdim=True) for a in range(len(queries)) for b in range(a)),
        start=torch.zeros(()),
    )
    return scale * (scores + among)


def arithmetic_as_published(views: list[Tensor], t: float) -> Tensor:
    """Defect: a log-sum-exp of losses already averaged over the batch, less log B in place of log(V - 1)."""
    batch = len(views[0])
    ids = torch.arange(batch).repeat(len(views))
    negative = gram(torch.cat(views), t, DifferentIds(ids))[0].view(len(views), batch)
    rows = []
    for a, u in enumerate(views):
        others = [softplus(negative[a] - paired_similarity(u, w, t)).mean() for b, w in enumerate(views) if b != a]
        rows.append(lse(torch.stack(others), 0) - math.log(batch))
    return torch.stack(rows).mean()


def cross_view_energy(views: list[Tensor], t: float) -> Tensor:
    """CL_1 of the multi-view code: -LSE over the item's other views + LSE over all rows of other views."""
    terms = []
    for a, u in enumerate(views):
        others = [w for b, w in enumerate(views) if b != a]
        positive = lse(torch.stack([paired_similarity(u, w, t) for w in others]), 0)
        terms.append(cross(u, torch.cat(others), t)[0] - positive)
    return torch.cat(terms).mean()


def anchor_wise_dhel(views: list[Tensor], t: float) -> Tensor:
    """CL_2 of the multi-view code: MV-DHEL with an alignment term per anchor view."""
    energy = torch.stack([gram(u, t, off_diagonal)[0] for u in views]).sum(0).mean()
    terms = []
    for a, u in enumerate(views):
        terms.append(lse(torch.stack([paired_similarity(u, w, t) for b, w in enumerate(views) if b != a]), 0))
    return energy - torch.cat(terms).mean()


def distance_magnifying(c: Case) -> Tensor:
    """SupReMix without mixtures; the two reciprocal weights exist in the source only."""
    growth = {
        "L1_inv": linear,
        "L2_inv": squared,
        "L1": lambda d: -linear(d),
        "L2": lambda d: -squared(d),
    }[c.hyper["distance"]]
    y = c.labels.flatten().repeat(c.features.shape[1])
    terms, valid = supremix(views_first(c.features), y, c.hyper["temperature"], growth=growth)
    return terms[valid].mean()


def supremix_as_published(c: Case) -> Tensor:
    """Defects: the recorded mixtures' labels are permuted, empty places stay in P as zero vectors, and real and
    mixed logits are shifted by maxima of their own before they meet in one softmax."""
    z = views_first(c.features)
    y = c.labels.flatten().repeat(c.features.shape[1])
    n, t = len(z), c.hyper["temperature"]
    own = torch.eye(n, dtype=torch.bool)
    real = z @ z.T / t
    real = real - real.detach().amax(1, keepdim=True)
    mixed = torch.einsum("nd,ncd->nc", z, c.aux["mixtures"]) / t
    mixed = mixed - mixed.detach().amax(1, keepdim=True)
    kind = c.aux["mixture_mask"]
    far_real = (y[:, None] - y).abs()
    far_mixed = (y[:, None] - c.aux["mixture_labels"]).abs()
    denominator = (real.exp() * (1 + far_real)).masked_fill(own, 0).sum(1)
    denominator = denominator + (mixed.exp() * (1 + far_mixed) * (kind >= 0)).sum(1)
    twins = (far_real == 0) & ~own
    total = (real * twins).sum(1) + (mixed * (kind == 1)).sum(1)
    return (denominator.log() - total / (twins.sum(1) + (kind == 1).sum(1))).mean()


def conr_as_published(c: Case) -> Tensor:
    """Defects: exp(0) = 1 of every pair that is no positive in the denominator, weights used twice, and an
    anchor without positives turns the batch into NaN."""
    h = c.hyper
    z, n = unit(c.features), len(c.features)
    weight = c.inputs.get("weights", torch.ones(n, 1, dtype=z.dtype))
    far = (c.targets - c.targets.T).abs()
    positive = (far <= h["w"]) & ~torch.eye(n, dtype=torch.bool)
    negative = (far > h["w"]) & ((c.preds - c.preds.T).abs() <= h["w"])
    s = z @ z.T / (0.07 if h["variant"] == "agedb" else h["t_arg"])  # agedb ignores what is asked for
    count = positive.sum(1)
    leak = n - count
    denominator = (s.exp() * positive).sum(1) + leak
    denominator = denominator + (s.exp() * negative * (h["e"] * far).exp() * weight).sum(1)
    terms = (denominator.log() - (s * positive).sum(1) / count) * negative.any(1)
    return (weight[:, 0] * terms).mean()


def conr_nyud2_as_published(c: Case) -> Tensor:
    """The third script: maps averaged to one number, linear pushing, one more in the divisor, the leak again."""
    h = c.hyper
    z = unit(c.features.flatten(1))
    y, p, weight = (c.inputs[k].flatten(1).mean(1, keepdim=True) for k in ("depth", "output", "weights"))
    p, n = p.detach(), len(z)
    far = (y - y.T).abs()
    positive = (far <= h["w"]) & ~torch.eye(n, dtype=torch.bool)
    negative = (far > h["w"]) & ((p - p.T).abs() <= h["w"])
    s = z @ z.T / h["t_arg"]
    denominator = (s.exp() * positive).sum(1) + n - positive.sum(1)
    denominator = denominator + (s.exp() * negative * h["e"] * weight * far).sum(1)
    terms = (denominator.log() * positive.sum(1) - (s * positive).sum(1)) / (positive.sum(1) + 1)
    return (terms * negative.any(1)).mean()


def over_positive_pairs(z: Tensor, labels: Tensor, t: float) -> Tensor:
    """NT-Xent of pytorch-metric-learning: mean over positive pairs, other positives out of the denominator."""
    negative = gram(z, t, DifferentIds(labels))[0]
    i, p = ((labels[:, None] == labels) & ~torch.eye(len(z), dtype=torch.bool)).nonzero().T
    return softplus(negative[i] - paired_similarity(z[i], z[p], t)).mean()


def over_nonzero(z: Tensor, labels: Tensor, t: float) -> Tensor:
    terms, valid = supcon(z, labels, t)
    return terms[valid].mean()


def supcon_as_published(c: Case) -> Tensor:
    """Anchors without positives count as 0 there; mode "one" keeps the first view's anchors; the ratio of the
    two temperatures multiplies the loss."""
    h, (batch, count, _) = c.hyper, c.features.shape
    z, t = views_first(c.features), h["temperature"]
    if "mask" in c.inputs:  # any mask of positives, asymmetric too: there is no such option here
        mask = c.mask.repeat(count, count).to(z.dtype).masked_fill(torch.eye(len(z), dtype=torch.bool), 0)
        s = z @ z.T / t
        return (gram(z, t, off_diagonal)[0] - (s * mask).sum(1) / mask.sum(1)).mean()
    labels = c.inputs.get("labels", torch.arange(batch)).repeat(count)
    terms = supcon(z, labels, t)[0]
    if h.get("contrast_mode") == "one":
        terms = terms[:batch]
    return terms.mean() * t / h.get("base_temperature", 0.07)


def one_way_dcl(c: Case, weight: Tensor | float) -> Tensor:
    """One direction, rows as they are. Defect: excluded pairs stay in with e^-103.6 (log 1e-45), which shows
    once logits of unnormalised rows are near 100."""
    t, batch = c.hyper["temperature"], len(c.z1)
    positive = paired_similarity(c.z1, c.z2, t)
    leak = lse(torch.stack([paired_similarity(c.z1, c.z1, t), positive]), 0) + math.log(1e-45)
    negative = lse(torch.stack([log_sum_of_negatives(c.z1, c.z2, t)[:batch], leak]), 0)
    return (negative - weight * positive).mean()


@pytest.mark.parametrize("path", files(), ids=lambda p: p.stem)
def test_matches(path: Path) -> None:
    case = Case(path)
    checks = one(case)
    value = checks[max((k for k in checks if f"{path.stem}_".startswith(k)), key=len)]()
    tolerance = {"rtol": 1e-6, "atol": 1e-9} if case.expected.dtype == torch.float64 else {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(value.detach(), case.expected, equal_nan=True, **tolerance)
    if not case.grads or not bool(case.expected.isfinite().all()):
        return  # the source's own NaN: a defect on record, without a gradient to match
    leaves = [case.inputs[name] for name in case.grads]
    got = torch.autograd.grad(value.sum(), leaves, allow_unused=True)
    for (name, expected), g in zip(case.grads.items(), got, strict=True):
        g = torch.zeros_like(expected) if g is None else g
        torch.testing.assert_close(g, expected, msg=lambda m, n=name: f"gradient of {n}: {m}", **tolerance)


def test_there_are_cases() -> None:
    assert files(), f"no golden files of these losses in {GOLDEN}"
