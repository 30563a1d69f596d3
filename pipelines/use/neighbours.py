"""Exact nearest neighbours among embeddings of a file, in bounded memory."""

from collections.abc import Callable, Iterable
from typing import TypeVar

import torch
from torch import Tensor

from clx.pipelines.measures.top import Top
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
    top = Top(queries, count)
    for start, rows in chunks:
        top.add(start, score(rows))
    return [
        [(place, score) for place, score in zip(where, values, strict=True) if score > -torch.inf]
        for values, where in zip(top.scores.tolist(), top.places.tolist(), strict=True)
    ]
