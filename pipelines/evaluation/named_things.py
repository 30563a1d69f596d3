"""Vectors of what a file calls by name: words, classes, single rows; and the files of such names."""

import csv
import math
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from clx.modalities.numbers import class_name
from clx.pipelines.batches.columns import column_of
from clx.pipelines.config.task_names import Task
from clx.pipelines.data.classes import index_of
from clx.pipelines.evaluation.results import Settings
from clx.pipelines.evaluation.task_context import TaskContext, Unfit
from clx.pipelines.model.scoring import class_embeddings
from clx.pipelines.system.errors import BadInput

ANALOGY = re.compile(r"\s*([^:]+?)\s*:\s*([^:]+?)\s*::\s*([^:]+?)\s*:\s*([^:]+?)\s*")


class Named(NamedTuple):
    """What an input knows of some names."""

    known: list[str]
    rows: Tensor
    """`[len(known), D]`, of length 1."""


def vectors_of(context: TaskContext, names: Sequence[str]) -> Iterator[tuple[str, Named]]:
    """By input, what it knows of `names`: a text modality reads each of them; of another a name is that of a cell,
    with or without its folder and ending, or else of a class, and stands for the mean of such rows."""
    run, embedded = context.run, context.embedded
    texts = run.readers("text")
    for name in texts:
        yield (
            name,
            Named([*names], class_embeddings(run, {each: [each] for each in names}, context.settings.templates, name)),
        )
    classes = index_of(embedded.classes)
    for name, z in embedded.z.items():
        if name in texts or run.modalities[name].kind == "text":
            continue
        cells = _cells(context, name)
        unit, here, known, rows = normalize(z, dim=1), embedded.present[name], list[str](), list[Tensor]()
        for each in names:
            some = here.new_zeros(len(here))
            if each in cells:
                some[cells[each]] = True
            elif (number := classes.get(class_name(each) or "")) is not None:
                some = embedded.labels == number
            if (some & here).any():
                known.append(each)
                rows.append(normalize(unit[some & here].mean(0), dim=0))
        if known:
            yield name, Named(known, torch.stack(rows))


def _cells(context: TaskContext, name: str) -> dict[str, list[int]]:
    """Rows by what their cell is called."""
    column, manifest = column_of(name, context.run.modalities[name]), context.embedded.manifest
    found: dict[str, list[int]] = {}
    if isinstance(column, str) and column in manifest.columns:
        for place, i in enumerate(context.embedded.rows.tolist()):
            cell = manifest.cell(i, column)
            if isinstance(cell, str):
                for called in dict.fromkeys((cell, Path(cell).name, Path(cell).stem)):
                    found.setdefault(called, []).append(place)
    return found


def read_analogies(path: str) -> list[tuple[str, str, str, str]]:
    """Lines `a:b::c:d`, or of four words; those that begin with `:`, as sections do, or `#` are no analogies. Raises
    `BadInput`."""
    found = []
    for number, line in enumerate(_text(path, "--analogies").splitlines(), 1):
        if not line.strip() or line.startswith((":", "#")):
            continue
        match = ANALOGY.fullmatch(line)
        words = (
            match.groups() if match else re.split(r"[\t,]\s*" if re.search(r"[\t,]", line) else r"\s+", line.strip())
        )
        if len(words) != 4 or not all(words):
            raise BadInput(f"--analogies {path}, line {number}: {line.strip()[:60]!r} is no analogy: write a:b::c:d")
        found.append((words[0], words[1], words[2], words[3]))
    if not found:
        raise BadInput(f"--analogies {path} has no analogy: write a:b::c:d, a line each")
    return found


def read_similarities(path: str) -> dict[tuple[str, str], float]:
    """How alike pairs of names are: a square table whose first row and column name the things, or a line `a,b,score`
    for each pair, with or without a header. Both ways of a pair count by their mean. Raises `BadInput`."""
    text = _text(path, "--matrix")
    lines = [line for line in csv.reader(text.splitlines(), delimiter="\t" if "\t" in text else ",") if any(line)]
    table = [[cell.strip() for cell in line] for line in lines]
    if len(table) > 2 and table[0][1:] == [line[0] for line in table[1:]]:
        names = table[0][1:]
        given = [
            (i + 2, [a, b, cell])
            for i, (a, line) in enumerate(zip(names, table[1:], strict=True))
            for b, cell in zip(names, line[1:], strict=False)
        ]
    else:
        given = list(enumerate(table, 1))
        if given and len(given[0][1]) == 3 and _number(given[0][1][2]) is None:
            given = given[1:]  # a header
    sums: dict[tuple[str, str], list[float]] = {}
    for number, line in given:
        if len(line) != 3:
            raise BadInput(f"--matrix {path}, line {number}: {len(line)} cells: write a square table, or a,b,score")
        if line[2] and line[0] != line[1]:
            if (score := _number(line[2])) is None:
                raise BadInput(f"--matrix {path}, line {number}: {line[2][:20]!r} is no number")
            sums.setdefault((min(line[:2]), max(line[:2])), []).append(score)
    if len(sums) < 3:
        raise BadInput(f"--matrix {path} has {len(sums)} pairs of different things; three at least are compared")
    return {pair: math.fsum(each) / len(each) for pair, each in sums.items()}


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _text(path: str, option: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{option} {path}: {getattr(error, 'strerror', None) or 'no text in UTF-8'}") from None


def check_files(settings: Settings, tasks: Collection[Task], named: Collection[Task]) -> None:
    """Read the files of `tasks`, before rows are embedded for them. Raises `BadInput` for what is wrong in them, and
    where one of `named` has none."""
    if "analogies" in tasks and settings.analogies:
        read_analogies(settings.analogies)
    if "similarity" in tasks and settings.matrix:
        read_similarities(settings.matrix)
    for task, path, option in (
        ("analogies", settings.analogies, "--analogies"),
        ("similarity", settings.matrix, "--matrix"),
    ):
        if task in named and path is None:
            raise BadInput(f"{task}: needs {option} FILE")


def asked_file(path: str | None, option: str) -> str:
    """The file that a task is about. Raises `Unfit` where none is given."""
    if path is None:
        raise Unfit(f"needs {option} FILE")
    return path
