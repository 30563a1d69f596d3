"""Figures of sets of labels: which of C classes apply to each of N rows. Functions of tensors and arrays alone."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from clx.pipelines.measures.bootstrap import Array, Statistic, together

FIRST = (1, 3, 5)
"""Of how many of the best-scored classes precision and recall are given."""


def ranked_sets(scores: Tensor, truth: Tensor) -> Statistic:
    """How well classes and rows are ordered by `scores` `[N, C]`, where `truth` `[N, C]` says which classes apply: 1 or
    0, or NaN where that is not known, which is left out.

    Mean average precision and area under the ROC curve, both of the rows ordered by each class's scores and averaged
    over the classes (macro), as scikit-learn's `average_precision_score` and `roc_auc_score` have them; equal scores
    count as one step. Classes that apply to no row or, for AUC, to every row are left out. `P@k` is the share of
    a row's k best-scored known classes that apply, over rows with k known ones, where there are more than k classes;
    `R@k` is the share of a row's classes that are among these k, over those of the rows to which any applies.
    """
    s, y, known = _arrays(scores, truth)
    columns = [_ordered(s[:, k], y[:, k], known[:, k]) for k in range(s.shape[1])]
    best = np.argsort(np.where(known, -s, np.inf), axis=1, kind="stable")
    hits, count, applying = np.take_along_axis(y, best, 1), known.sum(1), y.sum(1)
    sizes = [k for k in [k for k in FIRST if k < s.shape[1]] or [1] if (count >= k).any()]
    precisions = (_mean_of(f"P@{k}", hits[:, :k].mean(1), count >= k) for k in sizes)
    shares = ((k, hits[:, :k].sum(1) / np.maximum(applying, 1)) for k in sizes)
    first = together(*precisions, *(_mean_of(f"R@{k}", share, (count >= k) & (applying > 0)) for k, share in shares))

    def statistic(weights: Array) -> dict[str, Array]:
        both = [column(weights) for column in columns]
        precision, area = (_mean([pair[i] for pair in both]) for i in (0, 1))
        with np.errstate(divide="ignore", invalid="ignore"):
            return {"mAP": precision, "AUC": area, **first(weights)}

    return statistic


def each_set(scores: Tensor, truth: Tensor) -> list[dict[str, float]]:
    """Average precision `AP` and `AUC` of each class of `ranked_sets`, NaN where undefined."""
    s, y, known = _arrays(scores, truth)
    once = np.ones((1, len(s)))
    both = [_ordered(s[:, k], y[:, k], known[:, k])(once) for k in range(s.shape[1])]
    return [{"AP": float(precision[0]), "AUC": float(area[0])} for precision, area in both]


def decided_sets(answers: Tensor, truth: Tensor) -> Statistic:
    """F1 of `answers` `[N, C]`, whether each class is said to apply: micro, over all cells together, and macro, the
    mean over the classes that apply to some row or are said to. `truth` as in `ranked_sets`."""
    known = ~truth.isnan()
    a, y = (each.double().numpy() for each in (answers.bool() & known, (truth > 0) & known))

    def statistic(weights: Array) -> dict[str, Array]:
        right, said, true = weights @ (a * y), weights @ a, weights @ y  # [b, C]
        with np.errstate(divide="ignore", invalid="ignore"):
            each = 2 * right / (said + true)
            every = 2 * right.sum(1) / (said.sum(1) + true.sum(1))
        return {"micro_F1": np.nan_to_num(every), "macro_F1": _mean(list(each.T))}

    return statistic


def _arrays(scores: Tensor, truth: Tensor) -> tuple[Array, Any, Any]:
    """Scores, which classes apply, and of which that is known."""
    return scores.double().numpy(), (truth > 0).numpy(), (~truth.isnan()).numpy()


def _mean_of(name: str, values: Array, rows: Any) -> Statistic:
    """The mean of a value `[n]` of some of the rows; NaN where a resample has none of them."""

    def statistic(weights: Array) -> dict[str, Array]:
        some = weights[:, rows]
        with np.errstate(invalid="ignore"):
            return {name: np.asarray(some @ values[rows] / some.sum(1))}

    return statistic


def _mean(columns: Sequence[Array]) -> Array:
    """The mean over the columns that are no NaN, `[b]`; NaN where all are."""
    stacked = np.stack(columns)
    known = ~np.isnan(stacked)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(known, stacked, 0).sum(0) / known.sum(0))


def _ordered(scores: Array, truth: Any, known: Any) -> Callable[[Array], tuple[Array, Array]]:
    """Average precision and ROC area `[b]` of one class under each line of weights `[b, n]`, NaN where undefined."""
    rows = np.flatnonzero(known)
    if not len(rows):
        return lambda weights: (np.full(len(weights), np.nan), np.full(len(weights), np.nan))
    order = rows[np.argsort(-scores[rows], kind="stable")]
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))  # the last of each run of equal scores
    positive = truth[order].astype(np.float64)

    def figures(weights: Array) -> tuple[Array, Array]:
        w = weights[:, order]
        right = (w * positive).cumsum(1)[:, ends]
        above = w.cumsum(1)[:, ends]
        gained = np.diff(right, prepend=0, axis=1)
        passed = np.diff(above, prepend=0, axis=1) - gained  # wrong rows of each run
        total, wrong = right[:, -1], above[:, -1] - right[:, -1]
        with np.errstate(divide="ignore", invalid="ignore"):
            precision = np.where(above > 0, right / above, 0)
            below = wrong[:, None] - (above - right) + passed / 2  # wrong rows behind, ties half
            average = (gained * precision).sum(1) / total
            area = (gained * below).sum(1) / (total * wrong)
        return average, area

    return figures
