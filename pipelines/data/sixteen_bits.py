"""Pictures of 16 bits that use only a few of them, as detectors and satellites give them: what is their white."""

import io
from pathlib import Path
from typing import Any

import numpy as np

from clx.pipelines.data.cell_files import fetched, resolve
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.system.remote import Unreachable

LOOKED_AT = 20
"""Pictures of a column."""
FULL = 65535
DARK = 4
"""Times by which the brightest pixel must stay below 65535: at 8 bits a quarter of all levels would be left."""


def white_of(manifest: Manifest, column: str) -> int | None:
    """The largest number of as many bits as the brightest 16-bit pixel has; None where pixels have 8, or use all 16."""
    brightest = 0
    for i in np.unique(np.linspace(0, len(manifest) - 1, LOOKED_AT).astype(int)):
        try:
            brightest = max(brightest, _brightest(fetched(resolve(manifest.cell(int(i), column), manifest))))
        except Unreachable:
            raise
        except Exception:  # decoders raise anything; `clx data check` names what cannot be opened
            continue
    white = (1 << max(8, brightest.bit_length())) - 1
    return white if brightest and DARK * brightest <= FULL else None


def _brightest(cell: Any) -> int:
    """The largest pixel of a picture of 16 bits; 0 for any other."""
    from PIL import Image

    if isinstance(cell, Path) and cell.suffix.lower() == ".npy":
        pixels = np.load(cell, mmap_mode="r", allow_pickle=False)
        return int(pixels.max()) if pixels.dtype == np.uint16 else 0
    if not isinstance(cell, Path | bytes):
        return 0
    with Image.open(io.BytesIO(cell) if isinstance(cell, bytes) else cell) as picture:
        return max(0, int(np.asarray(picture).max())) if picture.mode.startswith("I") else 0
