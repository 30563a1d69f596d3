"""Networks over text: a small one on bytes that starts from random weights, and those of Hugging Face."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from clx.modalities.base import StepEncoder
from clx.modalities.encoder import Inside
from clx.modalities.hugging_face import hugging_face
from clx.modalities.pretrained import cut_at, first_line, quiet
from clx.modalities.sequence import HEAD_WIDTH, Layer, mean_over
from clx.modalities.text_tokens import cut_off


def bytes_of(texts: Sequence[str], longest: int) -> tuple[Tensor, Tensor]:
    """UTF-8 bytes plus one, 0 where padded, `[N, T]`, and their mask; cut at whole characters."""
    rows = []
    for text in texts:
        content = text.encode("utf-8", "replace")[:longest]
        rows.append(content.decode("utf-8", "ignore").encode("utf-8") or content)
    x = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    for i, row in enumerate(rows):
        x[i, : len(row)] = torch.frombuffer(bytearray(row), dtype=torch.uint8).long() + 1
    return x, x != 0


class TextEncoder(StepEncoder):
    """An encoder of texts, whose steps are tokens."""

    timed = False

    @property
    def embedding(self) -> nn.Module:
        """The layer that embeds tokens, `[N, T]` -> `[N, T, C]`."""
        raise NotImplementedError

    def pool(self, h: Tensor, mask: Tensor) -> Tensor:
        return mean_over(h, mask)


class ByteTransformer(TextEncoder):
    """A transformer over UTF-8 bytes `[N, T]`; the features `[N, width]` are the mean over them."""

    group_worth = 64
    layered = True

    def __init__(self, longest: int, width: int, layers: int, dropout: float | Sequence[float]) -> None:
        super().__init__()
        self.width = width
        self.rates = [dropout] if isinstance(dropout, float | int) else list(dropout)
        self.dropout = self.rates[0]
        self.tokens = nn.Embedding(257, width)
        self.positions = nn.Parameter(torch.randn(longest, width) * 0.02)
        self.layers = nn.ModuleList(Layer(width, self.dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def at_view(self, number: int) -> None:
        """The dropout of this view."""
        if len(self.rates) > 1:
            self.dropout = drop_at(self, self.rates[number])

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        tokens_shown: Tensor | None = None,
        columns_shown: Tensor | None = None,
    ) -> Tensor:
        """`x` and `mask` `[N, T]` -> `[N, width]`; where given, of tokens that are `cut_off` once they are embedded."""
        mask = x != 0 if mask is None else mask
        if tokens_shown is not None or columns_shown is not None:
            return self.encode(x, mask, tokens_shown, columns_shown)
        # on a GPU the host would wait to learn how many differ
        alone = self.training and (self.dropout > 0 or x.is_cuda)
        return self.encode(x, mask) if alone else once_each(self.encode, x, mask)

    @property
    def embedding(self) -> nn.Module:
        return self.tokens

    def encode(
        self, x: Tensor, mask: Tensor, tokens_shown: Tensor | None = None, columns_shown: Tensor | None = None
    ) -> Tensor:
        """As `forward`, also for rows that are equal, which are then encoded several times."""
        return self.pool(*self.steps(x, mask, tokens_shown, columns_shown))

    def steps(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        tokens_shown: Tensor | None = None,
        columns_shown: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        mask = x != 0 if mask is None else mask
        h = cut_off(self.tokens(x) + self.positions[: x.shape[1]], tokens_shown, columns_shown)
        for layer in self.layers:
            h = layer(h, mask)
        return self.norm(h), mask

    def inside(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        attention: bool = False,
        tokens_shown: Tensor | None = None,
        columns_shown: Tensor | None = None,
        **more: Tensor,
    ) -> Inside:
        """As `StepEncoder.inside`; the last of the layers is normed, as what is pooled is."""
        mask = x != 0 if mask is None else mask
        weights: list[Tensor] = []
        layers = [cut_off(self.tokens(x) + self.positions[: x.shape[1]], tokens_shown, columns_shown)]
        for layer in self.layers:
            layers.append(layer(layers[-1], mask, weights if attention else None))
        layers[-1] = self.norm(layers[-1])
        return Inside(layers[-1], mask, layers, weights)

    @property
    def depth(self) -> tuple[int, int]:
        return len(self.layers) + 1, self.width // HEAD_WIDTH

    def blocks(self) -> list[nn.Module]:
        """Embeddings, each layer, the last norm."""
        return cut_at(self, "layers", "norm")


class HuggingFace(TextEncoder):
    """A text model of the transformers library: token numbers `[N, T]` -> features `[N, width]`, pooled over tokens."""

    group_worth = 32
    layered = True

    def __init__(self, model: Any, pooling: str, dropout: float | Sequence[float] = 0.0) -> None:
        super().__init__()
        if model.config.is_encoder_decoder:
            model = model.get_encoder()
        if getattr(model, "pooler", None) is not None:
            model.pooler = None  # it is not used, and its parameters would never learn
        self.model = model
        self.pooling = pooling
        self.width = int(model.config.hidden_size)
        self.rates = [dropout] if isinstance(dropout, float | int) else list(dropout)
        if self.rates != [0.0]:
            drop_at(self, self.rates[0])

    @classmethod
    def of(cls, name: str, pooling: str, dropout: float | Sequence[float], load: bool) -> "HuggingFace":
        """A model by name or folder, with its weights or without. Raises `ValueError`."""
        if load:
            return cls(hugging_face("model", name), pooling, dropout)
        from transformers import AutoModel

        return cls(AutoModel.from_config(hugging_face("config", name), trust_remote_code=False), pooling, dropout)

    @property
    def embedding(self) -> nn.Module:
        found: nn.Module = self.model.get_input_embeddings()
        return found

    @property
    def drops(self) -> bool:
        """Whether a layer drops at random in training."""
        return any(isinstance(part, nn.Dropout) and part.p > 0 for part in self.modules())

    def at_view(self, number: int) -> None:
        """The dropout of this view."""
        if len(self.rates) > 1:
            drop_at(self, self.rates[number])

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        tokens_shown: Tensor | None = None,
        columns_shown: Tensor | None = None,
    ) -> Tensor:
        """`x` and `mask` `[N, T]` -> `[N, width]`; where given, of tokens that are `cut_off` once they are embedded."""
        mask = torch.ones_like(x, dtype=torch.bool) if mask is None else mask
        if self.model.training or tokens_shown is not None or columns_shown is not None:
            return self.encode(x, mask, tokens_shown, columns_shown)
        return once_each(self.encode, x, mask)

    def encode(
        self, x: Tensor, mask: Tensor, tokens_shown: Tensor | None = None, columns_shown: Tensor | None = None
    ) -> Tensor:
        """As `forward`, also for rows that are equal: dropout makes different views of them."""
        return self.pool(*self.steps(x, mask, tokens_shown, columns_shown))

    def steps(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        tokens_shown: Tensor | None = None,
        columns_shown: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        mask = torch.ones_like(x, dtype=torch.bool) if mask is None else mask
        return self._outputs(x, mask, tokens_shown, columns_shown).last_hidden_state, mask

    def inside(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        attention: bool = False,
        tokens_shown: Tensor | None = None,
        columns_shown: Tensor | None = None,
        **more: Tensor,
    ) -> Inside:
        mask = torch.ones_like(x, dtype=torch.bool) if mask is None else mask
        asked = {"output_hidden_states": True, "output_attentions": attention}
        found = self._outputs(x, mask, tokens_shown, columns_shown, **asked)
        return Inside(found.last_hidden_state, mask, list(found.hidden_states), list(found.attentions or ()))

    @property
    def depth(self) -> tuple[int, int]:
        return int(self.model.config.num_hidden_layers) + 1, int(self.model.config.num_attention_heads)

    def show_attention(self) -> None:
        """The fused attention gives no weights, so the plain one takes its place."""
        name = type(self.model).__name__
        try:
            with quiet():
                self.model.set_attn_implementation("eager")
        except Exception as error:  # models without another one refuse in ways of their own
            raise ValueError(f"{name} gives no attention weights: {first_line(error)}") from None
        x = torch.zeros(1, 2, dtype=torch.long, device=self.embedding.weight.device)  # type: ignore[arg-type]
        training = self.training
        with torch.no_grad():
            weights = self.eval().inside(x, attention=True).attention
        self.train(training)
        if not weights or weights[0].dim() != 4:
            raise ValueError(f"{name} gives no attention weights")

    def _outputs(
        self, x: Tensor, mask: Tensor, tokens_shown: Tensor | None, columns_shown: Tensor | None, **asked: bool
    ) -> Any:
        if tokens_shown is None and columns_shown is None:
            return self.model(input_ids=x, attention_mask=mask.long(), **asked)
        hook = self.model.embeddings.register_forward_hook(
            lambda module, given, h: cut_off(h, tokens_shown, columns_shown)
        )
        try:
            return self.model(input_ids=x, attention_mask=mask.long(), **asked)
        finally:
            hook.remove()

    def pool(self, h: Tensor, mask: Tensor) -> Tensor:
        return h[:, 0] if self.pooling == "cls" else mean_over(h, mask)

    def blocks(self) -> list[nn.Module]:
        """Embeddings, each layer, what follows them."""
        return cut_at(self.model, "layers?|h|block", "(?:encoder\\.|decoder\\.)?(?:final_\\w+|norm|ln_f)")


def drop_at(encoder: nn.Module, rate: float) -> float:
    """Let every dropout of an encoder drop this share; gives it back."""
    for part in encoder.modules():
        if isinstance(part, nn.Dropout):
            part.p = rate
    return rate


def once_each(encode: Callable[[Tensor, Tensor], Tensor], x: Tensor, mask: Tensor) -> Tensor:
    """Encode each different text of a batch once: labels come many times over."""
    if torch.compiler.is_exporting():  # a graph of fixed shapes cannot tell how many differ
        return encode(x, mask)
    rows, which = torch.cat([x, mask.long()], 1).unique(dim=0, return_inverse=True)
    tokens, real = rows.split(x.shape[1], dim=1)
    return encode(tokens, real.bool())[which]
