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


def regressed(predictions: Tensor, targets: Tensor) -> Statistic:
    """Every figure of predictions `[N]` of a target `[N]`."""
    p, y = predictions.double().numpy(), targets.double().numpy()
    p_rank, y_rank, linear = ranked(p), ranked(y), correlation(predictions, targets)

    def statistic(weights: Array) -> dict[str, Array]:
        square = means({"e": (p - y) ** 2})(weights)["e"]
        spread = _moments(weights, np.broadcast_to(y, weights.shape), np.broadcast_to(y, weights.shape))
        with np.errstate(divide="ignore", invalid="ignore"):
            return {
                "rmse": np.sqrt(square),
                "r2": 1 - square / spread,
                **linear(weights),
                "spearman": _correlation(weights, p_rank(weights), y_rank(weights)),
            }

    return together(errors(predictions, targets), statistic)


def _moments(weights: Array, x: Array, y: Array) -> Array:
    """Covariance of x and y, all `[b, n]`, under each line of weights."""
    total = weights.sum(1)
    middle = [(weights * each).sum(1, keepdims=True) / total[:, None] for each in (x, y)]
    return np.asarray((weights * (x - middle[0]) * (y - middle[1])).sum(1) / total)


def _correlation(weights: Array, x: Array, y: Array) -> Array:
    return np.asarray(_moments(weights, x, y) / np.sqrt(_moments(weights, x, x) * _moments(weights, y, y)))
