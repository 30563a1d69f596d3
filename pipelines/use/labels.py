"""Labels and the sentences around them, as a user gives them."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clx.pipelines.system.errors import BadInput

TEMPLATES = {"openai-imagenet": "OPENAI_IMAGENET_TEMPLATES", "simple-imagenet": "SIMPLE_IMAGENET_TEMPLATES"}
"""Sets of templates by name, with what open_clip calls them: 80 and 7."""
LARGEST = 1 << 26
"""Bytes of a file of labels."""


def read_labels(source: Path) -> dict[str, list[str]]:
    """Labels from a text file, one a line, or from JSON: a list, or an object of phrasings per class."""
    return as_phrasings(_read(source), f"labels {source}")


def read_yes_and_no(source: Path) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Labels as `read_labels` has them, and phrasings of that a label does not apply: those under `no` of a JSON object
    that has `yes` and `no` for each label, else none."""
    raw, where = _read(source), f"labels {source}"
    if not isinstance(raw, dict) or not any(isinstance(both, dict) for both in raw.values()):
        return as_phrasings(raw, where), {}
    for name, both in raw.items():
        if not isinstance(both, dict) or set(both) != {"yes", "no"}:
            raise BadInput(f"{where}: {name!r} needs phrasings under yes and under no, as other labels have them")
    yes, no = (as_phrasings({name: both[key] for name, both in raw.items()}, where) for key in ("yes", "no"))
    return yes, no


def _read(source: Path) -> Any:
    """What a file of labels says: lines, or what its JSON is."""
    try:
        with source.open("rb") as file:  # a pipe is fine here, one without end is not
            content = file.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise BadInput(f"labels {source}: over {LARGEST >> 20} MiB")
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(f"labels {source}: not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise BadInput(f"labels {source}: {error.strerror}") from None
    if source.suffix != ".json":
        return [line.strip() for line in text.splitlines() if line.strip()]
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise BadInput(f"labels {source}: line {error.lineno} is not JSON ({error.msg})") from None
    except (ValueError, RecursionError):  # numbers of thousands of digits, lists a thousand deep
        raise BadInput(f"labels {source}: no list of labels") from None


def phrasings_of(labels: Path | Mapping[str, Sequence[str]] | Sequence[str]) -> dict[str, list[str]]:
    """Labels as `{class: phrasings}` from a file (see `read_labels`), a list of labels or phrasings by label.

    >>> phrasings_of(["cat", "dog"])
    {'cat': ['cat'], 'dog': ['dog']}
    """
    if isinstance(labels, Path):
        return read_labels(labels)
    if isinstance(labels, str):  # a sequence, too: of letters
        raise BadInput(f"labels {labels!r}: give a list of labels, or the Path of a file with them")
    given = {k: [*v] for k, v in labels.items()} if isinstance(labels, Mapping) else [*labels]
    return as_phrasings(given, "--labels")


def as_phrasings(raw: Any, where: str) -> dict[str, list[str]]:
    """Labels as `{class: phrasings}`. Raises `BadInput` for doubles, none at all, and other shapes."""
    if isinstance(raw, list):
        doubles = [label for label, times in Counter(map(str, raw)).items() if times > 1]
        if doubles:
            raise BadInput(f"{where}: {doubles[0]!r} stands there twice")
        raw = {str(label): [str(label)] for label in raw}
    if not isinstance(raw, dict) or not raw:
        raise BadInput(f"{where}: expected one label or more, or an object of phrasings per label")
    phrasings = {}
    for name, phrases in raw.items():
        if isinstance(phrases, dict):
            raise BadInput(f"{where}: {name!r} has phrasings by name; yes and no are for clx eval --task multilabel")
        listed = [phrases] if isinstance(phrases, str) else phrases
        if not isinstance(listed, list) or not listed or not all(isinstance(p, str) and p for p in listed):
            raise BadInput(f"{where}: {name!r} needs a phrasing or a list of them")
        phrasings[name] = listed
    return phrasings


def read_templates(given: Sequence[str]) -> list[str]:
    """Templates with `{}` for the label: each of `given` is one, the name of a set, or a file with one a line."""
    templates: list[str] = []
    for one in given:
        if one in TEMPLATES:
            from open_clip import zero_shot_metadata

            templates += [template("{}") for template in getattr(zero_shot_metadata, TEMPLATES[one])]
        elif "{}" in one:
            templates.append(one)
        elif Path(one).is_file():
            templates += _lines_of_templates(Path(one))
        else:
            names = ", ".join(TEMPLATES)
            raise BadInput(
                f"template {one!r} has no {{}} for the label, and is no file and no set of templates ({names})"
            )
    return templates


def _lines_of_templates(path: Path) -> list[str]:
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"templates {path}: {error}") from None
    wrong = next((line for line in lines if "{}" not in line), None)
    if wrong is not None or not lines:
        raise BadInput(f"templates {path}: {f'{wrong!r} has no {{}} for the label' if lines else 'the file is empty'}")
    return lines
