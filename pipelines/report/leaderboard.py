"""A leaderboard: the objectives of many runs side by side on each set of data, what they cost, and whether the one that
`clx init` recommends is among the best."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import fmean
from typing import Any

from clx.losses.base import LOSSES
from clx.pipelines.config.schema import Config
from clx.pipelines.config.secrets import without_secrets
from clx.pipelines.data.inferred import NONE, Asked
from clx.pipelines.data.write_recipe import infer_config
from clx.pipelines.report.rendered import render_page
from clx.pipelines.report.report import refuse_other, work_of
from clx.pipelines.runs.folder import read_config
from clx.pipelines.runs.listing import figure, find, flat, mean_and_deviation, terms_of
from clx.pipelines.runs.state import read, state_of
from clx.pipelines.system.durable_files import write_text
from clx.pipelines.system.errors import BadInput
from clx.pipelines.system.remote import shown
from clx.pipelines.system.text import number

MEASURES = (
    "sts.*.spearman",
    "retrieval.*.R@1",
    "regression.*.r2",
    "probe.*.top1",
    "knn.*.top1",
    "classification.*.top1",
    "zeroshot.*.top1",
)
"""What a set of data is judged by: the first of these that all its runs have; all are better when higher."""
WITHIN = 0.02
"""A recommendation is a hit when its figure falls short of the best by at most this share of it."""
APART = ("objective", "eval", "stages", "train.seed")
"""Keys in which runs on one set of data may differ; other differences are told."""
SCHEMA = 1


@dataclass
class Place:
    """One objective on one set of data."""

    objective: str
    mean: float
    interval: tuple[float, float] | None
    """Of the mean over seeds, 95 % by Student's distribution; none of a single run."""
    seeds: int
    cost: float | None
    """Seconds of training per 1,000 rows, where the runs tell."""


@dataclass
class Board:
    """One set of data: its objectives, best first."""

    data: str
    measure: str
    places: list[Place]
    recommended: str | None
    notes: list[str]

    @property
    def advised(self) -> Place | None:
        return next((place for place in self.places if place.objective == self.recommended), None)

    @property
    def hit(self) -> bool | None:
        """Whether the recommended objective is as good as the best, but for `WITHIN`; None if it, or no other, ran."""
        if self.advised is None or len(self.places) < 2:
            return None
        best = self.places[0].mean
        return self.advised.mean >= best - WITHIN * abs(best)


@dataclass
class Entry:
    """A finished run."""

    folder: Path
    config: Config


def leaderboard(folder: Path, out: Path, say: Callable[[str], None], overwrite: bool = False) -> dict[str, Any]:
    """Write the page about all finished runs in a folder to `out`; what stands there, with the table in Markdown.

    Raises `BadInput` when no run is finished, and for a file at `out` that is no report, or another one.
    """
    refuse_other(out, work_of([folder]), overwrite)
    found = boards(folder, say)
    hits = [board.hit for board in found if board.hit is not None]
    text = markdown(found)
    page = render_page(
        "leaderboard.html",
        title=f"Leaderboard: {len(found)} sets of data",
        version=version("clx"),
        of=work_of([folder]),
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        boards=[drawn(board) for board in found],
        hits=sum(hits),
        judged=len(hits),
        within=f"{WITHIN:.0%}",
        footer=f"clx report --leaderboard {folder}",
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, page)
    return {
        "schema": SCHEMA,
        "report": str(out),
        "hits": sum(hits),
        "judged": len(hits),
        "boards": [as_json(board) for board in found],
        "markdown": text,
    }


def boards(folder: Path, say: Callable[[str], None]) -> list[Board]:
    """The sets of data of the runs in a folder, in the order in which they first come."""
    groups: dict[str, list[Entry]] = {}
    unfinished = 0
    for run in find(folder):
        if state_of(run) != "finished":
            unfinished += 1
            continue
        config = read_config(run)
        groups.setdefault(json.dumps(config.data.sources), []).append(Entry(run, config))
    if unfinished:
        say(f"{unfinished} runs are not finished and left out")
    if not groups:
        raise BadInput(f"{folder}: no finished run; clx sweep leaderboard -o {folder} makes some")
    names = data_names([entries[0].config for entries in groups.values()])
    made = [board_of(name, entries) for name, entries in zip(names, groups.values(), strict=True)]
    for board in made:
        for note in board.notes:
            say(f"{board.data}: {note}")
    if not any(board.places for board in made):
        raise BadInput(f"{folder}: no set of data whose runs have a figure in common, of {', '.join(MEASURES)}")
    return sorted((board for board in made if board.places), key=lambda board: (board.measure, board.data))


def data_names(configs: list[Config]) -> list[str]:
    """A short name of each config's data: that of its file or folder, or of the folder of a file `train`, say."""
    names = []
    for config in configs:
        parts = []
        for source in without_secrets(config).data.sources:
            path = Path(shown(source))
            plain = path.stem.lower() in ("train", "val", "test", "all", "data", "metadata", "manifest")
            parts.append((path.parent.name if plain and path.parent.name else path.stem).rpartition(":")[2])
        names.append(" + ".join(parts))
    return [name if names.count(name) == 1 else f"{name} ({k + 1})" for k, name in enumerate(names)]


def board_of(name: str, entries: list[Entry]) -> Board:
    """The objectives on one set of data; without places where the runs have no figure in common."""
    measures = [m for m in MEASURES if all(figure(entry.folder, m) is not None for entry in entries)]
    if not measures:
        return Board(name, "", [], None, ["its runs have no figure in common, and are left out"])
    by_objective: dict[str, list[Entry]] = {}
    for entry in entries:
        by_objective.setdefault(terms_of(entry.config), []).append(entry)
    places = [place_of(objective, runs, measures[0]) for objective, runs in by_objective.items()]
    recommended, why = recommendation([entry.config for entry in entries])
    notes = [*differences(entries), *([f"no recommendation: {why}"] if why else [])]
    return Board(name, measures[0], sorted(places, key=lambda p: -p.mean), recommended, notes)


def place_of(objective: str, runs: list[Entry], measure: str) -> Place:
    values = [value for run in runs if (value := figure(run.folder, measure)) is not None]
    mean, deviation = mean_and_deviation(values)
    interval = None
    if deviation is not None:
        from scipy.stats import t

        half = float(t.ppf(0.975, len(values) - 1)) * deviation / len(values) ** 0.5
        interval = (mean - half, mean + half)
    speeds = [speed for run in runs if (speed := read(run.folder).get("rows_per_s"))]
    return Place(objective, mean, interval, len(values), fmean(1000 / s for s in speeds) if speeds else None)


def recommendation(configs: Sequence[Config]) -> tuple[str | None, str]:
    """The objective that `clx init` writes for the data of runs, told the answer if one learns it; else why none."""
    config = configs[0]
    if len(config.data.sources) != 1:
        return None, "the runs have several sources"
    learned = any(
        {"labels", "label_sets"} & LOSSES[term.name].required() for each in configs for term in each.objective
    )
    label = config.data.label if learned else None
    asked = Asked(labels=label) if isinstance(label, list) else Asked(label=label or NONE)
    asked = Asked(target=config.data.target) if config.data.target else asked
    try:
        written = infer_config(config.data.sources[0], asked, sure=False)
    except (BadInput, OSError) as error:
        return None, " ".join(str(error).split())
    terms = written.config["objective"]
    return "+".join(term["name"] for term in (terms if isinstance(terms, list) else [terms])), ""


def differences(entries: list[Entry]) -> Iterator[str]:
    """In which settings the runs differ that are to be alike."""
    rows = [flat(entry.config.model_dump(mode="json", exclude=set(APART))) for entry in entries]
    for key in dict.fromkeys(key for row in rows for key in row):
        if key not in APART and len({json.dumps(row.get(key)) for row in rows}) > 1:
            yield f"its runs differ in {key} too, so that more than the objective is compared"


def measure_name(measure: str) -> str:
    """`probe.*.top1` in words.

    >>> measure_name("probe.*.top1")
    'probe top1'
    """
    return measure.replace(".*.", " ")


def spread(place: Place) -> str:
    return "" if place.interval is None else f"{number(place.interval[0])} to {number(place.interval[1])}"


def verdict(board: Board) -> str:
    return {True: "hit", False: "miss", None: "not run"}[board.hit]


def markdown(found: list[Board]) -> str:
    """One row a set of data: what wins, what is recommended, and all objectives with means and costs."""
    lines = ["| data | figure | best | recommended | | all, with seconds per 1,000 rows |", "|---|---|---|---|---|---|"]
    for board in found:
        best, advised = board.places[0], board.advised
        told = f"{board.recommended} {number(advised.mean)}" if advised else board.recommended or "none"
        each = ", ".join(
            f"{p.objective} {number(p.mean)}" + (f" ({p.cost:.2g} s)" if p.cost is not None else "")
            for p in board.places
        )
        interval = f" ({spread(best)})" if best.interval else ""
        first = f"{best.objective} {number(best.mean)}{interval}"
        cells = (board.data, measure_name(board.measure), first, told, verdict(board), each)
        lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    return "\n".join(lines) + "\n"


def as_json(board: Board) -> dict[str, Any]:
    places = [
        {
            "objective": p.objective,
            "mean": p.mean,
            "interval": p.interval,
            "seeds": p.seeds,
            "seconds_per_1000_rows": p.cost,
        }
        for p in board.places
    ]
    facts = {"data": board.data, "measure": board.measure, "recommended": board.recommended, "hit": board.hit}
    return {**facts, "places": places, "notes": board.notes}


def drawn(board: Board) -> dict[str, Any]:
    """A set of data as the page has it: each objective with its place on a line from the lowest to the highest."""
    ends = [end for p in board.places for end in (p.interval or (p.mean, p.mean))]
    low, high = min(ends), max(ends)

    def at(value: float) -> float:
        return round(5 + 110 * (value - low) / ((high - low) or 1), 1)

    rows = [
        {
            "objective": p.objective,
            "mean": number(p.mean),
            "interval": spread(p),
            "seeds": p.seeds,
            "cost": "" if p.cost is None else f"{p.cost:.2g}",
            "from": at(p.interval[0]) if p.interval else at(p.mean),
            "to": at(p.interval[1]) if p.interval else at(p.mean),
            "at": at(p.mean),
            "recommended": p.objective == board.recommended,
        }
        for p in board.places
    ]
    advised = board.advised
    return {
        "data": board.data,
        "measure": measure_name(board.measure),
        "rows": rows,
        "recommended": board.recommended or "none",
        "advised": number(advised.mean) if advised else "",
        "verdict": verdict(board),
        "notes": board.notes,
        "ends": (number(low), number(high)),
    }
