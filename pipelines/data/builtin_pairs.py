"""Pictures of two digits: with the set of both as their label, or one of them bright and one faint."""

import io

import numpy as np

from clx.pipelines.data.builtin_digits import ENGLISH, Tables, scans

PAIR_ROWS = {"train": 4000, "val": 400, "test": 1000}
SHADOW = 0.3
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


def digit_shadows(_: str) -> Tables:
    """A bright scan in the left half of a picture of 16 by 16 and another, of `SHADOW` of its brightness, in the right
    half, each at any height; `label` has the bright digit, `shadow` the faint one, drawn apart from it. Each scan
    stands in pictures of one split only."""
    import pyarrow as pa
    from PIL import Image

    tables = {}
    for number, (split, (files, labels)) in enumerate(scans().items()):
        rng = np.random.default_rng([29, number])
        pixels = np.stack([np.asarray(Image.open(io.BytesIO(file))) for file in files])
        two = rng.integers(len(files), size=(PAIR_ROWS[split], 2))
        images: list[bytes] = []
        for (bright, faint), (left, right) in zip(two.tolist(), rng.integers(9, size=two.shape).tolist(), strict=True):
            canvas = np.zeros((16, 16), np.uint8)
            canvas[left : left + 8, :8] = pixels[bright]
            canvas[right : right + 8, 8:] = np.round(SHADOW * pixels[faint])
            out = io.BytesIO()
            Image.fromarray(canvas).save(out, "PNG")
            images.append(out.getvalue())
        names = ENGLISH[labels[two]]
        columns = {"image": pa.array(images, pa.binary()), "label": names[:, 0].tolist()}
        tables[split] = pa.table(columns | {"shadow": names[:, 1].tolist(), "split": [split] * len(two)})
    return tables
