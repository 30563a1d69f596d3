"""Telling which tokens of a text were replaced, with the help of its embedding: DiffCSE's term."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn

from clx.losses.base import Embeddings, Loss, register, zero_loss
from clx.losses.decoded import mean_of_names
from clx.losses.primitives.draws import uniform
from clx.losses.primitives.masks import mean_where
from clx.losses.token_network import TokenNetwork, lengths_of, log_losses, tokens_in


def replaced_tokens(logits: Tensor, replaced: Tensor, counted: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean cross-entropy, `[]` in nats, of telling tokens that were replaced from those that were not.

    Args:
        logits: `[B, T, 2]`, of a token that is the text's own, and of one that is not.
        replaced: `[B, T]`, which are not.
        counted: `[B, T]`, which tokens there are.
        weights: `[B]`, the factor of each row's tokens.

    Reference:
        Chuang et al. 2022, DiffCSE, arXiv 2204.10298, equation 3.
    """
    each = log_losses(logits, replaced.long())
    return mean_where(counted, each, None if weights is None else weights[:, None].expand_as(each))


@register("replaced-token")
@dataclass(eq=False, kw_only=True)
class ReplacedToken(Loss):
    """A discriminator of its own reads a text of which some tokens were replaced, with the embedding of the whole text
    before it, and tells which; averaged over all names. So the embedding has to say what was there.

    A `share` of each text's tokens is masked, and a small network guesses them, which learns beside; what it guesses
    takes their place (`fill: likeliest`), or a draw from it. Both networks are `layers` deep and `hidden` wide.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> loss = ReplacedToken(hidden=8)
        >>> loss.setup(["text"], 4)
        >>> loss.setup_decoders({"text": 5}, {"text": 257})
        >>> text = torch.tensor([[105.0, 111, 102, torch.nan, torch.nan]])
        >>> draw = torch.Generator().manual_seed(0)
        >>> loss({"text": torch.zeros(1, 4)}, originals={"text": text}, generator=draw).item() > 0
        True
    """

    family = "decoders"
    paper = "DiffCSE, Chuang et al. 2022, arXiv 2204.10298; generator and discriminator: ELECTRA, 2003.10555"
    formula = "mean_t CE(D(x', z)_t, [x'_t != x_t]) + guess x_m, x' = x with the masked tokens as they were guessed"
    cost = "time O(V B T (T + hidden) hidden layers), memory O(V B T (hidden + share tokens))"
    use = "beside infonce on two views of a text by dropout, with a small weight"
    ours = (
        "the published guesser is a pretrained masked language model that stays as it is, the discriminator a whole "
        "BERT; here both are small and learn from nothing, and the guesser's loss is added; padding does not count"
    )
    fits = ("one modality",)

    host_reads = 1

    share: Annotated[float, Gt(0), Le(1)] = 0.3
    fill: Literal["likeliest", "drawn"] = "likeliest"
    hidden: Annotated[int, Ge(1)] = 128
    layers: Annotated[int, Ge(1)] = 1

    def setup(self, names: Sequence[str], dim: int, classes: Sequence[str] = (), rows: int = 0) -> None:
        super().setup(names, dim, classes, rows)
        self.dim = dim

    def setup_decoders(self, widths: Mapping[str, int], tokens: Mapping[str, int] | None = None) -> None:
        self.names, self.longest = list(widths), max(widths.values())
        if lacking := [name for name in widths if name not in (tokens or {})]:
            raise ValueError(
                f"{lacking[0]} has no tokens that could be replaced: texts of transformer and hf:NAME have"
            )
        many = [((tokens or {})[name], longest) for name, longest in widths.items()]
        self.guessers = nn.ModuleList(TokenNetwork(*size, self.hidden, self.layers, size[0]) for size in many)
        self.judges = nn.ModuleList(TokenNetwork(*size, self.hidden, self.layers, 2, self.dim) for size in many)

    def forward(
        self,
        z: Embeddings,
        *,
        originals: Embeddings,
        generator: torch.Generator | None = None,
        present: dict[str, Tensor] | None = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        names = [name for name in z if name in originals]
        texts = [tokens_in(originals[name], None if present is None else present[name]) for name in names]
        lengths = lengths_of([there for _, there in texts])
        size = (2, len(next(iter(z.values()))), self.longest)
        draws = uniform(size, next(iter(z.values())), generator)  # of all names, so that none depends on others
        terms, counted = [zero_loss(z)], [zero_loss(z).detach()]
        for name, length, (x, there) in zip(names, lengths, texts, strict=True):
            number = self.names.index(name.partition("/")[0])
            x, there = x[:, :length], there[:, :length]
            rows = z[name] if present is None else torch.where(present[name][:, None], z[name], 0)
            rows = nn.functional.pad(rows, (0, self.dim - rows.shape[1]))
            made, guess = self.replace(self.guessers[number], x, there, draws[..., :length], weights)  # type: ignore[arg-type]
            other = made != x
            logits = self.judges[number](made, there, rows)
            terms.append(replaced_tokens(logits, other, there, weights) + guess)
            counted.append(there.any())
            for said, each in (("replaced", other), ("found", other & (logits[..., 1] > logits[..., 0]))):
                self.count(said, each.sum())
        return mean_of_names(terms, counted)

    def replace(
        self, guesser: TokenNetwork, x: Tensor, there: Tensor, draws: Tensor, weights: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Tokens `[B, T]` with some replaced, and the loss `[]` of guessing them; `draws` `[2, B, T]` say which."""
        most = max(1, round(self.share * x.shape[1])) if x.shape[1] else 0
        places = draws[0].masked_fill(~there, 2).topk(most, 1, largest=False).indices  # [B, K]
        count = (self.share * there.sum(1) + 0.5).long().clamp(min=1)
        asked = there.gather(1, places) & (torch.arange(most, device=x.device) < count[:, None])
        truth = x.gather(1, places)
        shown = x.scatter(1, places, torch.where(asked, guesser.blank, truth))
        states = guesser.states(shown, there)
        logits = guesser.out(states.gather(1, places[..., None].expand(-1, -1, states.shape[2])))  # [B, K, tokens]
        each = log_losses(logits, truth)
        guess = mean_where(asked, each, None if weights is None else weights[:, None].expand_as(each))
        with torch.no_grad():
            if self.fill == "likeliest":
                filled = logits.argmax(2)
            else:
                below = logits.softmax(2).cumsum(2) < draws[1].gather(1, places)[..., None]
                filled = below.sum(2).clamp(max=logits.shape[2] - 1)
        return x.scatter(1, places, torch.where(asked, filled, truth)), guess
