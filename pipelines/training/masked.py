"""Tokens that a text encoder is not shown, drawn for a step, and what it makes of their places."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from clx.losses.base import Steps
from clx.losses.masked_token import MaskedToken
from clx.modalities.base import Input, StepEncoder
from clx.modalities.text import Text
from clx.modalities.text_vocabulary import Vocabulary, parts_of, vocabulary
from clx.pipelines.batches.batch import Batch
from clx.pipelines.batches.decoded import mixed_seed
from clx.pipelines.model.build import Run
from clx.pipelines.model.chunks import encode
from clx.pipelines.model.rows_present import scatter_present
from clx.pipelines.model.towers import Embedder
from clx.pipelines.system.errors import BadInput


class Masking(NamedTuple):
    """How tokens of a modality are masked."""

    tokens: Vocabulary
    share: float
    longest: int


def masked_of(run: Run) -> dict[str, Masking]:
    """The modalities whose tokens some loss guesses. Raises `BadInput` where two want different shares of one."""
    found: dict[str, Masking] = {}
    for term, loss in zip(run.config.objective, run.objective.losses, strict=True):
        if not isinstance(loss, MaskedToken):
            continue
        for name in run.config.inputs_of(term):
            text = run.modalities[name]
            assert isinstance(text, Text)
            how = Masking(vocabulary(text), loss.share, text.room)
            if found.setdefault(name, how) != how:
                raise BadInput(
                    f"two terms {term.name!r} mask different shares of modalities.{name}: give both one share"
                )
    return found


def masked_states(
    masked: Mapping[str, Masking], model: Embedder, inputs: Mapping[str, Input], batch: Batch, rank: int, *place: int
) -> Steps:
    """What encoders make of masked tokens, by "masked VIEW" of the first view of each modality: `[B, K, F]`, and which
    tokens these were, `[B, K]`, counted from 1; 0 where a row has fewer.

    `place` seeds the draws, which are of a row's place in the batch of all ranks.
    """
    found = Steps()
    for number, (name, how) in enumerate(masked.items()):
        view = name if name in batch.present else f"{name}/0"
        here, tower = batch.present[view], model.tower(name)
        if model.turn is not None:
            model.turn(tower)
        value = inputs.get(view)
        if value is None or not len(value["x"]):
            kind = next(tower.parameters()).dtype
            nothing = torch.zeros(len(here), 1, tower.encoder.width, dtype=kind, device=here.device)
            found[f"masked {view}"] = nothing, torch.zeros(len(here), 1, dtype=torch.long, device=here.device)
            continue
        rows = [len(here)] if batch.counts is None else batch.counts.rows
        draw = torch.Generator().manual_seed(mixed_seed(*place, number))
        first = sum(rows[:rank])
        u = torch.rand(3, sum(rows), how.longest, generator=draw)[:, first : first + len(here), : value["x"].shape[1]]
        u = u.to(here.device, non_blocking=True)
        u = u if len(value["x"]) == len(here) else u[:, here]
        x, places, truth = hidden(value, how, u)
        states = _encoded(tower.encoder, value, x, places, tower.chunk, tower.short)  # type: ignore[arg-type]
        found[f"masked {view}"] = scatter_present(states, here), scatter_present(truth, here)
    return found


def hidden(value: Input, how: Masking, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens `[N, T]` of which some are not as they were, their places `[N, K]`, and what was there, `[N, K]`, counted
    from 1 and 0 where a row has fewer; `u` `[3, N, T]` are the draws.

    Of a text of n tokens about share n, one at least; 8 of 10 are masked, 1 is any token, and 1 stays.
    """
    x, free = value["x"], parts_of(how.tokens, value)
    places = u[0].masked_fill(~free, 2).topk(max(1, round(how.share * x.shape[1])), 1, largest=False).indices
    count = (how.share * free.sum(1) + 0.5).long().clamp(min=1)
    asked = free.gather(1, places) & (torch.arange(places.shape[1], device=x.device) < count[:, None])
    truth = x.gather(1, places)
    fate, other = u[1].gather(1, places), (u[2].gather(1, places) * how.tokens.size).long()
    shown = torch.where(fate < 0.8, how.tokens.blank or 0, torch.where(fate < 0.9, other, truth))
    return x.scatter(1, places, torch.where(asked, shown, truth)), places, torch.where(asked, truth + 1, 0)


def _encoded(encoder: StepEncoder, value: Input, x: Tensor, places: Tensor, chunk: int | None, short: object) -> Tensor:
    mask = value.get("mask", torch.ones_like(x, dtype=torch.bool))

    def states(part: Input) -> tuple[Tensor]:
        encoder.at_view(0)
        h, _ = encoder.steps(part["x"], part["mask"])
        return (h.gather(1, part["places"][..., None].expand(-1, -1, h.shape[2])),)

    made = encode(encoder, states, {"x": x, "mask": mask, "places": places}, chunk, short, trimmed=False)[0]  # type: ignore[arg-type]
    return made if made.dim() == 3 else made.new_zeros(*places.shape, encoder.width)  # where memory ran out
