"""What every encoder is: features of one modality's input, and of its steps where it has such."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

Input = dict[str, Tensor]
"""One collated modality: `x` `[N, ...]` and, where lengths differ, `mask` `[N, T]` (True where real). Where rows have
several samples each, `of` `[N]` says which row a sample is of, from 0 and in order."""


class Encoder(nn.Module):
    """Maps one modality's input, as `collate` gives it, to features: `forward(x, mask=None) -> [N, width]` floats."""

    width: int
    group_worth: int = 0
    """Where a row's features do not depend on how far it is padded: how many of its steps cost as much on a CPU as one
    more group of rows does, so that rows are encoded in groups of like length. 0 where all are encoded as they come."""

    fixed: bool = True
    """Whether it is always called alike, as `train.compile` needs it."""
    stepped: bool = False
    """Whether it also gives features of parts of its input by themselves; see `StepEncoder`."""
    layered: bool = False
    """Whether it also gives the hidden states of each layer and attention weights; see `StepEncoder.inside`."""

    def at_view(self, number: int) -> None:
        """Told which view is encoded next, from 0 on; they may differ in dropout."""

    def floats(self, x: Tensor) -> Tensor:
        """The input `x` as floats, where `collate` gives bytes: the first thing that the encoder does."""
        return x

    def blocks(self) -> list[nn.Module]:
        """Trainable parts from input to output, for partial freezing; together they hold every parameter."""
        return [self]


class Inside(NamedTuple):
    """What a transformer makes of N rows of T steps on its way to their features."""

    last: Tensor
    """`[N, T, C]`, what it pools."""
    mask: Tensor
    """`[N, T]`, which steps are real."""
    layers: list[Tensor]
    """`[N, T, C]` each: what enters the first layer, then what each layer gives."""
    attention: list[Tensor]
    """`[N, heads, T, T]` of each layer: the weights by which a step (of the third axis) reads the others (of the last),
    after the dropout of weights where the model has such; empty unless asked for."""


class StepEncoder(Encoder):
    """An encoder with features `[N, T, C]` for every step of its input, which it pools over steps to `[N, width]`.

    A step is a time of a recording, a token of a text, or a place of an image.
    """

    stepped = True
    timed: bool = True
    """Whether step t is a time, which is the same one in all views that keep theirs."""

    def steps(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Features `[N, T, C]` per step, perhaps fewer than the input has, and their mask `[N, T]`."""
        raise NotImplementedError

    def pool(self, h: Tensor, mask: Tensor) -> Tensor:
        """Features `[N, width]` of the steps `h` `[N, T, C]` where `mask` `[N, T]` is True; a row has at least one."""
        raise NotImplementedError

    def states(self, x: Tensor, mask: Tensor | None = None, **more: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features `[N, width]`, those of each step as if it were all there is `[N, T, width]`, and the mask
        `[N, T]`; `more` is what else an `Input` may have."""
        return self.parts(*self.steps(x, mask, **more))

    def parts(self, h: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As `states`, of what `steps` gives."""
        # on a GPU a mask as an index would make the host wait
        alone = (h[mask] if mask.is_cpu else h.flatten(0, 1))[:, None]  # [n, 1, C]
        single = self.pool(alone, mask.new_ones(alone.shape[:2]))
        if mask.is_cpu:
            return self.pool(h, mask), single.new_zeros(*mask.shape, single.shape[1]).index_put((mask,), single), mask
        return self.pool(h, mask), torch.where(mask[..., None], single.view(*mask.shape, -1), 0), mask

    def inside(self, x: Tensor, mask: Tensor | None = None, attention: bool = False, **more: Tensor) -> Inside:
        """Hidden states of all layers and, where asked for, attention weights; of encoders that are `layered`."""
        raise NotImplementedError

    @property
    def depth(self) -> tuple[int, int]:
        """How many `layers` `inside` gives, and how many heads each that reads others has."""
        raise NotImplementedError

    def show_attention(self) -> None:
        """Called once of an encoder that is to give attention weights. Raises `ValueError` where it has none."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Input `[N, T, ...]` and mask `[N, T]` -> `[N, width]`."""
        return self.pool(*self.steps(x, mask))


class LearnedView(nn.Module):
    """Makes the second view and those after it, `[N, T, C]` of `[N, T, C]`; it learns by `losses.view_criterion`."""

    def __init__(self, sparsity: float) -> None:
        super().__init__()
        self.sparsity = sparsity

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Input, Tensor]:
        """A random view of a collated batch, and the probability `[N, T]` that it shows a step at all."""
        raise NotImplementedError
