"""What commands read from their arguments and from stdin: names of inputs, pairs, lists."""

import glob
import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from clx.pipelines.system.errors import BadInput


def missing(inputs: list[str]) -> list[str]:
    """Inputs that are no file, no JSON, no stdin, and no pattern that some file matches."""
    return [
        name
        for name in inputs
        if name != "-"
        and not name.lstrip().startswith("{")
        and not (name.lstrip().startswith("[") and name.rstrip().endswith("]"))
        and not Path(name).exists()
        and not (glob.has_magic(name) and any(True for _ in glob.iglob(name, recursive=True)))
    ]


def names(inputs: list[str]) -> Iterator[str]:
    """The inputs, with the lines of stdin in the place of `-`."""
    for name in inputs:
        if name == "-":
            yield from lines()
        else:
            yield name


def lines() -> Iterator[str]:
    """Lines of stdin that are not blank, as file names: any bytes.

    Read without Python's buffer, whose lock a thread that waits for a pipe would hold when the process ends.
    """
    rest, number = b"", sys.stdin.fileno()
    while block := os.read(number, 1 << 16):
        *whole, rest = (rest + block).split(b"\n")
        yield from (os.fsdecode(line.removesuffix(b"\r")) for line in whole if line.strip())
    if rest.strip():
        yield os.fsdecode(rest.removesuffix(b"\r"))


def given(**values: str | None) -> dict[str, str]:
    """Those of some options that were given, and are not empty, by their names."""
    return {name: value for name, value in values.items() if value}


def pairs(option: str, texts: list[str]) -> dict[str, str]:
    """Options such as `--column image=photo` as a mapping. Raises `BadInput`.

    >>> pairs("--column", ["image=photo"])
    {'image': 'photo'}
    """
    mapping = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name or not value:
            raise BadInput(f"{option} {text}: expected MODALITY=COLUMN, as image=photo")
        mapping[name] = value
    return mapping


def refuse_two_lengths(settings: list[str], flags: Mapping[str, object] | None = None) -> None:
    """Raises `BadInput` where one command sets two of `train.steps`, `train.epochs` and `train.minutes`.

    Args:
        settings: texts `KEY=VALUE`.
        flags: values by config key; None for one that was not given.
    """
    texts = {text.partition("=")[0]: f"-s {text}" for text in settings if not text.endswith(("=null", "=~", "="))}
    texts |= {key: f"--{key.rpartition('.')[2]} {value}" for key, value in (flags or {}).items() if value is not None}
    for section in {key.rpartition(".")[0] for key in texts if re.fullmatch(r"(stages\.\d+\.)?train\.\w+", key)}:
        lengths = [
            texts[key] for key in (f"{section}.{name}" for name in ("steps", "epochs", "minutes")) if key in texts
        ]
        if len(lengths) > 1:
            raise BadInput(f"{lengths[0]} and {lengths[1]} both set the length of the run: give one of the two")


def comma_separated(text: str | None) -> list[str]:
    """The parts of `a, b` that are not empty.

    >>> comma_separated("cat, dog,")
    ['cat', 'dog']
    """
    return [part.strip() for part in (text or "").split(",") if part.strip()]


def whole_numbers(text: str | None) -> list[Any]:
    """Whole numbers of a list such as `24,48`; what is none stays as it is, to be refused with its name."""
    return list(dict.fromkeys(int(part) if part.isdecimal() else part for part in comma_separated(text)))
