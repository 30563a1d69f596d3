"""What the config says of a second model."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from clx.pipelines.config.section import Section


class Second(Section):
    """A second model beside the one that trains: its embeddings of the same rows are the `keys` that losses ask for.

    It never has a gradient. One of `momentum`, `run` and `model` says which it is.
    """

    momentum: Annotated[float, Field(ge=0, lt=1)] | None = None
    """A copy of the model, heads too, that follows it: after each step its weights keep this share of what they were
    and take the rest from the model (MoCo .999, of small data .99; BYOL and DINO .996)."""
    schedule: Literal["constant", "cosine"] = "constant"
    """With `cosine` the momentum rises to 1 until the last step, as in BYOL, MoCo v3 and DINO."""
    norms: Literal["batch", "running"] = "batch"
    """What the copy's batch norms normalise by: the batch, as in MoCo and BYOL, or with `running` the model's running
    statistics, so that keys tell nothing of which rows are in a batch (CCP's asymmetric batch norm)."""
    run: Annotated[str, Field(min_length=1)] | None = None
    """A run folder whose model gives the keys, as it is: a teacher."""
    model: Annotated[str, Field(min_length=1)] | None = None
    """A pretrained model that gives the keys, as it is: of open_clip, or an encoder by its whole name, `hf:minilm`."""
    pretrained: Annotated[str, Field(min_length=1)] | None = None
    """Tag or file of the weights of `model`."""
    stage: Literal["previous"] | None = None
    """The model of the stage before gives the keys, as it was when this one began: what it knew is not forgotten."""

    @model_validator(mode="after")
    def _one_model(self) -> "Second":
        if sum(each is not None for each in (self.momentum, self.run, self.model, self.stage)) != 1:
            raise ValueError(
                "give one of momentum (a copy that follows the model), run (a folder), model (a name), stage: previous"
            )
        if self.pretrained is not None and self.model is None:
            raise ValueError("pretrained is the weights of model: name it")
        if self.schedule != "constant" and self.momentum is None:
            raise ValueError("schedule is of momentum")
        if self.norms != "batch" and self.momentum is None:
            raise ValueError("norms is of momentum: a finished model's batch norms always take running statistics")
        return self
