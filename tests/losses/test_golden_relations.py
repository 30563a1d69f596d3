"""Losses on how alike two rows are against numbers from their authors' own code; see test_golden.py."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from clx.losses.asymmetric import asymmetric
from clx.losses.infonce import infonce
from clx.losses.label_prototypes import apart, by_overlap, nearness
from clx.losses.multilabel_softmax import MultilabelSoftmax
from clx.losses.primitives.alike import Alike, by_sets, by_vectors, tree_of
from clx.losses.primitives.forms import each_pair, soft_choice, soft_top_k
from clx.losses.primitives.functional import unit
from clx.losses.relation import Relation, _Pairs
from clx.losses.set_heads import label_ranking
from clx.losses.sparsemax import sparsemax, sparsemax_loss
from golden_case import GOLDEN, Case

FAMILIES = (
    "cwcl_",
    "softclip",
    "dexml",
    "space2",
    "icdtree",
    "mgll_softce",
    "sparsemax_",
    "dualcoop_asl",
    "taidpt_ranking",
    "protoecg_",
)


def checks(c: Case) -> dict[str, Callable[[], Tensor]]:
    """Checks by the beginning of the name."""
    h = c.hyper
    return {
        "cwcl_": lambda: cwcl(c),
        "softclip": lambda: soft_clip(c),
        "dexml_bce": lambda: each_pair(c.sim, positives(c), None)[0].mean(),
        "dexml_softmax": lambda: (
            soft_choice(c.sim, positives(c), None)[0] * positives(c).sum(1)
        ).mean(),  # summed there
        "dexml_decoupled": lambda: of_sets(c),
        "dexml_topk": lambda: of_sets(c, form="top-k", k=h["topk_K"], slope=h["topk_alpha"]),
        "dexml_topk_operator": lambda: soft_top_k(c.xs, None, h["k"], h["alpha"]).sigmoid(),
        "dexml_topk_operator_sq": lambda: soft_top_k(c.xs, None, h["k"], h["alpha"]).sigmoid().square().sum(),
        "space2_softsupcon": lambda: soft_supcon(c),
        "space2_score": lambda: by_paths(h["rows"]),
        "space2_score_parts": lambda: parts(h["rows"]),
        "icdtree": lambda: tree_similarity(h["labels"], h["ontology"]),
        "sparsemax_": lambda: sparsemax(c.z),
        "sparsemax_loss": lambda: sparsemax_loss(c.z, functional.one_hot(c.y.long(), c.z.shape[1]).double()),
        "dualcoop_asl": lambda: two_prompts(c),
        "taidpt_ranking": lambda: label_ranking(c.scores, c.targets, h["margin"]).mean(),
        "protoecg_": lambda: prototypes_as_published(c),
        "mgll_softce": lambda: (
            (soft_choice(c.logits, c.targets, None)[0] + soft_choice(c.logits.T, c.targets, None)[0]).mean() / 4
            + each_pair(c.logits, c.targets, None)[0].mean()
        ),
    }


def of_sets(c: Case, **how: Any) -> Tensor:
    """The scores of a head, and the labels that apply."""
    return MultilabelSoftmax(**how)({"x": c.sim.detach()}, predictions=c.sim, label_sets=positives(c))


def two_prompts(c: Case) -> Tensor:
    """The score by the positive prompt less that by the negative one; -1 is unknown, and all are summed there."""
    sets = torch.where(c.targets < 0, torch.nan, c.targets)
    h, logits = c.hyper, c.logits[:, 1] - c.logits[:, 0]
    each = asymmetric(logits, sets, h["gamma_pos"], h["gamma_neg"], h["clip"])
    return torch.where(sets.isnan(), 0, each).sum()


def prototypes_as_published(c: Case) -> Tensor:
    """Departures: maxima run over products with 0, so that cosines below 0 draw nothing, and a row is pushed from the
    prototypes of its other labels and, for each label that it lacks, from all. Cosines of prototypes are cut at 1."""
    h, of = c.hyper, c.identity.argmax(1)
    labels = c.identity.shape[1]
    order = of.argsort(stable=True)  # those of one label side by side
    v = unit(c.prototypes[order])
    s, g, own = c.similarity[:, order], v @ v.T, c.identity[order] @ c.cooccurrence @ c.identity[order].T
    wrong = 1 - c.identity[order].T[None] * c.targets[:, :, None]
    with_head = functional.binary_cross_entropy_with_logits(c.logits, c.targets, pos_weight=c.pos_weight)
    cluster = nearness(s.clamp(min=0), c.targets, of[order])[0].mean()
    separation = (s[:, None] * wrong).amax(2).mean()
    assert labels * (of == 0).sum() == len(of)
    return (
        with_head
        - h["lam_clst"] * cluster
        + h["lam_sep"] * separation
        + h["lam_div"] * apart(g)
        + h["lam_cnrst"] * by_overlap(g.clamp(-1 + 1e-6, 1 - 1e-6), own)
    )


def cwcl(c: Case) -> Tensor:
    """The weighted direction, from the frozen rows, and the plain one, summed there; rows as they are: unit."""
    loss = Relation(by="features", of="f", temperature=1 / c.hyper["scale"])
    pairs = _Pairs(by_vectors(c.features.detach(), None), None, None, None, None)
    return loss.mean(c.frozen, c.trained, pairs) + infonce(c.trained, c.frozen, 1 / c.hyper["scale"])


def soft_clip(c: Case) -> Tensor:
    """Departure: the targets of the source have a gradient, too."""
    t, x, y = c.hyper["temp"], unit(c.preds), unit(c.targs)
    clean = Relation(by="features", of="y", temperature=t, target_temperature=t)(
        {"x": x, "y": y}, features={"y": y.detach()}
    )
    s, w = x @ y.T / t, (y @ y.T / t).softmax(1)
    value = (soft_choice(s, w, None)[0] + soft_choice(s.T, w, None)[0]).mean() / 2
    torch.testing.assert_close(clean, value)
    return value


def positives(c: Case) -> Tensor:
    """1 for each target of a row; a slot of value 0 is padding."""
    kept = c.target_vals > 0
    w = torch.zeros_like(c.sim, requires_grad=False)
    for row, (places, keep) in enumerate(zip(c.target_inds.long(), kept, strict=True)):
        w[row, places[keep]] = 1
    return w


def soft_supcon(c: Case) -> Tensor:
    size, views, _ = c.features.shape
    items = torch.arange(size).repeat(views)
    alike = Alike(lambda a, b: c.similarity[a][:, b], items, torch.ones(len(items), dtype=torch.bool))
    rows = c.features.transpose(0, 1).flatten(0, 1)
    return Relation(temperature=c.hyper["temperature"]).mean(rows, rows, _Pairs(alike, items, None, None, None))


def classes_of(rows: list[list[str]], divider: str = "/") -> tuple[Tensor, Tensor]:
    """The sets of labels `[N, C]` and the levels of each `[C, L]`."""
    classes = sorted({label for row in rows for label in row})
    paths = [label.split(divider) for label in classes]
    names = sorted({name for path in paths for name in path})
    levels = torch.full((len(classes), max(map(len, paths))), -1)
    for k, path in enumerate(paths):
        levels[k, : len(path)] = torch.tensor([names.index(name) for name in path])
    sets = torch.tensor([[float(label in row) for label in classes] for row in rows], dtype=torch.float64)
    return sets, levels


def by_paths(rows: list[list[str]]) -> Tensor:
    sets, levels = classes_of(rows)
    return by_sets(sets, "paths", tree_of(levels, "paths"), torch.float64)(slice(0, len(rows)))


def parts(rows: list[list[str]]) -> Tensor:
    """Of each kind of run of levels by itself."""
    sets, levels = classes_of(rows)
    nodes, widths = tree_of(levels, "paths")
    every = slice(0, len(rows))
    each = [
        by_sets((sets @ n.double() > 0).double(), "jaccard", None, torch.float64)(every) for n in nodes.split(widths, 1)
    ]
    return torch.stack(each, 2)


def tree_similarity(rows: list[list[str]], ontology: dict[str, Any]) -> Tensor:
    """Departure: theirs lets a node be renamed at the cost of one, ours is without: a node goes and another comes.

    So the one is the tree edit distance of Zhang and Shasha with renames at 1, the other with renames at 2.
    """
    path = paths_in(ontology)
    sets, levels = classes_of([["/".join(path[name]) for name in row] for row in rows])
    ours = by_sets(sets, "tree", tree_of(levels, "tree"), torch.float64)(slice(0, len(rows))) * 2 - 1
    trees = [restricted(ontology, {step for name in row for step in path[name]}) for row in rows]

    def similarity(rename: int) -> Tensor:
        found = [[1 - 2 * distance(a, b, rename) / len(nodes(a) | nodes(b)) for b in trees] for a in trees]
        return torch.tensor(found, dtype=torch.float64)

    torch.testing.assert_close(ours, similarity(2))
    return similarity(1)


def paths_in(tree: dict[str, Any], above: tuple[str, ...] = ()) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for name, below in tree.items():
        found |= {name: (*above, name), **paths_in(below, (*above, name))}
    return found


Forest = tuple[tuple[str, Any], ...]


def restricted(tree: dict[str, Any], kept: set[str]) -> Forest:
    return tuple((name, restricted(below, kept)) for name, below in tree.items() if name in kept)


def nodes(forest: Forest) -> set[str]:
    return {name for name, _ in forest}.union(*(nodes(below) for _, below in forest))


@cache
def distance(a: Forest, b: Forest, rename: int) -> int:
    """Edits that make one ordered forest of another, by the recursion on the last trees."""
    if not a or not b:
        return len(nodes(a)) + len(nodes(b))
    (x, below_x), (y, below_y) = a[-1], b[-1]
    return min(
        distance(a[:-1] + below_x, b, rename) + 1,
        distance(a, b[:-1] + below_y, rename) + 1,
        distance(a[:-1], b[:-1], rename) + distance(below_x, below_y, rename) + (0 if x == y else rename),
    )


def files() -> list[Path]:
    return [path for path in sorted(GOLDEN.glob("*.npz")) if path.name.startswith(FAMILIES)]


@pytest.mark.parametrize("path", files(), ids=lambda p: p.stem)
def test_matches(path: Path) -> None:
    case = Case(path)
    every = checks(case)
    value = every[max((key for key in every if f"{path.stem}_".startswith(key)), key=len)]()
    torch.testing.assert_close(value, case.expected, rtol=1e-6, atol=1e-9)
    for name, wanted in case.grads.items():
        total = (value * case.aux["weights"]).sum() if "weights" in case.aux else value.sum()
        (got,) = torch.autograd.grad(total, [case.inputs[name]], retain_graph=True)
        torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-9)


def test_every_family_is_there() -> None:
    assert {family for path in files() for family in FAMILIES if path.name.startswith(family)} == set(FAMILIES)
