"""Classes of rows by name: what a cell of the label's column says, the same in every file."""

from collections.abc import Iterable, Iterator
from typing import Any
from warnings import warn

from clx.modalities.numbers import class_name
from clx.pipelines.data.distinct import distinct
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.data.written_columns import holds_text
from clx.pipelines.system.errors import ClxWarning

SHOWN = 3
"""Pairs of classes in a line."""


def class_of(cell: Any) -> str | None:
    """The class that a cell of a label names (see `modalities.numbers.class_name`)."""
    return class_name(cell)


def index_of(names: Iterable[str]) -> dict[str, int]:
    """The number of each class. Those of runs that took `1.0` or `TRUE` as it was written are found by their name."""
    index: dict[str, int] = {}
    for k, name in enumerate(names):
        index.setdefault(class_of(name) or name, k)
    return index


def warn_of_lost(names: Iterable[str]) -> None:
    """Warn of classes that a run of an earlier version learned and that are no classes now, `None` say."""
    lost = [name for name in names if class_of(name) is None]
    if lost:
        said = ", ".join(map(repr, lost[:8]))
        warn(
            f"{said}: learned as a class, and a missing label now; such rows are not measured", ClxWarning, stacklevel=2
        )


def alike_but_for_case(column: str, manifests: Iterable[Manifest]) -> Iterator[str]:
    """A line on classes whose names differ by the case of letters alone."""
    alike: dict[str, dict[str, None]] = {}
    for manifest in manifests:
        if not holds_text(manifest, column):
            continue
        for name in filter(None, map(class_of, distinct(manifest, column)[0])):
            alike.setdefault(name.casefold(), {})[name] = None
    pairs = [" and ".join(map(repr, names)) for names in alike.values() if len(names) > 1]
    if pairs:
        more = f" and {len(pairs) - SHOWN} more" if len(pairs) > SHOWN else ""
        yield f"column {column}: {', '.join(pairs[:SHOWN])}{more} are classes of their own, by the case of letters"
