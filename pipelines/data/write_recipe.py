"""A first guess at what the columns of a manifest mean, and a recipe written from it."""

import json
import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from clx.pipelines.config.schema import Data
from clx.pipelines.data.builtin import is_builtin, load_builtin
from clx.pipelines.data.manifest import Manifest, resolve
from clx.pipelines.data.readers import SPLITS, kind_of_file
from clx.pipelines.data.splits import load_manifest, load_splits
from clx.pipelines.system.durable_files import unwritable
from clx.pipelines.system.errors import BadInput

SAMPLED = 1000  # rows looked at
MEDIA = ("image", "audio", "series")
TEXT = {"text", "caption", "captions", "sentence", "description", "title", "prompt", "transcript", "question"}
LABEL = {"label", "labels", "class", "class_name", "classname", "category"}
TARGET = {"target", "score", "y", "value", "rating", "price"}
MAGIC = {
    b"\x89PNG": "image",
    b"\xff\xd8\xff": "image",
    b"GIF8": "image",
    b"BM": "image",
    b"II*\0": "image",
    b"MM\0*": "image",
    b"fLaC": "audio",
    b"OggS": "audio",
    b"ID3": "audio",
    b"\xff\xfb": "audio",
    b"\x93NUMPY": "series",
}


@dataclass
class Inferred:
    """What the columns of a manifest seem to be."""

    modalities: dict[str, dict[str, Any]] = field(default_factory=dict)
    """As in a config: options by name."""
    label: str | None = None
    target: list[str] = field(default_factory=list)
    split: str | None = None
    unused: dict[str, str] = field(default_factory=dict)
    """Columns left out, with the reason."""


def infer_modalities(manifest: Manifest) -> Inferred:
    """Guess from file extensions, leading bytes, names and up to 1000 rows spread over the manifest."""
    rows = np.unique(np.linspace(0, len(manifest) - 1, min(len(manifest), SAMPLED)).astype(int))
    sampled = [manifest.row(int(i)) for i in rows]
    found, kinds = Inferred(), {}
    for column in manifest.columns:
        values = [row[column] for row in sampled if row[column] is not None]
        kinds[column] = kind = _kind(column, values)
        if kind in ("split", "label"):
            if getattr(found, kind) is None:
                setattr(found, kind, column)
            else:
                found.unused[column] = f"a second {kind}"
        elif kind == "target":
            found.target.append(column)
        elif kind not in (*MEDIA, "text", "number", "category"):
            found.unused[column] = kind
    for kind in (*MEDIA, "text"):
        named = [column for column in kinds if kinds[column] == kind]
        for column in named:
            name = kind if len(named) == 1 else _identifier(column, found.modalities)
            options = {} if name == kind else {"kind": kind}
            found.modalities[name] = options if name == column else {**options, "column": column}
    numbers = [column for column in kinds if kinds[column] == "number"]
    categories = [column for column in kinds if kinds[column] == "category"]
    if numbers or (categories and not found.modalities):
        found.modalities["table"] = {"columns": [c for c in kinds if c in {*numbers, *categories}]}
    else:
        found.unused |= {column: "a category" for column in categories}
    return found


def _kind(column: str, values: list[Any]) -> str:
    """The role of a column, or the reason to leave it out."""
    name = column.strip().lower()
    if not values or not name:
        return "empty" if not values else "it has no name"
    if name in ("split", "fold", "subset", "partition") and {str(v).strip().lower() for v in values} <= set(SPLITS):
        return "split"
    if all(isinstance(value, np.ndarray) for value in values):
        return "series"
    if all(isinstance(value, bytes) for value in values):
        return _most([_magic(value) for value in values]) or "bytes of an unknown type"
    if all(isinstance(value, str) for value in values) and (kind := _most([kind_of_file(v) for v in values])):
        return kind
    distinct = len({str(value) for value in values})
    if all(_number(value) is not None for value in values):
        return _numeric_kind(name, [float(value) for value in values], distinct)
    if not all(isinstance(value, str | bool | int | float) for value in values):
        return f"cells of type {type(values[0]).__name__}"
    if name in LABEL or (name in TARGET and distinct <= 20):
        return "label"
    return _text_kind(name, [str(value) for value in values], distinct)


def _numeric_kind(name: str, values: list[float], distinct: int) -> str:
    whole = all(value.is_integer() for value in values)
    if name in LABEL:
        return "label"
    if name in TARGET:
        return "label" if whole and distinct <= 20 and name in ("target", "y") else "target"
    if name in ("id", "index", "idx") or name.endswith("_id"):
        return "an identifier"
    return "number" if distinct > 1 else "one value only"


def _text_kind(name: str, values: list[str], distinct: int) -> str:
    words = sum(len(value.split()) for value in values) / len(values)
    if name.rstrip("0123456789_") in TEXT or words >= 3:
        return "text"
    if distinct == 1:
        return "one value only"
    if len(values) > 20 and distinct > 0.9 * len(values):
        return "an identifier" if words < 1.5 else "text"
    return "category"


def _most(kinds: list[str | None]) -> str | None:
    """The kind that nine cells in ten have."""
    kind, count = Counter(kinds).most_common(1)[0]
    return kind if count >= 0.9 * len(kinds) else None


def _magic(content: bytes) -> str | None:
    if content[:4] == b"RIFF":
        return {b"WAVE": "audio", b"WEBP": "image"}.get(content[8:12])
    return next((kind for magic, kind in MAGIC.items() if content.startswith(magic)), None)


def _number(value: Any) -> float | None:
    if isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _identifier(column: str, taken: dict[str, Any]) -> str:
    name = "".join(c if c.isalnum() else "_" for c in column)
    name = name if name.isidentifier() else f"input_{name}"
    return name if name not in taken else f"{name}_{len(taken)}"


def infer_config(source: str) -> tuple[dict[str, Any], Inferred, dict[str, Manifest]]:
    """A config (as its raw mapping) for a source, what it was guessed from, and the source's splits."""
    manifest = load_builtin(source)["train"] if is_builtin(source) else load_manifest(source)
    found = infer_modalities(manifest)
    if not found.modalities:
        columns = ", ".join(f"{column} ({why})" for column, why in found.unused.items())
        raise BadInput(f"{source}: no column looks like an input; found {columns or found.label or found.target}")
    data: dict[str, Any] = {"train": source}
    if found.split and found.split != "split":
        data["split"] = found.split
    splits = load_splits(Data(**data), seed=0)
    rows = len(splits["train"])
    if "val" not in splits and rows >= 50:
        data["val"] = {"fraction": 0.1}  # `splits` are those of the source itself, before this draw
    data |= {"label": found.label} if found.label else {}
    modalities = {name: dict(options) for name, options in found.modalities.items()}
    _words_of_label(modalities, found, manifest)
    for name, options in modalities.items():
        if options.get("kind", name) == "audio":
            options |= _sample_rate(manifest, options.get("column", name))
    objective: dict[str, Any]
    rate = 1e-3
    if found.target and len(modalities) == 1:
        data["target"] = found.target
        objective = {"name": "l1"}
        for name, options in modalities.items():
            if options.get("kind", name) == "table":  # noise on few numbers costs more than it teaches
                options |= {"head": "norm", "augmentation": "none", "dropout": 0.0}
                rate = 4e-3
    else:
        found.unused |= {column: "a number; `clx losses` lists what learns from targets" for column in found.target}
        objective = {"name": _objective(modalities, found), "temperature": 0.1}
    if objective["name"] in ("clip", "symile"):
        objective["learn_temperature"] = True
    if modalities.get("text", {}).get("column") == found.label is not None:
        objective["exclude"] = "labels"  # rows of one class share their text and are no negatives of each other
    batch = 2 ** int(math.log2(max(2, min(256, rows / 5))))
    epochs = min(100, max(10 if rows < 200_000 else 3, math.ceil(1000 * batch / rows)))
    train = {"epochs": epochs, "batch_size": batch, "lr": rate}
    return {"data": data, "modalities": modalities, "objective": objective, "train": train}, found, splits


def _words_of_label(modalities: dict[str, dict[str, Any]], found: Inferred, manifest: Manifest) -> None:
    """Where class names are all the text there is, align with them: zero-shot labels need a text side."""
    if found.label is None or any(options.get("kind", name) == "text" for name, options in modalities.items()):
        return
    values = {manifest.cell(int(i), found.label) for i in np.linspace(0, len(manifest) - 1, 100).astype(int)}
    if all(isinstance(value, str) and any(c.isalpha() for c in value) for value in values - {None}):
        modalities["text"] = {"column": found.label}


def _sample_rate(manifest: Manifest, column: str) -> dict[str, int]:
    """The commonest rate among a few recordings, so that nothing is resampled for nothing."""
    import io

    import soundfile

    rates: Counter[int] = Counter()
    for i in np.unique(np.linspace(0, len(manifest) - 1, 20).astype(int)):
        try:
            cell = resolve(manifest.cell(int(i), column), manifest)
            rates[soundfile.info(io.BytesIO(cell) if isinstance(cell, bytes) else str(cell)).samplerate] += 1
        except (RuntimeError, OSError, TypeError, ValueError):
            continue  # `clx data check` names what cannot be opened
    return {"sample_rate": min(rates.most_common(1)[0][0], 16000)} if rates else {}


def _objective(modalities: dict[str, dict[str, Any]], found: Inferred) -> str:
    if len(modalities) > 1:
        return "clip"
    from clx.losses.base import LOSSES

    only = next(iter(modalities.values()))
    only["views"] = 2
    return "supcon" if found.label and "supcon" in LOSSES else "nt-xent"


def recipe_for(source: str) -> str:
    """A commented YAML recipe for a manifest, a folder or built-in data. Raises `BadInput`."""
    config, found, splits = infer_config(source)
    counts = ", ".join(f"{len(rows)} {split}" for split, rows in splits.items())
    lines = [f"# Written by `clx init {source}` from {counts} rows: a start, to be checked and changed."]
    for column, why in found.unused.items():
        lines.append(f"# Column {_scalar(column)} is not used: {why}.")
    lines.append("data:")
    notes = {"label": "class names of zero-shot evaluation", "target": "numbers to predict"}
    for key, value in config["data"].items():
        lines.append(f"  {key}: {_scalar(value)}" + (f"  # {notes[key]}" if key in notes else ""))
    lines.append("modalities:  # `clx encoders` lists what `encoder:` can be, pretrained ones too")
    lines += [f"  {name}: {_scalar(options)}" for name, options in config["modalities"].items()]
    lines.append("embed_dim: 128")
    several = "  # symile learns what only all of them together tell" if len(config["modalities"]) > 2 else ""
    if config["objective"]["name"] == "l1":
        several = "  # val_loss is the mean absolute error, in the target's units"
    lines.append(f"objective: {_scalar(config['objective'])}{several}")
    lines.append(f"train: {_scalar(config['train'])}")
    if config["objective"]["name"] == "l1":
        lines.append("eval: [regression]")
    elif len(config["modalities"]) == 1:  # zeroshot and retrieval need a second one
        lines.append("eval: [probe, knn]" if "label" in config["data"] else "eval: [geometry]")
    return "\n".join(lines) + "\n"


def _scalar(value: Any) -> str:
    """A value in YAML's flow style on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_scalar(key)}: {_scalar(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_scalar(item) for item in value) + "]"
    if isinstance(value, str):
        plain = value.replace("_", "").replace("-", "").replace(".", "").replace("/", "").isalnum()
        return value if plain and value[0] not in "-." and yaml.safe_load(value) == value else json.dumps(value)
    return json.dumps(value)


def write_recipe(source: str, out: Path) -> str:
    """Write the recipe for `source` to a new file and return its text. Raises `BadInput` when there is one."""
    text = recipe_for(source)
    try:
        with out.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise BadInput(f"{out}: exists already; name another file") from None
    except OSError as error:
        raise unwritable(out, error) from None
    return text
