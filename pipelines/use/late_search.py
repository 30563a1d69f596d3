"""Search among rows by their steps (tokens, places), as `clx embed` writes them for runs of the loss `late`."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from clx.pipelines.model.build import Run
from clx.pipelines.model.token_scores import Ragged, TokenScores, tokens_of
from clx.pipelines.system.errors import BadInput
from clx.pipelines.use.approximate import Way
from clx.pipelines.use.embedding_files import EmbeddingFile
from clx.pipelines.use.embedding_meta import STEPS
from clx.pipelines.use.neighbours import Hit, best

if TYPE_CHECKING:
    import pyarrow as pa

CPU = torch.device("cpu")
READ = 512
"""Rows that are read at a time."""
Query = Mapping[str, Ragged]
"""The steps of one thing, by modality."""


class LateFinder:
    """Finds rows of a column by their steps: exact, one pass over the file."""

    def __init__(self, file: EmbeddingFile, column: str, settings: TokenScores) -> None:
        self.file, self.column, self.settings = file, column, settings

    def find(self, queries: Sequence[Query], count: int) -> list[list[Hit]]:
        """For each query the places of the `count` best rows, greatest score first; the scores of several modalities
        of one thing are added."""

        def score(rows: Ragged) -> Tensor:
            found = []
            for query in queries:
                each = [self.settings.scores(name, q, self.column, rows, CPU) for name, q in query.items()]
                found.append(torch.stack(each).sum(0))
            return torch.cat(found).masked_fill(rows.counts == 0, torch.nan)

        return best(self._chunks(), score, len(queries), count)

    def query(self, run: Run, cells: Mapping[str, Any]) -> Query:
        """The steps of the read modalities of one thing. Raises `BadInput` for one without."""
        for name in cells:
            if name not in self.settings.names:
                known = ", ".join(self.settings.names)
                raise BadInput(f"this run compares {known} step by step: ask with one of them, not with {name}")
        return {name: tokens_of(run, name, [cell]) for name, cell in cells.items()}

    def rows(self, places: Sequence[int]) -> list[Query]:
        """The steps of rows of the file itself."""
        found: dict[int, Ragged] = {}
        for inside, table in self.file._rows(places, [self.column + STEPS]):
            each = ragged(table.column(0).combine_chunks(), self.file.dim)
            found |= {place: each.take(torch.tensor([k])) for k, place in enumerate(inside)}
        return [{self.column: found[place]} for place in places]

    def _chunks(self) -> Iterator[tuple[int, Ragged]]:
        from pyarrow import parquet

        start = 0
        for path in self.file.tables:
            with parquet.ParquetFile(path, pre_buffer=False) as file:
                for batch in file.iter_batches(READ, columns=[self.column + STEPS], use_threads=False):
                    yield start, ragged(batch.column(0), self.file.dim)
                    start += len(batch)


def ragged(lists: "pa.ListArray", width: int | None) -> Ragged:
    """Lists of vectors as they are in a file, of which the first `width` columns are taken."""
    counts = np.asarray(lists.value_lengths().fill_null(0))
    vectors = lists.flatten()
    values = np.asarray(vectors.flatten()).reshape(-1, vectors.type.list_size)[:, :width]
    return Ragged(torch.from_numpy(values.astype(np.float32)), torch.from_numpy(counts.astype(np.int64)))


def late_finder(file: EmbeddingFile, column: str, way: Way) -> LateFinder | None:
    """For a file whose rows are compared by their steps; None for another. `BadInput` for a `way` that cannot."""
    if file.meta is None or "late" not in file.meta:
        return None
    settings = TokenScores.noted(file.meta["late"])
    if column not in settings.names:
        return None
    if not way.exact:
        raise BadInput(
            f"{file.path} is of a run that compares rows step by step, each with many vectors: --index usearch, "
            "--approximate and --precision are for rows of one vector; leave them out"
        )
    return LateFinder(file, column, settings)
