"""What a term asks of a head that tells labels: their names as its weights, prototypes, a sample of them at a step."""

from collections.abc import Mapping

from clx.losses.base import LOSSES
from clx.pipelines.config.schema import Config, Term
from clx.pipelines.config.shared_towers import shared_prompt
from clx.pipelines.system.errors import BadInput, nearest


def heads_labels(name: str) -> bool:
    """Whether a loss trains a head of labels."""
    return LOSSES[name].trains_predictions and bool({"labels", "label_sets"} & LOSSES[name].needs())


def tells_labels(name: str) -> bool:
    """Whether a loss trains a head by what that says of each label."""
    return heads_labels(name) and "head" not in LOSSES[name].needs()


def samples_labels(name: str) -> bool:
    """Whether a loss can learn from a part of the labels."""
    return "stands_for" in LOSSES[name].needs()


def check_label_head(config: Config, term: Term, where: str) -> None:
    """Raise `BadInput` for keys of a head that tells labels that a term cannot have."""
    if term.words is not None:
        check_words(config, term, where)
    if term.prototypes_per_label is not None:
        check_prototypes(config, term, where)
    if term.labels_per_step is not None:
        check_sample(config, term, where)


def check_prototypes(config: Config, term: Term, where: str) -> None:
    """Raise `BadInput` for prototypes of labels that a term cannot have."""
    where, inputs = f"{where}.prototypes_per_label", config.inputs_of(term)
    if not heads_labels(term.name):
        takers = ", ".join(sorted(filter(heads_labels, LOSSES)))
        raise BadInput(f"{where}: {term.name} trains no head of labels; {takers} do")
    if len(inputs) != 1:
        raise BadInput(f"{where}: prototypes are of one input, and the term has {', '.join(inputs)}: set inputs")
    if config.data.target:
        raise BadInput(f"{where}: prototypes are of labels, and data.target has numbers to predict: leave one out")
    if term.words is not None:
        raise BadInput(f"{where}: words reads the labels in place of a head of prototypes: leave one out")


def check_words(config: Config, term: Term, where: str) -> None:
    """Raise `BadInput` for labels' names that a term cannot tell apart."""
    words = term.words
    assert words is not None
    if not tells_labels(term.name):
        takers = ", ".join(sorted(filter(tells_labels, LOSSES)))
        raise BadInput(f"{where}.words: {term.name} trains no head that tells labels; {takers} do")
    if words.of not in config.modalities:
        raise BadInput(f"{where}.words: unknown modality {words.of!r}{nearest(words.of, config.modalities)}")
    inputs = config.inputs_of(term)
    if len(inputs) != 1:
        raise BadInput(f"{where}.words: labels are told of one input, and the term has {', '.join(inputs)}: set inputs")
    if config.data.target:
        raise BadInput(f"{where}.words: labels are told, and data.target has numbers to predict: leave one out")
    options = config.modalities[words.of]
    if options.get("pair") is not None:
        raise BadInput(f"{where}.words: {words.of} reads a pair of columns, and a label is one text")
    prompt = options.get("prompt")
    if isinstance(prompt, Mapping):
        prompt = shared_prompt(config, words.of, prompt) if "like" in prompt else prompt
        if words.temperature is not None or words.learn_temperature is not None:
            raise BadInput(
                f"{where}.words: the learned prompt has a temperature of its own: set "
                f"modalities.{words.of}.prompt.temperature"
            )
        if words.bias is not None and prompt.get("negative"):
            raise BadInput(f"{where}.words.bias: prompt.negative says that a label does not apply: leave one out")
    if words.bias is not None and not LOSSES[term.name].absolute:
        raise BadInput(f"{where}.words.bias: {term.name} compares labels with each other, so it would change nothing")


def check_sample(config: Config, term: Term, where: str) -> None:
    """Raise `BadInput` for a sample of the labels that a term cannot learn from."""
    where = f"{where}.labels_per_step"
    if not samples_labels(term.name):
        takers = ", ".join(sorted(filter(samples_labels, LOSSES)))
        raise BadInput(f"{where}: {term.name} looks at all labels; those that can do with a sample are {takers}")
    inputs = config.inputs_of(term)
    if len(inputs) != 1 or term.prototypes_per_label is not None:
        what = f"has {', '.join(inputs)}: set inputs" if len(inputs) != 1 else "has prototypes_per_label: leave one out"
        raise BadInput(f"{where}: a sample is of a linear head of one input, or of words, and the term {what}")
