"""Lines of a CSV that are no rows: comments above the header, that header once more, and totals below the last row."""

import csv
import re
from typing import TYPE_CHECKING
from warnings import warn

from clx.pipelines.system.errors import BadInput, ClxWarning

if TYPE_CHECKING:
    import pyarrow as pa

NUMBER = re.compile(r"[-+]?[\d.,' ]*\d[\d.,' ]*\W*[A-Za-z]{0,3}")
TOTALS = {
    *("sum", "total", "totals", "grand total", "subtotal", "summe", "gesamt", "gesamtsumme", "insgesamt"),
    *("somme", "total general", "totale", "totaal", "suma", "summa", "итого", "合計"),
}


def below_comments(text: str, name: str) -> tuple[str, int]:
    """The text from the header on, and how many lines stand above it: Excel's `sep=;`, and some that begin with `#`,
    which are said.

    The last such line is the header, as in `#id,name`, where it has as many cells as the next line, and either no
    space behind the `#` or a number below it.
    """
    lines = text.splitlines(keepends=True)
    hint = int(bool(re.fullmatch(r"sep=.\s*", lines[0])))  # of Excel, which does not show it either
    lines = lines[hint:]
    count = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
    if count and count < len(lines) and any(_names(lines[count - 1], lines[count], mark) for mark in ",;\t|"):
        count -= 1
    if not count or count == len(lines):
        return "".join(lines), hint
    said = f"{count} lines" if count > 1 else "1 line"
    warn(f"{name}: {said} above the header left out, as comments: {lines[0].strip()[:60]!r}", ClxWarning, stacklevel=2)
    return "".join(lines[count:]), hint + count


def _names(line: str, below: str, separator: str) -> bool:
    names, cells = next(csv.reader([line], delimiter=separator)), next(csv.reader([below], delimiter=separator), [])
    return 1 < len(names) == len(cells) and (not line.startswith("# ") or any(NUMBER.fullmatch(cell) for cell in cells))


def without_totals(table: "pa.Table", name: str) -> "pa.Table":
    """A table, which has rows, without a last one that sums up the others, which is said: `Total` or the like in its
    first cell, else numbers, and at least one empty cell."""
    last = table.slice(table.num_rows - 1)
    cells: list[str] = [str(column[0].as_py() or "").strip() for column in last.columns]
    known = [cell for cell in cells if cell]
    if table.num_rows < 3 or not 2 <= len(known) < len(cells):
        return table
    if known[0].rstrip(": ").lower() not in TOTALS or not all(NUMBER.fullmatch(cell) for cell in known[1:]):
        return table
    said = f"{name} row {table.num_rows}: left out, as the totals of the others: {', '.join(known)[:60]!r}"
    warn(said, ClxWarning, stacklevel=2)
    return table.slice(0, table.num_rows - 1)


def refuse_second_header(table: "pa.Table", name: str) -> None:
    """A row of the columns' own names stands where two files were put one behind the other, and is no row of data."""
    import pyarrow.compute as pc

    if table.num_columns == 1:
        return  # a word may be called so
    same = pc.equal(table.column(0), table.column_names[0]).fill_null(False)
    for column, title in zip(table.columns[1:], table.column_names[1:], strict=True):
        if not pc.any(same).as_py():
            return
        same = pc.and_(same, pc.equal(column, title).fill_null(False))
    found = pc.index(same, True).as_py()
    if found >= 0:
        more = int(pc.sum(same).as_py()) - 1
        others = f", and so do {more} more" if more else ""
        raise BadInput(f"{name} row {found + 1}: repeats the header{others}: delete such lines")
