"""Prompts that are learned: vectors before the texts of a column, and the labels' names as what a head tells apart."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from clx.modalities import openclip
from clx.modalities.base import Encoder, Modality
from clx.modalities.numbers import class_name
from clx.modalities.text import Text
from clx.modalities.text_context import Context, take
from clx.pipelines.data.classes import index_of
from clx.pipelines.model.tower import Tower

TEMPERATURE = 0.07
"""What scores are divided by where nothing is known of the towers: where CLIP begins."""
SPREAD = 0.02
"""Deviation of the vectors that begin at random, as in CoOp."""


class Prompts(nn.Module):
    """The learned prompts of one column of texts: `rows` `[count, n, C]`, with vectors of its own for each of L labels
    `[count, L, n, C]`; and as many `negative` ones where asked for.

    What an item with the unit row q scores is sum_k w_k(q) (q.t_k - q.t'_k) / temperature, t_k and t'_k the unit rows
    of the label by prompt k and its negative one. The w_k are 1 / count; with a router those of its softmax over the
    highest of a linear layer of q.
    """

    temperature: Tensor

    def __init__(
        self, modality: Text, encoder: Encoder, embed_dim: int, load: bool, labels: Sequence[str] = ()
    ) -> None:
        super().__init__()
        options = modality.learned
        assert options is not None
        self.count, self.tokens, self.top = options.get("count", 1), options["tokens"], options.get("router")
        self.at = modality.context_at
        _ = modality.room  # or there is none
        embedding = encoder.embedding
        assert isinstance(embedding, nn.Module)
        width = embedding.weight.shape[1]  # type: ignore[index]
        self.labels = index_of(labels) if options.get("per_label") else None
        """The number of each label, where each has vectors of its own."""
        if self.labels is not None and not labels:
            raise ValueError("prompt.per_label needs labels that are learned: a term with words, and data.label")
        own = () if self.labels is None else (len(labels),)
        self.rows = nn.Parameter(SPREAD * torch.randn(self.count, *own, self.tokens, int(width)))
        self.negative = nn.Parameter(SPREAD * torch.randn_like(self.rows)) if options.get("negative") else None
        self.router = nn.Linear(embed_dim, self.count) if self.top else None
        self.starts = [modality.numbers_of(text) for text in options.get("start", [])]
        for text, numbers in zip(options.get("start", []), self.starts, strict=True):
            if len(numbers) > self.tokens:
                raise ValueError(
                    f"prompt.start {text!r} has {len(numbers)} tokens, more than prompt.tokens = {self.tokens}"
                )
        self.drawn: float | None = options.get("written")
        self.gate: float | None = options.get("gate")
        self.given = options.get("temperature")
        self.register_buffer("temperature", torch.tensor(self.given or own_temperature(modality, load)))
        self.begin(embedding)

    @torch.no_grad()
    def begin(self, embedding: Any, temperature: float | None = None) -> None:
        """Begin where the words of `start` are, by the embedded tokens of a tower whose weights are known now; and take
        over a temperature, where none is given."""
        for row, numbers in zip(self.rows, self.starts, strict=False):
            row[..., : len(numbers), :] = embedding.weight[torch.tensor(numbers, device=row.device)]
        if temperature is not None and self.given is None:
            self.temperature.fill_(temperature)

    def contexts(self) -> list[Context]:
        """Those of the prompts that say what applies, of texts that are no label."""
        return self._of(self.rows, None)

    def as_written(self, embedding: Any) -> list[Context]:
        """The words of `start` alone, as the layer that embeds tokens has them now, of each prompt."""
        return [Context(embedding.weight[torch.tensor(each, device=self.rows.device)], self.at) for each in self.starts]

    def every(self, label: int | None = None) -> list[Context]:
        """Those of all prompts, the negative ones behind the others; of the label of this number, or of no label."""
        return self._of(self.rows, label) + ([] if self.negative is None else self._of(self.negative, label))

    def _of(self, rows: Tensor, label: int | None) -> list[Context]:
        if self.labels is not None:
            rows = rows.mean(1) if label is None else rows[:, label]
        return [Context(row, self.at) for row in rows]

    def number_of(self, name: str) -> int | None:
        """The number of a label with vectors of its own."""
        return None if self.labels is None else self.labels.get(class_name(name) or "")

    def weights(self, q: Tensor) -> Tensor:
        """What each prompt counts for rows `[B, D]`, `[B, count]`, 1 in all."""
        found = self.gates(q)
        if found is None or self.top is None:
            return q.new_full((len(q), self.count), 1 / self.count)
        chosen = found.topk(self.top, dim=1).indices
        return found.masked_fill(
            torch.ones_like(found, dtype=torch.bool).scatter(1, chosen, False), -torch.inf
        ).softmax(1)

    def gates(self, q: Tensor) -> Tensor | None:
        """What the router gives each prompt for rows `[B, D]`, `[B, count]`."""
        return None if self.router is None else self.router(normalize(q, dim=1))

    def asked(self, q: Tensor) -> Tensor:
        """Queries `[B, D]` as rows `[B, P D]` whose dot product with a label's unit rows by `every` prompt, side by
        side, is the score, not divided by the temperature."""
        weights = self.weights(q)
        weights = weights if self.negative is None else torch.cat([weights, -weights], 1)
        return (weights[:, :, None] * q[:, None]).flatten(1)


def own_temperature(modality: Text, load: bool) -> float:
    """That of the pretrained model, else `TEMPERATURE`."""
    family, _, name = modality.encoder.partition(":")
    if family == "open_clip" and modality.weights and load:
        return openclip.open_clip_scale(name, modality.weights)[0]
    return TEMPERATURE


def learned_prompts(
    modalities: Mapping[str, Modality],
    towers: Callable[[str], Tower],
    embed_dim: int,
    load: bool,
    labels: Sequence[str] = (),
) -> dict[str, Prompts]:
    """The prompts of all columns that learn some of their own, whose towers are told of them. Raises `ValueError`."""
    found: dict[str, Prompts] = {}
    told = set()
    for name, modality in modalities.items():
        if not isinstance(modality, Text) or modality.learned is None or "like" in modality.learned:
            continue
        encoder = towers(name).encoder
        try:
            found[name] = Prompts(modality, encoder, embed_dim, load, labels)
        except ValueError as error:
            raise ValueError(f"modalities.{name}.{error}") from None
        if encoder not in told:
            take(encoder.embedding)  # type: ignore[arg-type]
            told.add(encoder)
    return found


def owners_of(modalities: Mapping[str, Modality]) -> dict[str, str]:
    """Of each column that is read with learned prompts the one whose they are: itself, or that of its `prompt.like`."""
    texts = {name: modality.learned for name, modality in modalities.items() if isinstance(modality, Text)}
    return {name: learned.get("like", name) for name, learned in texts.items() if learned is not None}
