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


def recipe(modality: str, data: str = "train: t.csv, label: label", name: str = "supcon") -> str:
    """A run of one step, as YAML."""
    settings = "embed_dim: 8\ntrain: {steps: 1, batch_size: 8}\neval: []\n"
    return f"data: {{{data}}}\nmodalities: {{{modality}}}\nobjective: {name}\n{settings}"


def texts(*lengths: int) -> str:
    """A table of texts of so many bytes, and two classes."""
    return csv("text,label", *(f"{'a b c ' * (n // 6)}{'d' * (n % 6)},{'xy'[i % 2]}" for i, n in enumerate(lengths)))


SERIES = [
    Case(
        "long texts are read to their end",
        {"t.csv": texts(*[300] * 20)},
        "data check t.csv",
        {"splits.train.inputs.text.cut": 0, "findings": []},
    ),
    Case(
        "one text in a hundred may be cut, and is counted",
        {"t.csv": texts(*[400] * 100, 2000)},
        "data check t.csv",
        {
            "splits.train.inputs.text.cut": 1,
            "counts.cut": 1,
            "findings.0.where": "t.csv row 101",
            "findings.0.reason": lambda said: "1 of 101 cells of text (1.0%) are longer than 400 bytes" in said,
        },
    ),
    Case(
        "very long texts are cut at 1024 bytes, which is said",
        {"t.csv": texts(*[1000] * 10, *[1500] * 10)},
        "data check t.csv",
        {
            "splits.train.inputs.text.cut": 10,
            "findings.0.reason": lambda said: "10 of 20 cells of text (50.0%) are longer than 1024 bytes" in said,
        },
    ),
    Case(
        "what max_length cuts is said before training",
        {
            "t.csv": texts(*[30] * 10, *[50] * 6),
            "r.yaml": recipe("text: {views: 2, augmentation: strong, max_length: 40}"),
        },
        "train r.yaml --out run",
        hears=("6 of 16 cells of text (37.5%) are longer than 40 bytes (max_length)", "the first is", "t.csv row 11"),
    ),
    Case(
        "what a pretrained tokenizer cuts is said before training",
        {
            "t.csv": texts(*[30] * 10, *[1600] * 6),
            "r.yaml": recipe("text: {encoder: 'hf:minilm', freeze: true, views: 2, augmentation: strong}"),
        },
        "data check t.csv --config r.yaml",
        {"splits.train.inputs.text.cut": 6, "findings.0.reason": lambda said: "256 tokens" in said},
    ),
    Case(
        "recordings are read to their end",
        {
            "t.csv": csv("audio", *["a.wav"] * 8, *["b.wav"] * 4),
            "a.wav": sound(0, 45, 1000),
            "b.wav": sound(1, 1, 1000),
        },
        "data check t.csv",
        {"splits.train.inputs.audio.cut": 0, "splits.train.inputs.audio.length.max": 45.0},
    ),
    Case(
        "what max_seconds cuts is said before training",
        {
            "t.csv": csv("audio,label", *["a.wav,x"] * 3, *["b.wav,y"] * 5),
            "a.wav": sound(0, 2, 1000),
            "b.wav": sound(1, 1, 1000),
            "r.yaml": recipe("audio: {views: 2, sample_rate: 1000, mels: 8, max_seconds: 1.5}"),
        },
        "train r.yaml --out run",
        hears=("3 of 8 cells of audio (37.5%) are longer than 1.5 seconds (max_seconds)", "t.csv row 1"),
    ),
]
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
