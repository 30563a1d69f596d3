"""Hits that are one item in several rows, such as a picture with several captions, folded into one hit."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from clx.modalities.registry import MODALITIES
from clx.pipelines.use.embedding_files import EmbeddingFile
from clx.pipelines.use.neighbours import Hit

MOST = 1 << 12
"""Rows that are looked at for a query: of items in more rows than these some rows are not told of."""
CLOSE = {"float32": 1e-4, "float16": 2e-3}
"""How far unit rows of one cell may lie apart, since rows that are encoded together change the last digits."""
PLACE = re.compile(r" row \d+$")
"""What the id of a row ends with that has no path."""

Find = Callable[[Sequence[int], int], list[list[Hit]]]
"""Called with the numbers of some queries and a count; gives the best hits of each, at most so many, best first."""
Item = list[Hit]
"""The rows of one item in the order of the file; all have the score of the best."""


def single(find: Find, queries: int, top: int) -> list[list[Item]]:
    """The `top` best rows of each query, each an item of its own."""
    return [[[hit] for hit in hits] for hits in find(range(queries), top)]


def folded(file: EmbeddingFile, column: str, find: Find, queries: int, top: int) -> list[list[Item]]:
    """The `top` best items of each query, each with all the rows that it stands in: rows whose vectors in `column` are
    equal, and of whose cells there nothing in the file says that they differ.

    So many hits are asked for as that takes, at most `MOST` or as many as are wanted.
    """
    found: list[list[Item]] = [[] for _ in range(queries)]
    waiting, count, most = list(range(queries)), top + 1, max(MOST, top)
    while waiting:
        answers = find(waiting, count)
        for query, hits in zip(waiting, answers, strict=True):
            found[query] = items(file, column, hits)
        waiting = [
            query
            for query, hits in zip(waiting, answers, strict=True)
            if len(hits) == count < most and not _ended(found[query], hits[-1], top, _close(file))
        ]
        count = min(most, 4 * count)
    return [each[:top] for each in found]


def _ended(found: list[Item], last: Hit, top: int, close: float) -> bool:
    """Whether there are enough items, and no row of the last of them can come behind the last hit."""
    return len(found) >= top and not _near(found[top - 1][0][1], last[1], close)


def _close(file: EmbeddingFile) -> float:
    return CLOSE[(file.meta or {}).get("dtype", "float32")]


def _near(score: float, lower: float, close: float) -> bool:
    """Whether rows of one item may have these scores."""
    return score - lower <= close * max(1.0, abs(score))


def items(file: EmbeddingFile, column: str, hits: Sequence[Hit]) -> list[Item]:
    """Hits, best first, as items, best first. What stands in the file is read where scores are equal alone."""
    close = _close(file)
    near = [_near(one[1], other[1], close) for one, other in zip(hits, hits[1:], strict=False)]
    tied = [place for (place, _), *sides in zip(hits, [False, *near], [*near, False], strict=True) if any(sides)]
    if not tied:
        return [[hit] for hit in hits]
    cells = dict(zip(tied, _cells(file, column, tied), strict=True))
    rows: dict[int, Tensor] = dict(zip(tied, file.vectors(column, tied), strict=True))
    found: list[Item] = []
    start = 0
    for place, score in hits:
        while start < len(found) and not _near(found[start][0][1], score, close):
            start += 1
        same = None
        if place in rows and (behind := [item for item in found[start:] if item[0][0] in rows]):
            apart = torch.stack([rows[item[0][0]] for item in behind]) - rows[place]
            alike = (torch.linalg.vector_norm(apart, dim=1) <= close).nonzero().flatten().tolist()
            same = next((behind[k] for k in alike if cells[behind[k][0][0]] == cells[place]), None)
        if same is None:
            found.append([(place, score)])
        else:
            same.append((place, same[0][1]))
    return [sorted(item) for item in found]


def _cells(file: EmbeddingFile, column: str, places: Sequence[int]) -> list[tuple[Any, ...]]:
    """What the file says of the cells of `column` in these rows: the cell itself where it was kept, the path that is
    the row's id, and an id that the user named, which is that of a thing."""
    meta = file.meta
    if meta is None:
        return [()] * len(places)
    kept = meta["columns"].get(column) if isinstance(meta.get("columns"), dict) else None
    kept = kept if isinstance(kept, str) and kept in meta.get("keep", ()) else None
    with_files = [name for name, kind in meta["modalities"].items() if MODALITIES[kind].files]
    by_path = with_files[:1] == [column]
    found = []
    for line in file.about(places):
        named = meta.get("id") is not None or (by_path and not PLACE.search(line["id"]))
        found.append((line["id"] if named else None, None if kept is None else line.get(kept)))
    return found
