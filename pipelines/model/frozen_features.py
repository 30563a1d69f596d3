"""Features of frozen encoders on samples that are not augmented, computed once for all epochs, stages and runs."""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clx.modalities.base import Modality
from clx.pipelines.batches.batch import Key
from clx.pipelines.batches.cells import cell_at, content_of, holds_lists
from clx.pipelines.batches.columns import spread
from clx.pipelines.batches.dataset import BatchDataset
from clx.pipelines.batches.loader import batches, once
from clx.pipelines.batches.sample_cache import key_of
from clx.pipelines.config.options import options_of
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.model.build import Run
from clx.pipelines.model.fingerprint import fingerprint
from clx.pipelines.system.errors import BadInput

MANY, EVERY = 100, 5.0
"""Rows from which on it is said that they are encoded, and seconds between two lines on how far that is."""
LARGEST = 1 << 28
"""Bytes of features that outlive the run that asked for them."""
BEHIND = ("step_encoder", "head", "head_dropout", "noise", "drop")
"""Options of a modality that say nothing of what a frozen encoder makes of its cells."""
_kept: dict[str, dict[int, Tensor]] = {}
"""By digest and then by place among the rows, the one asked for last at the end."""


def use_frozen_features(
    run: Run,
    rows: BatchDataset,
    context: Callable[[], AbstractContextManager[object]] = nullcontext,
    say: Callable[[str], None] = lambda text: None,
) -> None:
    """Give rows the features of every modality whose encoder is frozen and sees each sample as it is.

    Always in the same batches, so that a resumed run knows the very same numbers. `say` hears how far that is.
    """
    for name, modality in rows.modalities.items():
        varied = rows.augment and (modality.views > 1 or modality.varies)
        varied |= (rows.augment or rows.first) and modality.draws_one and holds_lists(rows.manifest, name, modality)
        tower = run.model.tower(name)
        once_only = tower.locked or (tower.steps_locked and not holds_lists(rows.manifest, name, modality))
        if once_only and not varied and name not in run.model.prompt_of:
            rows.features[name] = features(run, name, rows.manifest, context, say)


@torch.no_grad()
def features(
    run: Run,
    name: str,
    manifest: Manifest,
    context: Callable[[], AbstractContextManager[object]] = nullcontext,
    say: Callable[[str], None] = lambda text: None,
) -> dict[int, Tensor]:
    """What a modality's head gets of each row `[W]`, by the row's number in the table, in float32 on the CPU; what its
    `step_encoder` gets `[T, W]` where that learns.

    One of several columns is called as in `batches.columns.spread`.

    Rows that lack the modality or cannot be read are left out. The model should be in evaluation, and `context` is
    entered to encode. The next run of a sweep, the next stage of this one, or its evaluation is answered from memory
    where encoder and cells are the same, whatever the table is called and wherever its rows stand in it; of a file
    that is its path, size and time of change. Cells are known together and not each by itself, since the last bits
    of a row's features depend on the rows that it is encoded with.
    """
    tower, modality, device = run.model.tower(name), spread(run.modalities)[name], run.device
    cells = _cells(name, modality, manifest)
    with context():
        key = f"{_digest(run, name, modality, cells)} {device} {torch.is_autocast_enabled(device.type)}"
    if key in _kept:
        _kept[key] = _kept.pop(key)
        return {int(manifest.rows[i]): found for i, found in _kept[key].items()}
    plain = BatchDataset(manifest, {name: modality}, on_bad="skip")  # bad rows are told when a batch has them
    known: dict[int, Tensor] = {}
    keys = once(len(plain), 256)
    if not modality.files:  # texts of like length together: a batch is as wide as its longest
        order = np.argsort([len(cell) for cell in cells], kind="stable")
        keys = [Key(0, k, order[part.rows]) for k, part in enumerate(keys)]
    done, told = 0, time.monotonic()
    if len(plain) >= MANY:
        say(f"features of {name} by {modality.encoder}, once: {len(plain)} rows")
    for batch in batches(plain, keys, run.config.train.workers):
        if name in batch.inputs:
            with context():
                found = tower.known_once(batch.to(device).inputs[name])
            known |= zip(batch.sample_id[batch.present[name]].tolist(), found, strict=True)
        done += len(batch) + len(batch.bad)
        if time.monotonic() - told >= EVERY and done < len(plain):
            say(f"features of {name} by {modality.encoder}: {done} of {len(plain)} rows")
            told = time.monotonic()
    place = {row: i for i, row in enumerate(manifest.rows.tolist())}
    _keep(key, {place[row]: found for row, found in known.items()})
    return known


def _keep(key: str, known: dict[int, Tensor]) -> None:
    """Remember, and forget what was asked for longest ago while that is too much."""
    _kept[key] = known
    while sum(_bytes(each) for each in _kept.values()) > LARGEST:
        _kept.pop(next(iter(_kept)))


def _bytes(known: dict[int, Tensor]) -> int:
    return sum(rows.nbytes for rows in known.values())


def _digest(run: Run, name: str, modality: Modality, cells: Sequence[bytes]) -> str:
    """Of all that decides the features: encoder, how cells are read, and the cells in their order."""
    tower = run.model.tower(name)
    options = {key: value for key, value in options_of(modality).items() if key not in BEHIND}
    said = [modality.kind, options, modality.state(), tower.locked]
    encoder = tower.encoder if tower.locked else tower.encoder.get_submodule("inner")
    digest = hashlib.blake2b(fingerprint(encoder).encode(), digest_size=16)
    digest.update(json.dumps(said, sort_keys=True, default=str).encode())
    for cell in cells:
        digest.update(b"%d " % len(cell) + cell)
    return digest.hexdigest()


def _cells(name: str, modality: Modality, manifest: Manifest) -> list[bytes]:
    """What each cell of a modality is made from; those that are refused or not there are all alike."""
    found = []
    for i in range(len(manifest)):
        try:
            found.append(_cell(modality, cell_at(manifest, i, name, modality)))
        except BadInput:
            found.append(b"")
    return found


def _cell(modality: Modality, cell: Any) -> bytes:
    if not modality.files:
        return repr(cell).encode("utf-8", "surrogateescape")
    if cell is None:
        return b""
    key = key_of(modality, cell)  # None of numbers, and of a file that is not there
    return b"%d" % content_of(cell) if key is None else key
