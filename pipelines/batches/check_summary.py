"""What `clx data check` found, as rows of a table: columns, classes, targets."""

from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from clx.modalities.base import Modality
from clx.pipelines.batches.columns import column_of
from clx.pipelines.data.imbalance import Floats, histogram, readable_targets, shots, width_of
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.system.text import bars

CLASSES = 1000
UNITS = {"text": "characters", "audio": "seconds", "series": "steps"}
MOMENTS: dict[str, Callable[[Floats], Any]] = {"min": np.min, "mean": np.mean, "max": np.max}


@dataclass
class ColumnFindings:
    """What the cells of one modality in one split hold."""

    missing: int = 0
    several: int = 0
    """Rows with several cells, such as captions."""
    bad: int = 0
    cut: int = 0
    first_cut: int = 0
    """The first row that is longer than what is read of it."""
    lengths: "array[float]" = field(default_factory=lambda: array("d"))
    hashes: "array[int]" = field(default_factory=lambda: array("Q"))
    rows: "array[int]" = field(default_factory=lambda: array("q"))
    """Rows of `hashes`."""


def describe_column(name: str, modality: Modality, at: ColumnFindings, rows: int) -> dict[str, Any]:
    described: dict[str, Any] = {
        "kind": modality.kind,
        "column": column_of(name, modality),
        "cells": rows - at.missing,
        "missing": at.missing,
        "bad": at.bad,
        "cut": at.cut,
    }
    if at.several:
        described["several"] = at.several
    if at.lengths:
        low, middle, high = np.quantile(np.frombuffer(at.lengths), [0, 0.5, 1]).tolist()
        described["length"] = {"unit": UNITS[modality.kind], "min": low, "median": middle, "max": high}
    return described


def describe_target(splits: Mapping[str, Manifest], column: str, bin_width: float | None = None) -> dict[str, Any]:
    """How a target is spread, by split: `rows` that have it, `missing` ones, `min`, `mean`, `max`, the `histogram`
    (lower edge and rows of each bin from the first to the last) and how many rows stand in bins where training has
    `many` (more than 100), `median` or `few` (fewer than 20) rows."""
    values = {split: readable_targets(manifest, column) for split, manifest in splits.items()}
    width = bin_width or width_of(values["train"])
    found: dict[str, Any] = {"bin_width": width}
    for split, all_of_them in values.items():
        known = all_of_them[np.isfinite(all_of_them)]
        first, counts = histogram(known, width)
        groups = shots(values["train"], known, width)
        found[split] = {
            "rows": len(known),
            "missing": len(all_of_them) - len(known),
            **{name: float(f(known)) if len(known) else None for name, f in MOMENTS.items()},
            **{name: int((groups == code).sum()) for code, name in ((2, "many"), (1, "median"), (0, "few"))},
            "histogram": [[float(f"{(first + k) * width:.6g}"), int(count)] for k, count in enumerate(counts)],
        }
    return found


def target_summary(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The spread of targets as rows of a table: one for each split of each, the histogram as bars."""
    rows = []
    for column, described in report["targets"].items():
        for split, at in described.items():
            if split == "bin_width":
                continue
            histogram = bars([count for _, count in at["histogram"]], most=50, from_zero=True)
            figures = {key: value for key, value in at.items() if key != "histogram"}
            rows.append({"target": column, "split": split, **figures, "histogram": histogram})
    return rows


def summary(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The report as rows of a table: one for each input of each split."""
    rows = []
    for split, described in report["splits"].items():
        for name, at in described["inputs"].items():
            length = at.get("length", {})
            rows.append(
                {
                    "split": split,
                    "rows": described["rows"],
                    "classes": len(described["classes"]) or None,
                    "input": name,
                    "cells": at["cells"],
                    "missing": at["missing"],
                    "bad": at["bad"],
                    "cut": at["cut"],
                    **{key: length.get(key) for key in ("min", "median", "max", "unit")},
                }
            )
    return rows
