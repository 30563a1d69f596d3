"""Data that needs no download: made here, or packaged in scikit-learn and aeon.

Cells hold what files would hold (PNG and WAV bytes, series as lists, plain numbers), so built-in data goes the
same way through the program as anybody's own.
"""

import csv
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clx.pipelines.data import builtin_digits
from clx.pipelines.data.builtin_digits import (
    DRAWS,
    ROTATION,
    ROTATION_ROWS,
    SUM_ROWS,
    Tables,
    digits,
    digits_mislabelled,
    digits_rotation,
    digits_sum,
)
from clx.pipelines.data.builtin_pairs import PAIR_ROWS, digit_pairs, digit_shadows
from clx.pipelines.data.builtin_seasons import WEEKS, seasons
from clx.pipelines.data.builtin_stamps import FOLDER, STAMP_ROWS, stamps
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.data.readers import read_ts
from clx.pipelines.system.durable_files import unwritable
from clx.pipelines.system.errors import BadInput, nearest

XOR_ROWS = {"train": 10_000, "val": 500, "test": 2000}  # the training rows of Symile's own experiment


@dataclass(frozen=True)
class Builtin:
    """One set of built-in data."""

    name: str
    modalities: tuple[str, ...]
    rows: dict[str, int]
    """Rows per split."""
    about: str
    make: Callable[[str], Tables]
    """From what stands after the colon of its name; from its folder where it has one."""
    folder: Path | None = None
    """Where its files lie, if `data.root` does not say; None where cells hold all there is."""


def is_builtin(source: str) -> bool:
    """Whether `source` names built-in data, or means to: those before a colon are never paths."""
    return source in BUILTIN or source.startswith(("aeon:", "sklearn:", "xor:", "mislabelled:"))


def load_builtin(name: str, root: str | None = None) -> dict[str, Manifest]:
    """The splits of built-in data, of files below `root` where it is given. Raises `BadInput`, with the nearest name
    when there is none so called."""
    if name not in BUILTIN:
        raise BadInput(f"no built-in data named {name!r}{nearest(name, BUILTIN)}")
    found = BUILTIN[name]
    if root is not None and found.folder is None:
        raise BadInput(f"data.root is for the paths in a table; {name} is built in")
    folder = Path(root).expanduser() if root is not None else found.folder
    tables = found.make(name.partition(":")[2] if folder is None else str(folder))
    return {
        split: Manifest(f"{name} {split}", folder or Path(), table, np.arange(len(table), dtype=np.int64))
        for split, table in tables.items()
    }


def describe() -> list[dict[str, Any]]:
    """What there is, for `clx data list`: name, modalities, rows per split and one line."""
    return [
        {"name": b.name, "modalities": list(b.modalities), "rows": dict(b.rows), "about": b.about}
        for b in BUILTIN.values()
    ]


def _xor(p: str) -> Tables:
    """Bits a, b and c, five each: c is a XOR b in a share p of the rows, else noise. No pair tells of the third."""
    import pyarrow as pa

    tables = {}
    for number, (split, rows) in enumerate(XOR_ROWS.items()):
        rng = np.random.default_rng([13, number])
        a, b, noise = rng.integers(2, size=(3, rows, 5), dtype=np.int8)
        c = np.where(rng.random((rows, 1)) < float(p), a ^ b, noise)
        bits = {f"{name}_{k}": part[:, k] for name, part in (("a", a), ("b", b), ("c", c)) for k in range(5)}
        words = ["".join(map(str, row)) for row in c.tolist()]
        tables[split] = pa.table({**bits, "label": words, "split": [split] * rows})
    return tables


def _aeon(name: str) -> Tables:
    """A set that the aeon package carries: `series` `[T]` or `[T, C]`, and `label` or `target`."""
    import aeon
    import pyarrow as pa

    folder = Path(aeon.__file__).parent / "datasets" / "data" / name
    tables = {}
    for split in ("train", "test"):
        path = folder / f"{name}_{split.upper()}.ts"
        if not path.is_file():
            raise BadInput(f"aeon:{name}: the installed aeon does not carry {path.name}")
        table = read_ts(path, f"aeon:{name}")
        tables[split] = table.append_column("split", pa.array([split] * len(table)))
    return tables


def _sklearn(name: str) -> Tables:
    """A table that scikit-learn carries, with a fixed fifth of the rows (of each class) as test split."""
    import pyarrow as pa
    from sklearn import datasets
    from sklearn.model_selection import train_test_split

    options = {"scaled": False} if name == "diabetes" else {}
    bunch = getattr(datasets, f"load_{name}")(**options)
    columns = {_tidy(column): bunch.data[:, i] for i, column in enumerate(bunch.feature_names)}
    classes: NDArray[Any] | None = None
    if name == "linnerud":
        columns |= {_tidy(column): bunch.target[:, i] for i, column in enumerate(bunch.target_names)}
    elif name == "diabetes":
        columns["target"] = bunch.target
    else:
        classes = np.array([str(word) for word in bunch.target_names])[bunch.target]
        columns["label"] = classes
    train, test = train_test_split(np.arange(len(bunch.data)), test_size=0.2, random_state=0, stratify=classes)
    tables = {}
    for split, rows in (("train", np.sort(train)), ("test", np.sort(test))):
        chosen = {column: values[rows].tolist() for column, values in columns.items()}
        tables[split] = pa.table({**chosen, "split": [split] * len(rows)})
    return tables


def _tidy(column: str) -> str:
    """`sepal length (cm)` as `sepal_length_cm`, to be written in a recipe without quotes."""
    return "_".join("".join(c if c.isalnum() else " " for c in column.lower()).split())


def _registry() -> dict[str, Builtin]:
    senses = ("image", "audio", "series", "table", "text")
    found = [
        Builtin(
            "digits",
            senses,
            {split: count * DRAWS[split] for split, count in builtin_digits.SOURCES.items()},
            "ten digits in five senses: handwriting, telephone tones, Morse, seven segments, words",
            digits,
        ),
        Builtin(
            "digits-sum",
            ("image", "audio", "text"),
            {split: 100 * count for split, count in SUM_ROWS.items()},
            "image a, audio b, text a+b mod 10: only all three together tell anything",
            digits_sum,
        ),
    ]
    found.append(
        Builtin(
            "digits-rotation",
            ("image",),
            {split: count * ROTATION_ROWS[split] for split, count in builtin_digits.SOURCES.items()},
            f"handwritten digits turned by an angle, target: angle, -{ROTATION:.0f} to {ROTATION:.0f} degrees",
            digits_rotation,
        )
    )
    for share, percent in (("0.2", 20), ("0.4", 40)):
        about = f"handwritten digits, {percent} % of the training and val labels wrong, the right in truth"
        scans = dict(builtin_digits.SOURCES)
        found.append(Builtin(f"mislabelled:{share}", ("image",), scans, about, digits_mislabelled))
    about = "two digits a picture, labels odd/prime/three and so on"
    found.append(Builtin("digit-pairs", ("image",), PAIR_ROWS, about, digit_pairs))
    about = "a bright digit a picture, its label, and a faint one, in the column shadow"
    found.append(Builtin("digit-shadows", ("image",), PAIR_ROWS, about, digit_shadows))
    found.append(
        Builtin(
            "seasons",
            ("series",),
            dict.fromkeys(WEEKS, 1),
            f"hourly demand of {sum(WEEKS.values())} weeks in one recording, to forecast; val and test follow train",
            seasons,
        )
    )
    about = "pictures, words in 77 languages, speech in 12, with holes (apt install tuxpaint-stamps-default)"
    found.append(Builtin("stamps", ("image", "text", "audio"), STAMP_ROWS, about, stamps, FOLDER))
    for p, about in (("0", "noise"), ("0.5", "a XOR b in half of the rows, else noise"), ("1", "a XOR b")):
        found.append(
            Builtin(f"xor:{p}", ("table",), dict(XOR_ROWS), f"tables a, b, c of 5 bits each, c = {about}", _xor)
        )
    for name, train, test, about in AEON:
        found.append(Builtin(f"aeon:{name}", ("series",), {"train": train, "test": test}, about, _aeon))
    for name, train, test, about in SKLEARN:
        found.append(Builtin(f"sklearn:{name}", ("table",), {"train": train, "test": test}, about, _sklearn))
    return {entry.name: entry for entry in found}


AEON = [
    ("ACSF1", 100, 100, "power use of 10 kinds of appliances"),
    ("ArrowHead", 36, 175, "outlines of arrowheads, 3 classes"),
    ("BasicMotions", 40, 40, "6 channels of a smart watch, 4 activities"),
    ("CardanoSentiment", 74, 33, "2 channels, target: sentiment about a currency"),
    ("Covid3Month", 140, 61, "daily cases of 3 months, target: death rate"),
    ("Covid3Month_disc", 140, 61, "daily cases of 3 months, death rate in 3 classes"),
    ("GunPoint", 50, 150, "hand movement, 2 classes"),
    ("ItalyPowerDemand", 67, 1029, "power demand of a day, 2 classes"),
    ("JapaneseVowels", 270, 370, "12 channels of unequal length, 9 speakers"),
    ("OSULeaf", 200, 242, "outlines of leaves, 6 classes"),
    ("PickupGestureWiimoteZ", 50, 50, "acceleration of unequal length, 10 gestures"),
    ("UnitTest", 20, 22, "20 rows for tests, 2 classes"),
]
SKLEARN = [
    ("breast_cancer", 455, 114, "30 numbers, 2 classes"),
    ("diabetes", 353, 89, "10 numbers, target: progression of the disease"),
    ("digits", 1437, 360, "64 pixels, 10 classes"),
    ("iris", 120, 30, "4 numbers, 3 classes"),
    ("linnerud", 16, 4, "3 exercises, targets: weight, waist, pulse"),
    ("wine", 142, 36, "13 numbers, 3 classes"),
]
BUILTIN = _registry()


def write(name: str, out: Path) -> Path:
    """Write built-in data as files (PNG, WAV, NPY) with a `manifest.csv`, whose path is returned.

    Rows that share a file name the same one. The manifest comes last, under its name only when whole, so a
    folder with a manifest is complete. Raises `BadInput` when `out` holds anything already.
    """
    if name in BUILTIN and (folder := BUILTIN[name].folder) is not None:
        raise BadInput(f"{name} is files already, in {folder}: clx train {name} reads them there")
    splits = load_builtin(name)
    try:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise BadInput(f"{out}: exists and is not an empty folder; name another")
        out.mkdir(parents=True, exist_ok=True)
        unfinished, manifest = out / "manifest.csv.part", out / "manifest.csv"
        with unfinished.open("w", encoding="utf-8", newline="") as file:
            lines = csv.writer(file, lineterminator="\n")
            lines.writerow(splits["train"].columns)
            known: dict[bytes, str] = {}
            number = 0
            for rows in splits.values():
                for i in range(len(rows)):
                    number += 1  # the row as messages count it: files bear the number of the first row they are in
                    cells = rows.row(i)
                    lines.writerow([_as_text(cell, column, number, out, known) for column, cell in cells.items()])
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, manifest)
    except OSError as error:
        raise unwritable(error.filename or out, error) from None
    return manifest


def _as_text(cell: Any, column: str, number: int, out: Path, known: dict[bytes, str]) -> str:
    """The cell of a CSV; bytes and arrays go to a file of their own, whose path is the cell."""
    if cell is None:
        return ""
    if not isinstance(cell, bytes | np.ndarray):
        return str(cell)
    key = cell if isinstance(cell, bytes) else b"series" + cell.tobytes()
    if key not in known:
        suffix = "npy" if isinstance(cell, np.ndarray) else "png" if cell[:4] == b"\x89PNG" else "wav"
        known[key] = f"{column}/{number:05d}.{suffix}"
        path = out / known[key]
        path.parent.mkdir(exist_ok=True)
        if isinstance(cell, bytes):
            path.write_bytes(cell)
        else:
            np.save(path, cell)
    return known[key]
