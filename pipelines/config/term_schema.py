"""A term of the objective, as a config has it."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from clx.pipelines.config.options import old_key
from clx.pipelines.config.upgrade import RENAMED
from clx.pipelines.config.words_schema import LabelSample, Words

Fuse = Literal["mean", "concat", "gated"]


def _named(words: Any) -> Any:
    return {"of": words} if isinstance(words, str) else words


def _ascending(widths: list[int]) -> list[int]:
    return sorted(set(widths))


class Term(BaseModel):
    """One objective of the weighted sum; further keys are the loss's own parameters."""

    model_config = ConfigDict(extra="allow", frozen=True, serialize_by_alias=True)

    name: str
    weight: Annotated[float, Field(ge=0)] | None = None
    """What it counts in the sum: 1 when not given, or what suits the loss beside an error in the target's units."""
    inputs: list[str] | None = None
    """Modalities this term looks at, in this order; all that are not only negatives when not given."""
    negatives: list[str] | None = None
    """Modalities whose rows are negatives of every anchor and nothing else, columns of wrong answers say, for losses
    that take such: `clx losses NAME` says `negatives: [MODALITY]` of them."""
    dims: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1), AfterValidator(_ascending)] | None = None
    """Widths at which this term is computed, each of the first so many columns of the embeddings; their mean counts
    (Matryoshka, arXiv 2205.13147). Short vectors, `clx embed --dim` say, are then of use by themselves. The whole
    width alone when not given."""
    begin: Annotated[float, Field(ge=0, lt=1, alias="from")] = 0.0
    """Share of the run's steps after which the term counts. Until then it is not computed."""
    until: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the run's steps after which it counts no more. Validation is by the terms that count at the end."""
    rows: Literal["replay", "new"] | None = None
    """Which rows have a term of this loss, its mean being over them: those of `data.replay`, or the others. All are
    negatives as ever. Every row when not given."""
    fuse: Fuse | None = None
    """How the head that this term trains looks at several inputs: `gated`, each predicts for itself and gates weigh
    them, the default; `concat`, a perceptron on all embeddings side by side; `mean`, a linear head on their mean.
    Terms of the same inputs train one head and have the same."""
    words: Annotated[Words, BeforeValidator(_named)] | None = None
    """The text modality that reads the labels' names, by itself or by its learned prompt (`prompt: {tokens: 4}`): what
    the head predicts is then how near its one input is to each of these, and what learns are the towers that are not
    frozen, and the prompt. A name stands for `{of: NAME}`."""
    labels_per_step: LabelSample | None = None
    """How many labels that apply to no row of the batch it is compared with at a step, drawn from all of them; a number
    stands for `{others: NUMBER}`. All when not given, and in validation."""
    prototypes_per_label: Annotated[int, Field(ge=1)] | None = None
    """Of how many learned vectors of each label the head that this term trains takes the cosines with its one input, of
    which the labels are a linear layer; a linear layer of the embedding itself when not given."""

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})

    def counts_at(self, progress: float) -> bool:
        """Whether the term counts when this share of the steps is done; at 1, of validation, those of the last step."""
        return self.begin <= progress < self.until or (progress >= 1 and self.until == 1)

    @model_validator(mode="after")
    def _some_time(self) -> "Term":
        if self.begin >= self.until:
            raise ValueError(f"from {self.begin:g} until {self.until:g} is no time: from must be below until")
        return self

    @model_validator(mode="before")
    @classmethod
    def _words_of_today(cls, raw: Any) -> Any:
        """An option's former name is refused with today's, also where a key of a term has that name now."""
        for old, new in RENAMED.get(str(raw.get("name")), {}).items() if isinstance(raw, Mapping) else ():
            if isinstance(raw.get(old), str):
                raise old_key(old, f"{old!r} is called {new!r} now")
        return raw
