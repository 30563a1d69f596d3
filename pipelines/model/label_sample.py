"""The labels that a step compares its rows with, where it does not look at all of them."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from clx.losses.primitives.draws import permutation
from clx.pipelines.config.schema import Config
from clx.pipelines.config.words_schema import LabelSample
from clx.pipelines.system.errors import BadInput


class Chosen(NamedTuple):
    """Some of the labels."""

    labels: Tensor
    """`[K]`, their numbers, ascending."""
    stands_for: Tensor
    """`[K]`, how many labels each counts for: 1, or more of those that were drawn."""


def choose(sample: LabelSample, applies: Tensor, generator: torch.Generator) -> Chosen:
    """The labels that apply to any row, and as many others as there is to be, drawn evenly without repeats.

    Args:
        sample: how many, and whether they stand for all others.
        applies: `[C]` bool, whether a label applies to any row.
        generator: of this step.
    """
    others = (~applies).nonzero()[:, 0]
    drawn = others[permutation(len(others), others, generator)[: sample.others]]
    labels = torch.cat([applies.nonzero()[:, 0], drawn])
    count = torch.ones(len(labels), device=labels.device)
    if sample.corrected and len(drawn):
        count[len(labels) - len(drawn) :] = len(others) / len(drawn)
    labels, order = labels.sort()
    return Chosen(labels, count[order])


def applying(given: Mapping[str, Any], outputs: int) -> Tensor:
    """Which of so many labels `[C]` apply to any row, by `labels` or `label_sets` of a batch."""
    sets = given.get("label_sets")
    if sets is not None:
        found: Tensor = (sets > 0).any(0)  # not where they are not known
        return found
    labels = given["labels"]
    return torch.zeros(outputs, dtype=torch.bool, device=labels.device).index_fill(0, labels[labels >= 0], True)


def among(chosen: Chosen, given: Mapping[str, Any], outputs: int) -> dict[str, Any]:
    """What a loss is given, by the places of the chosen labels."""
    found: dict[str, Any] = {"stands_for": chosen.stands_for}
    if given.get("label_sets") is not None:
        found["label_sets"] = given["label_sets"][:, chosen.labels]
    if "labels" in given:
        places = given["labels"].new_full((outputs + 1,), -1)  # the last of rows without a label
        places[chosen.labels] = torch.arange(len(chosen.labels), device=places.device)
        found["labels"] = places[given["labels"]]
    return found


def check_sample(config: Config, classes: int) -> None:
    """Raise `BadInput` for a sample that would be all of the labels."""
    for term in config.objective:
        if term.labels_per_step is not None and term.labels_per_step.others >= classes:
            raise BadInput(
                f"objective.labels_per_step: {term.name} would draw {term.labels_per_step.others:,} labels, and the "
                f"training rows have {classes:,}: set it lower, or leave it out"
            )
