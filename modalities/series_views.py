"""Random views of time series: small changes that are applied one after the other, each with one strength.

All work on a whole batch at once. Deviations and means are those of each channel of each series.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import NamedTuple

import torch
from torch import Tensor

from clx.modalities.draws import Draws

BENDS = 4  # cosines that a smooth random curve is made of


class Stack(NamedTuple):
    """A batch of series."""

    x: Tensor
    """`[N, T, C]`; the values where `real` is False have no meaning."""
    measured: Tensor
    """`[N, T, C]`, 1 where a value is no gap; `[N, T, 0]` where gaps are not indicated."""
    real: Tensor
    """`[N, T]`, False after a series' end and at steps that are left out."""
    length: Tensor
    """`[N]`, steps of each series."""

    @property
    def steps(self) -> Tensor:
        """`[1, T]`: 0, 1, ..."""
        return torch.arange(self.x.shape[1])[None]

    def mean(self) -> Tensor:
        """Mean of each channel over the real steps, `[N, 1, C]`."""
        return (self.x * self.real[..., None]).sum(1, keepdim=True) / self.seen()

    def seen(self) -> Tensor:
        """Real steps `[N, 1, 1]`, at least 1."""
        return self.real.sum(1)[:, None, None].clamp(min=1)

    def deviation(self) -> Tensor:
        """Standard deviation of each channel over the real steps, `[N, 1, C]`."""
        far = (self.x - self.mean()).square() * self.real[..., None]
        return (far.sum(1, keepdim=True) / self.seen()).sqrt()

    def moved(self, source: Tensor, length: Tensor | None = None) -> "Stack":
        """The series whose step t is the step `source[:, t]`, `[N, T]`, of this one; interpolated between two steps."""
        last = (self.length - 1)[:, None].to(source.dtype)
        source = source.minimum(last).clamp(min=0)
        low, nearest = source.floor().long(), source.round().long()
        high = (low + 1).minimum((self.length - 1)[:, None])
        part = (source - low)[..., None].to(self.x.dtype)

        def at(rows: Tensor, index: Tensor) -> Tensor:
            return rows.gather(1, index[..., None].expand(-1, -1, rows.shape[2]))

        x = at(self.x, low) * (1 - part) + at(self.x, high) * part
        length = self.length if length is None else length
        real = self.real.gather(1, nearest) & (self.steps < length[:, None])
        return Stack(x * real[..., None], at(self.measured, nearest) * real[..., None], real, length)

    def hidden(self, where: Tensor) -> "Stack":
        """Replaced by the mean where `[N, T]` is True."""
        hide = where[..., None]
        return self._replace(x=torch.where(hide, self.mean(), self.x), measured=self.measured.masked_fill(hide, 0))


def _smooth(stack: Stack, channels: int, draws: Draws) -> Tensor:
    """Smooth curves around 0 `[N, T, channels]`, of deviation about 1."""
    u = stack.steps / (stack.length - 1).clamp(min=1)[:, None]  # [N, T]
    waves = torch.cos(math.pi * u[..., None] * torch.arange(1, BENDS + 1))
    return waves @ draws.randn(BENDS, channels) * math.sqrt(2 / BENDS)


def jitter(stack: Stack, s: float, draws: Draws) -> Stack:
    noise = draws.randn(*stack.x.shape[1:]) * stack.deviation()
    return stack._replace(x=stack.x + s * noise)


def scaling(stack: Stack, s: float, draws: Draws) -> Stack:
    factor = 1 + s * (2 * draws.rand(stack.x.shape[2]) - 1)
    return stack._replace(x=stack.x * factor[:, None])


def magnitude_warp(stack: Stack, s: float, draws: Draws) -> Stack:
    return stack._replace(x=stack.x * (1 + s * _smooth(stack, stack.x.shape[2], draws)))


def time_warp(stack: Stack, s: float, draws: Draws) -> Stack:
    speed = (s * _smooth(stack, 1, draws)[..., 0]).exp() * (stack.steps < stack.length[:, None] - 1)
    passed = speed.cumsum(1)
    time = torch.cat([torch.zeros_like(passed[:, :1]), passed[:, :-1]], 1)
    return stack.moved(time / passed[:, -1:].clamp(min=1e-12) * (stack.length - 1)[:, None])


def crop(stack: Stack, s: float, draws: Draws) -> Stack:
    edge = stack.length * s / 2
    first, last = ((part * edge).long() for part in draws.rand(2).unbind(1))
    length = (stack.length - first - last).maximum(stack.length.clamp(max=2))
    return stack.moved((stack.steps + first[:, None]).to(stack.x.dtype), length)


def permutation(stack: Stack, s: float, draws: Draws) -> Stack:
    most = int(s)
    parts = 1 + (draws.rand(1) * most).long()  # [N, 1]
    part = (stack.steps * parts).div(stack.length[:, None], rounding_mode="floor").clamp(max=most)
    place = draws.rand(most + 1).argsort(1).gather(1, part)
    behind = stack.steps >= stack.length[:, None]
    order = (place.masked_fill(behind, most + 1) * stack.x.shape[1] + stack.steps).argsort(1)
    return stack.moved(order.to(stack.x.dtype))


def frequency_mask(stack: Stack, s: float, draws: Draws) -> Stack:
    mean = stack.mean()
    kept = draws.rand(stack.x.shape[1] // 2 + 1) >= s
    centred = (stack.x - mean) * stack.real[..., None]
    x = torch.zeros_like(centred)
    for length in stack.length.unique().tolist():  # frequencies are those of the series, not of the longest one
        of = (stack.length == length).nonzero()[:, 0]
        waves = torch.fft.rfft(centred[of, :length], dim=1)
        x[of, :length] = torch.fft.irfft(waves * kept[of, : length // 2 + 1, None], n=length, dim=1)
    return stack._replace(x=(x + mean) * stack.real[..., None])


def time_mask(stack: Stack, s: float, draws: Draws) -> Stack:
    return stack.hidden(draws.rand(stack.real.shape[1]) < s)


def cutout(stack: Stack, s: float, draws: Draws) -> Stack:
    width = (stack.length * s).long()[:, None]
    start = (draws.rand(1) * (stack.length[:, None] - width + 1)).long()
    return stack.hidden((stack.steps >= start) & (stack.steps < start + width))


Change = Callable[[Stack, float, Draws], Stack]


@dataclass(frozen=True)
class View:
    """A random change of a batch of series, the largest strength it may have, and what its strength means."""

    change: Change
    most: float
    about: str
    moves: bool = False
    """Whether a step may have another time afterwards."""


VIEWS = {
    "jitter": View(jitter, 10, "noise of so many deviations"),
    "scaling": View(scaling, 1, "each channel times 1 - s to 1 + s"),
    "magnitude_warp": View(magnitude_warp, 2, "times a smooth curve that leaves 1 by about s"),
    "time_warp": View(time_warp, 2, "time runs faster and slower by a factor of about exp(s)", moves=True),
    "crop": View(crop, 0.95, "up to half of this share cut from each end", moves=True),
    "permutation": View(permutation, 100, "cut into up to so many pieces of one length, in any order", moves=True),
    "frequency_mask": View(frequency_mask, 0.95, "each frequency removed with this probability"),
    "time_mask": View(time_mask, 0.95, "each step hidden behind the mean with this probability"),
    "cutout": View(cutout, 0.95, "a stretch of this share hidden behind the mean"),
}
CROPS = "crops"
"""TS2Vec's overlapping crops, drawn for all views at once; the strength is the least share that views share."""
LEARNED = "autotcl"
"""AutoTCL's learned mask and gain, last of all and not in the first view; the strength is the weight of hiding more."""
PRESETS = {
    "none": {},
    "mild": {"scaling": 0.1, "jitter": 0.05, "crop": 0.1},
    "strong": {"scaling": 0.4, "jitter": 0.2, "crop": 0.4, "cutout": 0.1},
    "autotcl": {"jitter": 0.1, "autotcl": 0.3},
}


def check(policy: Mapping[str, float]) -> None:
    """Raise ValueError for an unknown change or a strength out of its range."""
    known = {name: view.most for name, view in VIEWS.items()} | {CROPS: 1.0, LEARNED: 10.0}
    for name, strength in policy.items():
        if name not in known:
            near = get_close_matches(name, known, n=1, cutoff=0.0)[0]
            raise ValueError(f"augmentation has no {name!r}; the nearest is {near!r} (all: {', '.join(known)})")
        most = known[name]
        if not 0 <= strength <= most:
            raise ValueError(f"augmentation {name} = {strength}: should be 0 to {most:g}")


def varied(samples: Sequence[Tensor], policy: Mapping[str, float], indicators: bool, draws: Draws) -> list[Tensor]:
    """One view of each sample `[T, C]`, in which a row of NaN is a step that is left out.

    With `indicators` the second half of the channels says where values were measured.
    """
    changes = [(VIEWS[name].change, strength) for name, strength in policy.items() if name in VIEWS]
    return changed(samples, changes, indicators, draws)


def changed(
    samples: Sequence[Tensor], changes: Sequence[tuple[Change, float]], indicators: bool, draws: Draws
) -> list[Tensor]:
    """As `varied`, by changes with their strengths."""
    padded = torch.nn.utils.rnn.pad_sequence(list(samples), batch_first=True, padding_value=torch.nan)
    real = ~padded.isnan().any(2)
    x = padded.masked_fill(~real[..., None], 0)
    values = x.shape[2] // 2 if indicators else x.shape[2]
    length = torch.tensor([len(sample) for sample in samples])
    stack = Stack(x[..., :values], x[..., values:], real, length)
    for change, strength in changes:
        stack = change(stack, strength, draws)
    x = torch.cat([stack.x, stack.measured], 2).masked_fill(~stack.real[..., None], torch.nan)
    return [row[:end] for row, end in zip(x, stack.length.tolist(), strict=True)]


def crops(samples: Sequence[Tensor], views: int, least: float, draws: Draws) -> list[list[Tensor]]:
    """TS2Vec's crops of each sample, one per view: all hold one stretch, even views reach further to the left,
    odd ones to the right. The rest is left out (NaN), so that a step stays at its time.

    The stretch is a share of at least `least` of each series, drawn for each, and at least 2 steps.
    """
    share = least + (1 - least) * draws.rand()
    length = torch.tensor([len(sample) for sample in samples])
    common = (length * share).long().clamp(min=2).minimum(length)
    place = draws.rand(views + 1).unbind(1)
    left = (place[0] * (length - common + 1)).long()
    right = left + common
    made = []
    for view in range(views):
        first, last = left, right
        if view % 2:
            last = right + (place[view + 1] * (length - right + 1)).long()
        else:
            first = (place[view + 1] * (left + 1)).long()
        cut = []
        for sample, a, b in zip(samples, first.tolist(), last.tolist(), strict=True):
            part = torch.full_like(sample, torch.nan)
            part[a:b] = sample[a:b]
            cut.append(part)
        made.append(cut)
    return made
