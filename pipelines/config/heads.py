"""The heads that predict: which terms train which, and what each looks at."""

from dataclasses import dataclass, field, replace

from clx.losses.base import LOSSES
from clx.pipelines.config.schema import Config, Fuse, Term
from clx.pipelines.config.words_schema import Words
from clx.pipelines.system.errors import BadInput

FUSE: Fuse = "gated"


@dataclass(frozen=True)
class Head:
    """A head that predicts, trained by all terms that have its inputs."""

    inputs: tuple[str, ...]
    """Modalities that it looks at, in the order of the config's."""
    fuse: Fuse
    words: Words | None = None
    """The modality that makes of the labels' names what it tells apart; its own weights when None."""
    prototypes: int | None = None
    """Of each label, where it tells labels by cosines with such."""
    absolute: bool = field(default=False, compare=False)
    """Whether any of these terms asks of each label by itself whether it applies."""

    @property
    def name(self) -> str:
        return "+".join(self.inputs)


def head_of(config: Config, term: Term) -> Head | None:
    """The head that a term trains, if it trains one."""
    if term.name not in LOSSES or not LOSSES[term.name].trains_predictions:
        return None
    inputs = config.inputs_of(term)
    return Head(
        tuple(name for name in config.modalities if name in inputs),
        term.fuse or FUSE,
        term.words,
        term.prototypes_per_label,
        LOSSES[term.name].absolute,
    )


def heads_of(config: Config) -> list[Head]:
    """All heads of a run: first the one of the most inputs, of several such the one of the first term. It predicts.

    Raises `BadInput` where terms of the same inputs do not agree how their head looks at these.
    """
    found: dict[tuple[str, ...], tuple[Head, str]] = {}
    for term in config.objective:
        head = head_of(config, term)
        if head is None:
            continue
        known, name = found.setdefault(head.inputs, (head, term.name))
        if known != head:
            parts = {"fuse": "fuse", "words": "words", "prototypes": "prototypes_per_label"}
            part = next(each for each in parts if getattr(known, each) != getattr(head, each))
            raise BadInput(
                f"objective: terms of the same inputs ({', '.join(head.inputs)}) train one head, but {name} has "
                f"{getattr(known, part)} and {term.name} has {getattr(head, part)}: give its terms the same "
                f"{parts[part]}"
            )
        if head.absolute:
            found[head.inputs] = replace(known, absolute=True), name
    asking = [t for t in config.objective if t.name in LOSSES and "predictions" in LOSSES[t.name].required()]
    if asking and not found:  # none learns to predict; predictions are those that the head begins with
        inputs = config.inputs_of(asking[0])
        return [Head(tuple(name for name in config.modalities if name in inputs), FUSE)]
    return sorted((head for head, _ in found.values()), key=lambda head: -len(head.inputs))
