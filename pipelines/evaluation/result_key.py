"""A digest of all that decides an evaluation's figures."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import Tensor

from clx.modalities.series_files import piece_of
from clx.pipelines.batches.cells import cell_at
from clx.pipelines.batches.columns import has_columns
from clx.pipelines.config.task_names import Task
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.data.pieces import Piece
from clx.pipelines.evaluation.evaluated_rows import OnBad, Source
from clx.pipelines.evaluation.results import SCHEMA, Settings
from clx.pipelines.model.build import Run
from clx.pipelines.model.fingerprint import add_weights
from clx.pipelines.system.errors import BadInput
from clx.pipelines.system.remote import Url


def key(run: Run, source: Source, tasks: Sequence[Task], settings: Settings, on_bad: OnBad) -> str:
    """A digest of all that decides the figures: weights, config, rows, the files they name, tasks and settings."""
    digest = hashlib.blake2b(digest_size=16)
    said = [SCHEMA, version("clx"), sorted(tasks), asdict(settings), on_bad, source.split, source.drawn]
    digest.update(json.dumps([said, run.config.model_dump(mode="json", exclude={"eval", "train"})]).encode())
    for path in (settings.analogies, settings.matrix):
        if path is not None and Path(path).is_file():
            digest.update(Path(path).read_bytes())
    add_weights(digest, {**run.model.state_dict(prefix="model."), **run.objective.state_dict(prefix="objective.")})
    for manifest in (source.rows, source.train, source.val):
        if manifest is not None:
            _add_rows(digest, run, manifest)
    return digest.hexdigest()


def _add_rows(digest: Any, run: Run, manifest: Manifest) -> None:
    """Names and cells of a manifest's columns, and size and time of change of each file that its inputs are."""
    _add_cells(digest, manifest)
    for name, modality in run.modalities.items():
        if modality.files and has_columns(manifest, name, modality):
            for i in range(len(manifest)):
                try:
                    cell = cell_at(manifest, i, name, modality)
                    for path in cell if isinstance(cell, tuple | list) else (cell,):
                        if isinstance(path, Url | Piece):
                            digest.update(f"{i} {path.text if isinstance(path, Url) else path.key}".encode())
                        elif isinstance(path, Path):
                            state = os.stat(piece_of(str(path))[0] if modality.kind == "series" else path)
                            digest.update(f"{i} {state.st_size} {state.st_mtime_ns}".encode())
                except (BadInput, OSError):
                    digest.update(f"{i} unreadable".encode())


def _add_cells(digest: Any, manifest: Manifest) -> None:
    import pyarrow.types as types

    digest.update(manifest.rows.tobytes())
    for field, column in zip(manifest.table.schema, manifest.table.columns, strict=True):
        digest.update(f"{field.name!r} {field.type}".encode())
        for chunk in column.chunks:
            # a dictionary is none of the buffers of what it encodes
            for part in (chunk, chunk.dictionary) if types.is_dictionary(field.type) else (chunk,):
                for buffer in part.buffers():
                    digest.update(b"" if buffer is None else buffer)


def rows_key(manifest: Manifest, rows: Tensor) -> str:
    """A digest of the rows of a manifest that were evaluated, whatever the model: their numbers and all their cells."""
    digest = hashlib.blake2b(rows.numpy().tobytes(), digest_size=16)
    _add_cells(digest, manifest)
    return digest.hexdigest()
