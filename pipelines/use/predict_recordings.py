"""What a run says of whole recordings, step by step: how odd each step is, and what follows the last one."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clx.modalities.base import CellError
from clx.modalities.series import Series
from clx.modalities.series_files import piece_of
from clx.pipelines.batches.batch import BadRow
from clx.pipelines.batches.cells import cell_at
from clx.pipelines.batches.columns import column_of
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.data.splits import Otherwise, choose, load_splits
from clx.pipelines.data.windows import TIMES, extents
from clx.pipelines.data.writers import Line
from clx.pipelines.model.build import Run
from clx.pipelines.model.forecasting import at_end, windowed_series
from clx.pipelines.model.scoring import trained
from clx.pipelines.system.errors import BadInput, explain_out_of_memory

if TYPE_CHECKING:
    import pyarrow as pa

HISTORY = 10_000  # training steps whose scores make the threshold
Floats = NDArray[np.float64]
Parts = Iterator[tuple[list[Line], list[BadRow]]]


@dataclass(frozen=True)
class Scorer:
    """A run that looks at recordings through windows of one of its series modalities."""

    run: Run
    name: str
    length: int
    """Steps of a window."""
    average: int
    """Preceding scores that a score is compared with."""
    block: int = 256
    """Windows at a time, at most."""

    @property
    def series(self) -> Series:
        modality = self.run.modalities[self.name]
        assert isinstance(modality, Series)
        return modality

    @torch.no_grad()
    def differences(self, manifest: Manifest, i: int, first: int = 0) -> Floats:
        """For each step of a recording from `first` on the L1 distance of its embedding with and without itself.

        Both are of the last step of the window that ends there, the second with that step hidden. NaN before the
        first whole window and where a value is missing. Raises `CellError`.
        """
        series, tower = self.series, self.run.model.tower(self.name)
        start, stop = extents(manifest.take([i]), column(self))[0]
        differences = np.full(stop - start - first, np.nan)
        block = max(1, min(self.block, series.max_steps - self.length + 1))
        cell = cell_at(manifest, i, self.name, series)
        for at in range(start + max(0, first - self.length + 1), stop - self.length + 1, block):
            piece = piece_at(cell, at, min(at + block + self.length - 1, stop))
            ends = at + self.length - 1 - start - first
            gaps = series.measured(piece).isnan().any(1)
            measured = ~gaps[self.length - 1 :]
            if not measured.any():
                continue
            views = [*series.read(piece).unfold(0, self.length, 1).transpose(1, 2)]
            bridged = gaps.unfold(0, self.length, 1).any(1) & (series.gaps != "mask")
            for k in (measured & (bridged | (series.scale == "per-series"))).nonzero()[:, 0].tolist():
                views[k] = series.read(piece_at(cell, at + k, at + k + self.length))  # by its own steps alone
            shown = [view for view, some in zip(views, measured.tolist(), strict=True) if some]
            with self.explain_out_of_memory():
                value = {k: v.to(self.run.device) for k, v in series.collate(shown).items()}
                apart = (at_end(tower, value) - at_end(tower, series.without_last(value))).abs().sum(1)
                differences[ends : ends + len(measured)][measured.numpy()] = apart.double().cpu().numpy()
        return differences

    def explain_out_of_memory(self) -> AbstractContextManager[None]:
        """Says what to do where memory runs out."""
        return explain_out_of_memory(lambda: f"with {self.block} windows at a time: --batch-size takes fewer")

    def bounds(self, manifest: Manifest, i: int) -> tuple[int, int]:
        """First step of a recording and the one behind the last. Raises `CellError` when no window fits."""
        start, stop = extents(manifest.take([i]), column(self))[0]
        if stop - start < self.length:
            raise CellError(f"{stop - start} steps; the windows of the run have {self.length}")
        return start, stop

    def scores(self, differences: Floats) -> Floats:
        """Each difference by the mean of the `average` ones before it: (a - m) / m, NaN where there are fewer."""
        measured = np.flatnonzero(~np.isnan(differences))
        scores = np.full(len(differences), np.nan)
        if len(measured) > self.average:
            sums = np.concatenate([[0], differences[measured].cumsum()])
            means = (sums[self.average : -1] - sums[: -self.average - 1]) / self.average
            scores[measured[self.average :]] = differences[measured[self.average :]] / np.maximum(means, 1e-12) - 1
        return scores

    def threshold(self, beta: float) -> float:
        """Mean and `beta` deviations of the scores of the training recordings, of their last steps where they are
        many. Raises `BadInput` when there are none, and for one that cannot be read unless the run skips such."""
        data = self.run.config.data
        train = load_splits(data, self.run.config.train.seed, whole=True)["train"]
        usual: list[Floats] = []
        for i, (start, stop) in enumerate(extents(train, column(self))):
            if sum(map(len, usual)) >= HISTORY:
                break
            try:
                scores = self.scores(self.differences(train, i, max(0, stop - start - HISTORY)))
            except CellError as error:
                if data.on_bad_row == "skip" and i + 1 < len(train):
                    continue
                raise BadInput(f"{train.where(i)}, column {column(self)}: {error}") from None
            usual.append(scores[~np.isnan(scores)])
        history = np.concatenate(usual)
        if len(history) < 2:
            raise BadInput(
                f"{train.name}: training recordings of over {self.length + self.average} steps are needed to know "
                "what is usual"
            )
        return float(history.mean() + beta * history.std())


def column(scorer: Scorer) -> str:
    """The manifest column with the recordings."""
    name = column_of(scorer.name, scorer.series)
    assert isinstance(name, str)
    return name


def piece_at(cell: Any, start: int, stop: int) -> Any:
    """Steps `start` to `stop` of a recording, as `extents` counts them."""
    return Path(f"{piece_of(str(cell))[0]}#{start}:{stop}") if isinstance(cell, Path) else cell[start:stop]


def open_scorer(run: Run, average: int = 21, block: int = 256) -> Scorer:
    """A run that was trained on windows of a series. Raises `BadInput`."""
    name, windows = windowed_series(run.config, run.modalities), run.config.data.windows
    if name is None or windows is None:
        raise BadInput("the run was not trained on windows of recordings (data.windows), which it would look through")
    return Scorer(run, name, windows.length, average, block)


def recordings(run: Run, source: str | None, split: str | None) -> list[Manifest]:
    """The recordings of a source, all or those of a split; without a source the run's own test split."""
    otherwise: Otherwise = "first" if source is None else "every"
    return [*choose(run.config.data, run.config.train.seed, source, split, otherwise=otherwise, whole=True).values()]


def anomalies(scorer: Scorer, manifests: Sequence[Manifest], threshold: float) -> Parts:
    """Lines of one recording after the other, one a step: `recording`, `step` counted from 0, `time` where the table
    has one, the `difference` that the step itself makes to its embedding, `score`, by how much this is above the
    usual just before, and `anomaly`, whether the score is above the threshold; None where there is no score. Of a
    recording that cannot be read there are none.

    Reference:
        Yue et al. 2022, section 4.3, arXiv 2106.10466.
    """
    for manifest in manifests:
        for i, name in enumerate(names(scorer, manifest)):
            try:
                begin, _ = scorer.bounds(manifest, i)
                differences = scorer.differences(manifest, i)
            except CellError as error:
                yield [], [BadRow(i, manifest.where(i), column(scorer), str(error))]
                continue
            scores = scorer.scores(differences)
            times = None if scorer.run.config.data.long is None else manifest.cell(i, TIMES)
            yield (
                [
                    {"recording": name, "step": begin + step}
                    | ({} if times is None else {"time": times[step]})
                    | {"difference": _known(apart), "score": _known(score)}
                    | {"anomaly": None if np.isnan(score) else bool(score > threshold)}
                    for step, (apart, score) in enumerate(zip(differences.tolist(), scores.tolist(), strict=True))
                ],
                [],
            )


def names(scorer: Scorer, manifest: Manifest) -> list[str]:
    """What the recordings are called: by the column that says so, their file, or where they stand."""
    long = scorer.run.config.data.long
    naming = (long and long.id) or "recording"
    if naming in manifest.columns:
        return [str(cell) for cell in manifest.column(naming)]
    cells = manifest.column(column(scorer))
    return [piece_of(cell)[0] if isinstance(cell, str) else manifest.where(i) for i, cell in enumerate(cells)]


def forecasts(scorer: Scorer, manifests: Sequence[Manifest]) -> Parts:
    """What the run's predictor says follows each recording, a line a step: `recording`, `ahead` counted from 1 and
    `predicted`, or `predicted_1` and so on by channel, in the units of the data.

    Raises `BadInput` for a run that reads more than the series.
    """
    run, series = scorer.run, scorer.series
    if run.forecasts is None or list(run.modalities) != [scorer.name]:
        raise BadInput(f"forecasts of whole recordings are for runs of one series; this one has {[*run.modalities]}")
    for manifest in manifests:
        named = names(scorer, manifest)
        for first in range(0, len(manifest), scorer.block):
            windows: dict[int, Tensor] = {}
            bad = []
            for i in range(first, min(first + scorer.block, len(manifest))):
                try:
                    _, stop = scorer.bounds(manifest, i)
                    cell = cell_at(manifest, i, scorer.name, series)
                    windows[i] = series.read(piece_at(cell, stop - scorer.length, stop))
                except CellError as error:
                    bad.append(BadRow(i, manifest.where(i), column(scorer), str(error)))
            lines = [
                {"recording": named[i], "ahead": k} | dict(zip(answers(series), map(_known, step), strict=True))
                for i, steps in zip(windows, next_steps(scorer, [*windows.values()]), strict=True)
                for k, step in enumerate(steps.tolist(), 1)
            ]
            yield lines, bad


@torch.no_grad()
def next_steps(scorer: Scorer, windows: list[Tensor]) -> list[Tensor]:
    """What follows each window, `[steps, C]`, in the units of the data."""
    run, series = scorer.run, scorer.series
    assert run.forecasts is not None
    if not windows:
        return []
    with scorer.explain_out_of_memory():
        value = {k: v.to(run.device) for k, v in series.collate(windows).items()}
        present = {scorer.name: torch.ones(len(windows), dtype=torch.bool, device=run.device)}
        z = run.model({scorer.name: value}, present)
        return [*series.measures(trained(run, z, present, run.forecasts[1]))]


def answers(series: Series) -> list[str]:
    """Columns of a forecast."""
    return ["predicted"] if series.channels == 1 else [f"predicted_{c}" for c in range(1, series.channels + 1)]


def forecast_schema(scorer: Scorer) -> "pa.Schema":
    """Names and types of a line's values."""
    import pyarrow as pa

    figures = dict.fromkeys(answers(scorer.series), pa.float64())
    return pa.schema({"recording": pa.string(), "ahead": pa.int64(), **figures})


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(f"{value:.7g}")


def anomaly_schema(scorer: Scorer) -> "pa.Schema":
    """Names and types of a line's values."""
    import pyarrow as pa

    time = {"time": pa.string()} if scorer.run.config.data.long is not None else {}
    figures = {"difference": pa.float64(), "score": pa.float64(), "anomaly": pa.bool_()}
    return pa.schema({"recording": pa.string(), "step": pa.int64(), **time, **figures})
