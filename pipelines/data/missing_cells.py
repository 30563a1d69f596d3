"""Cells that count as missing, the words in which they say so, and numbers that may mean it."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from clx.modalities.numbers import ABSENT
from clx.pipelines.data.arrow_types import is_text
from clx.pipelines.data.column_kinds import MEDIA
from clx.pipelines.data.distinct import plain_numbers
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.data.mapped import release
from clx.pipelines.data.stretches import pieces
from clx.pipelines.data.written_columns import holds_text

if TYPE_CHECKING:
    import pyarrow as pa

SHOWN = 3
"""Words in a line."""
NINES = re.compile(r"-?9[9.]*9(\.0|\.25)?")
"""How numbers are written that often stand for a missing one: -999, 99, 9999.9, and -999.25 of well logs."""
SEVERAL = 10
"""Different other numbers, from which on any number that comes again and lies far from them is told of."""


def missing_in(manifest: Manifest, column: str, kind: str = "text") -> NDArray[np.bool_]:
    """Which rows have no cell there: null, NaN, blank, and, but in texts and paths, words such as `NA`."""
    parts = []
    for chunk in manifest.table.column(column).chunks:
        parts.append(_missing(chunk, kind))
        release()
    found: NDArray[np.bool_] = np.concatenate(parts)[manifest.rows]
    return found


def _missing(cells: "pa.Array", kind: str) -> NDArray[np.bool_]:
    import pyarrow as pa
    import pyarrow.compute as pc

    cells = cells.dictionary_decode() if pa.types.is_dictionary(cells.type) else cells
    nan = {"nan_is_null": True} if pa.types.is_floating(cells.type) else {}
    none: NDArray[np.bool_] = np.asarray(pc.is_null(cells, **nan).to_numpy(zero_copy_only=False))
    if is_text(cells.type):
        words = (
            [""] if kind in ("text", "labels", *MEDIA) else sorted(ABSENT - ({"-"} if kind == "category" else set()))
        )
        bare = pc.utf8_lower(pc.utf8_trim_whitespace(cells))
        none = none | pc.is_in(bare, pa.array(words, cells.type)).to_numpy(zero_copy_only=False)
    return none


def words_for_missing(column: str, manifests: Iterable[Manifest], what: str) -> Iterator[str]:
    """A line on words such as `none` that stand for no `what` (a class, a category), with how many cells have them."""
    import pyarrow as pa

    words = Counter[str]()
    for manifest in manifests:
        if not holds_text(manifest, column):  # lists of labels say which they have
            continue
        for _, cells in pieces(manifest, column):
            none = _missing(cells, "category")
            for cell in cells.filter(pa.array(none)).value_counts().to_pylist() if none.any() else ():
                if word := (cell["values"] or "").strip():
                    words[word] += cell["counts"]
    if words:
        said = ", ".join(f"{count} cells {word!r}" for word, count in words.most_common(SHOWN))
        yield f"column {column}: {said} count as missing: write another word where that is a {what}"


def numbers_for_missing(column: str, manifest: Manifest) -> Iterator[str]:
    """A line on -999, 9999 and the like, or -200 where it comes again, that lie further from all other numbers of a
    column than these lie apart: they are taken as they are."""
    found, ends = [np.inf, -np.inf], Counter[float]()
    for values in _numbers(manifest, column):
        here = [values.min(initial=np.inf), values.max(initial=-np.inf)]
        ends += Counter({end: int((values == end).sum()) for end in here})
        found = [min(found[0], here[0]), max(found[1], here[1])]
    nines = {end for end in found if NINES.fullmatch(str(float(end)))}
    suspects = nines | {end for end in found if ends[end] > 1}
    if not suspects:
        return
    low, high, counts, different = np.inf, -np.inf, Counter[float](), 0
    for values in _numbers(manifest, column):
        others = values[~np.isin(values, list(suspects))]
        low, high = min(low, others.min(initial=np.inf)), max(high, others.max(initial=-np.inf))
        counts += Counter({end: int((values == end).sum()) for end in found})
        different = max(different, len(np.unique(others[: 100 * SEVERAL])))
    for end in sorted(nines | (suspects if different >= SEVERAL else set())):
        if low <= high and max(low - end, end - high) > high - low:
            said = f"{counts[end]} cells are {end:g}, far from all others"
            yield f"column {column}: {said} ({low:g} to {high:g}): empty them where they mean missing"


def _numbers(manifest: Manifest, column: str) -> Iterator[NDArray[np.float64]]:
    """The finite numbers of a column, a piece of it at a time; none of a piece that has to be looked at otherwise."""
    import pyarrow as pa

    for _, cells in pieces(manifest, column):
        values = plain_numbers(pa.chunked_array([cells]))
        if values is not None:
            yield values[np.isfinite(values)]
