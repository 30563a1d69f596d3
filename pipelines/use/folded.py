"""Hits that are one item in several rows, such as a picture with several captions, folded into one hit."""

from collections.abc import Callable, Hashable, Iterable, Sequence
from warnings import warn

from clx.modalities.registry import MODALITIES
from clx.pipelines.system.errors import ClxWarning
from clx.pipelines.use.embedding_files import EmbeddingFile
from clx.pipelines.use.embedding_meta import CONTENT
from clx.pipelines.use.neighbours import Hit

MOST = 1 << 12
"""Hits of a query, besides the rows of the items before, among which the rows of its last item are looked for."""
LIMIT = 1 << 16
"""Hits of a query at most: where so many are of fewer items than are wanted, these are all that are shown."""
CLOSE = {"float32": 1e-4, "float16": 2e-3}
"""How far unit rows of one cell may lie apart, since rows that are encoded together change the last digits."""

Find = Callable[[Sequence[int], int], list[list[Hit]]]
"""Called with the numbers of some queries and a count; gives the best hits of each, at most so many, best first."""
Item = list[Hit]
"""The rows of one item in the order of the file; all have the score of the best."""


def single(find: Find, queries: int, top: int, own: Sequence[int] = ()) -> list[list[Item]]:
    """The `top` best rows of each query, each an item of its own, without the row of the file that the query is where
    `own` tells it."""
    found = find(range(queries), top + bool(own))
    return [[[hit] for hit in hits if hit[0] not in own[k : k + 1]][:top] for k, hits in enumerate(found)]


def folded(
    file: EmbeddingFile, column: str, find: Find, queries: int, top: int, own: Sequence[int] = ()
) -> list[list[Item]]:
    """The `top` best items of each query, each with the rows that it stands in, those of one cell of `column`; without
    the item of the row of the file that the query is, where `own` tells it.

    So many hits are asked for as that takes. Of an item in very many rows some are not told; see `MOST`.
    """
    telling = telling_columns(file, column)
    if not telling:
        return single(find, queries, top, own)
    itself = _keys(file, telling, own)
    found: list[list[Item]] = [[] for _ in range(queries)]
    waiting, count, most = list(range(queries)), top + 1 + bool(own), min(file.count(), max(LIMIT, top + 2))
    fewest = top
    while waiting:
        answers = dict(zip(waiting, find(waiting, count), strict=True))
        keys = _keys(file, telling, (place for hits in answers.values() for place, _ in hits))
        for query, hits in answers.items():
            out = {itself[place] for place in own[query : query + 1]}
            found[query] = items([hit for hit in hits if keys[hit[0]] not in out], keys)
            if len(hits) == most < file.count():
                fewest = min(fewest, len(found[query]))
        waiting = [
            query
            for query, hits in answers.items()
            if len(hits) == count < most and not _ended(found[query], hits, top, file)
        ]
        count = min(most, 4 * count)
    if fewest < top:
        said = f"{file.path}: the {most:,} nearest rows of a query are {fewest} things: --each-row shows each row"
        warn(said, ClxWarning, stacklevel=2)
    return [each[:top] for each in found]


def items(hits: Sequence[Hit], keys: dict[int, Hashable]) -> list[Item]:
    """Hits, best first, as items, best first: those of equal keys are one."""
    found: dict[Hashable, Item] = {}
    for place, score in hits:
        item = found.setdefault(keys[place], [])
        item.append((place, item[0][1] if item else score))
    return [sorted(item) for item in found.values()]


def _ended(found: list[Item], hits: Sequence[Hit], top: int, file: EmbeddingFile) -> bool:
    """Whether there are enough items, and no row of the last of them can come behind the last hit, or so many hits were
    looked at for it."""
    if len(found) < top:
        return False
    if len(hits) >= MOST + sum(map(len, found[: top - 1])):
        return True
    score = found[top - 1][0][1]
    return score - hits[-1][1] > CLOSE[(file.meta or {}).get("dtype", "float32")] * max(1.0, abs(score))


def telling_columns(file: EmbeddingFile, column: str) -> list[str]:
    """The columns of a file that are equal in rows of one cell of `column`, and with them the id that the user named,
    which is that of a thing; none where nothing tells.

    Files of earlier versions have no contents. There a cell that was kept tells, or the path that is a row's id; not
    among the files of several sources, which may have equal paths.
    """
    meta = file.meta
    if meta is None:
        return []
    by_user = [] if meta.get("id") is None else ["id"]
    if meta.get("contents"):
        return [column + CONTENT, *by_user]
    kinds, kept = meta["modalities"], (meta.get("columns") or {}).get(column)
    with_files = [name for name, kind in kinds.items() if MODALITIES[kind].files]
    if column in with_files and len(meta.get("data", ())) > 1:
        return []
    if isinstance(kept, str) and kept in meta.get("keep", ()) and kept not in kinds:
        return [kept, *by_user]
    return ["id"] if with_files[:1] == [column] and not by_user else []


def _keys(file: EmbeddingFile, telling: Sequence[str], places: Iterable[int]) -> dict[int, Hashable]:
    """By place in the file what is equal for rows of one item, and for no others."""
    return {
        place: place if told[0] is None else told for place, told in file.cells(telling, sorted(set(places))).items()
    }
