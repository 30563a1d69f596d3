"""How the scores of what belongs together lie beside those of everything else. Functions of tensors alone."""

import itertools
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import normalize

BINS = 40
"""Of equal width, from a cosine of -1 to one of 1."""
PAIRS = 15
"""Pairs of inputs that are looked at, at most: those of six inputs."""


def histograms(
    z: Mapping[str, Tensor], labels: Tensor | None = None, alike: Tensor | None = None
) -> dict[str, dict[str, list[int]]]:
    """Counts of cosines by `BINS` bins, of partners and of others, for each pair of inputs.

    Args:
        z: embeddings `[N, D]` by name, NaN in rows that lack the input. Cells of one row are partners. Of a single
            input the rows of one label are.
        labels: `[N]`, -1 for none. Of several inputs, rows of one label are neither partners nor others.
        alike: `[N]`, equal for rows that share a cell, and are neither as well.

    Returns:
        `{"image+text": {"partners": [BINS counts], "others": [BINS counts]}}`; of a single input under its name.

    >>> x = torch.tensor([[1.0, 0], [0, 1]])
    >>> found = histograms({"image": x, "text": x})["image+text"]
    >>> found["partners"][-1], found["others"][20]
    (2, 2)
    """
    unit = {name: normalize(rows.float(), dim=1) for name, rows in z.items()}
    whole = {name: rows.isfinite().all(1) for name, rows in unit.items()}
    if len(unit) == 1:
        ((name, rows),) = unit.items()
        if labels is None:
            return {}
        some = whole[name] & (labels >= 0)
        own = labels[some]
        same = own[:, None] == own[None, :]
        partners = same & ~torch.eye(len(own), dtype=torch.bool, device=own.device)
        return _counted({name: (rows[some] @ rows[some].T, partners, ~same)})
    found = {}
    for one, other in itertools.islice(itertools.combinations(unit, 2), PAIRS):
        some = whole[one] & whole[other]
        x, y = unit[one][some], unit[other][some]
        partners = torch.eye(len(x), dtype=torch.bool, device=x.device)
        same = partners
        if labels is not None:
            own = labels[some]
            same = same | ((own[:, None] == own[None, :]) & (own >= 0))
        if alike is not None:
            same = same | (alike[some][:, None] == alike[some][None, :])
        found[f"{one}+{other}"] = x @ y.T, partners, ~same
    return _counted(found)


def _counted(found: Mapping[str, tuple[Tensor, Tensor, Tensor]]) -> dict[str, dict[str, list[int]]]:
    """Counts of the scores `[N, N]` at both masks, for names of which both have some."""
    counts = {}
    for name, (scores, partners, others) in found.items():
        place = ((scores + 1) * (BINS / 2)).long().clamp(0, BINS - 1)
        both = [torch.bincount(place[mask], minlength=BINS).tolist() for mask in (partners, others)]
        if all(map(any, both)):
            counts[name] = dict(zip(("partners", "others"), both, strict=True))
    return counts
