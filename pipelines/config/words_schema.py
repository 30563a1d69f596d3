"""What a term of the config says of a head that tells labels: by whose texts, and by how many of them at a step."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, model_validator

from clx.pipelines.config.section import Section


class Words(Section):
    """A head whose weights are the labels' names, as a text modality reads them.

    A row scores a label by the cosine of its one input with the label's text, divided by the temperature; where each
    label is a question of its own (`binary-cross-entropy`) a bias is added, as in SigLIP.
    """

    of: Annotated[str, Field(min_length=1)]
    """The text modality that reads the names."""
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """What cosines are divided by. Not given, that of the pretrained model, or of the run that the towers are taken
    over from, else 0.07, or where a bias is added 0.1, at which SigLIP begins. A learned prompt has its own."""
    learn_temperature: bool | None = None
    """Whether it is learned, between 0.01 and 10. Not given, where a bias is added, which is learned in any case."""
    bias: Annotated[float, Field(allow_inf_nan=False)] | None = None
    """Where the bias begins. Not given, -log(K - 1) of K labels, at which one of them applies where cosines are 0: of
    the 32,768 rows of a batch of SigLIP that is the -10 at which that begins."""

    def __str__(self) -> str:
        given = self.model_dump(exclude_none=True)
        return self.of if len(given) == 1 else str(given)


class LabelSample(Section):
    """The labels that a step compares its rows with: those that apply to any of them, and a sample of the others."""

    others: Annotated[int, Field(ge=1)]
    """How many of the others, drawn evenly and without repeats."""
    corrected: bool = True
    """Whether each that was drawn counts as many times as there are others for one, so that the loss is that of all
    labels as near as a sample tells (sampled softmax, arXiv 1412.2007); else once, as negatives in NCE do."""

    @model_validator(mode="before")
    @classmethod
    def _number(cls, raw: Any) -> Any:
        return raw if isinstance(raw, Mapping) else {"others": raw}
