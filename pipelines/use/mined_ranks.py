"""For each row the cells of other rows that are nearest to what it asks with, exactly, a tile of scores at a time."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from clx.pipelines.measures.top import Top
from clx.pipelines.use.known_alike import Alike, Ints
from clx.pipelines.use.mined_sides import Side

ASKING, ASKED = 1 << 10, 1 << 14
"""Rows and candidates of a tile of scores."""
DRAWN = 1 << 17
"""Pairs of rows that a quantile is of."""


@dataclass(frozen=True)
class Ranks:
    """What rows find among the candidates that may be their negatives."""

    numbers: Ints
    """`[N, R]`: candidates, nearest first; -1 where there are no more."""
    scores: NDArray[np.float32]
    """Their cosines."""
    own: NDArray[np.float32]
    """Cosine of a row's own partner, `[N]`; NaN where it lacks one of the two."""
    before: Ints
    """How many of these candidates are nearer than its own partner, `[N]`."""


def ranks(
    by: Side,
    among: Side,
    rows: Ints,
    alike: Alike,
    count: int,
    device: torch.device | str,
    guarded: bool = True,
    step: Callable[[int], None] = lambda rows: None,
) -> Ranks:
    """Rank candidates for each row. Memory goes with `N x count`, time with `N x U x D`.

    Args:
        rows: the places `[N]` that the rows of `alike` have in the sides.
        count: how many of the nearest candidates are kept.
        guarded: whether rows that share a label are left out, besides partners and equal cells.
        step: is told how many rows each tile has compared with all candidates.
    """
    total, count = len(rows), max(1, min(count, len(alike.candidates)))
    numbers = np.full((total, count), -1, dtype=np.int64)
    scores = np.full((total, count), np.nan, dtype=np.float32)
    own, before = np.full(total, np.nan, dtype=np.float32), np.zeros(total, dtype=np.int64)
    blocks = range(0, len(alike.candidates), ASKED)
    for first in range(0, total, ASKING):
        tile = np.arange(first, min(first + ASKING, total))
        asked = by.unit(rows[tile], device)
        mine = (asked * among.unit(rows[tile], device)).sum(1)
        mask, top = alike.mask(tile, device, guarded), Top(len(tile), count, device)
        nearer = torch.zeros(len(tile), dtype=torch.long, device=device)
        for start in blocks:
            there = among.unit(rows[alike.candidates[start : start + ASKED]], device)
            found = mask.hide(start, asked @ there.T)
            nearer += (found > mine[:, None]).sum(1)
            top.add(start, found)
        real = top.scores > -torch.inf
        numbers[tile] = torch.where(real, top.places, -1).cpu().numpy()
        scores[tile] = torch.where(real, top.scores, torch.nan).cpu().numpy()
        own[tile], before[tile] = mine.cpu().numpy(), nearer.cpu().numpy()
        step(len(tile))
    return Ranks(numbers, scores, own, before)


def scores_of(
    by: Side, among: Side, rows: Ints, alike: Alike, numbers: Ints, device: torch.device | str
) -> NDArray[np.float32]:
    """Cosines of rows `[N]` with candidates `[N, R]`, NaN for none: what another model says of them."""
    found = np.full(numbers.shape, np.nan, dtype=np.float32)
    step = max(1, ASKED // max(1, numbers.shape[1]))
    for first in range(0, len(rows), step):
        some = numbers[first : first + step]
        asked = by.unit(rows[first : first + step], device)
        there = among.unit(rows[alike.candidates[np.maximum(some, 0)]].reshape(-1), device)
        cosines = (asked[:, None] * there.view(*some.shape, -1)).sum(2).cpu().numpy()
        found[first : first + step] = np.where(some >= 0, cosines, np.nan)
    return found


def quantile(
    by: Side, among: Side, rows: Ints, alike: Alike, share: float, seed: int, device: torch.device | str
) -> float:
    """The quantile of the cosines of rows with candidates that may be their negatives, of pairs drawn at random; NaN
    where there are none."""
    draw = np.random.default_rng(seed)
    places = draw.integers(len(rows), size=DRAWN)
    numbers = draw.integers(len(alike.candidates), size=DRAWN)
    fit = alike.allowed(places, numbers)
    places, numbers = places[fit], numbers[fit]
    found = []
    for start in range(0, len(places), ASKED):
        some = slice(start, start + ASKED)
        asked = by.unit(rows[places[some]], device)
        found.append((asked * among.unit(rows[alike.candidates[numbers[some]]], device)).sum(1).cpu())
    cosines = torch.cat(found).numpy() if found else np.zeros(0, np.float32)
    cosines = cosines[~np.isnan(cosines)]
    return float(np.quantile(cosines, share)) if len(cosines) else float("nan")
