"""Guessing tokens that a text encoder was not shown: the term of masked language models, beside a contrastive one."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Gt, Le
from torch import Tensor, nn
from torch.nn import functional

from clx.losses.base import Embeddings, Loss, register, zero_loss


@register("masked-token")
@dataclass(eq=False, kw_only=True)
class MaskedToken(Loss):
    """Cross-entropy of tokens that were not shown, from what the encoder makes of their places; over all of a batch.

    A `share` of each text's tokens is drawn; of these, 80 % become the tokenizer's mask, 10 % another token, and 10 %
    stay. The encoder reads each text once more for this.

    Example:
        >>> loss = MaskedToken()
        >>> loss.setup(["text"], 4)
        >>> loss.setup_decoders({"text": 6}, {"text": 257})
        >>> _ = [p.data.zero_() for p in loss.parameters()]  # so that all tokens are as likely
        >>> states, tokens = torch.zeros(2, 3, 6), torch.tensor([[5, 7, -1], [9, -1, -1]])
        >>> round(loss({"text": torch.zeros(2, 4)}, masked={"text": (states, tokens)}).item(), 2)  # log 257
        5.55
    """

    family = "decoders"
    paper = "BERT, Devlin et al. 2019, arXiv 1810.04805; beside contrast: DeCLUTR, Giorgi et al. 2021, arXiv 2006.03659"
    formula = "mean over drawn tokens of -log softmax(W g(h))_token, g a layer, h what the encoder makes of the place"
    cost = "a second pass of the encoder, and time O(share B T F tokens)"
    use = "beside a contrast of texts, so that token states keep what the contrast does not ask for"
    ours = "the texts of the contrast are whole, those of this term masked; DeCLUTR takes one masked pass for both"
    fits = ("one modality",)

    compares_embeddings = False

    share: Annotated[float, Gt(0), Le(1)] = 0.15

    def setup_decoders(self, widths: Mapping[str, int], tokens: Mapping[str, int] | None = None) -> None:
        self.names = list(widths)
        self.heads = nn.ModuleList(
            nn.Sequential(
                nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width), nn.Linear(width, (tokens or {})[name])
            )
            for name, width in widths.items()
        )

    def forward(
        self,
        z: Embeddings,
        *,
        masked: dict[str, tuple[Tensor, Tensor]],
        present: dict[str, Tensor] | None = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        total, count = zero_loss(z), zero_loss(z).detach()
        for name in (name for name in z if name in masked):
            states, tokens = masked[name]
            asked = tokens >= 0
            if present is not None:
                asked = asked & present[name][:, None]
            logits = self.heads[self.names.index(name.partition("/")[0])](torch.where(asked[..., None], states, 0))
            each = functional.cross_entropy(logits.flatten(0, 1), tokens.clamp(min=0).flatten(), reduction="none")
            each = (
                each.view(asked.shape) if weights is None else each.view(asked.shape) * weights[:, None].to(each.dtype)
            )
            total = total + torch.where(asked, each, 0).sum()
            count = count + asked.sum()
            self.count("guessed", (asked & (logits.argmax(2) == tokens)).sum())
            self.count("asked", asked.sum())
        return total / count.clamp(min=1)
