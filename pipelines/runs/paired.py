"""Whether the figures of two runs differ, by a paired bootstrap over the rows that both were evaluated on."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from clx.pipelines.runs.folder import DRAWN
from clx.pipelines.runs.listing import figures, read_results

ALIKE = ("data", "split", "rows_key")
"""What two evaluations must share for their rows to be the same,"""
SETTINGS = ("seed", "resamples", "confidence")
"""and which settings, for their resamples to be of the same rows."""
COUNTS = ("rows", "queries", "candidates")


def differences(runs: Sequence[Path]) -> tuple[list[dict[str, Any]], list[str]]:
    """How far each figure of the other runs is from that of the first, and why it is not known of some.

    Returns:
        Rows of `figure`, `run`, `against`, the `difference` of the two, its percentile interval `low` to `high` over
        resamples of the rows, at the confidence of the evaluations, and whether the runs `differ`: whether that
        interval is without 0. Then a line for each run that cannot be paired with the first.
    """
    first, *others = [Evaluated(run) for run in runs]
    rows: list[dict[str, Any]] = []
    reasons = []
    for other in others:
        if why := hindrance(first, other):
            reasons.append(f"{other.run} against {first.run}: no intervals of differences, as {why}")
        else:
            rows += paired(first, other)
    return rows, reasons


class Evaluated:
    """The evaluation at a run's end, with its figures in each resample, `[resamples]` by path, as far as kept."""

    def __init__(self, run: Path) -> None:
        self.run, self.result = run, read_results(run)
        self.draws = draws_of(run, self.result)
        self.settings = {key: self.result.get("settings", {}).get(key) for key in SETTINGS}


def hindrance(first: Evaluated, other: Evaluated) -> str:
    """Why two runs cannot be paired; nothing where they can."""
    for each in (first, other):
        if not each.result:
            return f"{each.run} was not evaluated at its end"
        if not each.draws:
            return f"{each.run} keeps no resamples, as those of an earlier version do not"
    for key in ALIKE:
        if first.result.get(key) != other.result.get(key):
            return f"they were evaluated on different rows ({key})"
    return "" if first.settings == other.settings else f"{', '.join(SETTINGS)} of their evaluations differ"


def paired(first: Evaluated, other: Evaluated) -> Iterator[dict[str, Any]]:
    """The differences of one run from the first."""
    import numpy as np

    numbers, confidence = [figures(each.result) for each in (first, other)], first.settings["confidence"]
    both = other.draws.keys() & numbers[0].keys() & numbers[1].keys()
    for path in (path for path in first.draws if path in both):
        line = path.rpartition(".")[0]
        counts = [[each.get(f"{line}.{count}") for count in COUNTS] for each in numbers]
        apart = other.draws[path].astype(float) - first.draws[path]
        apart = apart[np.isfinite(apart)]
        if counts[0] == counts[1] and len(apart):
            low, high = np.quantile(apart, [(1 - confidence) / 2, (1 + confidence) / 2]).tolist()
            difference = numbers[1][path] - numbers[0][path]
            told = {"figure": path, "run": str(other.run), "against": str(first.run), "difference": difference}
            yield {**told, "low": low, "high": high, "differ": low > 0 or high < 0}


def draws_of(run: Path, result: dict[str, Any]) -> dict[str, Any]:
    """The figures of a run's last evaluation in each resample, `[resamples]` by path; nothing where none are kept."""
    import numpy as np

    try:
        with np.load(run / DRAWN, allow_pickle=False) as file:
            found = {name: file[name] for name in file.files}
    except Exception:  # NumPy raises what damaged zip files do; of these it is as if nothing had been kept
        return {}
    return found if str(found.pop("key", "")) == result.get("key") else {}
