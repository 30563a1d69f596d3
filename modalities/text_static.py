"""Texts as the mean of a vector a token: no network at all, so that it starts at once."""

import os
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from clx.modalities.packaged import packaged_file, wants_weights
from clx.modalities.pretrained import first_line
from clx.modalities.text_encoders import TextEncoder
from clx.modalities.text_tokens import cut_off

STATIC = "wordllama"
STATIC_TOKENS, STATIC_WIDTH = 32_000, 256
STATIC_TOKENIZER = "tokenizers/l2_supercat_tokenizer_config.json"


class StaticTokens(TextEncoder):
    """A vector for each token, whatever stands around it: tokens `[N, T]` -> their mean `[N, width]`."""

    def __init__(self) -> None:
        super().__init__()
        self.width = STATIC_WIDTH
        self.tokens = nn.Embedding(STATIC_TOKENS, STATIC_WIDTH)

    @classmethod
    def of(cls, pretrained: bool | str | None, load: bool) -> "StaticTokens":
        """With the vectors of the package wordllama, or random ones. Raises `ValueError`."""
        made = cls()
        if wants_weights(STATIC, pretrained, load):
            from safetensors.torch import load_file

            file = packaged_file(STATIC)
            try:
                made.tokens.load_state_dict({"weight": load_file(file)["embedding.weight"]})
            except Exception as error:  # damaged and foreign files fail in many ways
                raise ValueError(f"{file} does not hold the vectors of {STATIC}: {first_line(error)}") from error
        return made

    def steps(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        tokens_shown: Tensor | None = None,
        columns_shown: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        mask = torch.ones_like(x, dtype=torch.bool) if mask is None else mask
        return cut_off(self.tokens(x), tokens_shown, columns_shown), mask

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        tokens_shown: Tensor | None = None,
        columns_shown: Tensor | None = None,
    ) -> Tensor:
        """`x` and `mask` `[N, T]` -> `[N, 256]`; where given, of tokens that are `cut_off` once they are embedded."""
        return self.pool(*self.steps(x, mask, tokens_shown, columns_shown))


class StaticTokenizer:
    """The tokens of `wordllama`: parts of words, and bytes of scripts that it does not know."""

    def __init__(self) -> None:
        try:
            from tokenizers import Tokenizer
        except ImportError:
            raise ValueError(f"{STATIC} wants the library tokenizers: pip install '.[wordllama]'") from None
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # else it complains in forked workers
        self.tokenizer = Tokenizer.from_file(str(packaged_file(STATIC).parent.parent / STATIC_TOKENIZER))

    def numbers(self, text: str) -> list[int]:
        """A text's tokens, at least one."""
        return self.tokenizer.encode(text, add_special_tokens=False).ids or [0]

    def __call__(self, texts: Sequence[str], longest: int) -> tuple[Tensor, Tensor]:
        """Tokens `[N, T]`, at most `longest` of a text and 0 where padded, and their mask."""
        rows = [torch.tensor(self.numbers(text)[:longest]) for text in texts]
        x = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        return x, torch.arange(x.shape[1]) < torch.tensor([len(row) for row in rows])[:, None]
