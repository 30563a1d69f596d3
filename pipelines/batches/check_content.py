"""Cells of equal content, in one split and in two: what `clx data check` tells of copies and leaks."""

import hashlib
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from clx.modalities.base import Modality
from clx.modalities.series_files import piece_of
from clx.pipelines.batches.check_summary import ColumnFindings
from clx.pipelines.batches.columns import column_of
from clx.pipelines.batches.findings import Findings
from clx.pipelines.data.leaks import leaks
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.data.pieces import Piece
from clx.pipelines.data.shared_content import identifies, keys_of
from clx.pipelines.system.remote import Url


def content_digest(cell: Any) -> bytes | None:
    """Eight bytes that stand for what a cell holds; files are read in pieces, an hour of sound is large."""
    if isinstance(cell, tuple | list):  # a pair, or several
        parts = [content_digest(one) for one in cell]
        cell = None if None in parts else b"".join(part for part in parts if part is not None)
    if isinstance(cell, Url):  # what it holds was read and let go of; its name tells copies of the name
        cell = cell.text.encode()
    if isinstance(cell, Piece):
        cell = cell.key.encode()
    if isinstance(cell, Path) and piece_of(cell.name)[0] != cell.name:  # its place: windows overlap by intent
        cell = str(cell).encode()
    if isinstance(cell, Path):
        with cell.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8)).digest()
    if isinstance(cell, np.ndarray):
        cell = str(cell.shape).encode() + cell.tobytes()
    return hashlib.blake2b(cell, digest_size=8).digest() if isinstance(cell, bytes) else None


def compare_content(
    name: str,
    column: str,
    splits: Mapping[str, Manifest],
    found: Mapping[str, Mapping[str, ColumnFindings]],
    findings: Findings,
) -> None:
    """Equal content within a split (counted) and across splits (each listed)."""
    hashes, first = {}, {}
    for split, manifest in splits.items():
        at = found[split][name]
        hashes[split], first[split] = np.unique(np.frombuffer(at.hashes, dtype=np.uint64), return_index=True)
        again = len(at.hashes) - len(hashes[split])
        if again:
            repeated = f"{again} of {len(at.hashes)} cells repeat the content of another row of {split}"
            findings.add("duplicate", manifest.name, column, repeated, error=False)
    for one, other in combinations(splits, 2):
        _, left, right = np.intersect1d(hashes[one], hashes[other], assume_unique=True, return_indices=True)
        for k, m in zip(left, right, strict=True):
            here = splits[other].where(found[other][name].rows[int(first[other][m])])
            there = splits[one].where(found[one][name].rows[int(first[one][k])])
            findings.add("leak", here, column, f"{other} has the same content as {there} of {one}", error=True)


def compare_texts(splits: Mapping[str, Manifest], modalities: Mapping[str, Modality], findings: Findings) -> None:
    """Texts of training rows in other splits, where they say more than a class does."""
    for modality, column in ((modality, column_of(name, modality)) for name, modality in modalities.items()):
        if modality.kind == "text" and isinstance(column, str):
            for line in leaks(splits, {column: False}):
                findings.add("shared text", splits["train"].name, column, line, error=False)


def repeated_texts(splits: Mapping[str, Manifest], modalities: Mapping[str, Modality], findings: Findings) -> None:
    """Rows of nothing but texts that are those of another row of the split, where they say more than classes do."""
    if any(modality.kind != "text" for modality in modalities.values()):
        return  # copies of files are counted
    named = [column_of(name, modality) for name, modality in modalities.items()]
    columns = [column for one in named for column in ([one] if isinstance(one, str) else one)]
    for split, manifest in splits.items():
        keys = {column: keys_of(manifest, column) for column in columns if column in manifest.columns}
        if any(identifies(manifest, column, found, False) for column, found in keys.items()):
            rows = np.stack(list(keys.values()), 1)
            rows = rows[rows.any(1)]
            again = len(rows) - len(np.unique(rows, axis=0))
            if again:
                repeated = f"{again} of {len(rows)} rows repeat the content of another row of {split}"
                findings.add("duplicate", manifest.name, ", ".join(keys), repeated, error=False)


def compare_groups(splits: Mapping[str, Manifest], groups: Sequence[str], findings: Findings) -> None:
    """Groups whose rows are to stay in one split, of which training and another split both have rows."""
    for column in groups:
        for line in leaks(splits, {}, [column]):
            findings.add("shared group", splits["train"].name, column, line, error=False)
