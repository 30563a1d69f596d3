"""A first guess at what the columns of a manifest mean, and a recipe written from it."""

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from clx.pipelines.config.data_schema import Data
from clx.pipelines.data.builtin import is_builtin, load_builtin
from clx.pipelines.data.guess_columns import Inferred, infer_modalities
from clx.pipelines.data.manifest import Manifest, resolve
from clx.pipelines.data.splits import load_manifest, load_splits
from clx.pipelines.system.durable_files import unwritable
from clx.pipelines.system.errors import BadInput


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
    only = next(iter(modalities.values()))
    only["views"] = 2
    return "supcon" if found.label else "nt-xent"


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
    text = yaml.safe_dump(value, default_flow_style=True, width=math.inf, sort_keys=False, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")


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
