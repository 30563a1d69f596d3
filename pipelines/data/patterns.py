"""Names that stand for several files: `{000..009}`, `{a,b}`, `*`, `[ab]`."""

import glob
import os
import re
from itertools import product

from clx.pipelines.system.errors import BadInput

BRACES = re.compile(r"\{([^{}]*)\}")
RANGE = re.compile(r"(\d+)\.\.(\d+)")
MOST = 100_000
"""Files that a name may stand for by its braces."""


def is_pattern(path: str) -> bool:
    """Whether a path, or a URL without its query, stands for several."""
    return any(c in path for c in "*[{")


def expanded(text: str) -> list[str]:
    """A text with braces as all texts that it stands for; zeros in front count as they are written. Raises `BadInput`
    for too many.

    >>> expanded("s-{08..10}.{tar,txt}")
    ['s-08.tar', 's-08.txt', 's-09.tar', 's-09.txt', 's-10.tar', 's-10.txt']
    """
    choices, count = [], 1
    for at, piece in enumerate(BRACES.split(text)):
        match = RANGE.fullmatch(piece) if at % 2 else None
        numbers = range(int(match[1]), int(match[2]) + 1) if match else range(0)
        count *= len(numbers) if match else 1 + piece.count(",") * (at % 2)
        if match and not numbers:
            raise BadInput(f"{text}: {{{piece}}} counts down and stands for no file")
        if count > MOST:
            raise BadInput(f"{text} stands for over {MOST} files")
        if match:
            choices.append([str(number).zfill(len(match[1])) for number in numbers])
        else:
            choices.append(piece.split(",") if at % 2 else [piece])
    return ["".join(chosen) for chosen in product(*choices)]


def files_of(pattern: str) -> tuple[str, list[str]]:
    """The folder that all files of this machine for which a pattern stands are in, and their paths from there, sorted.

    Raises `BadInput` where there is none for a name, and for a folder.
    """
    found: set[str] = set()
    for name in expanded(os.path.expanduser(pattern)):
        here = glob.glob(name) if glob.has_magic(name) else [name] * os.path.exists(name)
        if not here:
            raise BadInput(f"data {name}: no such file (from {os.getcwd()})")
        found |= set(here)
    if folder := next((name for name in sorted(found) if not os.path.isfile(name)), None):
        raise BadInput(f"data {pattern}: {folder} is no file; a pattern stands for tables, and a folder is named alone")
    top = os.path.commonpath([os.path.dirname(name) for name in found])
    return top, sorted(os.path.relpath(name, top or ".") for name in found)
