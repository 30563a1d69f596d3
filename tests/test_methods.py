"""What METHODS.md says to write: keys of a config that are read, objectives that are built, recipes that there are."""

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from clx.pipelines.config.load import recipes
from clx.pipelines.config.objects import make_losses, make_modalities
from clx.pipelines.config.options import parse
from clx.pipelines.config.schema import Config

METHODS = Path(__file__).parent.parent / "METHODS.md"
LINES = [line.replace("\\|", "|") for line in METHODS.read_text().splitlines() if line.startswith("| ") and "`" in line]
INPUTS: dict[str, Any] = {
    **{name: {} for name in ("image", "text", "audio", "series", "table")},
    "passage": {"like": "text"},
    "wrong": {"like": "text", "column": ["negative_*"]},
}
"""The inputs that the page speaks of."""


def keys_of(line: str) -> list[dict[str, Any]]:
    """The keys of a config among a line's spans of code, each span by itself."""
    return [yaml.safe_load(span) for span in re.findall(r"`([a-z]+: [^`]+)`", line)]


def build(keys: list[dict[str, Any]]) -> int:
    """Build each objective with the other keys of a line; how many there were. Raises `BadInput`."""
    raw: dict[str, Any] = {"data": {"train": "rows.csv"}, "modalities": copy.deepcopy(INPUTS), "train": {}}
    objectives: list[Any] = []
    for key, value in ((key, value) for one in keys for key, value in one.items()):
        if key == "objective":
            objectives.append(value)
        elif key in ("data", "train"):
            raw[key] |= value
        elif key in Config.model_fields:
            raw[key] = value
        else:
            raw["modalities"][key] = raw["modalities"].get(key, {}) | value
    for objective in objectives or ["clip"]:
        inputs = {name: of for name, of in raw["modalities"].items() if name != "wrong" or name in str(objective)}
        config = parse(Config, raw | {"modalities": inputs, "objective": objective}, "METHODS.md")
        make_modalities(config)
        make_losses(config)
    return len(objectives)


def test_what_is_said_is_read() -> None:
    assert sum(build(keys_of(line)) for line in LINES) > 80


def test_recipes_and_sweeps_exist() -> None:
    named = [name for line in LINES for name in re.findall(r"`clx (?:recipes|sweep|train) ([a-z-]+)`", line)]
    assert len(named) > 15
    assert set(named) <= set(recipes())


def test_what_is_wrong_is_found() -> None:
    with pytest.raises(Exception, match="lows"):
        build(keys_of("| LaSO | `objective: [{name: binary-cross-entropy}, {name: laso, lows: 1}]` |"))
