"""Rows whose samples are damaged by name and severity, to see what a model bears."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from clx.modalities.base import Modality
from clx.modalities.corruptions import CORRUPTIONS, corrupted
from clx.modalities.draws import Draws
from clx.pipelines.batches.batch import BadRow, Batch
from clx.pipelines.batches.cells import vary
from clx.pipelines.batches.dataset import BatchDataset
from clx.pipelines.batches.decoded import VIEW, Asked, Decoded
from clx.pipelines.system.errors import BadInput, nearest

USUAL = 3
"""The severity where none is named."""
SEVERITIES = range(1, 6)


class Damage(NamedTuple):
    """What is done to the samples of an input."""

    name: str
    severity: int


def damage_of(spec: str, modalities: Mapping[str, Modality]) -> dict[str, Damage]:
    """By input what `[INPUT.]NAME[:SEVERITY]` asks for; without INPUT of all inputs of a kind that has the name.

    Raises `BadInput` for what no input has.

    >>> damage_of("noise:2", {})
    Traceback (most recent call last):
    clx.pipelines.system.errors.BadInput: --corrupt noise:2: no input has a noise (there is nothing to corrupt)
    """
    where, _, severity = spec.partition(":")
    owner, dot, name = where.rpartition(".")
    if severity and severity not in map(str, SEVERITIES):
        raise BadInput(f"--corrupt {spec}: severity is 1 to 5, not {severity}")
    if dot and owner not in modalities:
        raise BadInput(f"--corrupt {spec}: no input {owner!r}{nearest(owner, [*modalities])}")
    known = {each: CORRUPTIONS.get(m.kind, {}) for each, m in modalities.items() if not dot or each == owner}
    found = {each: Damage(name, int(severity or USUAL)) for each, has in known.items() if name in has}
    if not found:
        told = "; ".join(f"{each} has {', '.join(has)}" for each, has in known.items() if has)
        raise BadInput(f"--corrupt {spec}: no input has a {name} ({told or 'there is nothing to corrupt'})")
    return found


@dataclass
class CorruptedDataset(BatchDataset):
    """Batches without views, of damaged samples. What becomes of a row depends on `seed` and the row alone."""

    damage: dict[str, Damage] = field(default_factory=dict)
    """By input."""

    def _collate(self, rows: list[int], of_view: list[list[Decoded]], asked: Asked, bad: list[BadRow]) -> Batch:
        made = [one._replace(inputs={**one.inputs}) for one in of_view[0]]
        for name, (what, severity) in self.damage.items():
            there = [k for k, one in enumerate(made) if name in one.inputs]
            draws = asked.take(there).draws(VIEW, name, what)
            change = partial(_changed, self.modalities[name], what, severity)
            (damaged,) = vary(self.modalities[name], [[made[k].inputs[name] for k in there]], [draws], change)
            for k, sample in zip(there, damaged, strict=True):
                made[k].inputs[name] = sample
        return super()._collate(rows, [made] * len(of_view), asked, bad)


def _changed(
    modality: Modality, what: str, severity: int, samples: list[list[Any]], draws: list[Draws]
) -> list[list[Any]]:
    return [corrupted(modality, what, severity, each, own) for each, own in zip(samples, draws, strict=True)]
