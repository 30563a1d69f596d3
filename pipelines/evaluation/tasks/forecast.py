"""The task `forecast`: from frozen embeddings, what is known where a window ends, what follows, plain ways to say so.

All values are by the mean and deviation of the training series, as TS2Vec and Informer report errors. Nothing here
sees a step behind the end of its window: an encoder may look both ways, so the embedding of a time is that of the
last step of a window that ends there (Yue et al. 2022, section 4.2, arXiv 2106.10466).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clx.modalities.base import CellError
from clx.modalities.series import Series
from clx.modalities.series_gaps import bridged
from clx.pipelines.batches.batch import BadRow
from clx.pipelines.batches.cells import cell_of, future_of
from clx.pipelines.batches.columns import columns_of
from clx.pipelines.batches.dataset import BatchDataset
from clx.pipelines.batches.loader import batches, once
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.data.windows import FUTURE
from clx.pipelines.evaluation.embeddings import Report, ignore_bad_rows
from clx.pipelines.evaluation.task_context import Lines, TaskContext, Unfit, nonempty, task
from clx.pipelines.measures.bootstrap import Statistic, figures
from clx.pipelines.measures.probes import Fitted, forecaster
from clx.pipelines.model.build import Run
from clx.pipelines.model.forecasting import at_end, windowed_series
from clx.pipelines.model.scoring import trained
from clx.pipelines.system.errors import BadInput

HELD_OUT = 0.2  # share of the training windows, the last, that choose the penalty where there are no val windows
SEASON_ROWS = 500  # training windows that choose the season
HORIZONS = (24, 48, 168)  # asked for where nobody says how far


@dataclass
class WindowEnds:
    """Windows of one series modality, by their ends, on the CPU."""

    lags: Tensor
    """`[N, L, C]`, what was measured in the window; gaps are bridged."""
    future: Tensor
    """`[N, H, C]`, what follows, NaN in gaps and behind the end of the series."""
    features: Tensor
    """`[N, W]` of the last step."""
    rows: Tensor
    """`[N]`, of the manifest."""
    recording: NDArray[np.int64]
    """`[N]`, a number for each recording."""
    start: NDArray[np.int64]
    """`[N]`, first step of the window in its recording."""

    def whole(self, horizon: int) -> Tensor:
        """Numbers of the windows that some value follows in each of `horizon` steps' last."""
        return (~self.future[:, horizon - 1].isnan().all(1)).nonzero()[:, 0]

    def aim(self, some: Tensor, horizon: int) -> Tensor:
        """What follows the windows `some`, flat, `[n, horizon * C]`."""
        return self.future[some, :horizon].flatten(1)


@torch.no_grad()
def ends(
    run: Run,
    name: str,
    manifest: Manifest,
    horizon: int,
    features: Literal["encoder", "head"],
    *,
    on_bad: Literal["fail", "skip"] = "fail",
    report: Report = ignore_bad_rows,
) -> WindowEnds:
    """The windows of a manifest that are as long as `data.windows` says, with what follows and their features.

    Features are those of `at_end`.
    """
    modality, tower = run.modalities[name], run.model.tower(name)
    windows = run.config.data.windows
    assert isinstance(modality, Series)
    assert windows is not None
    data = BatchDataset(manifest, {name: modality}, on_bad=on_bad)
    place = {int(row): i for i, row in enumerate(manifest.rows)}
    columns = columns_of({name: modality}, FUTURE)
    lags, future, seen, rows = [], [], [], []
    for batch in batches(data, once(len(data), 256), run.config.train.workers, report=report):
        if name not in batch.inputs:
            continue
        value = batch.to(run.device).inputs[name]
        found = at_end(tower, value)
        found = (tower.head(found)[:, : run.model.embed_dim] if features == "head" else found).float().cpu()
        here = [place[i] for i in batch.sample_id[batch.present[name]].tolist()]
        for i, feature in zip(here, found, strict=True):
            row = manifest.row(i, columns)
            try:
                window = modality.measured(cell_of(row, name, modality, manifest))
                follows = future_of(row, modality, manifest, horizon)
            except (CellError, BadInput) as error:
                bad = BadRow(i, manifest.where(i), FUTURE, str(error))
                if on_bad == "fail":
                    raise BadInput(f"{bad.where}, column {bad.column}: {bad.reason}") from None
                report([bad])
                continue
            if len(window) == windows.length:
                lags.append(torch.from_numpy(bridged(window.numpy())))
                future.append(follows)
                seen.append(feature)
                rows.append(i)
    if not rows:
        empty = torch.zeros(0, windows.length, modality.channels)
        nothing = np.zeros(0, dtype=np.int64)
        future_of_none = empty.new_zeros(0, horizon, modality.channels)
        return WindowEnds(empty, future_of_none, empty[:, 0, :0], torch.zeros(0, dtype=torch.long), nothing, nothing)
    names = manifest.column("recording")
    _, recording = np.unique(np.array([str(names[i]) for i in rows]), return_inverse=True)
    starts = manifest.column("start")
    start = np.array([starts[i] for i in rows], dtype=np.int64)
    return WindowEnds(torch.stack(lags), torch.stack(future), torch.stack(seen), torch.tensor(rows), recording, start)


@dataclass(frozen=True)
class Split:
    """Windows to learn from and windows that choose a penalty, at one horizon."""

    train: WindowEnds
    learn: Tensor
    val: WindowEnds
    choose: Tensor

    @classmethod
    def of(cls, train: WindowEnds, val: WindowEnds | None, horizon: int) -> "Split | None":
        """None where there is nothing to learn from. Without `val` the last training windows choose, and those
        before them whose future reaches into theirs are left out."""
        whole = train.whole(horizon)
        filled = bridged_future(train.future[whole, :horizon])
        whole = whole[~filled.isnan().flatten(1).any(1)]
        if val is not None and len(choose := val.whole(horizon)):
            return cls(train, whole, val, choose) if len(whole) > 2 else None
        kept = round(len(whole) * (1 - HELD_OUT))
        learn, choose = whole[:kept], whole[kept:]
        if len(learn) and len(choose):
            first = int(choose[0])
            same = train.recording[learn.numpy()] == train.recording[first]
            reaches = train.start[learn.numpy()] + horizon > train.start[first]
            learn = learn[torch.from_numpy(~(same & reaches))]
        return cls(train, learn, train, choose) if len(learn) > 2 and len(choose) else None

    def fit(self, what: Callable[[WindowEnds], Tensor], horizon: int) -> Fitted:
        """Ridge regression from what is known at the end of a window to what follows."""
        aim = bridged_future(self.train.future[self.learn, :horizon]).flatten(1)
        kept = what(self.val)[self.choose], self.val.aim(self.choose, horizon)
        return forecaster(what(self.train)[self.learn], aim, kept)

    def season(self, horizon: int) -> int:
        """The lag that seasonal-naive forecasts are best with on training windows; of equals the shortest."""
        some = self.learn[:: max(1, len(self.learn) // SEASON_ROWS)]
        lags, aim = self.train.lags[some], self.train.future[some, :horizon]
        wrong = [_squared(seasonal(lags, m, horizon) - aim) for m in range(1, lags.shape[1] + 1)]
        return int(np.argmin(wrong)) + 1


def _squared(difference: Tensor) -> float:
    return difference.square()[~difference.isnan()].mean().item()


def bridged_future(future: Tensor) -> Tensor:
    """`[N, H, C]` to learn from: gaps within are bridged."""
    return torch.from_numpy(np.stack([bridged(each) for each in future.numpy()])) if len(future) else future


def seasonal(lags: Tensor, season: int, horizon: int) -> Tensor:
    """`[N, H, C]`: each step as it was a whole number of seasons before, the latest that is known."""
    last = lags[:, lags.shape[1] - season :]
    return last[:, torch.arange(horizon) % season]


def erred(forecast: Tensor, aim: Tensor, blocks: NDArray[np.int64]) -> tuple[int, Statistic]:
    """Mean squared and absolute error of `[n, H * C]`, NaN in `aim` left out, as a statistic of blocks of windows.

    Windows that share some of their future err together, so an interval is over blocks `[n]`, not over windows.
    """
    known = ~aim.isnan()
    difference = torch.where(known, forecast - aim, 0).double()
    count = int(blocks.max()) + 1

    def summed(values: Tensor) -> NDArray[np.float64]:
        return np.bincount(blocks, values.sum(1).numpy(), minlength=count).astype(np.float64)

    sums = {"mse": summed(difference.square()), "mae": summed(difference.abs())}
    counts = summed(known.double())
    return count, lambda weights: {name: weights @ each / (weights @ counts) for name, each in sums.items()}


def blocked(windows: WindowEnds, some: Tensor, horizon: int) -> NDArray[np.int64]:
    """A number for each window: those of one recording that begin within one horizon share it."""
    place = some.numpy()
    key = np.stack([windows.recording[place], windows.start[place] // horizon], 1)
    number: NDArray[np.int64] = np.unique(key, axis=0, return_inverse=True)[1].ravel()
    return number


@task("forecast")
def forecast(context: TaskContext) -> Lines:
    """Errors of a ridge regression from the embedding of each window's end to the values that follow it, beside
    what the same windows give without a model, and of the predictor where one was trained to forecast."""
    name, config, settings = (
        windowed_series(context.run.config, context.run.modalities),
        context.run.config,
        context.settings,
    )
    if name is None or config.data.windows is None:
        raise Unfit("needs data.windows on a series: a forecast is made where a window ends")
    if FUTURE not in context.embedded.manifest.columns:
        raise Unfit("needs data.windows.horizon, how many steps behind each window to look at")
    if context.train is None or FUTURE not in context.train.columns:
        raise Unfit("needs training windows of earlier times than those asked: set data.test to {last: 0.2}, say")
    wanted = settings.horizons or ((config.data.windows.horizon,) if config.data.windows.horizon else HORIZONS)

    def look(manifest: Manifest) -> WindowEnds:
        return ends(
            context.run, name, manifest, max(wanted), settings.features, on_bad=context.on_bad, report=context.report
        )

    known, val = look(context.train), None if context.val is None else look(context.val)
    query = look(context.embedded.manifest.take(context.embedded.rows.numpy()))
    found: Lines = {}
    for horizon in wanted:
        some = query.whole(horizon)
        split = Split.of(known, val, horizon) if len(some) else None
        if split is not None:
            found |= _forecast(context, name, query, some, split, horizon)
        elif settings.horizons:
            which = "train on" if len(some) else "ask"
            raise Unfit(f"horizon {horizon}: there are no windows to {which} that so many steps follow")
    return nonempty(found, "no window is followed by as many steps as the shortest horizon")


def _forecast(context: TaskContext, name: str, query: WindowEnds, some: Tensor, split: Split, horizon: int) -> Lines:
    """The lines of one horizon, on the windows `some`."""
    aim, blocks = query.aim(some, horizon), blocked(query, some, horizon)
    about = {"horizon": horizon, "rows": len(some)}

    def line(said: Tensor, more: dict[str, Any]) -> dict[str, Any]:
        count, statistic = erred(said, aim, blocks)
        resamples = context.settings.resamples if count > 1 else 0  # one block has no spread
        found = figures(count, statistic, resamples, context.settings.confidence, context.settings.seed)
        return found | about | more

    def ridge(what: Callable[[WindowEnds], Tensor]) -> dict[str, Any]:
        fitted = split.fit(what, horizon)
        path = [{"penalty": penalty, "val_mse": value} for penalty, value in fitted.path]
        more = {"train_rows": len(split.learn), "penalty": fitted.penalty, "path": path}
        return line(fitted.model(what(query)[some]), more)

    found = {f"{name}->{horizon}": ridge(lambda ends: ends.features) | {"features": context.settings.features}}
    forecasts = context.run.forecasts
    if forecasts is not None and forecasts[1] >= horizon:
        here = context.embedded.take(query.rows[some])
        said = trained(context.run, here.z, here.present, forecasts[1])[:, :horizon]
        found[f"trained-predictor->{horizon}"] = line(said.flatten(1), {})
    found[f"ridge-on-lags->{horizon}"] = ridge(lambda ends: ends.lags.flatten(1))
    season = split.season(horizon)
    naive = seasonal(query.lags[some], season, horizon)
    found[f"seasonal-naive->{horizon}"] = line(naive.flatten(1), {"season": season})
    return found
