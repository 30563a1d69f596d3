"""What every modality is: a dataclass of options that can read a cell, augment it, batch it and build its encoder.

Importing this module registers every file of the folder; how numbers and dates are read is known without, and without
torch.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from annotated_types import Ge, Interval

from clx.modalities.draws import Draws
from clx.modalities.encoder import Encoder as Encoder
from clx.modalities.encoder import Input as Input
from clx.modalities.encoder import LearnedView as LearnedView
from clx.modalities.encoder import StepEncoder as StepEncoder
from clx.modalities.errors import CellError as CellError  # part of what a modality needs to know
from clx.modalities.options import Lora as Lora
from clx.modalities.options import Mix as Mix
from clx.modalities.options import StepOptions as StepOptions

Several = Literal["mean", "one"]
"""What is made of several cells in one row: the mean of their features; or in training one of them, drawn anew each
epoch, in validation the first, and in use the mean."""


LORA_FAMILIES = ("open_clip", "timm", "hf")


@dataclass(kw_only=True)
class Modality:
    """One input of the model. Fields are the config keys below `modalities.NAME`.

    A cell (a path, bytes, an array, text) is read into a sample, samples are augmented into views, and views are
    collated into an `Input` `[N, ...]`, which the encoder turns into features `[N, width]`.
    """

    kind: ClassVar[str]
    default_encoder: ClassVar[str]
    only_for: ClassVar[dict[str, tuple[str, ...]]] = {}
    """Fields that only some encoders have, with the names or families of these."""
    fit_rows: ClassVar[int] = 100_000
    """About how many training rows `fit` is given at most."""
    takes_several: ClassVar[bool] = False
    """Whether a list of cells is several of them in one row; it then has the option `several`."""
    borrows: ClassVar[int] = 0
    """How many other training rows' samples its views may take something of."""
    files: ClassVar[bool] = False
    """Whether a text cell is the path of a file (then `read` gets a `pathlib.Path`)."""
    read_by: ClassVar[tuple[str, ...]] = ()
    """Of one that reads files, the fields that decide, with `state`, what `read` gives: with others the same samples
    can be kept."""

    like: str | None = None
    """Another modality whose tower this one shares: one encoder and head for several columns of one sort."""
    column: str | list[str] | None = None
    """Manifest column; NAME when not given. Several, or patterns, for a modality that is only `negatives` of a term."""
    pair: str | None = None
    """A second column: rows are pairs of cells through one encoder, the head gets u, v, |u - v| and u * v."""
    encoder: str = ""
    pretrained: bool | str | None = None
    """A tag, a path, or true for the library's own weights."""
    freeze: bool = False
    """Do not train the encoder (LiT); the projection head still learns."""
    unlocked: Annotated[int, Ge(0)] = 0
    """With `freeze`, how many of the encoder's last blocks learn all the same."""
    lora: Lora | None = None
    """Adapt the pretrained encoder by changes of a low `rank`, which alone learn of it, and alone are saved: a run then
    needs the pretrained weights where `encoder` and `pretrained` say they are. `clx export` merges both."""
    checkpointing: bool = False
    """Keep only what enters each layer of the encoder, and compute the layer again for its gradient: less memory a row,
    for about a third more time. The gradients are the same."""
    step_encoder: StepOptions | None = None
    """A small encoder that learns, over the steps (times, tokens, places) of `encoder`, with `freeze: true` in place of
    training that: `{layers: 2, width: 128, dropout: 0.3, crop: 0.3, mask: 0.2, noise: 0.3}`, of which the last three
    vary the steps in training. Steps of a frozen encoder that sees no variation are computed once with
    `data.cache: memory`."""
    head: Literal["linear", "mlp", "norm", "none"] = "linear"
    """Projection into the shared space; `mlp` is SimCLR's, with batch norms that centre each dimension, which
    losses of products (Symile) need to leave their starting plateau. `none` takes the features as they are, `norm`
    divides them by their root mean square: their length means nothing after a loss of angles."""
    head_dropout: Annotated[float, Interval(ge=0, lt=1)] = 0.0
    """Share of the features that the head does not see, drawn anew for each row and step of training. With few rows and
    a frozen encoder of many features 0.5 generalises better."""
    views: Annotated[int, Ge(1)] = 1
    drop: Annotated[float, Interval(ge=0, lt=1)] = 0.0
    """Share of the training rows, drawn anew at each step, that are trained without this input, so that the others
    learn to do without it. A row keeps at least one of its inputs."""
    augmentation: Literal["none", "mild", "strong"] = "mild"
    noise: Annotated[float, Ge(0)] = 0.0
    """Length of the random vector that training adds to each embedding, of any direction, by the embedding's own
    length: views then differ also where nothing else tells them apart."""
    mix: Mix | None = None
    """Mix images with others of the batch in training, for losses that know of it: `cross-entropy`, `moit`."""

    def __post_init__(self) -> None:
        self.encoder = self.encoder or self.default_encoder
        if self.unlocked and not self.freeze:
            raise ValueError("unlocked needs freeze: true, else every block learns anyway")
        if self.lora is not None:
            self._check_lora()
        if self.checkpointing and self.freeze and not self.unlocked:
            raise ValueError("checkpointing with freeze: true: a frozen encoder keeps nothing for its gradient anyway")
        if self.mix is not None and self.kind != "image":
            raise ValueError(f"mix is for images, not for {self.kind}: inputs of unlike lengths cannot be mixed")
        if self.mix is not None and self.freeze and not self.unlocked:
            raise ValueError("mix with freeze: true: a frozen encoder's features are computed once, of pure images")
        if self.mix is not None and self.mix.get("views", 1) > self.views:
            raise ValueError(f"mix.views is {self.mix['views']}, and there are {self.views} views")
        if self.step_encoder is not None:
            self._check_step_encoder()
        if self.views > 1 and self.augmentation == "none" and not (self.drops or self.noise or self.head_dropout):
            raise ValueError(f"{self.views} views with augmentation none would be equal but for dropout or noise")
        family = self.encoder.partition(":")[0]
        known = family in {name.partition(":")[0] for name in self.encoders()}  # others are refused when built
        for name, families in self.only_for.items():
            if (
                known
                and family not in families
                and getattr(self, name) != type(self).__dataclass_fields__[name].default
            ):
                raise ValueError(f"{name} is an option of encoder {' and '.join(families)}, not of {self.encoder}")

    def _check_lora(self) -> None:
        family = self.encoder.partition(":")[0]
        if family not in LORA_FAMILIES:
            raise ValueError(f"lora is an option of encoders {':, '.join(LORA_FAMILIES)}:, not of {self.encoder}")
        if self.freeze:  # and so with `unlocked`
            raise ValueError("lora and freeze: lora freezes the encoder itself, but for its changes: leave out freeze")
        if self.weights is None and (family != "hf" or self.pretrained is False):
            raise ValueError("lora adapts pretrained weights, by which a run finds them again: set pretrained")

    def _check_step_encoder(self) -> None:
        for key in ("lora", "mix", "prompt", "pair"):
            value = getattr(self, key, None)
            if value is not None and (key != "prompt" or not isinstance(value, str)):  # words stand in every text
                raise ValueError(f"{key} and step_encoder: both change what the encoder gives: leave one out")

    @property
    def drops(self) -> bool:
        """Whether the encoder drops at random in training, so that views of a sample differ without augmentation."""
        over = self.step_encoder or {}
        if any(over.get(key) for key in ("dropout", "crop", "mask", "noise")):
            return True
        return bool(getattr(self, "dropout", 0)) and not (self.freeze and not self.unlocked)

    @property
    def varies(self) -> bool:
        """Whether augmentation makes of a sample anything but itself."""
        return self.augmentation != "none"

    @property
    def draws_one(self) -> bool:
        """Whether one of several cells in a row is drawn in training."""
        return self.takes_several and getattr(self, "several", None) == "one"

    @property
    def aligned(self) -> bool:
        """Whether step t of every view is the same time or token, as losses that compare views step by step need."""
        return False

    @property
    def joint(self) -> bool:
        """Whether the views of a sample are drawn together, so that all must be of the same sample."""
        return False

    @property
    def weights(self) -> str | None:
        """`pretrained` as text, `true` for a library's own weights; None for random ones."""
        if isinstance(self.pretrained, bool):
            return "true" if self.pretrained else None
        return self.pretrained

    def fit(self, cells: Iterable[Any]) -> None:
        """Learn statistics (scales, categories) from the training split's cells; unreadable cells are skipped."""

    def state(self) -> dict[str, Any]:
        """What `fit` learned, as JSON values; saved with the run."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore what `state` gave."""

    def read(self, cell: Any) -> Any:
        """One sample from a cell (a path, bytes, an array or text): no randomness. Raises `CellError`."""
        raise NotImplementedError

    def understood(self) -> list[str]:
        """What `fit` took the cells for without being told, a line each."""
        return []

    @property
    def limit(self) -> str:
        """How long a cell may be, with its unit and the option that sets it; nothing where no length is too long."""
        return ""

    def cut(self, cell: Any) -> bool:
        """Whether a cell that can be read is longer than `limit`, so that its end has no effect."""
        return False

    def augment(self, samples: list[Any], draws: Draws) -> list[Any]:
        """One random view of each sample of a batch, which depends on the sample and its draws alone."""
        return samples

    def vary(self, samples: Sequence[list[Any]], draws: Sequence[Draws]) -> list[list[Any]]:
        """The views of a batch. `samples[v]` are the samples that view v is made of, with their draws: the same for
        every view, unless the data name neighbours. Views that share some of their randomness are made here."""
        if self.augmentation == "none":
            return list(samples)
        return [self.augment(list(each), own) if each else [] for each, own in zip(samples, draws, strict=True)]

    def lend(self, samples: Sequence[Any]) -> None:
        """Keep up to `borrows` samples of training rows, of which views may take something."""

    def collate(self, samples: Sequence[Any]) -> Input:
        """Samples as one padded batch."""
        raise NotImplementedError

    def build_encoder(self, load: bool = True) -> Encoder:
        """The encoder by its name; without `load` the architecture alone, for weights that come from a run.

        Raises `ValueError` for an unknown name or weights that cannot be had.
        """
        raise NotImplementedError

    def build_view(self) -> LearnedView | None:
        """The network that learns to make views, if the augmentation has one."""
        return None

    @classmethod
    def encoders(cls) -> dict[str, str]:
        """Encoders by name with a one-line description; `family:NAME` stands for a whole library."""
        raise NotImplementedError

    @classmethod
    def family(cls, prefix: str) -> list[str]:
        """Every full name of a family such as `open_clip`; imports the library."""
        return []


MODALITIES: dict[str, type[Modality]] = {}
M = TypeVar("M", bound=type[Modality])


def register(cls: M) -> M:
    """Register a modality under its kind."""
    if cls.kind in MODALITIES:
        raise ValueError(f"modality {cls.kind!r} is defined twice: {MODALITIES[cls.kind]} and {cls}")
    MODALITIES[cls.kind] = cls
    return cls


def unknown_encoder(modality: type[Modality], name: str) -> ValueError:
    """The error for an encoder that a modality does not have, with the nearest name it does have."""
    prefix, colon, _ = name.partition(":")
    names = modality.family(prefix) if colon else []
    # without a colon a plain name is meant, not a pattern such as `timm:NAME`
    near = get_close_matches(name, names or [n for n in modality.encoders() if colon or ":" not in n], n=1, cutoff=0.0)
    return ValueError(f"{modality.kind} has no encoder {name!r}; the nearest is {near[0]!r} (see `clx encoders`)")
