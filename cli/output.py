"""What the terminal sees: data on stdout, everything else on stderr. No torch, and rich only where it draws."""

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Literal

from clx.pipelines.system.progress import Progress
from clx.pipelines.system.text import finite, number

if TYPE_CHECKING:
    from rich.console import Console


def note(text: str) -> None:
    """A line for the person at the terminal; nobody listening any more is no reason to stop the work."""
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)


class ReaderGone(Exception):
    """Whoever read stdout has what it wanted (`| head`): the command ends quietly."""


def emit_json(value: Any, digits: int = 6) -> None:
    """One JSON value on a line of stdout, its numbers to so many digits. Raises `ReaderGone`."""
    try:
        print(json.dumps(finite(value, digits), ensure_ascii=False), flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that the last flush is quiet too
        raise ReaderGone from None


def emit_table(
    rows: list[dict[str, Any]],
    title: str | None = None,
    hidden: str | None = None,
    heads: tuple[str, ...] = (),
    unbroken: str = "",
) -> None:
    """Rows as a table on a terminal, without the column `hidden`; as JSON lines when stdout is piped.

    Cells of columns whose names begin with `unbroken`, if given, stay on one line as long as others can be broken.

    With `heads`, the columns that say what a row is, a table that is too wide for whole words is turned on its side,
    in as many parts as it takes.
    """
    if not sys.stdout.isatty():
        for row in rows:
            emit_json(row)
        return
    from rich.console import Console

    console = Console()
    names = [name for name in dict.fromkeys(name for row in rows for name in row) if name != hidden]
    row_names = [" ".join(told(head, row[head]) for head in heads if row.get(head) is not None) for row in rows]
    figures = [name for name in names if name not in heads]
    whole = sum(lengths(rows, names)[0]) + 3 * len(names) < console.width
    if not heads or not figures or whole or len(set(row_names)) < len(rows):
        draw(console, rows, names, title, unbroken)
        return
    first, *others = lengths([{"": name} for name in figures] + [{head: head} for head in row_names], ["", *row_names])[
        1
    ]
    widest = max(*others, *lengths(rows, figures)[1])
    fit = max(1, (console.width - first - 4) // (widest + 3))
    for start in range(0, len(rows), fit):
        part = slice(start, start + fit)
        turned = [
            {"": name} | {head: row.get(name) for head, row in zip(row_names[part], rows[part], strict=True)}
            for name in figures
            if any(row.get(name) is not None for row in rows[part])
        ]
        draw(console, turned, ["", *dict.fromkeys(row_names[part])], None if start else title)


def told(head: str, value: Any) -> str:
    """A value by itself: a number says nothing without its name."""
    return f"{head} {cell(value)}" if isinstance(value, int | float) else cell(value)


def note_table(rows: list[dict[str, Any]]) -> None:
    """Rows as a table for the person at the terminal: stdout stays free for data."""
    if sys.stderr.isatty():
        from rich.console import Console

        draw(Console(stderr=True), rows, list(rows[0]) if rows else [], None)
        return
    texts = [list(rows[0]), *([cell(value) for value in row.values()] for row in rows)] if rows else []
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    for line in texts:
        note("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def lengths(rows: list[dict[str, Any]], names: list[str]) -> tuple[list[int], list[int]]:
    """How wide the longest word in each column is, and the longest text."""
    from rich.cells import cell_len

    columns = [[name, *(cell(row.get(name)) for row in rows)] for name in names]
    words = [max((cell_len(word) for text in column for word in text.split()), default=0) for column in columns]
    return words, [max(map(cell_len, column)) for column in columns]


def draw(
    console: "Console", rows: list[dict[str, Any]], names: list[str], title: str | None, unbroken: str = ""
) -> None:
    """A table of these columns, its words whole where there is room for them; numbers stand to the right."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", header_style="bold", title_style="bold")
    words, texts = lengths(rows, names)
    held = [bool(unbroken) and name.startswith(unbroken) for name in names]
    words = [text if hold else word for hold, word, text in zip(held, words, texts, strict=True)]
    left = console.width - 1 - sum(words) - 3 * len(names)
    wanted = sum(texts) - sum(words)
    for name, word, text, hold in zip(names, words, texts, held, strict=True):
        numeric = all(isinstance(row.get(name), int | float | None) for row in rows)
        width = None if left < 0 else word + (text - word) * min(left, wanted) // max(1, wanted)
        side: Literal["right", "left"] = "right" if numeric else "left"
        table.add_column(name, justify=side, overflow="fold", width=width, no_wrap=hold)
    for row in rows:
        table.add_row(*(Text(cell(row.get(name))) for name in names))
    console.print(table)


def figures(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Figures by name as rows of a table, those of a part in one."""
    return [
        {"what": key, "value": ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value}
        for key, value in found.items()
    ]


def cell(value: Any) -> str:
    """A value as a table shows it."""
    if value is None:
        return ""
    return number(value) if isinstance(value, float) else str(value)


class Rate:
    """How many are done and how fast, said on stderr at growing intervals and at the end."""

    def __init__(self, done: str) -> None:
        self.done, self.number, self.start = done, 0, time.monotonic()
        self.next = self.start + 2

    def count(self, more: int = 1) -> None:
        now = time.monotonic()
        if now >= self.next and self.number:  # those before these: the last ones are told of by `end`
            self.next = now + min(60.0, max(2.0, now - self.start))
            note(f"{self.number} {self.done}, {per_second(self.number, now - self.start)}")
        self.number += more

    def end(self, more: str = "") -> None:
        seconds = time.monotonic() - self.start
        note(f"{self.number} {self.done} in {seconds:.1f} s, {per_second(self.number, seconds)}{more}")


def per_second(number: int, seconds: float) -> str:
    """A rate in words.

    >>> per_second(3, 5), per_second(300, 4)
    ('0.6/s', '75/s')
    """
    rate = number / max(seconds, 1e-9)
    return f"{rate:.{1 if rate < 10 else 0}f}/s"


class PlainProgress:
    """Lines at growing intervals, for logs and pipes."""

    def __init__(self, every: float = 10.0) -> None:
        self.every, self.start = every, time.monotonic()
        self.next = self.start + 1

    def step(self, done: int, total: int, **shown: float) -> None:
        now = time.monotonic()
        if now < self.next and done < total:
            return
        self.next = now + self.every
        values = "  ".join(f"{key} {cell(value)}" for key, value in shown.items())
        note(f"step {done}/{total}  {values}  {now - self.start:.0f}s")

    def say(self, text: str) -> None:
        note(text)


class BarProgress:
    """A live bar with loss, rate and time left."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            TextColumn,
            TimeRemainingColumn,
        )
        from rich.progress import Progress as Bar

        self.bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(bar_width=10),  # all fits 80 columns, the time left too, which stands last
            MofNCompleteColumn(),
            TextColumn("{task.fields[values]}"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=Console(stderr=True),
            transient=True,
        )
        self.task = self.bar.add_task("training", total=None, values="")

    def step(self, done: int, total: int, **shown: float) -> None:
        values = "  ".join(f"{key} {cell(value)}" for key, value in shown.items())
        doing = "training" if done < total else "finishing"  # the last evaluation and checkpoint are yet to come
        self.bar.update(self.task, completed=done, total=total, values=values, description=doing)

    def say(self, text: str) -> None:
        self.bar.console.print(text, markup=False, highlight=False)


@contextmanager
def progress() -> Iterator[Progress]:
    """A bar when stderr is a terminal that can draw one, plain lines otherwise."""
    if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        drawn = BarProgress()
        with drawn.bar:
            yield drawn
    else:
        yield PlainProgress()
