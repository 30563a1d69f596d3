"""Nearest neighbours among embeddings of a file, exact in bounded memory, or by an index."""

import os
from typing import Any

import torch
from torch import Tensor

from clx.pipelines.system.durable_files import replacing
from clx.pipelines.system.errors import BadInput
from clx.pipelines.use.embedding_files import EmbeddingFile

Hit = tuple[int, float]
"""The place of a row in its file, from 0, and its score."""


def neighbours(file: EmbeddingFile, name: str, queries: Tensor, count: int) -> list[list[Hit]]:
    """For each query `[Q, D]` the places of the `count` unit rows of greatest dot product, with it, greatest first.

    Exact: one pass over the file, a chunk of rows in memory at a time.
    """
    best = torch.zeros(len(queries), 0)
    places = torch.zeros(len(queries), 0, dtype=torch.long)
    for start, rows in file.chunks(name):
        if rows.shape[1] != queries.shape[1]:
            raise BadInput(f"{file.path}: vectors of {rows.shape[1]} numbers, the query has {queries.shape[1]}")
        scores = (queries @ rows.T).nan_to_num_(nan=-torch.inf)
        both = torch.cat([best, scores], 1)
        all_places = torch.cat([places, torch.arange(start, start + len(rows)).expand(len(queries), -1)], 1)
        best, order = both.topk(min(count, both.shape[1]))
        places = all_places.gather(1, order)
    hits = []
    for values, where in zip(best.tolist(), places.tolist(), strict=True):
        pairs = [(place, score) for place, score in zip(where, values, strict=True) if score > -torch.inf]
        hits.append(sorted(pairs, key=lambda pair: (-pair[1], pair[0])))
    return hits


def approximate(file: EmbeddingFile, name: str, queries: Tensor, count: int) -> list[list[Hit]]:
    """The same by an HNSW index of usearch, made at its first use and kept beside the file."""
    index = _index(file, name, queries.shape[1])
    matches = [index.search(row.numpy(), count) for row in queries]
    return [
        [(int(place), 1 - float(distance)) for place, distance in zip(one.keys, one.distances, strict=True)]
        for one in matches
    ]


def _index(file: EmbeddingFile, name: str, width: int) -> Any:
    try:
        from usearch.index import Index
    except ImportError:
        raise BadInput("--approximate needs usearch: pip install 'clx[search]'") from None
    source = file.tables[-1] if file.tables else file.path
    path = file.path.with_name(f"{file.path.name}{f'.{name}' if name else ''}.usearch")
    index = Index(ndim=width, metric="ip", dtype="f32")
    made_of = source.stat().st_mtime_ns
    if path.is_file() and path.stat().st_mtime_ns == made_of:  # it bears its source's time: a clock may be set back
        index.load(str(path))
        if index.ndim != width:
            raise BadInput(f"{path}: vectors of {index.ndim} numbers, the query has {width}")
        return index
    for start, rows in file.chunks(name):
        if rows.shape[1] != width:
            raise BadInput(f"{file.path}: vectors of {rows.shape[1]} numbers, the query has {width}")
        present = ~rows.isnan().any(1)
        index.add(
            (torch.arange(len(rows)) + start)[present].numpy(), rows[present].numpy(), threads=os.cpu_count() or 1
        )
    with replacing(path) as beside:
        index.save(str(beside))
        os.utime(beside, ns=(made_of, made_of))
    return index
