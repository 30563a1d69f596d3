"""What every loss is: a dataclass of hyperparameters that is also a module, registered by its name."""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_type_hints

import torch
from annotated_types import Gt
from torch import Tensor, nn

from clx.losses.extras import EXTRAS, OF_SECOND
from clx.losses.judge import Judge
from clx.losses.primitives.autograd import at_least_float32
from clx.losses.primitives.functional import held_between
from clx.losses.primitives.tiles import multiplying

Embeddings = dict[str, Tensor]
"""Embeddings `[B, D]` by name; views of one modality are names too: `image/0`, `image/1`."""
Steps = dict[str, tuple[Tensor, Tensor]]
"""Embeddings per time step `[B, T, D]` and their mask `[B, T]` by name."""

Data = Literal["pairs", "several modalities", "one modality", "labels", "label sets", "scores", "targets"]
"""What a user may have: pairs of two inputs, more inputs than two, one input without labels (views of it are made), a
label of each row, sets of labels, a score of each pair, numbers."""


def bfloat16_products(on: bool) -> AbstractContextManager[None]:
    """Round the factors of products of all pairs to bfloat16; with `on` False, leave what is set."""
    return multiplying(torch.bfloat16) if on else nullcontext()


@dataclass(eq=False)  # eq=False keeps nn.Module hashable
class Loss(nn.Module):
    """An objective on embeddings. Subclasses are keyword-only dataclasses; their fields are the parameters.

    `forward(z, *, ...)` takes `Embeddings` and returns a scalar. Its keyword-only arguments declare what it
    needs besides, out of `EXTRAS`, and nothing else is passed to it; one with a default is passed where the data
    have it.

    A loss normalises for itself when its formula wants unit rows, works in float32 under autocast, and never
    knows its rank: rows of all processes are gathered before it is called. Under autocast to bfloat16 on CUDA, the
    factors of its products of all pairs are rounded to that; sums, exponentials and positives stay in float32.
    """

    family: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    formula: ClassVar[str] = ""  # u: unit rows, t: temperature, lse: log-sum-exp
    cost: ClassVar[str] = ""  # time and memory, of B rows of width D under V names
    use: ClassVar[str] = ""  # when to choose it
    fits: ClassVar[tuple[Data, ...]] = ()
    """What of the user's data it is made for."""
    sharpness: ClassVar[str] = ""  # what similarities are multiplied by: the inverse of the effective temperature
    ours: ClassVar[str] = ""  # what of the definition is not the paper's, or not known to be
    fuses_by_product: ClassVar[bool] = False
    """Whether several inputs score a candidate together by the product of their rows, as `fuse` then gives it, and not
    each for itself by its cosine. In such a space the cosine of one pair of inputs says little."""
    host_reads: ClassVar[int] = 0
    """How often the host waits for a GPU in forward and backward, where nothing is missing. It must not grow with the
    batch. Rows without an input cost one more for each input, at most."""
    compares_times: ClassVar[bool] = False
    """Whether step t of one input is compared with step t of another: a time that both views show."""
    compares_embeddings: ClassVar[bool] = True
    """Whether embeddings matter to it: not where it looks at inner states of an encoder alone."""
    absolute: ClassVar[bool] = False
    """Whether it reads a prediction above 0 as a label that applies, and one below as one that does not."""
    trains_predictions: ClassVar[bool] = False
    """Whether the head of the predictions learns from this loss: not from one that takes them as they are."""

    def __post_init__(self) -> None:
        nn.Module.__init__(self)
        self.log: dict[str, float | Tensor] = {}
        """What the last forward counted, e.g. dropped anchors: numbers above 0, or scalars on a GPU, 0 too."""
        self.remembers = True  # False while `dims` asks at a width that is not the last: rows count once a step

    def __call__(self, z: Embeddings, **extras: Any) -> Tensor:
        """Run `forward` in float32 (float64 stays), whatever the autocast around it.

        Raises:
            ValueError: if the embeddings are not `[B, D]` tensors of one shape.
        """
        first = next(iter(z.values()))
        if first.dim() != 2 or any(rows.shape != first.shape for rows in z.values()):
            raise ValueError(f"embeddings must share one shape [B, D], got { {n: [*r.shape] for n, r in z.items()} }")
        for other in ("negatives", "keys", "layers", "key_layers"):
            if rows_of := extras.get(other):
                extras[other] = {name: at_least_float32(rows) for name, rows in rows_of.items()}
        self.log.clear()
        for other in ("steps", "attention", "masked"):
            if masked := extras.get(other):
                extras[other] = {name: (at_least_float32(rows), mask) for name, (rows, mask) in masked.items()}
        z, device = {name: at_least_float32(rows) for name, rows in z.items()}, first.device.type
        if not torch.is_autocast_enabled(device):  # entering the context takes longer than asking
            alone: Tensor = super().__call__(z, **extras)
            return alone
        half = device == "cuda" and torch.get_autocast_dtype(device) == torch.bfloat16
        with torch.autocast(device, enabled=False), bfloat16_products(half):
            result: Tensor = super().__call__(z, **extras)
            return result

    def count(self, name: str, number: Tensor | int) -> None:
        """Add to the log. A scalar on a GPU stays there until somebody reads the log: so nothing waits for it here."""
        number = int(number) if not isinstance(number, Tensor) or number.is_cpu else number
        if isinstance(number, Tensor) or number:
            self.log[name] = self.log.get(name, 0) + number

    @classmethod
    @cache  # reading a signature takes longer than some losses
    def needs(cls) -> frozenset[str]:
        """Names of the keyword-only arguments of `forward`."""
        parameters = inspect.signature(cls.forward).parameters.values()
        return frozenset(p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY)

    @classmethod
    @cache
    def required(cls) -> frozenset[str]:
        """Those of `needs` without a default, which every loss of this class must be given."""
        parameters = inspect.signature(cls.forward).parameters
        return frozenset(name for name in cls.needs() if parameters[name].default is inspect.Parameter.empty)

    def requires(self) -> frozenset[str]:
        """Those of `needs` that this loss cannot do without: `required`, and what its settings make necessary."""
        return self.required()

    def asks_second(self) -> bool:
        """Whether it cannot do without something that a second model gives."""
        return bool(self.requires() & OF_SECOND)

    def scale(self) -> tuple[float | None, float | None]:
        """Temperature and bias in force, by which similarities become probabilities.

        The temperature is None for a loss that has none. The bias is None unless the loss takes the
        sigmoid of each logit by itself, `similarity / temperature + bias`.
        """
        return None, None

    def learned(self) -> dict[str, Tensor]:
        """Scalars `[]` that the loss learns and that are worth a line in the log, by name; detached."""
        return {}

    @classmethod
    def target_defaults(cls, deviation: float) -> dict[str, float]:
        """Options that suit targets of this standard deviation, for those that are not given; `weight` is the term's.

        Args:
            deviation: of the training targets, in their units; of several, the root of the sum of squares. At least 0.

        Returns:
            By option, to three digits.
        """
        return {}

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Read learned scalars that were saved as `[]`, too. They are `[1]`, since FSDP refuses 0-d parameters."""
        for name, parameter in self.named_parameters(recurse=False):
            saved = state_dict.get(prefix + name)
            if saved is not None and saved.dim() == 0 and parameter.dim() == 1:
                state_dict[prefix + name] = saved.view(1)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def setup(self, names: Sequence[str], dim: int, classes: Sequence[str] = (), rows: int = 0) -> None:
        """Create what depends on the inputs' names, the embedding width and the training data.

        Called once, before training. Initial values are drawn from torch's global generator.

        Args:
            names: of the inputs that the term looks at, as they come in `forward`.
            dim: width of the embeddings.
            classes: names of the labels; label k is that of the k-th.
            rows: of the training data, so that every `sample_id` is below; 0 where that is not known.
        """

    def setup_groups(self, count: int) -> None:
        """Create what depends on how many groups `data.group` makes; after `setup`, where `groups` are required."""

    def setup_decoders(self, widths: Mapping[str, int], tokens: Mapping[str, int] | None = None) -> None:
        """Create what depends on how many numbers `originals` has of each modality, or columns `masked`; once, after
        `setup`, of a loss that asks for them. `tokens` has, of modalities of tokens, how many different there are."""

    def fuse(self, z: Embeddings, present: dict[str, Tensor]) -> Tensor:
        """One query `[B, D]` from several inputs of each item; its dot product with unit candidate rows is the score.

        Here the sum of unit rows, so the score is the sum of cosines. Absent inputs add 0.

        Args:
            z: `[B, D]` by name.
            present: `[B]` bool by name, for every name of `z`.
        """
        rows = [
            torch.where(present[name][:, None], nn.functional.normalize(x.float(), dim=-1), 0) for name, x in z.items()
        ]
        return torch.stack(rows).sum(0)


def three_digits(value: float) -> float:
    """`value` rounded to three significant digits, as people write numbers into a config."""
    return float(f"{value:.3g}")


Exclude = Literal["none", "sample_id", "labels", "repeats"] | Judge

TERM_KEYS = (
    *("name", "weight", "inputs", "negatives", "dims", "from", "until", "rows", "exclude", "of", "fuse", "words"),
    *("prototypes_per_label", "labels_per_step"),
)
"""Keys of a term in a config. A loss may have a field of such a name only if it is that key itself."""
DECLARED_TERM_KEYS: dict[str, Any] = {"exclude": Exclude, "of": str | None}
"""Those that a loss takes by a field, which must have this type."""

LOSSES: dict[str, type[Loss]] = {}
LossClass = TypeVar("LossClass", bound=type[Loss])


def register(name: str) -> Callable[[LossClass], LossClass]:
    """Make a loss known by `name`.

    Raises:
        ValueError: if another loss has this name, it asks for what is not in `EXTRAS`, or a field means something else
            than the key of a term that it is called like: the two could not be told apart in a config.
    """

    def add(cls: LossClass) -> LossClass:
        if name in LOSSES:
            raise ValueError(f"loss {name!r} is defined in {LOSSES[name].__module__} and in {cls.__module__}")
        if unknown := cls.needs() - EXTRAS.keys():
            raise ValueError(f"loss {name!r} asks for {', '.join(sorted(unknown))}; there is {', '.join(EXTRAS)}")
        types = get_type_hints(cls)
        for key in TERM_KEYS:
            if key in {f.name for f in fields(cls)} and types[key] != DECLARED_TERM_KEYS.get(key):
                raise ValueError(f"field {key!r} of {name}: a term of a config has a key of that name")
        LOSSES[name] = cls
        return cls

    return add


@dataclass(eq=False, kw_only=True)
class Tempered(Loss):
    """A loss whose similarities are divided by a temperature, fixed or learned as its logarithm."""

    sharpness = "1 / temperature"

    temperature: Annotated[float, Gt(0)] = 0.07
    learn_temperature: bool = False
    min_temperature: Annotated[float, Gt(0)] = 0.01  # CLIP's clamp of the logit scale at 100
    max_temperature: Annotated[float, Gt(0)] = 10.0
    log_temperature: nn.Parameter = field(init=False, repr=False)  # [1]

    def __post_init__(self) -> None:
        super().__post_init__()
        if not math.isfinite(self.temperature):
            raise ValueError(f"temperature {self.temperature} is not finite")
        if self.min_temperature > self.max_temperature:
            raise ValueError(f"min_temperature {self.min_temperature} is above max_temperature {self.max_temperature}")
        if self.learn_temperature:
            if not self.min_temperature <= self.temperature <= self.max_temperature:
                raise ValueError(
                    f"temperature {self.temperature} is learned, so it must start between min_temperature "
                    f"{self.min_temperature} and max_temperature {self.max_temperature}"
                )
            self.log_temperature = nn.Parameter(torch.tensor([math.log(self.temperature)]))

    @property
    def tau(self) -> Tensor | float:
        """The temperature in force: a number when fixed, a scalar tensor when learned."""
        if not self.learn_temperature:
            return self.temperature
        return held_between(self.log_temperature, self.min_temperature, self.max_temperature)

    def scale(self) -> tuple[float, float | None]:
        tau = self.tau
        return (tau.item() if isinstance(tau, Tensor) else tau), None

    def learned(self) -> dict[str, Tensor]:
        tau = self.tau
        return {"temperature": tau.detach()} if isinstance(tau, Tensor) else {}


def require_two_inputs(z: Embeddings) -> None:
    """Raise ValueError if there are fewer than two names."""
    if len(z) < 2:
        raise ValueError(f"this loss compares two inputs or more, got only {', '.join(z) or 'none'}")


def zero_loss(z: Embeddings) -> Tensor:
    """A loss of 0 with gradients of 0, for a batch from which nothing can be learned."""
    return torch.stack([rows[:0].sum() for rows in z.values()]).sum()


def average(terms: Sequence[Tensor]) -> Tensor:
    """Mean of one or more scalars."""
    return terms[0] if len(terms) == 1 else torch.stack(list(terms)).mean()
