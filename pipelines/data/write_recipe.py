"""A recipe written from what the columns of a source seem to be: every line says why."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from clx.modalities.files import sound_in
from clx.pipelines.config.data_schema import Data
from clx.pipelines.config.load import override
from clx.pipelines.config.options import parse
from clx.pipelines.config.schema import Config
from clx.pipelines.data.ask import ask
from clx.pipelines.data.builtin import is_builtin, load_builtin
from clx.pipelines.data.cell_files import fetched, resolve
from clx.pipelines.data.choose_recipe import choose
from clx.pipelines.data.column_kinds import FOLDS
from clx.pipelines.data.folders import refuse_elsewhere
from clx.pipelines.data.guess_columns import infer_modalities
from clx.pipelines.data.imbalance import dense_part, readable_targets
from clx.pipelines.data.inferred import UNASKED, Asked, Inferred
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.data.recognise_long import say_who_comes_again, windows_for
from clx.pipelines.data.sixteen_bits import white_of
from clx.pipelines.data.splits import load_manifest, load_splits
from clx.pipelines.data.understood import understood
from clx.pipelines.data.written_columns import holds_text, text_reading
from clx.pipelines.system.durable_files import unwritable, write_text
from clx.pipelines.system.errors import BadInput

HELD_OUT = 50
"""Rows from which on a tenth is kept for validation."""

LONG_TAIL = 1 / 3
"""Share of a target's range with nine tenths of the rows; .9 of uniform values, about half of normal ones."""
OF_COLUMNS = ("label_cells", "levels", "balance", "long")
"""Keys of `data` that need what is known only when the columns were looked at: the label, the target, the series."""


@dataclass
class Written:
    """A config as its raw mapping, what it was guessed from, and the splits of the source."""

    config: dict[str, Any]
    found: Inferred
    splits: dict[str, Manifest]
    reasons: dict[str, str] = field(default_factory=dict)
    """By key of the config, for the comments of the recipe."""


def infer_config(source: str, asked: Asked = UNASKED, settings: Sequence[str] = (), *, sure: bool = True) -> Written:
    """A config for a source, with `KEY=VALUE` settings where a key is not to be guessed. With `sure` it is refused what
    the columns leave in doubt and nobody has said."""
    given: dict[str, Any] = {}
    for setting in settings:
        override(given, setting)
    if "train" in _section(given, "data"):
        raise BadInput(f"-s data.train: the data are {source}")
    others = {key: value for key, value in _section(given, "data").items() if key not in OF_COLUMNS}
    rows = parse(Data, {"train": source, **others}, "-s, section data")
    if is_builtin(source):
        manifest = load_builtin(source)["train"]
    else:
        manifest = load_manifest(source, allow_outside=rows.allow_outside, root=rows.root)
    if rows.root is None:
        refuse_elsewhere(manifest)
    asked = asked.of(manifest.columns)
    found = infer_modalities(manifest, asked)
    if sure:
        ask(source, found, objective="objective" in given)
    if not found.modalities:
        columns = ", ".join(f"{column} ({why})" for column, why in found.unused.items())
        said = columns or " and ".join(found.answers)
        raise BadInput(f"{source}: no column looks like an input; found {said}")
    data, reasons, splits = _data(source, found, asked, _section(given, "data"))
    _words_of_label(found, manifest)
    for name, options in found.modalities.items():
        if options.get("kind", name) == "audio":
            options |= _sample_rate(manifest, options.get("column", name))
        if options.get("kind", name) == "image" and (white := white_of(manifest, options.get("column", name))):
            options["white"] = white
            reasons[f"modalities.{name}"] = (
                f"16-bit pixels of which none seen is over {white}, which is taken for white"
            )
        if sure and options.get("kind", name) == "table":  # as training reads them, which would refuse what is unclear
            for column in filter(partial(holds_text, splits["train"]), options["columns"]):
                text_reading(splits["train"], column, rows.numbers)
    choice = choose(found, len(splits["train"]))
    config = {
        "data": data,
        "modalities": choice.modalities,
        "objective": choice.objective,
        "train": choice.train,
    }
    reasons |= choice.reasons
    if choice.objective == {"name": "l1"} and "balance" not in data:
        reasons["data.target"] += _about_tail(splits["train"], found.target)
    for setting in settings:
        override(config, setting)
        section, _, key = setting.partition("=")[0].partition(".")
        of_section = section in ("data", "modalities") and bool(key)
        reasons[f"{section}.{key.partition('.')[0]}" if of_section else section] = "by -s"
    return Written(config, found, splits, reasons)


def _section(given: Mapping[str, Any], name: str) -> dict[str, Any]:
    section = given.get(name, {})
    if not isinstance(section, dict):
        raise BadInput(f"-s {name}: holds keys and values; set one of them, as {name}.KEY=VALUE")
    return section


def described(written: Written) -> dict[str, Any]:
    """What was `understood` of the source: `columns`, `left_out` and `splits`."""
    config = parse(Config, written.config, f"data {written.config['data']['train']}")
    return understood(config, written.splits, written.found.unused)


def _data(
    source: str, found: Inferred, asked: Asked, given: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, str], dict[str, Manifest]]:
    """The section `data` with what is `given` of it, the reasons of its lines, and the splits of the source itself,
    before a share is drawn."""
    data: dict[str, Any] = {"train": source}
    reasons: dict[str, str] = {}
    if found.split and found.split != "split":
        data["split"] = found.split
    if found.label:
        data["label"] = found.label
        reasons["data.label"] = f"the class of a row, {found.reasons[found.label]}"
    if found.labels:
        data["label"] = list(asked.labels)
        reasons["data.label"] = f"{len(found.labels)} columns that are a label each, {found.reasons[found.labels[0]]}"
    if found.several:
        data["several"] = found.several
        reasons["data.several"] = "separates the labels of a set"
    if found.target:
        data["target"] = found.target
        reasons["data.target"] = f"numbers to predict, {found.reasons[found.target[0]]}"
    if found.long is not None:
        data["long"] = found.long
        reasons["data.long"] = f"a row per time step: {found.long['time']} rises within each {found.long['id']}"
    data |= given
    if found.long is not None and isinstance(long := given.get("long"), Mapping):
        data["long"] = {**found.long, **long}
    splits = load_splits(_rows(data), seed=0)
    if found.long is not None and "windows" not in given:
        steps = [len(splits["train"].cell(i, "series")) for i in range(min(1000, len(splits["train"])))]
        windows = windows_for(steps)
        if windows is not None:
            data["windows"] = windows
            reasons["data.windows"] = f"cuts series of about {int(np.median(steps))} steps"
            splits = load_splits(_rows(data), seed=0)
    rows = len(splits["train"])
    if found.long is None and found.group is None:
        other = {*found.answers, *asked.ignore}
        named = {name: each for name, each in found.columns.items() if name not in other}
        say_who_comes_again(source, named, splits, drawn={"val"}.isdisjoint([*given, *splits]) and rows >= HELD_OUT)
    if "val" in given:
        if asked.group:
            raise BadInput(f"--group {asked.group}: -s data.val says where val rows are from; set its `by` there")
    elif "val" not in splits and rows >= HELD_OUT:
        group = found.columns[found.group] if found.group else None
        share = 0.1 if group is None or group.kind != FOLDS else max(0.1, round(1 / group.distinct, 2))  # one fold
        data["val"] = {"fraction": share, **({"by": group.name} if group else {})}
        reasons["data.val"] = "a share of the training rows" + (f", whole {group.name}s" if group else "")
    elif asked.group:
        why = "has val rows of its own" if "val" in splits else f"has {rows} rows, too few to keep some for validation"
        raise BadInput(f"--group {asked.group}: {source} {why}, so none are drawn")
    return data, reasons, splits


def _rows(data: dict[str, Any]) -> Data:
    """What decides which rows there are."""
    kept = {key: value for key, value in data.items() if key not in ("val", "test") or isinstance(value, str)}
    return parse(Data, kept, "data")


def _words_of_label(found: Inferred, manifest: Manifest) -> None:
    """Where the names of class folders are all the text there is, align with them: zero-shot needs a text side.

    A label that was named by --label is to be learned as it is.
    """
    label = found.label
    kinds = {options.get("kind", name) for name, options in found.modalities.items()}
    if label is None or "text" in kinds or found.shape or found.reasons[label] == "by --label":
        return
    if found.several or found.columns[label].kind == "labels" or not kinds & {"image", "audio"}:
        return
    values = {manifest.cell(int(i), label) for i in np.linspace(0, len(manifest) - 1, 100).astype(int)}
    if all(isinstance(value, str) and any(c.isalpha() for c in value) for value in values - {None}):
        found.modalities["text"] = {"column": label}


def _about_tail(train: Manifest, targets: Sequence[str]) -> str:
    """That the first target, by which rows are weighed, has a long tail, and what a weight does: as measured on tables
    in pipelines/README.md, where the mean error over all values was about that of plain `l1`."""
    part = dense_part(readable_targets(train, targets[0]))
    if part > LONG_TAIL or len(train) < HELD_OUT:
        return ""
    return (
        f"; a long tail, 9 in 10 rows in {100 * part:.0f} % of the range of {targets[0]}: on two tables "
        "-s data.balance.rule=sqrt-inverse took 7 % off the error of rare values and put 5 to 12 % on that of common "
        "ones"
    )


def _sample_rate(manifest: Manifest, column: str) -> dict[str, int]:
    """The commonest rate among a few recordings, so that nothing is resampled for nothing."""
    rates: Counter[int] = Counter()
    for i in np.unique(np.linspace(0, len(manifest) - 1, 20).astype(int)):
        try:
            cell = fetched(resolve(manifest.cell(int(i), column), manifest))
            rates[sound_in(cell)[1]] += 1
        except (AttributeError, RuntimeError, OSError, TypeError, ValueError):
            continue  # `clx data check` names what cannot be opened
    return {"sample_rate": min(rates.most_common(1)[0][0], 16000)} if rates else {}


def recipe_of(source: str, written: Written) -> str:
    """The commented YAML."""
    config, found, why = written.config, written.found, written.reasons
    counts = ", ".join(f"{len(rows)} {split}" for split, rows in written.splits.items())
    lines = [f"# Written by `clx init {source}` from {counts} rows: a start, to be checked and changed."]
    for column, reason in found.unused.items():
        lines.append(f"# Column {_scalar(column)} is not used: {reason}.")
    lines.append("data:")
    for key, value in config["data"].items():
        lines.append(f"  {key}: {_scalar(value)}{_comment(why.get(f'data.{key}'))}")
    lines.append("modalities:  # `clx encoders` lists what `encoder:` can be, pretrained ones too")
    for name, options in config["modalities"].items():
        reason = why.get(f"modalities.{name}") or _of(found, name, options)
        lines.append(f"  {_scalar(name)}: {_scalar(options)}{_comment(reason)}")
    lines.append("embed_dim: 128  # width of the space")
    for key in ("objective", "train"):
        lines.append(f"{key}: {_scalar(config[key])}{_comment(why.get(key))}")
    return "\n".join(lines) + "\n"


def _of(found: Inferred, name: str, options: dict[str, Any]) -> str:
    """Why a modality is what it is."""
    kind = options.get("kind", name)
    if "like" in options:
        return f"the same tower as {options['like']}"
    if kind == "table":
        return f"{len(options['columns'])} columns of numbers and categories"
    column = options.get("column", name)
    known = found.columns.get(column) if isinstance(column, str) else None
    if found.long is not None:
        return "the steps of each series"
    if known is None or kind == "text":
        return "the words of the label" if column == found.label else "texts"
    return f"what the cells of {column} hold"


def _comment(reason: str | None) -> str:
    return f"  # {reason}" if reason else ""


def recipe_for(source: str, asked: Asked = UNASKED) -> str:
    """A commented YAML recipe for a manifest, a folder or built-in data. Raises `BadInput`."""
    return recipe_of(source, infer_config(source, asked))


def _scalar(value: Any) -> str:
    """A value in YAML's flow style on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=math.inf, sort_keys=False, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")


def write_recipe(text: str, out: Path, *, overwrite: bool = False) -> None:
    """Write a recipe to a file. Raises `BadInput` when there is one, unless it is to be replaced."""
    try:
        if overwrite:
            write_text(out, text)
            return
        with out.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise BadInput(f"{out}: exists already: choose another name, or replace it with --overwrite") from None
    except OSError as error:
        raise unwritable(out, error) from None
