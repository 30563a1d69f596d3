"""Search among the embeddings of a file, from options to answers: what `clx search` calls, and a program."""

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from clx.pipelines.model.build import Run
from clx.pipelines.model.scoring import embed_items, queries
from clx.pipelines.system.errors import BadInput
from clx.pipelines.system.read_ahead import default_workers, read_ahead
from clx.pipelines.use.approximate import Finder, Way
from clx.pipelines.use.embedding_files import EmbeddingFile
from clx.pipelines.use.folded import Item as Folded
from clx.pipelines.use.folded import folded, single
from clx.pipelines.use.given_cells import name_of
from clx.pipelines.use.inputs import KINDS, Inputs, Item, Skipped, read_items, refuse_skipped
from clx.pipelines.use.json_items import is_json
from clx.pipelines.use.late_search import late_finder
from clx.pipelines.use.neighbours import Hit
from clx.pipelines.use.search_source import candidate_of, pick_column, run_of

NAMED = 8  # text inputs that a message names
MANY = 1_000_000
"""Rows from which an index pays."""


@dataclass(frozen=True)
class Neighbours:
    """The answer to one query."""

    query: str
    by: str
    """The modalities it was asked with, such as `image+audio`."""
    among: str
    """The modality that was searched among."""
    hits: list[dict[str, Any]]
    """Best first: `rank` from 1, `score`, `rows`, all that the item stands in, and what stands beside the vector in the
    first of them, such as `id`, `row` and `label`."""
    recall: float | None = None
    """Where not all rows were compared in full: the share of the true neighbours that is found, in a sample."""
    also: tuple[str, ...] = ()
    minus: tuple[str, ...] = ()
    """What the hits are to be near to besides, and far from."""

    def as_json(self) -> dict[str, Any]:
        sets = {name: list(asked) for name, asked in (("and", self.also), ("minus", self.minus)) if asked}
        line = {"query": self.query, **sets, "by": self.by, "in": self.among, "hits": self.hits}
        return line if self.recall is None else {**line, "recall": self.recall}


@dataclass(frozen=True)
class Sets:
    """What every query is joined with."""

    also: tuple[str, ...]
    minus: tuple[str, ...]
    shift: Tensor | None
    """Of these, `[1, D]`."""

    def moved(self, query: Tensor) -> Tensor:
        """A query `[1, D]` whose dot products with unit rows are its scores."""
        return query if self.shift is None else F.normalize(query, dim=-1) + self.shift


class Searcher:
    """Finds nearest neighbours of files, sentences and rows among embeddings.

        searcher = Searcher("photos.parquet")
        for answer in searcher.search(["a dog on a beach", "query.jpg"], top=5):
            print(answer)

    Args:
        embeddings: what `clx embed` wrote, or a plain .npy array `[N, D]`.
        among: the modality to search among; the first that is not text when None.
        run: the run or OpenCLIP model that made them; the one that the file names when None. It is opened when a query
            is asked, and must have the same weights.
        pretrained: tag or checkpoint file of an OpenCLIP model.
        way: by what rows are compared: all in full, or faster by an index or shorter codes, which are made once and
            kept beside the file.
        device: `auto`, `cpu`, `cuda`, `cuda:1` or `mps`.
        dim: how many of the vectors' columns are compared, the first so many, as unit rows again; all when None.
        each_row: whether rows of one cell, a picture with several captions say, are hits each; else they are one.
        say: hears in a line what is good to know.

    Raises `BadInput`.
    """

    def __init__(
        self,
        embeddings: str | Path,
        *,
        among: str | None = None,
        run: str | Run | None = None,
        pretrained: str | None = None,
        way: Way = Way(),  # noqa: B008 (it is frozen)
        device: str = "auto",
        dim: int | None = None,
        each_row: bool = False,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.file = EmbeddingFile.open(Path(embeddings), dim)
        self.among = among
        self.column = pick_column(self.file, among)
        self.count = self.file.count()
        if self.count >= MANY and way.exact:
            say(f"{self.count} rows, compared one by one; --index usearch or --precision int8 are faster")
        self._finder = Finder(self.file, self.column, way)
        self._late = late_finder(self.file, self.column, way)
        self._fold = single if each_row else partial(folded, self.file, self.column)
        self._say, self._recalls = say, dict[tuple[str, int], float]()
        self._open = partial(run_of, self.file, run, pretrained, device)

    @cached_property
    def run(self) -> Run:
        """The model that made the embeddings."""
        return self._open()

    def search(
        self,
        queries: Iterable[str | Mapping[str, Any] | Item],
        *,
        top: int = 10,
        modality: str | None = None,
        strict: bool = False,
        also: Sequence[str] = (),
        minus: Sequence[str] = (),
    ) -> Generator[Neighbours | Skipped, None, None]:
        """The `top` nearest of each query, in order, while the queries come.

        Args:
            queries: files, rows as JSON, and sentences. A mapping is one thing by several of its modalities, such as
                `{"image": "a.png", "text": "a dog"}`.
            modality: what all queries are, where their names do not tell.
            strict: whether a query that cannot be read raises `BadInput` instead of being `Skipped`.
            also: what hits are to be near to besides a query, and
            minus: far from. With one of these the score of a row x for a query q is the sum of cosines
                `cos(x, q) + sum_k cos(x, also_k) - sum_l cos(x, minus_l)` (intersections and differences of SetCSE, Liu
                2024, arXiv 2404.17606), between -(1 + K + L) and 1 + K + L.
        """
        candidate = candidate_of(self.run, self.column, self.among)
        sets = Sets(tuple(also), tuple(minus), self._shift([*also, *minus], len(also), modality, candidate))
        return refuse_skipped(self._answers(items_of(self.run, queries, modality), candidate, top, sets), strict)

    def _shift(self, names: list[str], plus: int, modality: str | None, candidate: str) -> Tensor | None:
        """What is added to the unit rows of queries, `[1, D]`: the unit rows of the first `plus` names, less those of
        the others; None where there are none. Raises `BadInput`."""
        if not names:
            return None
        if self._late is not None:
            raise BadInput("--and and --minus add cosines of whole rows, and this run compares rows step by step")
        if self.run.objective.leading.fuses_by_product:
            raise BadInput("--and and --minus add cosines, and this run scores by the product of several inputs")
        shift = torch.zeros(())
        for number, name in enumerate(names):
            option, sign = ("--and", 1) if number < plus else ("--minus", -1)
            items = list(items_of(self.run, [name], modality))
            [(shown, cells), *more] = read_items(self.run, items) or [(name, "nothing is in it")]
            if isinstance(cells, str) or more:
                raise BadInput(f"{option} {shown}: {cells if isinstance(cells, str) else 'it is several things'}")
            shift = shift + sign * F.normalize(query_of(self.run, cells, candidate), dim=-1)
        return shift

    def _answers(
        self, items: Iterable[Item], candidate: str, top: int, sets: "Sets"
    ) -> Generator[Neighbours | Skipped, None, None]:
        with closing(read_ahead(items, partial(read_items, self.run), 64, default_workers())) as groups:
            for group in groups:  # one pass over the file answers a group
                read = [cells for _, cells in group if not isinstance(cells, str)]
                hits = iter(self._hits(read, candidate, top, sets) if read else [])
                for name, cells in group:
                    if isinstance(cells, str):
                        yield Skipped(name, cells)
                    else:
                        by = "+".join(cells)
                        found, recall = self._lines(next(hits)), self._recall(by, top)
                        yield Neighbours(name, by, candidate, found, recall, sets.also, sets.minus)

    def _hits(self, read: list[dict[str, Any]], candidate: str, top: int, sets: "Sets") -> list[list[Folded]]:
        late, finder = self._late, self._finder
        if late is not None:
            asked = [late.query(self.run, cells) for cells in read]
            return self._fold(lambda some, count: late.find([asked[k] for k in some], count), len(read), top)
        rows = torch.cat([sets.moved(query_of(self.run, each, candidate)) for each in read])
        return self._fold(lambda some, count: finder.find(rows[list(some)], count), len(read), top)

    def near_rows(self, rows: Sequence[int], *, top: int = 10) -> Iterator[Neighbours]:
        """The `top` nearest of rows of the file itself, named by their `row` as hits are, other than the row and, where
        rows of one cell are one hit, those of its cell. No model is opened."""
        places = self.file.places_of(rows)
        vectors = self.file.vectors(self.column, places)
        late, steps = self._late, [] if self._late is None else self._late.rows(places)

        def find(some: Sequence[int], count: int) -> list[list[Hit]]:
            if late is None:
                return self._finder.find(vectors[list(some)], count)
            return late.find([steps[k] for k in some], count)

        for row, vector, hits in zip(rows, vectors, self._fold(find, len(places), top, places), strict=True):
            if vector.isnan().any():
                raise BadInput(f"--row {row}: it has no {self.column}")
            recall = self._recall(self.column, top)
            yield Neighbours(f"row {row}", self.column, self.column, self._lines(hits), recall)

    def _recall(self, by: str, top: int) -> float | None:
        """How well neighbours are found that are asked for by `by`, said at the first time."""
        finder = self._finder
        if finder.way.exact:
            return None
        known = self.file.meta["modalities"] if self.file.meta else ()
        by = by if by in known else self.column
        if (by, top) not in self._recalls:
            self._recalls[by, top], asked = finder.recall(by, top)
            named = f" by {by}" if by else ""
            self._say(f"recall@{top} {self._recalls[by, top]:.3f} of {asked} rows that ask{named} ({finder.way})")
        return self._recalls[by, top]

    def _lines(self, items: Sequence[Folded]) -> list[dict[str, Any]]:
        """Hits with what stands beside their vectors."""
        about = iter(self.file.about([place for item in items for place, _ in item]))
        lines = [[next(about) for _ in item] for item in items]
        found = []
        for k, (item, several) in enumerate(zip(items, lines, strict=True), 1):
            own = {"rank": k, "score": item[0][1], "rows": [line["row"] for line in several]}
            found.append(own | several[0] | own)  # whatever a column that was kept is called
        return found


def items_of(run: Run, queries: Iterable[str | Mapping[str, Any] | Item], modality: str | None) -> Iterator[Item]:
    """Queries as items: files, rows as JSON, one thing by its files, and what is none of these as a sentence."""
    inputs = Inputs(run, modality)
    texts = run.readers("text")
    for query in queries:
        if isinstance(query, tuple):  # an item already
            yield query
            continue
        if isinstance(query, Mapping):
            yield from inputs.items([query])
            continue
        path = Path(query := name_of(query))
        named = path.suffix.lower() in KINDS and not any(c.isspace() for c in query)
        if modality is None and texts and not path.exists() and not named and not is_json(query):
            if len(texts) > 1:
                every = [name for name, m in run.scored().items() if m.kind == "text" and not m.pair]
                more = f" (of {len(every)} text inputs)" if len(every) > NAMED else ""
                raise BadInput(f"say what {query!r} is with --as {' or --as '.join(every[:NAMED])}{more}")
            yield query, {texts[0]: query}
        else:
            yield from inputs.items([query])


def query_of(run: Run, read: dict[str, Any], candidate: str) -> Tensor:
    """A query `[1, D]` from the read modalities of one item, to be multiplied with unit rows of `candidate`."""
    z, present = embed_items(run, [read])
    leading = run.objective.leading
    if candidate not in z or len(z) == 1:
        return queries(run, z, present, candidate)
    if leading.fuses_by_product:
        raise BadInput(f"a Symile space scores {candidate} by the other modalities: leave {candidate} out of the query")
    return leading.fuse(z, present).float().cpu()
