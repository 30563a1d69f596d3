"""Learning on frozen features: linear probe, support vectors, neighbours, prototypes, regression and forecasts.

Functions of tensors alone.
Features `[N, D]` are float32; labels `[N]` are classes, all at least 0.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

L2 = tuple(10.0**k for k in range(2, -7, -1))  # strong to weak, so that each starts from its neighbour's solution
PENALTIES = tuple(10.0**k for k in range(2, -6, -1))
STRENGTHS = np.logspace(-4, 4, 17)
"""Of ridge regression by leave-one-out on standardised features, two a decade."""
HELD_OUT = 0.2  # share of the training rows that choose the penalty where there are no validation rows


@dataclass(frozen=True)
class Linear:
    """A linear model of standardised features."""

    mean: Tensor
    scale: Tensor
    weight: Tensor
    """`[D + 1, K]`; the last row is the bias."""

    def __call__(self, x: Tensor) -> Tensor:
        """`[N, K]`."""
        x = (x - self.mean) / self.scale
        return x @ self.weight[:-1] + self.weight[-1]


@dataclass(frozen=True)
class Fitted:
    """A linear model, and how its penalty was found."""

    model: Linear
    penalty: float
    path: list[tuple[float, float]]
    """Every penalty tried with its score on validation rows."""


def hold_out(rows: int, seed: int) -> tuple[Tensor, Tensor]:
    """Row numbers to learn from, and a random share that is kept back; at least one of each."""
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(seed))
    kept = min(rows - 1, max(1, round(rows * HELD_OUT)))
    return order[kept:].sort().values, order[:kept].sort().values


def probe(
    x: Tensor, labels: Tensor, classes: int, validation: tuple[Tensor, Tensor] | None = None, seed: int = 0
) -> Fitted:
    """Multinomial logistic regression, its penalty the best of `L2` by accuracy on validation rows.

    mean_i -log softmax(W x_i + b)_{y_i} + l2 / 2 |W|^2, by L-BFGS; scikit-learn's C is 1 / (l2 N). Without
    `validation` a share of the rows, drawn with `seed`, chooses the penalty, and all rows learn with it.
    """

    def right(scores: Tensor, labels: Tensor) -> float:
        return (scores.argmax(1) == labels).double().mean().item()

    return _sweep(_descent(F.cross_entropy), L2, x, labels, classes, right, validation, seed)


COSTS = (*(10.0**k for k in range(-4, 5)), 1e9)  # the last as good as infinite
SVM_ROWS = 10_000  # that support vectors are sought among at most


def svm(x: Tensor, labels: Tensor, queries: Tensor, seed: int = 0) -> tuple[Tensor, float, list[tuple[float, float]]]:
    """The classes `[Q]` that support vectors with an RBF kernel give the queries, by TS2Vec's protocol.

    C is the best of `COSTS`, of equals the smallest, by five-fold cross-validation where there are 50 rows and 5 of
    each class, else 1e9; of more than 10,000 rows so many are drawn. gamma is 1 / (D var x), scikit-learn's `scale`.

    Returns:
        Classes, C, and every C tried with its cross-validated accuracy.

    Reference:
        Yue et al. 2022, section 4.1 and appendix, arXiv 2106.10466.
    """
    from sklearn.model_selection import GridSearchCV, train_test_split
    from sklearn.svm import SVC

    known, y, asked = x.cpu().numpy(), labels.cpu().numpy(), queries.cpu().numpy()
    if len(y) > SVM_ROWS:
        known, _, y, _ = train_test_split(known, y, train_size=SVM_ROWS, random_state=seed)
    if len(y) < 50 or np.bincount(y)[np.unique(y)].min() < 5:
        return torch.from_numpy(SVC(C=COSTS[-1]).fit(known, y).predict(asked)), COSTS[-1], []
    grid = {"C": COSTS}
    found = GridSearchCV(SVC(max_iter=10_000_000), grid, cv=5).fit(known, y)
    scores = found.cv_results_["mean_test_score"].tolist()
    return torch.from_numpy(found.predict(asked)), COSTS[found.best_index_], list(zip(COSTS, scores, strict=True))


def regressor(
    x: Tensor,
    targets: Tensor,
    kind: Literal["ridge", "l1"],
    validation: tuple[Tensor, Tensor] | None = None,
    seed: int = 0,
) -> Fitted:
    """Linear regression of targets `[N]`, its penalty the best of `PENALTIES` by absolute error on validation rows.

    mean_i (w x_i + b - y_i)^2 / 2 + penalty / 2 |w|^2, or with `l1` the absolute error (smoothed below a
    thousandth of the targets' deviation) in place of the halved square. Targets are standardised. `validation`
    as in `probe`; the scores of the path are mean absolute errors.
    """
    mean, scale = targets.mean(), targets.std(correction=0).clamp(min=1e-12)

    def standard(values: Tensor) -> Tensor:
        return ((values - mean) / scale)[:, None]

    def absolute(scores: Tensor, aim: Tensor) -> Tensor:
        return ((scores - aim).square() + 1e-6).sqrt().mean()

    def close(scores: Tensor, aim: Tensor) -> float:
        return -(scores - aim).abs().mean().item()

    solve = _ridge if kind == "ridge" else _descent(absolute)
    kept = None if validation is None else (validation[0], standard(validation[1]))
    fitted = _sweep(solve, PENALTIES, x, standard(targets), 1, close, kept, seed)
    weight = fitted.model.weight * scale
    weight[-1] += mean
    path = [(penalty, -value * scale.item()) for penalty, value in fitted.path]
    return Fitted(Linear(fitted.model.mean, fitted.model.scale, weight), fitted.penalty, path)


def forecaster(x: Tensor, y: Tensor, validation: tuple[Tensor, Tensor]) -> Fitted:
    """Ridge regression of standardised values `[N, K]`, its penalty the best of `PENALTIES` by squared error on
    validation rows, where values may be NaN. The scores of the path are mean squared errors."""

    def close(scores: Tensor, aim: Tensor) -> float:
        return -(scores - aim).square()[~aim.isnan()].mean().item()

    fitted = _sweep(_ridge, PENALTIES, x, y, y.shape[1], close, validation, 0)
    return Fitted(fitted.model, fitted.penalty, [(penalty, -value) for penalty, value in fitted.path])


Solve = Callable[[Tensor, Tensor, Tensor, float], Tensor]
"""Standardised features `[N, D]`, what to learn `[N, ...]`, a weight `[D + 1, K]` to start from and a penalty to the
best weight."""


def _sweep(
    solve: Solve,
    penalties: Sequence[float],
    x: Tensor,
    y: Tensor,
    outputs: int,
    score: Callable[[Tensor, Tensor], float],
    validation: tuple[Tensor, Tensor] | None,
    seed: int,
) -> Fitted:
    """The model of the penalty with the highest score on validation rows; of equals the smallest penalty.

    Few validation rows make many equals, and the strongest penalty of them leaves next to nothing of the features.
    """
    if validation is None:
        learn, kept = (rows.to(x.device) for rows in hold_out(len(x), seed))
        found = _sweep(solve, penalties, x[learn], y[learn], outputs, score, (x[kept], y[kept]), seed)
        mean, scale = _statistics(x)
        weight = solve((x - mean) / scale, y, found.model.weight, found.penalty)
        return Fitted(Linear(mean, scale, weight), found.penalty, found.path)
    mean, scale = _statistics(x)
    standard = (x - mean) / scale
    weight = x.new_zeros(x.shape[1] + 1, outputs)
    path: list[tuple[float, float]] = []
    models: list[Linear] = []
    for penalty in penalties:
        weight = solve(standard, y, weight, penalty)
        models.append(Linear(mean, scale, weight))
        path.append((penalty, score(models[-1](validation[0]), validation[1])))
    best = max(range(len(path)), key=lambda number: (path[number][1], -path[number][0]))
    return Fitted(models[best], path[best][0], path)


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each feature; 1 for one that does not vary, which tells nothing."""
    mean, scale = x.mean(0), x.std(0, correction=0)
    return mean, torch.where(scale > 1e-6 * (mean.abs() + 1e-6), scale, 1)


def _descent(loss: Callable[[Tensor, Tensor], Tensor]) -> Solve:
    """L-BFGS on a loss of the scores `[N, K]`, on the device of the features."""
    from scipy.optimize import minimize

    def solve(x: Tensor, y: Tensor, start: Tensor, penalty: float) -> Tensor:
        def objective(flat: Any) -> tuple[float, Any]:
            weight = torch.tensor(flat.reshape(start.shape), dtype=x.dtype, device=x.device, requires_grad=True)
            scores = (x @ weight[:-1] + weight[-1]).double()  # a sum of many rows: its last steps are small
            value = loss(scores, y) + penalty / 2 * weight[:-1].double().square().sum()
            (gradient,) = torch.autograd.grad(value, weight)
            return value.item(), gradient.double().cpu().numpy().ravel()

        flat = start.double().cpu().numpy().ravel()
        limits = {"maxiter": 100, "ftol": 1e-7, "gtol": 1e-5}  # as many steps as scikit-learn takes
        found = minimize(objective, flat, jac=True, method="L-BFGS-B", options=limits)
        return torch.from_numpy(found.x).to(start).view_as(start)

    return solve


def _ridge(x: Tensor, y: Tensor, start: Tensor, penalty: float) -> Tensor:
    """The closed form."""
    doubled, aim = x.double(), y.double()
    square = doubled.T @ doubled / len(x) + penalty * torch.eye(x.shape[1], dtype=torch.float64, device=x.device)
    weight = torch.linalg.solve(square, doubled.T @ (aim - aim.mean(0)) / len(x))
    return torch.cat([weight, aim.mean(0, keepdim=True)]).to(start)


MOST_VOTES = 20


def usual_k(labels: Tensor) -> int:
    """Neighbours that suit classes of these sizes: half the rows of the class at the lower quartile, from 1 to 20.

    More would let the larger classes outvote a class where all its rows are nearest.
    """
    sizes = labels.bincount()
    small = np.quantile(sizes[sizes > 0].cpu().numpy(), 0.25, method="lower")
    return int(min(MOST_VOTES, max(1, small // 2)))


def neighbours(
    x: Tensor,
    labels: Tensor,
    queries: Tensor,
    classes: int,
    k: int,
    weights: Literal["uniform", "distance"] = "uniform",
    cells: int = 2**24,
) -> Tensor:
    """Votes `[Q, C]` of the k nearest rows of `x` by cosine distance, one each or 1 / distance.

    As scikit-learn's `KNeighborsClassifier`: where a row lies at distance 0, only such rows vote.
    """
    known, asked = F.normalize(x, dim=1), F.normalize(queries, dim=1)
    found = []
    for block in asked.split(max(1, cells // len(known))):
        similarity, nearest = (block @ known.T).topk(min(k, len(known)), dim=1)
        vote = torch.ones_like(similarity)
        if weights == "distance":
            distance = (1 - similarity).clamp(min=0)
            same = distance == 0
            vote = torch.where(same.any(1, keepdim=True), same.to(distance), 1 / distance.clamp(min=1e-30))
        found.append(vote.new_zeros(len(block), classes).scatter_add_(1, labels[nearest], vote))
    return torch.cat(found)


def class_means(x: Tensor, labels: Tensor, classes: int) -> Tensor:
    """The mean of each class's unit rows `[C, D]`, zeros for a class without rows."""
    rows = F.normalize(x.float(), dim=1)
    sums = rows.new_zeros(classes, rows.shape[1]).index_add_(0, labels, rows)
    return sums / torch.bincount(labels, minlength=classes).clamp(min=1)[:, None].to(sums.dtype)


def to_means(queries: Tensor, means: Tensor) -> Tensor:
    """Cosine of each query to each class mean, `[Q, C]`; the lowest to a class without rows (the mean classifier of
    Arora et al. 2019, arXiv 1902.09229, on the sphere)."""
    scores = F.normalize(queries.float(), dim=1) @ F.normalize(means, dim=1).T
    return scores.masked_fill((means == 0).all(1), -2)
