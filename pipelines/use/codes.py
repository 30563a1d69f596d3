"""Unit vectors in fewer bytes: int8 with a scale for each row, or the signs alone."""

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

Codes = np.ndarray[Any, Any]
"""`[N, bytes]`: the codes of each row, and at its end its scale in 4 bytes (int8), or whether it is there (binary)."""
Kind = Literal["int8", "binary"]


def length(width: int, kind: str) -> int:
    """Bytes of a row of `width` numbers."""
    return width + 4 if kind == "int8" else -(-width // 8) + 1


def encode(rows: Tensor, kind: str) -> Codes:
    """Codes of rows `[N, D]`; rows of NaN are marked as absent."""
    x = rows.numpy()
    absent: Codes = np.isnan(x).any(1)
    if kind == "int8":
        scale = np.abs(x).max(1) / 127
        whole = np.round(x / np.where(scale > 0, scale, 1)[:, None])
        whole[absent] = 0
        tail = np.ascontiguousarray(scale, np.float32)[:, None].view(np.uint8)
        return np.concatenate([whole.astype(np.int8).view(np.uint8), tail], 1)
    signs: Codes = np.concatenate([np.packbits(x > 0, axis=1), ~absent[:, None]], 1).astype(np.uint8)
    return signs


def bare(found: Codes, kind: str) -> Codes:
    """Codes without their ends, as an index takes them: int8 `[N, D]`, or bits `[N, ceil(D / 8)]`."""
    return np.ascontiguousarray(found[:, :-4]).view(np.int8) if kind == "int8" else np.ascontiguousarray(found[:, :-1])


def scores(found: Codes, queries: Tensor, kind: str) -> Tensor:
    """Dot products `[Q, N]` of queries `[Q, D]` with what the codes stand for, NaN for absent rows.

    Signs are taken for +1 and -1, so that their order is right and their size is not.
    """
    width = queries.shape[1]
    if kind == "int8":
        scale = torch.from_numpy(np.ascontiguousarray(found[:, width:]).view(np.float32)[:, 0])
        return (queries @ torch.from_numpy(bare(found, kind)).float().T) * scale
    bits = torch.from_numpy(np.unpackbits(found[:, :-1], axis=1, count=width)).float()
    signs = queries @ (2 * bits - 1).T
    return signs.masked_fill_(torch.from_numpy(found[:, -1] == 0), torch.nan)
