"""Waveforms at another rate."""

import math
from functools import lru_cache

import torch
from torch import Tensor, nn

LARGEST_FILTER = 10_000_000
"""Numbers in torchaudio's resampling filter; it grows with both rates where they have no common factor."""


def resampled(mono: Tensor, source: int, target: int) -> Tensor:
    """Samples `[S]` at another rate; rates in Hz."""
    common = math.gcd(source, target)
    if (target // common) * (source // common + 12 * source // min(source, target)) <= LARGEST_FILTER:
        found: Tensor = _resampler(source, target)(mono)
        return found
    from scipy.signal import resample_poly  # its filter is one long row, not a table

    return torch.from_numpy(resample_poly(mono.numpy(), target // common, source // common))


@lru_cache(maxsize=16)
def _resampler(source: int, target: int) -> nn.Module:
    """Windowed-sinc resampling between two rates in Hz; its filter costs more to make than to use."""
    from torchaudio.transforms import Resample

    resample: nn.Module = Resample(source, target)
    return resample
