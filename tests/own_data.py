"""Data in the shapes that people have it, and what clx is to make of each: a line to add a case.

    Case("name of the case", files, "command", says={...})     what its JSON says, by dotted path; values are equal
    Case("name of the case", files, "command", error="...")    one line on stderr that holds this, exit code 2, no run

`files` is {path: content}: text, bytes, a table to be written as Parquet, or one of the makers below. The command runs
in the folder of the files; `--json` is added. In `says` a value may also be a function, which is to give True.
`hears` holds words that must stand on stderr. test_own_data.py runs every case through the executable.
"""

import io
import json
import wave
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class Case:
    name: str
    files: Mapping[str, Any]
    command: str
    says: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None
    code: int | None = None
    """Exit code: 2 with `error`, 0 without, unless given."""
    hears: tuple[str, ...] = ()


def picture(seed: int = 0, kind: str = "PNG", size: int = 8) -> bytes:
    """An image of noise; other seeds, other pixels."""
    pixels = np.random.default_rng(seed).integers(256, size=(size, size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def sound(seed: int = 0, seconds: float = 0.1, rate: int = 8000) -> bytes:
    """A WAV file of noise."""
    values = np.random.default_rng(seed).integers(-9999, 9999, int(seconds * rate), dtype=np.int16)
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1), file.setsampwidth(2), file.setframerate(rate)
        file.writeframes(values.tobytes())
    return buffer.getvalue()


def array(values: Any) -> bytes:
    """A .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(values))
    return buffer.getvalue()


def csv(header: str, *rows: str) -> str:
    return "\n".join((header, *rows)) + "\n"


def lines(*rows: Mapping[str, Any]) -> str:
    """A JSONL file."""
    return "".join(json.dumps(row) + "\n" for row in rows)


def pictures(*paths: str) -> dict[str, bytes]:
    """An image at each of these paths, all different."""
    return {path: picture(i) for i, path in enumerate(paths)}


FOLDERS = [
    Case(
        "class folders",
        pictures("data/cat/1.png", "data/cat/2.png", "data/dog/1.png"),
        "data check data",
        {"splits.train.rows": 3, "splits.train.classes": {"cat": 2, "dog": 1}},
    ),
]
"""Folders and files: splits by name, what lies beside them, files by content."""


COLUMNS = [
    Case(
        "an empty table",
        {"a.csv": "x,y\n"},
        "data check a.csv",
        error="a.csv: there is a header but no rows of data",
    ),
]
"""What columns are: kinds by majority, answers never among the inputs, what `clx init` makes of them."""


LISTS: list[Case] = []
"""Lists and structs in cells: several captions, sets of labels, several images."""


PAIRS: list[Case] = []
"""Recipes of pairs: anchors with negatives, scored pairs, and several inputs for one answer."""


SPLITS: list[Case] = []
"""Which rows are held out, and what leaks."""


NUMBERS: list[Case] = []
"""Text as numbers, dates and labels."""


FIGURES: list[Case] = []
"""Answers that nothing can be learned from, and figures on small data."""


SERIES: list[Case] = []
"""Time series, long tables, and what would be cut."""


RECIPE = "data: {train: digits}\nmodalities: {image: {}}\nobjective: nt-xent\n"

MESSAGES = [
    Case(
        "a key given twice",
        {"a.yaml": RECIPE + "data:\n  train: pairs.csv\n"},
        "train a.yaml",
        error="config a.yaml line 4: 'data' is given twice",
    ),
    Case(
        "YAML that is none",
        {"a.yaml": "data: {train: digits\nmodalities: {}\n"},
        "train a.yaml",
        error="config a.yaml line 2: ",
    ),
    Case(
        "a flag out of range is blamed, not the file",
        {"a.yaml": RECIPE},
        "train a.yaml --steps 0",
        error="error: --steps 0: train.steps = 0: should be greater than or equal to 1",
    ),
    Case(
        "an infinite learning rate",
        {"a.yaml": RECIPE},
        "train a.yaml -s train.lr=inf",
        error="error: -s train.lr=inf: train.lr = 'inf': should be a finite number",
    ),
]
"""Everything else that must be said clearly."""


CASES = [*FOLDERS, *COLUMNS, *LISTS, *PAIRS, *SPLITS, *NUMBERS, *FIGURES, *SERIES, *MESSAGES]
