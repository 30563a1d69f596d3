"""A column of a manifest of any size, a piece at a time: what looks at all of its cells never holds them."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from clx.pipelines.data.manifest import Manifest
from clx.pipelines.data.mapped import release

if TYPE_CHECKING:
    import pyarrow as pa

ROWS = 1 << 16
"""Of a piece at most."""


def pieces(manifest: Manifest, column: str) -> Iterator[tuple[slice, "pa.Array"]]:
    """Which rows a piece is of, and its cells; of a mapped table the pages are let go of behind each."""
    chunks = manifest.table.column(column).chunks
    starts = np.cumsum([0, *map(len, chunks)])
    for at in range(0, len(manifest), ROWS):
        rows = manifest.rows[at : at + ROWS]
        chunk_of = np.searchsorted(starts, rows, side="right") - 1
        ends = [0, *(np.flatnonzero(np.diff(chunk_of)) + 1).tolist(), len(rows)]
        for start, stop in zip(ends, ends[1:], strict=False):
            own, k = rows[start:stop], int(chunk_of[start])
            first, last = int(own[0] - starts[k]), int(own[-1] - starts[k])
            if last - first + 1 == stop - start and (np.diff(own) == 1).all():
                cells = chunks[k].slice(first, stop - start)
            else:
                cells = chunks[k].take(own - starts[k])
            yield slice(at + start, at + stop), cells
            release()


def blocks(rows: int, size: int = 1 << 20) -> Iterator[slice]:
    """`rows` numbers in stretches of so many."""
    return (slice(start, min(start + size, rows)) for start in range(0, rows, size))


def ids(count: int, most: int) -> NDArray[np.int64]:
    """Room `[count]` for numbers up to `most`, in half the memory where there are very many."""
    from clx.pipelines.data.manifest import LARGE

    return np.empty(count, dtype=np.int32 if count > LARGE and most < 1 << 31 else np.int64)
