"""The configuration: one schema, strict about every name.

Nothing here imports torch, so a mistyped key costs a fraction of a second.
"""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from clx.pipelines.config.batches_schema import Batches
from clx.pipelines.config.data_schema import Data
from clx.pipelines.config.options import old_key
from clx.pipelines.config.second_schema import Second as Second
from clx.pipelines.config.section import Section
from clx.pipelines.config.stages import Stage, in_order
from clx.pipelines.config.task_names import Task
from clx.pipelines.config.term_schema import Fuse as Fuse
from clx.pipelines.config.term_schema import Term as Term
from clx.pipelines.config.usual_tasks import usual_tasks


class Train(Section):
    """The loop."""

    epochs: Annotated[int, Field(ge=1)] | None = 10
    """Passes over the training rows; null with `minutes`."""
    steps: Annotated[int, Field(ge=1)] | None = None
    """Total optimiser steps; overrides `epochs`."""
    minutes: Annotated[float, Field(gt=0)] | None = None
    """Wall time of the training, validation and checkpoints included, in the place of `steps` and `epochs`: the
    schedule goes by the clock, and the step in which the time runs out is the last."""
    batch_size: Annotated[int, Field(ge=2)] = 256
    batches: Batches | None = None
    """Which rows meet in a batch, by a column; any rows when not given."""
    chunk: Annotated[int, Field(ge=1)] | Literal["auto"] | None = None
    """Rows that a tower encodes at a time, with the loss and the gradient of the whole batch: it holds the activations
    of a chunk, for a third more time. `auto` finds how many fit; all of the batch when not given."""
    chunk_statistics: Literal["batch", "chunk"] = "batch"
    """`chunk` accepts that encoders with batch norms take the statistics of each chunk by itself."""
    lr: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Rate of an encoder's last block by that of its head, of the block before by that of the last, and so on down to
    the embeddings, so that pretrained layers change less the nearer they are to the input: 0.65 to 0.9, say (BEiT,
    arXiv 2106.08254)."""
    warmup: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Share of all steps, or of `minutes`, over which the rate rises linearly."""
    schedule: Literal["cosine", "constant"] = "cosine"
    clip: Annotated[float, Field(gt=0)] | None = 1.0
    """Largest gradient norm; null turns clipping off."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay per step of the averaged weights that are evaluated and saved as the model; 0 turns it off."""
    second: Second | None = None
    """A second model, whose embeddings are the `keys` of losses such as moco, byol and distil; see `clx losses`."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    shard: bool = False
    """Of several processes that train together, let each keep a part of every tower's weights, gradients and optimiser
    state: a tower is whole on each while its rows are encoded, and while its gradient is computed. The steps are the
    same; more is sent."""
    compile: bool = False
    """Compile the encoders for this machine (`torch.compile`), which takes minutes at the start and then saves time at
    each step on a graphics card. The weights are saved as ever; dropout draws other numbers."""
    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")] = "auto"
    workers: Annotated[int, Field(ge=0)] | Literal["auto"] = 0
    """Processes that read data; 0 reads in the training process. `auto`: where files are to be decoded all cores but
    one, or half of them where there is no GPU, and 8 at most; 0 where cells are text and numbers."""
    seed: Annotated[int, Field(ge=0)] = 0
    validate_every: Annotated[int, Field(ge=1)] | None = None
    """Steps between validations; once per epoch when not given."""
    patience: Annotated[int, Field(ge=1)] | None = None
    """Validations without a better loss after which training ends, of those since all terms count (`from`); it goes on
    to its last step when not given."""
    save_every: Annotated[int, Field(ge=1)] | None = None
    """Steps between checkpoints, besides those after each validation."""
    save_minutes: Annotated[float, Field(gt=0)] = 15.0
    keep: Annotated[int, Field(ge=1)] = 2
    """How many of the newest checkpoints stay, besides the best."""
    bad_steps: Annotated[int, Field(ge=0)] = 10
    """Steps with a non-finite loss or gradient that are skipped before the run stops."""
    log_to: list[Literal["tensorboard", "wandb", "mlflow", "trackio"]] = []
    """Trackers that get the figures of each step besides `metrics.jsonl`. Which project, server and login follow from
    their own environment variables. One that fails while the run trains is left out with a warning."""

    @model_validator(mode="after")
    def _one_length(self) -> "Train":
        if self.minutes is not None:
            other = [key for key in ("steps", "epochs") if key in self.model_fields_set and getattr(self, key)]
            if other:
                raise ValueError(f"minutes and {other[0]} both say how long the run is: give one of the two")
            object.__setattr__(self, "epochs", None)  # frozen, but not before it is whole
        elif self.epochs is None and self.steps is None:
            raise ValueError("nothing says how long the run is: give epochs, steps or minutes")
        return self

    @model_validator(mode="after")
    def _one_copy(self) -> "Train":
        if self.batches is not None:
            self.batches.check_size(self.batch_size)
        if self.shard and self.second is not None and self.second.momentum is not None:
            raise ValueError(
                "shard keeps a part of each tower, and the copy of second.momentum is whole: leave one out"
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _words_of_today(cls, raw: Any) -> Any:
        if isinstance(raw, Mapping) and "accumulate" in raw:
            raise old_key(
                "accumulate",
                "accumulate is gone: a step contrasts batch_size rows, and chunk: N encodes them N at a time with the "
                "exact gradient",
            )
        if isinstance(raw, Mapping) and "tensorboard" in raw:
            raise old_key(
                "tensorboard", "tensorboard is gone: write log_to: [tensorboard] for true, and leave out false"
            )
        return raw


def _terms(value: Any) -> Any:
    """One term stands for a list of one, and a name for a term."""
    terms = [value] if isinstance(value, Mapping | str) else value
    return [{"name": term} if isinstance(term, str) else term for term in terms] if isinstance(terms, list) else terms


def only_negatives(terms: Iterable[Term]) -> frozenset[str]:
    """Modalities that some term has as negatives, and none names among its inputs."""
    terms = list(terms)
    named = {name for term in terms for name in term.inputs or []}
    return frozenset(name for term in terms for name in term.negatives or []) - named


def _some_term_at_all_times(terms: list[Term]) -> list[Term]:
    for share in sorted({0.0, *(term.until for term in terms)}):
        if terms and not any(term.counts_at(share) for term in terms):
            raise ValueError(f"no term counts after a share of {share:g} of the steps: from and until leave a gap")
    return terms


Terms = Annotated[list[Term], Field(min_length=1), BeforeValidator(_terms), AfterValidator(_some_term_at_all_times)]


EmptyIsDefault = BeforeValidator(lambda value: {} if value is None else value)
"""A key with nothing after it, as YAML allows: all defaults."""


class Config(Section):
    """Everything that makes a run."""

    data: Data
    modalities: Annotated[dict[str, Annotated[dict[str, Any], EmptyIsDefault]], Field(min_length=1)]
    """Inputs by name; `kind` is the name itself unless given. The other keys are the modality's own."""
    embed_dim: Annotated[int, Field(ge=1)] = 128
    objective: Terms
    train: Annotated[Train, EmptyIsDefault] = Train()
    stages: list[Stage] = []
    """Trainings one after another, each of which begins with the towers of the one before; its optimiser and schedule
    are new. The keys above are of all of them, and each has what differs. Read back, the keys above are of the last,
    and the others are `whole`."""
    keep: Literal["last", "concat"] = "last"
    """Whose embeddings are evaluated and used: those of the last stage, or those of all stages, unit rows side by side,
    so that what one stage has learned is not lost for what another did (arXiv 2402.11816)."""
    eval: list[Task] = ["zeroshot", "retrieval"]
    """Tasks of `clx eval` and of the evaluation that ends a training run. Not given, they follow objective and data:
    classification of a class head and multilabel of a head of sets; sts of scores of pairs; with other targets
    regression; with a horizon forecast;
    retrieval where several inputs are aligned, with zeroshot where there is a label and text to read it, or probe and
    knn where there is no text; of one input alone probe and knn, or geometry where there is no label."""

    @property
    def only_negatives(self) -> frozenset[str]:
        """Modalities that are negatives of a term and nothing else: not scored, not asked for."""
        return only_negatives(self.objective)

    @property
    def dims(self) -> list[int]:
        """Widths of the embeddings below the whole that some term learns, ascending."""
        return sorted({w for term in self.objective for w in term.dims or [] if w < self.embed_dim})

    def inputs_of(self, term: Term) -> list[str]:
        """Modalities that a term looks at, in its order; where it names none, all but those that are only negatives."""
        return term.inputs or [name for name in self.modalities if name not in self.only_negatives]

    @model_validator(mode="before")
    @classmethod
    def _stages(cls, raw: Any) -> Any:
        if isinstance(raw, Mapping) and raw.get("pretrain") is not None:
            raise old_key(
                "pretrain",
                "pretrain is gone: stages: [{objective: ...}, {freeze: true}] trains with that objective first, and "
                "stages: [{run: runs/X}, {freeze: true}] begins with an earlier run",
            )
        return in_order(raw)

    @model_validator(mode="after")
    def _rows_that_come_again(self) -> "Config":
        if self.data.replay is None and any(term.rows is not None for term in self.objective):
            raise ValueError("rows of a term are told apart by data.replay: set that, or leave rows out")
        return self

    @model_validator(mode="after")
    def _last_is_trained(self) -> "Config":
        if self.stages and (len(self.stages) == 1 or self.stages[-1].run or self.stages[-1].whole):
            raise ValueError("stages are two or more, and the last is trained here: it may be {}, the keys above")
        if self.keep == "concat" and not self.stages:
            raise ValueError("keep: concat joins the embeddings of stages, and there are none")
        if any(stage.run for stage in self.stages[1:]):
            raise ValueError("run is for the first of stages: the others begin with the one before them")
        if self.stages and self.stages[0].freeze:
            raise ValueError("freeze is not for the first of stages, which takes nothing over")
        return self

    @model_validator(mode="after")
    def _one_order(self) -> "Config":
        if self.train.batches is not None:
            self.train.batches.check_data(self.data)
        return self

    @model_validator(mode="after")
    def _usual_tasks(self) -> "Config":
        if "eval" not in self.model_fields_set:
            windows = self.data.windows
            tasks = usual_tasks(
                self.objective,
                self.modalities,
                label=self.data.label is not None,
                target=bool(self.data.target),
                horizon=windows is not None and bool(windows.horizon),
            )
            object.__setattr__(self, "eval", tasks)  # frozen, but not before it is whole
        return self
