"""Nearest neighbours among embeddings of a file, exact and in bounded memory."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clx.losses.symile import Symile
from clx.pipelines.model.build import Run
from clx.pipelines.model.fingerprint import fingerprint
from clx.pipelines.model.scoring import embed_items, queries
from clx.pipelines.runs.open import open_model
from clx.pipelines.system.durable_files import replacing
from clx.pipelines.system.errors import BadInput, nearest
from clx.pipelines.use.embedding_files import EmbeddingFile
from clx.pipelines.use.inputs import KINDS, Inputs, Item, check_modality, is_json

MANY = 1_000_000
"""Rows from which an index pays."""


def neighbours(stored: EmbeddingFile, name: str, asked: Tensor, count: int) -> list[list[tuple[int, float]]]:
    """For each query `[Q, D]` the places of the `count` unit rows of greatest dot product, with it, greatest first.

    Exact: one pass over the file, a chunk of rows in memory at a time.
    """
    best = torch.zeros(len(asked), 0)
    places = torch.zeros(len(asked), 0, dtype=torch.long)
    for start, rows in stored.chunks(name):
        if rows.shape[1] != asked.shape[1]:
            raise BadInput(f"{stored.path}: vectors of {rows.shape[1]} numbers, the query has {asked.shape[1]}")
        scores = (asked @ rows.T).nan_to_num_(nan=-torch.inf)
        both = torch.cat([best, scores], 1)
        all_places = torch.cat([places, torch.arange(start, start + len(rows)).expand(len(asked), -1)], 1)
        best, order = both.topk(min(count, both.shape[1]))
        places = all_places.gather(1, order)
    found = []
    for values, where in zip(best.tolist(), places.tolist(), strict=True):
        pairs = [(place, score) for place, score in zip(where, values, strict=True) if score > -torch.inf]
        found.append(sorted(pairs, key=lambda pair: (-pair[1], pair[0])))
    return found


def approximate(stored: EmbeddingFile, name: str, asked: Tensor, count: int) -> list[list[tuple[int, float]]]:
    """The same by an HNSW index of usearch, made at its first use and kept beside the file."""
    index = _index(stored, name, asked.shape[1])
    matches = [index.search(row.numpy(), count) for row in asked]
    return [
        [(int(place), 1 - float(distance)) for place, distance in zip(one.keys, one.distances, strict=True)]
        for one in matches
    ]


def _index(stored: EmbeddingFile, name: str, width: int) -> Any:
    try:
        from usearch.index import Index
    except ImportError:
        raise BadInput("--approximate needs usearch: pip install 'clx[search]'") from None
    source = stored.facts or stored.path
    path = stored.path.with_name(f"{stored.path.name}{f'.{name}' if name else ''}.usearch")
    index = Index(ndim=width, metric="ip", dtype="f32")
    made_of = source.stat().st_mtime_ns
    if path.is_file() and path.stat().st_mtime_ns == made_of:  # it bears its source's time: a clock may be set back
        index.load(str(path))
        if index.ndim != width:
            raise BadInput(f"{path}: vectors of {index.ndim} numbers, the query has {width}")
        return index
    for start, rows in stored.chunks(name):
        if rows.shape[1] != width:
            raise BadInput(f"{stored.path}: vectors of {rows.shape[1]} numbers, the query has {width}")
        there = ~rows.isnan().any(1)
        index.add((torch.arange(len(rows)) + start)[there].numpy(), rows[there].numpy(), threads=os.cpu_count() or 1)
    with replacing(path) as beside:
        index.save(str(beside))
        os.utime(beside, ns=(made_of, made_of))
    return index


def run_of(stored: EmbeddingFile, run: str | None, pretrained: str | None, device: str) -> Run:
    """The model that made the embeddings, found by their metadata or given. Raises `BadInput` when it is another."""
    meta = stored.meta
    if meta is None and run is None:
        raise BadInput(f"{stored.path} does not say which model made it: give it with --run")
    if run is None:
        assert meta is not None
        if meta.get("run"):
            if not Path(meta["run"]).is_dir():
                raise BadInput(f"the run {meta['run']} is not there any more: say where it is with --run")
            opened = open_model(meta["run"], pretrained, str(meta["step"]), device)
        else:
            opened = open_model(meta["model"], pretrained or meta["pretrained"], "best", device)
    else:
        step = str(meta["step"]) if meta is not None and meta.get("run") else "best"
        opened = open_model(run, pretrained, step, device)
    if meta is not None and fingerprint(opened.model) != meta["weights"]:
        named = run or meta.get("run") or meta["model"]
        raise BadInput(f"{stored.path} was made by other weights than those of {named}")
    return opened


def pick_column(stored: EmbeddingFile, asked: str | None) -> str:
    """The vectors to search among: those asked for, else the first of no text, else the first."""
    if stored.meta is None:
        return ""
    kinds: dict[str, str] = stored.meta["modalities"]
    if asked is not None and asked not in kinds:
        raise BadInput(f"--in {asked}: {stored.path} has no such vectors{nearest(asked, kinds)}")
    return asked or next((name for name, kind in kinds.items() if kind != "text"), next(iter(kinds)))


def candidate(run: Run, column: str, asked: str | None) -> str:
    """The modality that is searched among; of a plain array the one asked for, else the run's first of no text."""
    if column or asked:
        check_modality(run, column or str(asked))
        return column or str(asked)
    return next((name for name, m in run.modalities.items() if m.kind != "text"), next(iter(run.modalities)))


def items_of(run: Run, asked: Iterable[str], modality: str | None) -> Iterator[Item]:
    """Queries as items: files, rows as JSON, and what is neither as a sentence."""
    inputs = Inputs(run, modality)
    texts = [name for name, m in run.modalities.items() if m.kind == "text"]
    for query in asked:
        path = Path(query)
        named = path.suffix.lower() in KINDS and not any(c.isspace() for c in query)
        if modality is None and texts and not path.exists() and not named and not is_json(query):
            if len(texts) > 1:
                raise BadInput(f"say what {query!r} is with --as {' or --as '.join(texts)}")
            yield query, {texts[0]: query}
        else:
            yield from inputs.items([query])


def ask(run: Run, read: dict[str, Any], candidate: str) -> Tensor:
    """A query `[1, D]` from the read modalities of one item, to be multiplied with unit rows of `candidate`."""
    z, present = embed_items(run, [read])
    leading = run.objective.leading
    if candidate not in z or len(z) == 1:
        return queries(run, z, present, candidate)
    if isinstance(leading, Symile):
        raise BadInput(f"a Symile space scores {candidate} by the other modalities: leave {candidate} out of the query")
    return leading.fuse(z, present).float().cpu()
