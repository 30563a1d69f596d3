"""Golden checks of losses that mix rows; `test_golden.py` runs them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from clx.losses.core_tuning import Mixtures, focal_supcon, mixtures, soft_cross_entropy
from clx.losses.laso import laso
from clx.losses.m3col import mixed_contrast, soft_clip
from clx.losses.moit import Columns, View, bootstrapped, classified, clean_rows, interpolated
from clx.losses.primitives.functional import unit

FAMILIES = (
    *("mixco_s_", "mixco_m_", "mixco_x_", "mixco_mix", "m3col_ring", "softclip"),
    *("core_", "moit", "laso"),
)


def checks(c: Any) -> dict[str, Callable[[], Tensor]]:
    """Checks by the beginning of the name, as in `test_golden.one`."""
    h = c.hyper
    return {
        "mixco_": lambda: mixed_contrast(c.mix, c.fix, c.perm, c.betas, h["temp"], h["bidirectional"]),
        "mixco_mix": lambda: c.x[c.aux["perm"]].lerp(c.x, c.aux["betas"][:, None]),
        "m3col_ring": lambda: m3col_as_published(c),
        "core_focal": lambda: focal_supcon(c.z, plain(c), h["temperature"]),
        "core_mix": lambda: core_mixtures(c).rows,
        "core_step": lambda: core_step(c),
        "moit_icl": lambda: moit_contrast(c),
        "moit_cls": lambda: moit_classes(c),
        "moit_flags": lambda: moit_flags(c),
        "moitplus_boot": lambda: bootstrapped(
            [View(c.preds, c.mix_index, h["lam"])], torch.arange(len(c.labels)), c.labels, c.preds_clean, 1 - h["B"]
        ),
        "laso_loss": lambda: laso(
            c.embed_a, c.embed_b, c.outputs, c.target_a, c.target_b, lambda rows: rows @ c.W, float(h["toggles"])
        ),
        "softclip": lambda: soft_clip(c.preds, c.targs, h["temp"]),
    }


def moit_contrast(c: Any) -> Tensor:
    h, size = c.hyper, len(c.labels)
    items = torch.arange(size)
    views = [View(c.zA, c.mix_index1, h["lam1"]), View(c.zB, c.mix_index2, h["lam2"])]
    loss = interpolated(views, items, c.labels, h["temperature"])
    if "memory" not in c.inputs:
        return loss
    places = torch.arange(int(c.aux["ptr"]) - 2 * size, int(c.aux["ptr"])) % len(c.memory)
    of = torch.full((len(c.memory),), -1).index_copy(0, places, items.repeat(2))
    columns = Columns(c.memory, c.memory_labels, of, places)
    return loss + interpolated(views, items, c.labels, h["temperature"], columns)


def moit_classes(c: Any) -> Tensor:
    """Defect: the flag of the dominant item counts for both labels."""
    h, items = c.hyper, torch.arange(len(c.labels))
    views = [View(c.predsA, c.mix_index1, h["lam1"]), View(c.predsB, c.mix_index2, h["lam2"])]
    if not h["corrected"]:
        return classified(views, items, c.labels)
    return classified(views, items, c.labels, c.agreement > 0, c.preds_clean, by_own=False)


def moit_flags(c: Any) -> Tensor:
    """Which of equally doubtful rows are taken is not defined: as many of each class, and those that are not equal."""
    h, labels = c.hyper, c.labels
    found = clean_rows(unit(c.features), labels, h["k"], h["num_classes"], bool(h["corrected"]), h["balance"])
    wanted, doubt = c.expected > 0, c.aux["discrepancy2" if h["corrected"] else "discrepancy1"]
    for label in labels.unique():
        own = labels == label
        assert found[own].sum() == wanted[own].sum()
        edge = doubt[own & wanted].max()
        assert torch.equal(found[own & (doubt != edge)], wanted[own & (doubt != edge)])
    return c.expected


def plain(c: Any) -> Mixtures:
    return Mixtures(c.z, c.labels, c.labels, torch.ones(len(c.labels)))


def core_mixtures(c: Any) -> Mixtures:
    """Defect: the hardest positive is the lowest entry of a matrix in which all others are 0, and where that is the
    first row, the row itself."""
    f, labels = c.features, c.labels
    s, same = (unit(f) @ unit(f).T).detach(), labels[:, None] == labels
    every = torch.arange(len(f))
    lowest = (s * same).fill_diagonal_(0).argmin(1)
    positive, negative = torch.where(lowest == 0, every, lowest), (s * ~same).argmax(1)
    share = c.aux["lam_negative"].clamp(min=c.hyper["clamp"])
    return mixtures(f, labels, [(c.aux["order"], every, share), (positive, negative, c.aux["lam_positive"])])


def core_step(c: Any) -> Tensor:
    mixed = core_mixtures(c)
    contrast = focal_supcon(unit(mixed.rows @ c.P), mixed, 0.07)
    return soft_cross_entropy(mixed.rows @ c.W, mixed) + c.hyper["eta"] * contrast


def m3col_as_published(c: Any) -> Tensor:
    """Defects: a row that the permutation leaves in its place loses the share of its own embedding; and in the cases
    "asis" the other side of each term is mixed, too."""
    plain, total = [c.inputs[f"e{k}"] for k in range(c.hyper["modalities"])], torch.zeros(())
    perms, shares, t = c.aux["perms"], c.aux["betas"], c.hyper["temp"]
    mixed = [share[:, None] * x + (1 - share[:, None]) * x[p] for x, share, p in zip(plain, shares, perms, strict=True)]
    for k, (x, partner, share) in enumerate(zip(mixed, perms, shares, strict=True)):
        other = (mixed if "asis" in c.name else plain)[(k + 1) % len(plain)]
        total = total + mixed_contrast(x, other, partner, share, t)
        s = unit(x) @ unit(other).T / t
        lost = torch.where(partner == torch.arange(len(x)), share, 0)
        total = total + (lost * (s.log_softmax(1) + s.log_softmax(0)).diagonal()).mean() / 2
    return total
