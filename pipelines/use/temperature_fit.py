"""From scores to probabilities, and the temperature that makes these true on labelled rows."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt
from torch import Tensor

from clx.pipelines.config.options import construct
from clx.pipelines.measures.prediction import calibration_gap
from clx.pipelines.model.scoring import Finite, Kind, Scale
from clx.pipelines.system.durable_files import write_text
from clx.pipelines.system.errors import BadInput

FORMAT = 1
COLDEST, HOTTEST = 1e-3, 1e3


@dataclass(frozen=True)
class Fit:
    """A scale fitted on labelled rows, with what it bettered."""

    kind: Kind
    temperature: Annotated[float, Gt(0), Finite]
    bias: Annotated[float, Finite]
    rows: Annotated[int, Ge(1)]
    labels: Annotated[int, Ge(1)]
    nll: tuple[float, float]
    """Mean negative log-likelihood in nats, before and after: per row for softmax, per row and label otherwise."""
    ece: tuple[float, float]
    """Expected calibration error before and after."""

    @property
    def scale(self) -> Scale:
        return Scale(self.kind, self.temperature, self.bias)

    @property
    def betters(self) -> bool:
        """Whether the rows are likelier than they were without it."""
        return self.nll[1] < self.nll[0]


def unfitted(one: Fit, before: Scale) -> Fit:
    """What stands in the place of a fit that betters nothing: the scale as it was."""
    nll, ece = one.nll[0], one.ece[0]
    return Fit(before.kind, before.temperature, before.bias, one.rows, one.labels, (nll, nll), (ece, ece))


def fit(scores: Tensor, truth: Tensor, before: Scale) -> Fit:
    """Temperature, and for yes-or-no questions the bias, of least negative log-likelihood.

    Args:
        scores: `[N, C]`.
        truth: `[N, C]` bool, the labels that apply; for softmax exactly one in a row.
        before: what is used without the fit; `lift` becomes `sigmoid`, to which the fit gives a bias.

    Reference:
        Guo et al. 2017, arXiv 1706.04599; with a bias it is Platt's scaling (1999), whose softened targets both have.
    """
    from scipy.optimize import minimize, minimize_scalar

    scores, limits = scores.double(), (math.log(COLDEST), math.log(HOTTEST))
    wanted = softened(truth, before.kind)
    if before.kind == "softmax":

        def loss(log_temperature: float) -> float:
            return -float(((scores / math.exp(log_temperature)).log_softmax(-1) * wanted).sum(-1).mean())

        best_log = minimize_scalar(loss, bounds=limits, method="bounded", options={"xatol": 1e-6})
        after = Scale("softmax", math.exp(best_log.x))
    else:

        def losses(p: Any) -> float:
            logits = scores / math.exp(p[0]) + p[1]
            return float(F.binary_cross_entropy_with_logits(logits, wanted))

        spread = float(scores.std()) if scores.numel() > 1 else 1.0
        start = [math.log(max(spread, COLDEST)), -float(scores.mean()) / max(spread, COLDEST)]
        options = {"xatol": 1e-6, "fatol": 1e-10, "maxiter": 5000}
        best = minimize(losses, start, method="Nelder-Mead", bounds=[limits, (None, None)], options=options)
        after = Scale("sigmoid", math.exp(best.x[0]), float(best.x[1]))
    return Fit(
        after.kind,
        after.temperature,
        after.bias,
        len(scores),
        scores.shape[1],
        (nll(before, scores, truth), nll(after, scores, truth)),
        (calibration_error(before, scores, truth), calibration_error(after, scores, truth)),
    )


def softened(truth: Tensor, kind: Kind) -> Tensor:
    """Targets `[N, C]` a little below 1 and above 0, as Platt 1999 (eq. 1) has them.

    Where every row is right, bare yes and no would make the temperature as cold as it can get, and every
    probability 1; with N rows seen to be right (N + 1) / (N + 2) is all that can be said.
    """
    if kind == "softmax":
        rows, count = truth.shape
        sure = (rows + 1) / (rows + 2)
        return torch.where(truth, sure, (1 - sure) / max(1, count - 1)).double()
    yes, no = int(truth.sum()), int((~truth).sum())
    return torch.where(truth, (yes + 1) / (yes + 2), 1 / (no + 2)).double()


def nll(scale: Scale, scores: Tensor, truth: Tensor) -> float:
    """Mean negative log-likelihood of the labels that apply (softmax), or of every yes and no."""
    if scale.kind == "softmax":
        return -float((scores / scale.temperature).log_softmax(-1)[truth].mean())
    if scale.kind == "sigmoid":
        logits = scores / scale.temperature + scale.bias
        return float(F.softplus(torch.where(truth, -logits, logits)).mean())
    p = scale.probabilities(scores)
    return -float(torch.where(truth, p, 1 - p).clamp(min=1e-12).log().mean())


def calibration_error(scale: Scale, scores: Tensor, truth: Tensor) -> float:
    """Mean distance of confidence and hit rate over bins of confidence, weighted by their size.

    Of the best label of each row for softmax, of every label otherwise.
    """
    p = scale.probabilities(scores)
    if scale.kind == "softmax":
        best = p.argmax(1, keepdim=True)
        sure, right = p.gather(1, best).flatten(), truth.gather(1, best).flatten()
    else:
        sure, right = p.flatten(), truth.flatten()
    return float(calibration_gap(sure, right)(np.ones((1, len(sure))))["ECE"][0])


def save_fits(folder: Path, weights: str, fits: dict[str, Fit]) -> tuple[Path | None, list[str]]:
    """Keep fits by input with the run, beside those of other inputs and kinds for the same weights; one that betters
    nothing only removes an earlier one. The file, None where there is nothing to keep, and inputs whose fit went so."""
    path = folder / "calibration.json"
    kept = {name: {f.kind: f for f in kinds} for name, kinds in load_fits(folder, weights).items()}
    removed = list[str]()
    for name, one in fits.items():
        kind: Kind = "sigmoid" if one.kind == "lift" else one.kind  # which a fit makes of it
        earlier = kept.setdefault(name, {}).pop(kind, None)
        if one.betters:
            kept[name][one.kind] = one
        elif earlier is not None:
            removed.append(name)
    inputs = {name: [asdict(f) for f in kinds.values()] for name, kinds in kept.items() if kinds}
    if not inputs:
        path.unlink(missing_ok=True)
        return None, removed
    write_text(path, json.dumps({"format": FORMAT, "weights": weights, "inputs": inputs}, indent=1))
    return path, removed


def load_fits(folder: Path, weights: str) -> dict[str, list[Fit]]:
    """Fits by input; none when there are none or they are of other weights. Raises `BadInput` for a damaged file."""
    path = folder / "calibration.json"
    try:
        raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if raw["format"] != FORMAT or raw["weights"] != weights:
            return {}
        return {name: [construct(Fit, one, name) for one in kinds] for name, kinds in raw["inputs"].items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"{path} cannot be read ({error}); delete it, or calibrate again after that") from None
