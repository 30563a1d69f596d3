"""Pictures of two different digits, with the set of both as their label: for losses on sets and on paths of labels."""

import io

import numpy as np

from clx.pipelines.data.builtin_digits import ENGLISH, Tables, scans

PAIR_ROWS = {"train": 4000, "val": 400, "test": 1000}
PRIME = (2, 3, 5, 7)
PATHS = [
    f"{'odd' if digit % 2 else 'even'}/{'prime' if digit in PRIME else 'other'}/{word}"
    for digit, word in enumerate(ENGLISH.tolist())
]
"""By digit, a label of three levels."""


def digit_pairs(_: str) -> Tables:
    """Two scans of different digits in two of the four quarters of a picture of 16 by 16; `label` has both, divided by
    `|`, and each scan stands in pictures of one split only."""
    import pyarrow as pa
    from PIL import Image

    tables = {}
    for number, (split, (files, labels)) in enumerate(scans().items()):
        rng = np.random.default_rng([23, number])
        pixels = np.stack([np.asarray(Image.open(io.BytesIO(file))) for file in files])
        images: list[bytes] = []
        names: list[str] = []
        while len(images) < PAIR_ROWS[split]:
            two = rng.integers(len(files), size=2)
            digits = sorted(labels[two].tolist())
            quarters = rng.permutation(4)[:2]
            if digits[0] == digits[1]:
                continue
            canvas = np.zeros((16, 16), np.uint8)
            for scan, quarter in zip(pixels[two], quarters.tolist(), strict=True):
                top, left = 8 * (quarter // 2), 8 * (quarter % 2)
                canvas[top : top + 8, left : left + 8] = scan
            out = io.BytesIO()
            Image.fromarray(canvas).save(out, "PNG")
            images.append(out.getvalue())
            names.append("|".join(PATHS[digit] for digit in digits))
        columns = {"image": pa.array(images, pa.binary()), "label": names, "split": [split] * len(names)}
        tables[split] = pa.table(columns)
    return tables
