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


def answers(target: str = "price", objective: str = "l1", **files: str) -> dict[str, str]:
    """A config on one number `x` that says what to learn, beside these files."""
    meaning = f"label: {target}" if objective == "cross-entropy" else f"target: {target}"
    table = "table: {columns: [x], width: 32, layers: 1, augmentation: none}"
    train = "train: {steps: 1, batch_size: 2, device: cpu}"
    config = f"data: {{train: a.csv, {meaning}}}\nmodalities: {{{table}}}\nobjective: {objective}\n{train}\n"
    return {"c.yaml": config} | {name.replace("_", "."): text for name, text in files.items()}


CONSTANT = answers(a_csv=csv("x,price", "1,3", "2,3.0", "4,", "5,3"))
ONE_CLASS = answers("kind", "cross-entropy", a_csv=csv("x,kind", "1,cat", "2,cat", "4,", "5,cat"))
INFINITE = answers(a_csv=csv("x,price", "1,3", "2,inf", "4,7", "5,8"))
INFINITE_VAL = answers(a_csv=csv("x,price,split", "1,3,train", "2,4,train", "4,-inf,val", "5,8,test"))
TOO_MUCH = INFINITE | {"c.yaml": INFINITE["c.yaml"].replace("train: a.csv", "train: a.csv, on_bad_row: skip")}


def finding(what: str, where: str, column: str) -> Any:
    """Whether an error of this sort is the only one among the findings."""
    return lambda found: (
        [(f["what"], f["where"], f["column"]) for f in found if f["level"] == "error"] == [(what, where, column)]
    )


FIGURES = [
    Case(
        "a constant target, checked",
        CONSTANT,
        "data check --config c.yaml",
        {"ok": False, "findings": finding("constant target", "a.csv", "price")},
        code=3,
    ),
    Case(
        "a constant target, trained",
        CONSTANT,
        "train c.yaml",
        error="a.csv, column price: a target needs two different values to learn from; all rows that have one have 3",
    ),
    Case(
        "one class, checked",
        ONE_CLASS,
        "data check --config c.yaml",
        {"ok": False, "findings": finding("one class", "a.csv", "kind")},
        code=3,
    ),
    Case(
        "one class, trained",
        ONE_CLASS,
        "train c.yaml",
        error="a.csv, column kind: a label needs two classes to tell apart; all rows that have one have 'cat'",
    ),
    Case(
        "an infinite target, checked",
        INFINITE,
        "data check --config c.yaml",
        {"ok": False, "findings": finding("bad cell", "a.csv row 2", "price")},
        code=3,
    ),
    Case(
        "an infinite target, trained",
        INFINITE,
        "train c.yaml",
        error="a.csv row 2, column price: inf is no target to learn from",
    ),
    Case(
        "an infinite target among val rows, trained",
        INFINITE_VAL,
        "train c.yaml",
        error="a.csv row 3, column price: -inf is no target to learn from",
    ),
    Case(
        "an infinite target, left out",
        TOO_MUCH,
        "train c.yaml -s data.bad_row_budget=1 -o run",
        {"steps": 1, "evaluation.rows": 3, "evaluation.regression.table->price.rows": 3},
    ),
    Case(
        "a task that the data cannot have, named in the config",
        INFINITE,
        "train c.yaml -s eval=[regression,zeroshot]",
        error="eval names 'zeroshot', which needs data.label, the column with the class",
    ),
    Case(
        "a class head is evaluated where nobody says what",
        answers("kind", "cross-entropy", a_csv=csv("x,kind", *(f"{i},{'ab'[i % 2]}" for i in range(12)))),
        "train c.yaml",
        {
            "evaluation.classification.table.rows": 12,
            "evaluation.classification.table.confusion.classes": ["a", "b"],
            "evaluation": lambda found: not {"zeroshot", "retrieval", "skipped"} & {*found},
        },
    ),
]
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
