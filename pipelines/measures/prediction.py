"""Measures of embeddings and predictions. Functions of tensors and arrays alone."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clx.pipelines.measures.bootstrap import Array, Statistic, class_means, means, ranked, together


def accuracies(order: Tensor, labels: Tensor, classes: int) -> Statistic:
    """Top-1, top-5 (from six classes on) and mean per-class accuracy of the best classes `[N, 5]` of each row."""
    hit = (order == labels[:, None]).numpy()
    shares = {"top1": hit[:, 0]} | ({"top5": hit.any(1)} if classes > 5 and hit.shape[1] == 5 else {})
    return together(means(shares), class_means("mean_per_class", hit[:, 0], labels.numpy()))


def macro_f1(answers: Tensor, labels: Tensor, classes: int) -> Statistic:
    """Mean over the classes that occur, as truth or as answer, of the harmonic mean of precision and recall."""
    from scipy.sparse import csr_array

    def of_class(numbers: Any, values: Any) -> Any:
        return csr_array((values, (np.arange(len(numbers)), numbers)), shape=(len(numbers), classes))

    said, truth = answers.numpy(), labels.numpy()
    ones = np.ones(len(truth))
    right, both = of_class(truth, (said == truth).astype(float)), of_class(truth, ones) + of_class(said, ones)

    def statistic(weights: Array) -> dict[str, Array]:
        total = weights @ both
        shares = 2 * (weights @ right) / np.where(total > 0, total, 1)
        return {"macro_F1": np.asarray(shares.sum(1) / (total > 0).sum(1))}

    return statistic


def macro_auc(scores: Tensor, labels: Tensor) -> Statistic:
    """Mean over the classes with rows and with others of the area under the curve of that class against the rest.

    Args:
        scores: `[N, C]`, higher for a class that is likelier; ties count half.
        labels: `[N]`.
    """
    truth = labels.numpy()
    parts = [(truth == k, ranked(scores[:, k].double().numpy(), truth == k)) for k in np.unique(truth)]

    def statistic(weights: Array) -> dict[str, Array]:
        areas = np.full((len(parts), len(weights)), np.nan)
        for area, (mine, ranks) in zip(areas, parts, strict=True):
            own = weights[:, mine]
            count = own.sum(1)
            others = weights.sum(1) - count
            above = (own * ranks(weights)).sum(1) - count * (count + 1) / 2
            np.divide(above, count * others, out=area, where=count * others > 0)
        there = ~np.isnan(areas)
        with np.errstate(invalid="ignore"):
            return {"macro_AUC": np.where(there, areas, 0).sum(0) / there.sum(0)}

    return statistic


BINS = 15
"""Of the calibration error, as in Guo et al. 2017."""


def calibration_gap(sure: Tensor, right: Tensor) -> Statistic:
    """Expected calibration error: mean distance of confidence `[N]` and hit rate over equal bins of confidence,
    weighted by their size (Guo et al. 2017, arXiv 1706.04599)."""
    from scipy.sparse import csr_array

    place = (sure * BINS).long().clamp(max=BINS - 1).numpy()
    gaps = csr_array(((sure.double() - right.double()).numpy(), (np.arange(len(place)), place)), (len(place), BINS))
    return lambda weights: {"ECE": np.asarray(np.abs(weights @ gaps).sum(1) / weights.sum(1))}


def confusion(answers: Tensor, labels: Tensor, classes: Sequence[str]) -> dict[str, Any]:
    """Counts `[C, C]` of each true class, by row, answered as each class, by column."""
    count = len(classes)
    cells = torch.bincount(labels * count + answers, minlength=count * count)
    return {"classes": list(classes), "counts": cells.view(count, count).tolist()}


LEAST_ERROR = 1e-10  # of a prediction that is exactly right, in the geometric mean


def errors(predictions: Tensor, targets: Tensor) -> Statistic:
    """Mean absolute error, mean squared error and geometric mean of the absolute errors `[N]`."""
    size = (predictions.double() - targets.double()).abs().numpy()
    logs = means({"gm": np.log(np.maximum(size, LEAST_ERROR))})
    return together(means({"mae": size, "mse": size**2}), lambda weights: {"gm": np.exp(logs(weights)["gm"])})


def correlation(predictions: Tensor, targets: Tensor) -> Statistic:
    """Pearson's correlation of predictions `[N]` with targets `[N]`."""
    p, y = predictions.double().numpy(), targets.double().numpy()

    def statistic(weights: Array) -> dict[str, Array]:
        both = (np.broadcast_to(each, weights.shape) for each in (p, y))
        with np.errstate(divide="ignore", invalid="ignore"):
            return {"pearson": _correlation(weights, *both)}

    return statistic


def correlations(predictions: Tensor, targets: Tensor) -> Statistic:
    """Spearman's and Pearson's correlation of predictions `[N]` with targets `[N]`."""
    ranks = [ranked(each.double().numpy()) for each in (predictions, targets)]
    linear = correlation(predictions, targets)

    def statistic(weights: Array) -> dict[str, Array]:
        with np.errstate(divide="ignore", invalid="ignore"):
            return {"spearman": _correlation(weights, *(each(weights) for each in ranks)), **linear(weights)}

    return statistic


def regressed(predictions: Tensor, targets: Tensor) -> Statistic:
    """Every figure of predictions `[N]` of a target `[N]`."""
    p, y = predictions.double().numpy(), targets.double().numpy()
    alike = correlations(predictions, targets)

    def statistic(weights: Array) -> dict[str, Array]:
        square = means({"e": (p - y) ** 2})(weights)["e"]
        spread = _moments(weights, np.broadcast_to(y, weights.shape), np.broadcast_to(y, weights.shape))
        with np.errstate(divide="ignore", invalid="ignore"):
            return {
                "rmse": np.sqrt(square),
                "r2": 1 - square / spread,
                **alike(weights),
            }

    return together(errors(predictions, targets), statistic)


def _moments(weights: Array, x: Array, y: Array) -> Array:
    """Covariance of x and y, all `[b, n]`, under each line of weights."""
    total = weights.sum(1)
    middle = [(weights * each).sum(1, keepdims=True) / total[:, None] for each in (x, y)]
    return np.asarray((weights * (x - middle[0]) * (y - middle[1])).sum(1) / total)


def _correlation(weights: Array, x: Array, y: Array) -> Array:
    return np.asarray(_moments(weights, x, y) / np.sqrt(_moments(weights, x, x) * _moments(weights, y, y)))
