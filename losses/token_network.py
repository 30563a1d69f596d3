"""A small transformer over tokens, for losses that say, guess or judge the tokens of a text."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


class Layer(nn.Module):
    """Attention and a feed-forward part, each added to its input `[N, T, width]`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = next(count for count in (4, 2, 1) if width % count == 0)
        self.norm, self.qkv, self.out = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, h: Tensor, reads: Tensor) -> Tensor:
        """`reads` `[N, 1, 1 or T, T]` says which tokens each reads: one at least."""
        q, k, v = self.qkv(self.norm(h)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        read = functional.scaled_dot_product_attention(q, k, v, attn_mask=reads)
        h = h + self.out(read.transpose(1, 2).flatten(2))
        made: Tensor = h + self.feed(h)
        return made


class TokenNetwork(nn.Module):
    """Tokens `[N, T]` to numbers `[N, T, outputs]` for each, after a code `[N, D]` where there is one.

    With `causal` the numbers of a token follow from the code and the tokens before it, else from all of them.
    """

    def __init__(
        self, tokens: int, longest: int, width: int, layers: int, outputs: int, dim: int = 0, causal: bool = False
    ) -> None:
        super().__init__()
        self.blank, self.causal = tokens, causal
        """The number of a token that is not shown, the one behind the `tokens` that there are."""
        self.tokens = nn.Embedding(tokens + 1, width)
        self.positions = nn.Parameter(torch.randn(longest, width) * 0.02)
        self.code = nn.Linear(dim, width) if dim else None
        self.layers = nn.ModuleList(Layer(width) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, outputs)

    def forward(self, x: Tensor, there: Tensor, code: Tensor | None = None) -> Tensor:
        """`x` `[N, T]` int64, of which `there` `[N, T]` are real, and the code `[N, D]`, which is read before them."""
        return self.out(self.states(x, there, code))  # type: ignore[no-any-return]

    def states(self, x: Tensor, there: Tensor, code: Tensor | None = None) -> Tensor:
        """As `forward`, what the last layer is given, `[N, T, width]`."""
        h = self.tokens(torch.where(there, x, self.blank)) + self.positions[: x.shape[1]]
        if self.code is not None and code is not None:
            h, there = torch.cat([self.code(code)[:, None], h], 1), functional.pad(there, (1, 0), value=True)
        length = h.shape[1]
        reads = there | functional.pad(~there.any(1, keepdim=True), (0, length - 1))  # a row of nothing reads a blank
        reads = reads[:, None, None]
        if self.causal:
            reads = reads & torch.ones(length, length, dtype=torch.bool, device=h.device).tril()
        for layer in self.layers:
            h = layer(h, reads)
        found: Tensor = self.norm(h)
        if code is None:
            return found
        return found[:, :-1] if self.causal else found[:, 1:]


def tokens_in(originals: Tensor, present: Tensor | None) -> tuple[Tensor, Tensor]:
    """Numbers of tokens `[N, T]` int64, and which there are; NaN is none, and neither is any of a row that is not
    `present` `[N]`."""
    there = ~originals.isnan()
    if present is not None:
        there = there & present[:, None]
    return torch.where(there, originals, 0).long(), there


def log_losses(logits: Tensor, x: Tensor) -> Tensor:
    """Minus the log probability of each token `x` `[N, T]`, by logits `[N, T, tokens]`: `[N, T]` in nats."""
    return functional.cross_entropy(logits.flatten(0, 1), x.flatten(), reduction="none").view(x.shape)


def lengths_of(masks: Sequence[Tensor]) -> list[int]:
    """How many columns `[N, T]` masks need; what the host waits for on a GPU, once."""
    last = [torch.arange(1, mask.shape[1] + 1, device=mask.device) * mask.any(0) for mask in masks]
    found: list[int] = torch.stack([nn.functional.pad(each, (1, 0)).amax() for each in last]).tolist()
    return found
