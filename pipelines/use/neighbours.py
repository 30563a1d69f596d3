"""Exact nearest neighbours among embeddings of a file, in bounded memory."""

from collections.abc import Callable, Iterable
from typing import TypeVar

import torch
from torch import Tensor

from clx.pipelines.system.errors import BadInput
from clx.pipelines.use.embedding_files import EmbeddingFile

Rows = TypeVar("Rows")
Hit = tuple[int, float]
"""The place of a row in its file, from 0, and its score."""


def neighbours(file: EmbeddingFile, name: str, queries: Tensor, count: int) -> list[list[Hit]]:
    """For each query `[Q, D]` the places of the `count` unit rows of greatest dot product, with it, greatest first; of
    equal ones those that come first in the file.

    Exact: one pass over the file, a chunk of rows in memory at a time.
    """

    def score(rows: Tensor) -> Tensor:
        check_width(file, rows.shape[1], queries)
        return queries @ rows.T

    return best(file.chunks(name), score, len(queries), count)


def check_width(file: EmbeddingFile, width: int, queries: Tensor) -> None:
    """Raise `BadInput` where queries `[Q, D]` are of another width than the vectors."""
    if width != queries.shape[1]:
        raise BadInput(f"{file.path}: vectors of {width} numbers, the query has {queries.shape[1]}")


def best(
    chunks: Iterable[tuple[int, Rows]], score: Callable[[Rows], Tensor], queries: int, count: int
) -> list[list[Hit]]:
    """The `count` places of greatest score for each query, greatest first, of equal ones the first.

    `chunks` are rows with the place of the first, in order; `score` gives `[Q, n]`, NaN for what is no answer.
    """
    kept = torch.zeros(queries, 0)
    places = torch.zeros(queries, 0, dtype=torch.long)
    for start, rows in chunks:
        scores = score(rows).nan_to_num_(nan=-torch.inf)
        at = first_of_best(scores, count)
        both = torch.cat(
            [kept, scores.gather(1, at)], 1
        )  # what came before stands first, and a stable sort leaves it so
        kept, order = both.sort(dim=1, descending=True, stable=True)
        kept = kept[:, :count]
        places = torch.cat([places, at + start], 1).gather(1, order[:, :count])
    return [
        [(place, score) for place, score in zip(where, values, strict=True) if score > -torch.inf]
        for values, where in zip(kept.tolist(), places.tolist(), strict=True)
    ]


def first_of_best(scores: Tensor, count: int) -> Tensor:
    """Columns `[Q, count]` of the greatest of `scores` `[Q, n]`, in order of the columns, all where there are fewer.

    Where equal scores stand on both sides of the edge, the first columns are taken; `topk` takes any.
    """
    values, at = scores.topk(min(count, scores.shape[1]))
    edge = values[:, -1:]
    for row in ((scores == edge).sum(1) > (values == edge).sum(1)).nonzero().flatten().tolist():
        on_edge = values[row] == edge[row]
        at[row, on_edge] = (scores[row] == edge[row]).nonzero().flatten()[: int(on_edge.sum())]
    return at.sort(1).values
