"""Which runs a sweep has, under which names, with which settings: axes of values and seeds, crossed."""

import copy
import hashlib
import itertools
import json
import math
import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from clx.pipelines.config.load import override, read_source, scientific, set_key, value_of
from clx.pipelines.config.options import parse
from clx.pipelines.config.schema import Config
from clx.pipelines.config.section import Section
from clx.pipelines.system.errors import BadInput

LONGEST = 40
"""Characters of one value in a run's name."""


def seeds_of(text: Any) -> list[int]:
    """Seeds from `0-4`, `0,3,7`, a number or a list.

    >>> seeds_of("0-2,7")
    [0, 1, 2, 7]
    """
    found: list[int] = []
    for part in text if isinstance(text, list) else str(text).split(","):
        ends = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", str(part))
        if not ends or int(ends[2] or ends[1]) < int(ends[1]):
            raise ValueError(f"seeds are numbers and ranges such as 0-4 or 0,3,7, not {part!r}")
        found += range(int(ends[1]), int(ends[2] or ends[1]) + 1)
    return list(dict.fromkeys(found))


Variants = dict[str, dict[str, Any] | None]
Grid = dict[str, Variants | list[Any]]


class Plan(Section):
    """The section `sweep:` of a file."""

    base: str | None = None
    """Recipe or config file that all runs start from; the rest of this file when not given."""
    set: dict[str, Any] = {}
    """Settings of every run, by dotted key."""
    grid: Annotated[list[Grid], BeforeValidator(lambda value: [value] if isinstance(value, Mapping) else value)] = []
    """Axes that are crossed: a config key with a list of values, or any name with named variants, each a set of
    settings by dotted key (and `base`, to start from another config). A list of such grids, of the same axes with
    other values, has the runs of all: these objectives on these data, those on others."""
    seeds: Annotated[list[int], BeforeValidator(seeds_of)] = []
    trials: Annotated[int, Field(ge=1)] | None = None
    """So many combinations, drawn at random with `draw`, instead of all; each has all seeds. More trials keep those of
    fewer, so that a search can be made longer."""
    draw: Annotated[int, Field(ge=0)] = 0
    search: Literal["grid", "random", "halving"] | None = None
    """Which combinations are trained, and how far: `grid` all; `random` as many as `trials`; `halving` all of these, or
    `trials` of them, of which only the best by the first `metric` on val rows go beyond a few steps."""
    factor: Annotated[int, Field(ge=2)] = 3
    """Of `halving`: a rung has so many times the steps of the one before, and its settings by so many."""
    metric: Annotated[list[str], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)] = []
    """Columns of the table: `val_loss`, or paths in the evaluation."""


@dataclass
class Point:
    """One run of a sweep."""

    name: str
    """Its folder in the sweep's."""
    shown: dict[str, Any]
    """What sets it apart: a value or variant by axis."""
    config: Config = field(repr=False)
    until: int | None = None
    """The step at which it pauses; it goes to its end when None."""
    tasks: tuple[str, ...] = ()
    """What it is then evaluated by, on val rows."""


def values_of(text: str) -> list[Any]:
    """The values of `1,2`, each read as YAML; commas in brackets and quotes part nothing.

    >>> values_of("1e-3,[a, b],{name: clip}")
    [0.001, ['a', 'b'], {'name': 'clip'}]
    """
    return list(map(scientific, value_of(f"[{text}]", f"--grid {text}")))


def grid_of(settings: Iterable[str]) -> Grid:
    """Axes from `key=value,value` texts. Raises `BadInput`."""
    grid: Grid = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key or not text:
            raise BadInput(f"--grid {setting}: expected key=value,value")
        if key in grid:
            raise BadInput(f"--grid {setting}: {key} is given twice; list all its values in one place")
        grid[key] = values_of(text)
    return grid


def read_plan(
    source: str, grid: Sequence[str] = (), seeds: str | None = None, search: Mapping[str, Any] | None = None
) -> tuple[Plan, dict[str, Any]]:
    """The sweep of a file's section `sweep` with what the command line adds, and the config it starts from; `search` is
    `search`, `trials`, `draw` and `factor`, where they are given there."""
    raw = read_source(source)
    section = raw.pop("sweep", None)
    plan = parse(Plan, section or {}, f"{source}, sweep")
    more = grid_of(grid)
    for key in more:
        if any(key in grid for grid in plan.grid):
            raise BadInput(f"--grid {key}: {source} has this axis already")
    try:
        drawn = seeds_of(seeds) if seeds is not None else plan.seeds
    except ValueError as error:
        raise BadInput(f"--seeds {seeds}: {error}") from None
    grids = [grid | more for grid in plan.grid] or ([more] if more else [])
    for other in grids[1:]:
        if other.keys() != grids[0].keys():
            raise BadInput(f"{source}: grids that are joined have the same axes: {_named(grids[0])}; {_named(other)}")
    plan = plan.model_copy(update={"grid": grids, "seeds": drawn, **(search or {})})
    if plan.search == "random" and plan.trials is None:
        raise BadInput("--search random draws combinations: say with --trials how many")
    if plan.search == "grid" and plan.trials is not None:
        raise BadInput("--search grid trains every combination: leave out --trials, or say --search random")
    if plan.base is not None:
        if raw:
            raise BadInput(
                f"{source}: sweep.base takes the place of a config, but {next(iter(raw))!r} stands beside it"
            )
        raw = read_source(plan.base)
    if not plan.grid and not plan.seeds:
        raise BadInput(f"nothing to vary: --grid key=a,b or --seeds 0-4, or a section `sweep` in {source}")
    return plan, raw


def _named(grid: Grid) -> str:
    return ", ".join(grid) or "none"


def points(plan: Plan, base: dict[str, Any], settings: Iterable[str] = ()) -> list[Point]:
    """Every run of a sweep, the last axis changing first; seeds change last of all, so that a sweep that is broken off
    has as many of each kind. `settings` are `-s` ones and win over the file's.

    Raises `BadInput` for a setting that is wrong, or two runs that come out the same.
    """
    grids = [[_axis(name, values) for name, values in grid.items()] for grid in plan.grid] or [[]]
    if plan.seeds:
        grids = [[*axes, seeds_axis(plan)] for axes in grids]
    given = list(settings)
    swept = {key for axes in grids for axis in axes if axis[0][0] in (*axis[0][3], "seed") for key in axis[0][3]}
    for setting in given:
        if (key := setting.partition("=")[0]) in swept:
            raise BadInput(f"-s {setting}: {key} is swept, so one value for all runs means nothing")
    found: dict[str, Point] = {}
    every = list(combinations(grids, plan))
    if plan.seeds:
        every.sort(key=lambda chosen: plan.seeds.index(chosen[-1][1]))
    for chosen in every:
        name = "_".join(part for _, _, part, _ in chosen)
        merged: dict[str, Any] = dict(plan.set)
        for _, _, _, changes in chosen:
            merged |= changes
        config = _config(copy.deepcopy(base), merged, given, name)
        for other in found.values():
            if other.config == config:
                raise BadInput(f"runs {other.name} and {name} have the same settings: an axis changes nothing")
            if other.name.casefold() == name.casefold():
                raise BadInput(f"two runs would be called {name}: name the variants differently")
        found[name] = Point(name, {axis: value for axis, value, _, _ in chosen}, config)
    return list(found.values())


def seeds_axis(plan: Plan) -> "list[_Choice]":
    return [("seed", seed, f"seed={seed}", {"train.seed": seed}) for seed in plan.seeds]


def combinations(grids: "Sequence[list[list[_Choice]]]", plan: Plan) -> "Iterator[tuple[_Choice, ...]]":
    """All combinations of each grid; with `plan.trials` so many of them, in the order drawn, with all seeds."""
    if plan.trials is None:
        for axes in grids:
            yield from itertools.product(*axes)
        return
    apart = [axes[:-1] if plan.seeds else axes for axes in grids]
    counts = [math.prod(map(len, axes)) for axes in apart]
    draw, seen = random.Random(plan.draw), set[int]()
    while len(seen) < min(plan.trials, sum(counts)):
        number = draw.randrange(sum(counts))
        if number not in seen:
            seen.add(number)
            chosen = numbered(apart, counts, number)
            yield from ((*chosen, seed) for seed in seeds_axis(plan)) if plan.seeds else (chosen,)


def numbered(grids: "Sequence[list[list[_Choice]]]", counts: Sequence[int], number: int) -> "tuple[_Choice, ...]":
    """The combination at place `number` of all, without making the others."""
    which = 0
    while number >= counts[which]:
        number -= counts[which]
        which += 1
    chosen = []
    for axis in reversed(grids[which]):
        number, place = divmod(number, len(axis))
        chosen.append(axis[place])
    return tuple(reversed(chosen))


_Choice = tuple[str, Any, str, dict[str, Any]]
"""Axis, value as shown, part of the run's name, settings."""


def _axis(name: str, values: Variants | list[Any]) -> list[_Choice]:
    if name in ("run", "seed", "seeds", "state", "error"):
        raise BadInput(f"sweep axis {name}: the table has a column of that name; call it something else")
    if not values:
        raise BadInput(f"sweep axis {name}: no values")
    if isinstance(values, dict):
        return [(name, variant, _safe(variant), changes or {}) for variant, changes in values.items()]
    key = name.rpartition(".")[2]
    return [(name, value, _safe(value, f"{key}="), {name: value}) for value in values]


def _safe(value: Any, before: str = "") -> str:
    """A value as part of a folder's name; what had to be changed for that gets a few letters of its digest.

    >>> _safe(0.001, "lr=")
    'lr=0.001'
    >>> _safe({"name": "clip"}, "objective=")
    'objective=name-clip-1ea3bd'
    """
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    plain = re.sub(r"[^\w.+-]+", "-", text)[:LONGEST]
    if plain != text or (not before and not plain[:1].isalnum()):
        plain = f"{plain.strip('-.')}-{hashlib.blake2b(text.encode(), digest_size=3).hexdigest()}".lstrip("-")
    return before + plain


def _config(raw: dict[str, Any], merged: Mapping[str, Any], settings: Iterable[str], name: str) -> Config:
    changes = dict(merged)
    source = changes.pop("base", None)
    if source is not None:
        raw = read_source(str(source))
        raw.pop("sweep", None)
    try:
        for key, value in changes.items():
            set_key(raw, key, copy.deepcopy(value), key)  # further settings may go into it
    except BadInput as error:
        raise BadInput(f"run {name}: {str(error).removeprefix('-s ')}") from None
    for setting in settings:
        override(raw, setting)
    return parse(Config, raw, f"run {name}")
