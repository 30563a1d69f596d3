"""An encoder and the head behind it, for one modality."""

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Literal, cast

import torch
from torch import Tensor, nn

from clx.losses.base import Steps
from clx.losses.view_criterion import relevance
from clx.modalities.base import Encoder, Input, LearnedView, Modality, StepEncoder
from clx.modalities.over_steps import OverSteps
from clx.modalities.text_context import Context, placed
from clx.pipelines.model.checkpointing import recompute
from clx.pipelines.model.chunks import encode
from clx.pipelines.model.deep_states import DEEP, deep_states, no_states
from clx.pipelines.model.lora import adapt
from clx.pipelines.model.projection import projection
from clx.pipelines.model.rows_present import mean_of_rows, scatter_present

Whole = Callable[..., Sequence[Tensor]]
"""All rows of some tensors."""


class Tower(nn.Module):
    """An encoder, frozen as far as asked, and the head that projects into the shared space."""

    def __init__(self, modality: Modality, embed_dim: int, load: bool = True) -> None:
        super().__init__()
        self.chunk: int | None = None
        """The most rows that are encoded at a time."""
        self.short: Callable[[], None] | None = None
        """Told that memory ran out while rows were encoded, whose features are then zeros; else that is an error."""
        encoder = modality.build_encoder(load or modality.lora is not None)
        over = modality.step_encoder
        if over is not None and not isinstance(encoder, StepEncoder):
            raise ValueError(
                f"step_encoder reads the steps of an encoder, and {modality.encoder} has none: leave it out"
            )
        self.encoder: Encoder = encoder if over is None else OverSteps(cast("StepEncoder", encoder), over)
        self.pair = modality.pair is not None
        self.width = width = self.encoder.width * (4 if self.pair else 1)
        """Of what the head gets."""
        self.head = projection(modality, width, embed_dim)
        self.view: LearnedView | None = modality.build_view()
        blocks = encoder.blocks()
        if modality.unlocked > len(blocks):
            raise ValueError(f"unlocked = {modality.unlocked}, but the encoder has {len(blocks)} blocks")
        self.frozen = blocks[: len(blocks) - modality.unlocked] if modality.freeze else []
        if modality.lora is not None:
            self.frozen = adapt(self.encoder, modality.lora)
        if modality.checkpointing:
            recompute(encoder)
        self.locked = modality.freeze and not modality.unlocked and over is None
        self.steps_locked = modality.freeze and not modality.unlocked and over is not None
        """Whether the steps that an `OverSteps` gets are the same in every epoch."""
        for block in self.frozen:
            block.requires_grad_(False)
        self.train()

    def keep(self, part: Literal["encoder", "head"]) -> None:
        """Leave a part as it is from now on, whatever the modality's `freeze` says."""
        module = self.get_submodule(part)
        module.requires_grad_(False)
        self.frozen = [*self.frozen, module]
        self.locked = self.locked or part == "encoder"
        self.train(self.training)

    def train(self, mode: bool = True) -> "Tower":
        super().train(mode)
        for block in self.frozen:  # frozen batch norms and dropout stay as they are in use
            block.eval()
        if self.locked:
            self.encoder.eval()
        elif self.steps_locked:
            self.encoder.get_submodule("inner").eval()
        return self

    def known_once(self, value: Input) -> Sequence[Tensor]:
        """Of each row what a frozen encoder always makes of it, in float32 on the CPU: the features `[width]` that the
        head gets, or with `steps_locked`, unless all is locked, those of each step `[T, C]`."""
        if self.locked:
            return list(self.features(value).float().cpu())
        assert isinstance(self.encoder, OverSteps)
        found, mask = encode(self.encoder.inner, partial(_single, self.encoder), value, self.chunk, trimmed=False)
        return [rows[there] for rows, there in zip(found.float().cpu(), mask.cpu(), strict=True)]

    def forward(self, value: Input, contexts: Sequence[Context] = ()) -> Tensor:
        """`[N, embed_dim]` for the N collated rows of one modality, or for their `features`, known already."""
        return self.head(self.features(value, 0, contexts))  # type: ignore[no-any-return]

    def features(self, value: Input, view: int = 0, contexts: Sequence[Context] = ()) -> Tensor:
        """What the head gets, `[N, width]`, of rows of this view; of texts with learned prompts the mean by these."""
        if "features" in value:
            return value["features"]
        if "steps" in value:
            assert isinstance(self.encoder, OverSteps)
            value = {"x": value["steps"], "mask": value["mask"]}
            features, *_ = encode(self.encoder, partial(_over, self.encoder), value, self.chunk, self.short)
            return features
        if "of" in value:
            each = self.features({key: part for key, part in value.items() if key != "of"}, view, contexts)
            return mean_of_rows(each, value["of"])
        if len(contexts) > 1:
            return torch.stack([self.features(value, view, [context]) for context in contexts]).mean(0)
        context = contexts[0] if contexts else None
        # of a learned view or prompt the gradient goes through
        learns = not self.locked or value["x"].requires_grad or (context is not None and context.rows.requires_grad)
        with torch.set_grad_enabled(torch.is_grad_enabled() and learns):
            run = partial(self._of_view, view, context)
            features, *_ = encode(self.encoder, run, value, self.chunk, self.short)
        if not self.pair:
            return features
        u, v = features.chunk(2)
        return torch.cat([u, v, (u - v).abs(), u * v], 1)

    def _of_view(self, view: int, context: Context | None, part: Input) -> tuple[Tensor]:
        """Features of some rows; in backward they may be computed again, after other views."""
        self.encoder.at_view(view)
        with placed(context):
            return (self.encoder(**(part if context is None else context.into(part))),)

    def with_inner(
        self, value: Input, asked: Collection[str], view: int = 0, contexts: Sequence[Context] = ()
    ) -> tuple[Tensor, Steps]:
        """As `features`, and by name, with a mask, what is `asked` of the encoder's inner states.

        `steps` are `[N, T, embed_dim]`, each step pooled and projected by itself, and `states` `[N, T, width]` what the
        head gets of it; `layers` and `attention` are those of `deep_states.deep_states`.
        """
        encoder = self.encoder
        assert isinstance(encoder, StepEncoder)
        context = contexts[0] if contexts else None
        deep = [name for name in DEEP if name in asked]

        def states(part: Input) -> tuple[Tensor, ...]:
            encoder.at_view(view)
            with placed(context):
                given = part if context is None else context.into(part)
                return deep_states(encoder, given, deep) if deep else encoder.states(**given)

        with torch.set_grad_enabled(torch.is_grad_enabled() and (not self.locked or context is not None)):
            features, single, mask, *more = encode(encoder, states, value, self.chunk, self.short, trimmed=False)
        found: Steps = {"states": (single, mask)}
        if "steps" in asked:
            found["steps"] = scatter_present(self.head(single[mask]), mask), mask
        for number, name in enumerate(deep):  # where memory ran out there are none
            found[name] = (more[2 * number], more[2 * number + 1]) if more else no_states(encoder, name, features)
        return features, {name: found[name] for name in found if name in asked}

    def without_inner(self, name: str, rows: Tensor, here: Tensor) -> tuple[Tensor, Tensor]:
        """As `with_inner` has it under this name, for a view that none of N rows has: `here` `[N]` is False."""
        if name in DEEP:
            assert isinstance(self.encoder, StepEncoder)
            return no_states(self.encoder, name, rows)
        width = rows.shape[1] if name == "steps" else self.width
        return rows.new_zeros(len(rows), 1, width), here[:, None]

    def relevance(self, value: Input, whole: Whole = lambda *tensors: tensors) -> Tensor:
        """What the network that makes views is to lower, for series to make a view of. `whole` gives all rows of
        tensors `[N, ...]` that are of these rows, where other processes have more."""
        assert self.view is not None
        varied, kept = self.view(**value)
        with torch.no_grad():
            plain = self.features(value)
        x, v, kept, real = whole(plain, self.features(varied), kept, value["mask"])
        return relevance(x, v, kept, real, self.view.sparsity)


def _single(encoder: OverSteps, part: Input) -> tuple[Tensor, Tensor]:
    return encoder.single(**part)


def _over(encoder: OverSteps, part: Input) -> tuple[Tensor]:
    return (encoder.pool(*encoder.over(part["x"], part["mask"])),)
