"""A cache on disk of tensors that a model made, found again by a digest of what they were made from."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from torch import Tensor

from clx.pipelines.system.cache_folder import cache_folder

KEPT = 200
"""Entries of the cache that stay, the last used ones."""


def cached(key: Mapping[str, Any], make: Callable[[], Tensor]) -> Tensor:
    """The tensor kept under `key` (JSON values), or else made and kept. What cannot be read or kept is made anew."""
    folder = cache_folder()
    if folder is None:
        return make()
    from safetensors import SafetensorError
    from safetensors.torch import load_file, save_file

    name = hashlib.blake2b(json.dumps(key, sort_keys=True).encode(), digest_size=20).hexdigest()
    path = folder / "labels" / f"{name}.safetensors"
    with suppress(OSError, SafetensorError, KeyError):
        kept: Tensor = load_file(path)["rows"]
        os.utime(path)
        return kept
    rows = make().contiguous()
    beside = path.with_name(f".{name}.{os.getpid()}.tmp")
    with suppress(OSError, SafetensorError):  # a cache that cannot be written is none
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({"rows": rows}, beside)
        os.replace(beside, path)
        oldest = sorted(path.parent.glob("*.safetensors"), key=lambda p: p.stat().st_mtime)[:-KEPT]
        for one in oldest:
            one.unlink(missing_ok=True)
    return rows
