"""Time series: numbers over time in one or more channels, of any length, with gaps."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from annotated_types import Ge, Interval, MultipleOf
from torch import Tensor

from clx.modalities.base import CellError, Encoder, Input, LearnedView, Modality, register, unknown_encoder
from clx.modalities.draws import Draws
from clx.modalities.series_encoders import TCN, TSAI, Dilated, MiniRocket, Tsai
from clx.modalities.series_files import Values, values_of
from clx.modalities.series_gaps import bridged, or_one
from clx.modalities.series_layout import LOOKED_AT, as_told, notes, reading_of
from clx.modalities.series_learned import AutoTCL
from clx.modalities.series_packaged import FRACAST, Fracast
from clx.modalities.series_views import CROPS, LEARNED, PRESETS, VIEWS, check, crops, varied

FIT_SERIES = 512  # training series that MiniRocket takes its biases from
HIGHEST = 1e30


@register
@dataclass(kw_only=True)
class Series(Modality):
    """Series of one or more channels. A sample is floats `[T, C]`, scaled and without gaps.

    A batch is `x` `[N, T, C]` with `mask` `[N, T]`, True where there is a step.

    A gap (NaN, an empty cell) is bridged by a straight line, at the ends by the nearest value; with `gaps:
    indicate` C more channels follow that are 1 where a value was measured and 0 in a gap. With `gaps: mask` steps
    with a gap are rows of NaN, which `collate` masks.
    """

    kind: ClassVar[str] = "series"
    default_encoder: ClassVar[str] = "tcn"
    files: ClassVar[bool] = True
    fit_rows: ClassVar[int] = 10_000
    read_by: ClassVar[tuple[str, ...]] = ("scale", "gaps", "max_steps", "time", "layout")
    only_for: ClassVar[dict[str, tuple[str, ...]]] = {
        "layers": ("tcn", "dilated"),
        "dropout": ("tcn", "dilated"),
        "pool": ("dilated",),
    }

    augmentation: Literal["none", "mild", "strong", "autotcl"] | dict[str, float] = "mild"  # type: ignore[assignment]
    """A preset, or changes by name with their strengths, in this order: `{crops: 0.1, jitter: 0.1, time_mask: 0.5}`.
    `autotcl` learns what to hide and to amplify, and comes last."""
    scale: Literal["global", "per-series", "none"] = "global"
    """Each channel to mean 0 and deviation 1: over all training series, over each series alone, or not at all."""
    gaps: Literal["interpolate", "indicate", "mask"] = "interpolate"
    """Gaps are interpolated; or interpolated and shown to the encoder; or steps with a gap are left out."""
    max_steps: Annotated[int, Ge(2)] = 10_000
    """How many steps of a series are read, from its beginning."""
    time: str | bool | None = None
    """Column of text files with the time of a step, which is no channel, or true for the first; steps missing between
    even times are gaps. A growing column `time`, `t`, `timestamp` or a first one that counts when not given."""
    layout: Literal["time-first", "channels-first"] | None = None
    """Which way round arrays lie. `.npy` arrays as is likely when not given, all others time first."""
    width: Annotated[int, Ge(8), MultipleOf(2)] = 128
    """Features of the encoder."""
    layers: Annotated[int, Interval(ge=1, le=12)] | None = None
    """Dilated convolutions of `tcn` (3), or blocks of `dilated`: as many as see the longest training series, at
    most 10."""
    dropout: Annotated[float, Interval(ge=0, lt=1)] = 0.0
    """Dropout of `tcn` and `dilated`."""
    pool: Literal["max", "last"] = "max"
    """What stands for a series with `dilated`: the maximum over time, or the last step, nearest to what follows it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.policy)
        if LEARNED in self.policy:
            if self.views < 2:
                raise ValueError("augmentation autotcl shows series beside learned views of them: set views: 2")
            if self.encoder == "minirocket":
                raise ValueError("augmentation autotcl learns through the encoder; minirocket lets no gradient through")
        self._channels = 0
        self._length = 128
        self._mean: list[float] = []
        self._deviation: list[float] = []
        self._biases: list[list[float]] | None = None
        self._reading = as_told(self.time, self.layout)
        self._notes: list[str] = []

    def fit(self, cells: Iterable[Any]) -> None:
        """How files are read, where it is not said, the number of channels (the most frequent one), each channel's
        mean and deviation, and the longest length. Raises `ValueError` for arrays that may lie either way."""
        cells = iter(cells)
        first = [*islice(cells, LOOKED_AT)]
        self._reading = reading_of(first, self.time, self.layout)
        self._notes = notes(first, self._reading, self.time, self.layout)
        found: dict[int, list[tuple[int, Values]]] = {}
        kept: dict[int, Any] = {}
        draw = np.random.default_rng(0)
        for number, cell in enumerate(chain(first, cells)):
            try:
                values = self._values(cell)
            except CellError:
                continue
            place = int(draw.integers(number + 1))  # any of the cells so far is among those kept equally often
            if self.encoder == "minirocket" and (number < FIT_SERIES or place < FIT_SERIES):
                kept[number if number < FIT_SERIES else place] = cell
            count = np.isfinite(values).sum(0)
            whole = bool((count == len(values)).all())  # much faster, and the rule
            mean, variance = (values.mean(0), values.var(0)) if whole else (np.nanmean(values, 0), np.nanvar(values, 0))
            found.setdefault(values.shape[1], []).append((len(values), np.stack([count, mean, variance])))
        if not found:
            return
        self._channels = max(found, key=lambda channels: len(found[channels]))
        self._length = max(2, *(length for length, _ in found[self._channels]))
        counts, means, variances = np.stack([moments for _, moments in found[self._channels]], 1)
        mean = (counts * means).sum(0) / counts.sum(0)
        variance = (counts * (variances + (means - mean) ** 2)).sum(0) / counts.sum(0)
        self._mean, self._deviation = mean.tolist(), or_one(np.sqrt(variance), mean).tolist()
        if kept:
            samples = []
            for cell in kept.values():
                with suppress(CellError):  # of another number of channels
                    samples.append(self.read(cell))
            self._biases = MiniRocket(self._inputs, self._length, self.width).fit(**self.collate(samples))

    def state(self) -> dict[str, Any]:
        """What `fit` found."""
        return {
            "channels": self._channels,
            "length": self._length,
            "mean": self._mean,
            "deviation": self._deviation,
            "time": self._reading.time,
            "channels_first": self._reading.channels_first,
        } | ({"biases": self._biases} if self._biases else {})

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore what `state` gave."""
        self._channels, self._length = state["channels"], state["length"]
        self._mean, self._deviation = state["mean"], state["deviation"]
        self._biases = state.get("biases")
        self._reading = replace(self._reading, **{k: state[k] for k in ("time", "channels_first") if k in state})

    @property
    def _inputs(self) -> int:
        """Channels that the encoder sees."""
        return max(1, self._channels) * (2 if self.gaps == "indicate" else 1)

    def read(self, cell: Any) -> Tensor:
        """The series of a `.npy` or text file (path or bytes), of numbers `[T]` or `[T, C]`, or of their JSON text."""
        values = self._values(cell)
        if self._channels and values.shape[1] != self._channels:
            raise CellError(f"{values.shape[1]} channels; the training data have {self._channels}")
        measured = np.isfinite(values)
        if self.gaps == "mask":
            values[~measured.all(1)] = np.nan
            if not measured.all(1).any():
                raise CellError("no step without a gap in some channel")
        else:
            values = bridged(values)
        if self.scale == "per-series":
            mean = np.nanmean(values, 0)
            values = (values - mean) / or_one(np.nanstd(values, 0), mean)
        elif self.scale == "global" and self._channels:
            values = (values - self._mean) / self._deviation
        if self.gaps == "indicate":
            values = np.concatenate([values, measured], 1)
        return torch.from_numpy(values.astype(np.float32))

    @property
    def channels(self) -> int:
        """Of the training series."""
        return max(1, self._channels)

    def measured(self, cell: Any) -> Tensor:
        """The values `[T, C]` less the mean and in deviations of the training series, whatever `scale` says; NaN in
        gaps. One step is enough."""
        values = self._finite(cell, 1)
        if self._channels and values.shape[1] != self._channels:
            raise CellError(f"{values.shape[1]} channels; the training data have {self._channels}")
        return torch.from_numpy(((values - self._mean) / self._deviation).astype(np.float32))

    def measures(self, values: Tensor) -> Tensor:
        """Undo `measured`: `[..., C]` in the units of the data."""
        return values * torch.tensor(self._deviation) + torch.tensor(self._mean)

    def _values(self, cell: Any) -> Values:
        """`[T, C]` with NaN in gaps; no channel is all gap."""
        values = self._finite(cell, 2)
        empty = np.flatnonzero(np.isnan(values).all(0))
        if len(empty):
            raise CellError(f"NaN in channel {empty[0] + 1} everywhere")
        return values

    def _finite(self, cell: Any, least: int) -> Values:
        """`[T, C]` of at least so many steps, with NaN in gaps."""
        try:
            values = values_of(cell, self.max_steps, self._reading)
        except UnicodeDecodeError as error:
            raise CellError("neither .npy nor UTF-8 text") from error
        except OSError as error:
            raise CellError((error.strerror or str(error)).lower()) from error
        if len(values) < least:
            raise CellError("no values" if values.size == 0 else "1 step is too short")
        if np.isinf(values).any():
            raise CellError(f"infinite value at step {np.argwhere(np.isinf(values))[0][0] + 1}")
        if (np.abs(values) > HIGHEST).any():
            raise CellError(f"{values[np.abs(values) > HIGHEST][0]:.3g}: beyond {HIGHEST:g} there is no precision left")
        return values

    @property
    def limit(self) -> str:
        return f"{self.max_steps} steps (max_steps)"

    def cut(self, cell: Any) -> bool:
        try:
            short = isinstance(cell, Path) and cell.stat().st_size <= self.max_steps  # no step is less than a byte
            return not short and len(values_of(cell, self.max_steps + 1, self._reading)) > self.max_steps
        except (CellError, OSError, UnicodeDecodeError):
            return False

    def understood(self) -> list[str]:
        return self._notes

    @property
    def policy(self) -> dict[str, float]:
        """The changes that make a view, with their strengths, in their order."""
        return PRESETS[self.augmentation] if isinstance(self.augmentation, str) else self.augmentation

    @property
    def aligned(self) -> bool:
        return self.augmentation != "none" and not any(VIEWS[n].moves for n in self.policy if n in VIEWS)

    @property
    def joint(self) -> bool:
        return CROPS in self.policy

    def augment(self, samples: list[Tensor], draws: Draws) -> list[Tensor]:
        """The changes of the policy, except `crops`, which takes all views at once."""
        return varied(samples, self.policy, self.gaps == "indicate", draws) if self.policy else samples

    def vary(self, samples: Sequence[list[Tensor]], draws: Sequence[Draws]) -> list[list[Tensor]]:
        if self.joint and samples[0]:
            samples = crops(samples[0], len(samples), self.policy[CROPS], draws[0])
        return super().vary(samples, draws)

    def collate(self, samples: Sequence[Tensor]) -> Input:
        """`x` `[N, T, C]`, zero after each end, and `mask` `[N, T]`; steps of NaN are masked as well."""
        x = torch.nn.utils.rnn.pad_sequence(list(samples), batch_first=True, padding_value=torch.nan)
        mask = ~x.isnan().any(2)
        return {"x": x.masked_fill(~mask[..., None], 0), "mask": mask}

    def without_last(self, value: Input) -> Input:
        """The batch, all of one length, with each last step replaced, as `time_mask` does, by the mean before it."""
        x, mask = value["x"].clone(), value["mask"]
        count = x.shape[2] // 2 if self.gaps == "indicate" else x.shape[2]
        before = mask[:, :-1, None]
        x[:, -1, :count] = (x[:, :-1, :count] * before).sum(1) / before.sum(1).clamp(min=1)
        x[:, -1, count:] = 0
        return {"x": x, "mask": mask}

    def build_encoder(self, load: bool = True) -> Encoder:
        """The encoder by its name, for the channels and the length that were fitted."""
        if self.encoder not in self.encoders() and self.encoder not in self.family("tsai"):
            raise unknown_encoder(type(self), self.encoder)
        if self.encoder == FRACAST:
            return Fracast(self._inputs, self.pretrained, load)
        if self.weights and load:
            raise ValueError(f"encoder `{self.encoder}` has no pretrained weights")
        if self.encoder == "tcn":
            return TCN(self._inputs, self._length, self.width, self.layers or 3, self.dropout)
        if self.encoder == "dilated":
            reach = min(10, max(1, (self._length // 4).bit_length()))  # each way: 2 (1 + 2 + 4 + ...) steps
            return Dilated(self._inputs, self.width, self.layers or reach, self.dropout, self.pool)
        if self.encoder == "minirocket":
            return MiniRocket(self._inputs, self._length, self.width, self._biases)
        return Tsai(self.encoder.removeprefix("tsai:"), self._inputs, self._length, self.width)

    def build_view(self) -> LearnedView | None:
        values = max(1, self._channels)
        return AutoTCL(self._inputs, values, self.policy[LEARNED]) if LEARNED in self.policy else None

    @classmethod
    def encoders(cls) -> dict[str, str]:
        """Names with a description."""
        return {
            "tcn": "strided, then dilated convolutions of any length; `width`, `layers`, `dropout`",
            "dilated": "TS2Vec's dilated convolutions, features of every step; `width`, `layers`, `dropout`, `pool`",
            "minirocket": "10,000 fixed convolutions with fitted biases, nothing to learn; `width`, a multiple of 84",
            FRACAST: "Fracast-0, trained to forecast, each channel by itself; code and weights from a package",
            "tsai:NAME": "InceptionTimePlus, TSTPlus, PatchTST and others of tsai; `width`",
        }

    @classmethod
    def family(cls, prefix: str) -> list[str]:
        """Full names of tsai's architectures."""
        return [f"tsai:{name}" for name in sorted(TSAI)] if prefix == "tsai" else []
