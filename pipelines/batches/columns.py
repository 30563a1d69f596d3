"""Which columns of a manifest a modality reads, and whether they are there."""

import copy
import fnmatch
from collections.abc import Collection, Mapping, Sequence

from clx.modalities.base import Mix, Modality
from clx.modalities.numbers import PLAIN
from clx.modalities.table import Table
from clx.modalities.table_columns import Reading
from clx.pipelines.config.data_schema import LABELS
from clx.pipelines.config.schema import Config
from clx.pipelines.data.column_kinds import kinds_of
from clx.pipelines.data.label_columns import answer_columns, require_label_columns
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.data.written_columns import holds_text, text_reading
from clx.pipelines.system.errors import BadInput, nearest


def check_columns(config: Config, modalities: Mapping[str, Modality], manifest: Manifest) -> None:
    """Every column that the config names must be there; patterns such as `x*` become the columns they match.

    `*` stands for the columns that `clx init` puts into a table: numbers, categories and dates.
    """
    columns = manifest.columns
    single = columns_of({name: modality for name, modality in modalities.items() if modality.kind != "table"})
    data = config.data
    taken = {*answer_columns(data, columns), data.weight, data.group, data.split, *data.target, *single}
    for name, modality in modalities.items():
        wanted = column_of(name, modality)
        if isinstance(wanted, list) and modality.kind == "table":
            fitting = [c for c, found in kinds_of(manifest).items() if found.in_table] if "*" in wanted else []
            matched = [c for w in wanted for c in _matching(w, fitting if w == "*" else columns, taken) or [w]]
            modality.columns = wanted = list(dict.fromkeys(matched))  # type: ignore[attr-defined]
            decide_readings(config, modality, manifest)
        elif isinstance(modality.column, list):
            matched = [c for w in modality.column for c in _matching(w, columns, taken) or [w]]
            modality.column = wanted = list(dict.fromkeys(matched))
        for column in [wanted] if isinstance(wanted, str) else wanted:
            require_column(column, f"modalities.{name}", manifest)
    if isinstance(config.data.label, list) and LABELS not in columns:
        require_label_columns(config.data, manifest)
    if config.data.label_column:
        require_column(config.data.label_column, "data.label", manifest)
    for column in config.data.target:
        require_column(column, "data.target", manifest)


def asked_of(config: Config, modalities: Mapping[str, Modality], split: str) -> dict[str, Modality]:
    """The modalities whose columns the rows of a split must have: test rows need none that is only negatives, which
    nothing asks them for."""
    unasked = config.only_negatives if split == "test" else frozenset[str]()
    return {name: modality for name, modality in modalities.items() if name not in unasked}


def decide_readings(config: Config, modality: Modality, manifest: Manifest) -> None:
    """How a table's columns of text are to be read, where the first manifest, that of training, has them."""
    assert isinstance(modality, Table)
    for column in modality.columns:
        known = {*modality.readings, *(modality.categorical or [])}
        if column not in known and column in manifest.columns and holds_text(manifest, column):
            modality.readings[column] = text_reading(manifest, column, config.data.numbers)


def said_of_readings(modalities: Mapping[str, Modality], manifest: Manifest) -> dict[str, str]:
    """How columns of text that are not plain numbers are read, in words, by column."""
    found: dict[str, Reading] = dict(manifest.written)
    for modality in modalities.values():
        found |= modality.readings if isinstance(modality, Table) else {}
    return {column: str(reading) for column, reading in found.items() if reading not in (None, PLAIN)}


def _matching(pattern: str, columns: list[str], taken: set[str | None]) -> list[str]:
    if pattern in columns or not set(pattern) & set("*?["):
        return [pattern]
    return [c for c in columns if fnmatch.fnmatchcase(c, pattern) and c not in taken]


def require_column(column: str, asker: str, manifest: Manifest) -> None:
    if column not in manifest.columns:
        found = ", ".join(manifest.columns)
        hint = nearest(column, manifest.columns) if len(manifest.columns) > 1 else ""
        near = hint if "did you mean" in hint else ""
        if any(fnmatch.fnmatchcase(each, column) for each in manifest.columns):
            near = f" (patterns stand in a list: [{column!r}])"
        raise BadInput(f"{asker}: no column {column!r} in {manifest.name}{near}; its columns are {found}")


def column_of(name: str, modality: Modality) -> str | list[str]:
    """The manifest column that feeds a modality, or the columns of a table, a pair or of several negatives."""
    if isinstance(modality.column, list):
        return modality.column
    if modality.kind != "table":
        column = modality.column or name
        return column if modality.pair is None else [column, modality.pair]
    columns: list[str] = getattr(modality, "columns", [])
    return columns or ([modality.column] if modality.column else ["*"])


def refuse_answers(config: Config, modalities: Mapping[str, Modality], supervised: Collection[str]) -> None:
    """Raise `BadInput` where the label or a target is among the inputs that it is to be learned from.

    Args:
        supervised: inputs of the terms that learn the answer with a head. A text made of the label is no such input
            where the others are aligned with it.
    """
    answers = {column: "data.target" for column in config.data.target}
    for name, modality in modalities.items():
        if modality.kind != "table" and name not in supervised:
            continue
        wanted = column_of(name, modality)
        wanted = [wanted] if isinstance(wanted, str) else wanted
        answers |= dict.fromkeys(answer_columns(config.data, wanted), "data.label")
        for column in wanted:
            if column in answers:
                key = "columns" if modality.kind == "table" else "column"
                raise BadInput(
                    f"modalities.{name}.{key}: {column!r} is {answers[column]} too, so the answer would be among the "
                    "inputs: leave it out of one of them"
                )


def has_columns(manifest: Manifest, name: str, modality: Modality) -> bool:
    """Whether a manifest has all that a modality reads."""
    wanted = column_of(name, modality)
    return set([wanted] if isinstance(wanted, str) else wanted) <= set(manifest.columns)


def columns_of(modalities: dict[str, Modality], *more: str | None) -> list[str]:
    """All manifest columns that the modalities read, and `more` where given."""
    wanted: list[str] = []
    for name, modality in modalities.items():
        column = column_of(name, modality)
        wanted += column if isinstance(column, list) else [column]
    return list(dict.fromkeys([*wanted, *(name for name in more if name)]))


def other_names(
    config: Config,
    modalities: Mapping[str, Modality],
    columns: Mapping[str, str],
    label: str | None = None,
    target: Sequence[str] = (),
) -> dict[str, str]:
    """The columns of other data by the names that a run knows, for `Manifest.called`.

    Args:
        columns: by modality.
        label: the column with the class.
        target: the columns to predict, in the order of the run's own.

    Raises:
        BadInput: for an unknown modality, for one that reads several columns, and where the run has no label, or
            another number of targets.
    """
    names = {}
    for name, column in columns.items():
        if name not in modalities:
            raise BadInput(f"--column {name}={column}: no modality {name!r}{nearest(name, modalities)}")
        own = column_of(name, modalities[name])
        if not isinstance(own, str):
            raise BadInput(f"--column {name}={column}: {name} reads the columns {', '.join(own)} by their names")
        names[own] = column
    if label is not None:
        if config.data.label is None:
            raise BadInput(f"--label {label}: the run has no label (data.label)")
        if isinstance(config.data.label, list):
            named = ", ".join(config.data.label)
            raise BadInput(f"--label {label}: the run's labels are the columns {named}, read by their names")
        names[config.data.label] = label
    if target and len(target) != len(config.data.target):
        own_targets = ", ".join(config.data.target) or "none"
        raise BadInput(f"--target: {len(target)} given, and the run's targets are {own_targets} (data.target)")
    return names | dict(zip(config.data.target, target, strict=False))


def spread(modalities: Mapping[str, Modality]) -> dict[str, Modality]:
    """The modalities; one of several columns as `name/0`, `name/1` and so on, each of one column and one view."""
    found: dict[str, Modality] = {}
    for name, modality in modalities.items():
        if not isinstance(modality.column, list):
            found[name] = modality
            continue
        for number, column in enumerate(modality.column):
            found[f"{name}/{number}"] = one = copy.copy(modality)
            one.column, one.views = column, 1
    return found


def view_names(name: str, modality: Modality) -> list[str]:
    """Names of a modality's views: itself, or `name/0`, `name/1` and so on; of several columns those of `spread`."""
    if isinstance(modality.column, list):
        return [f"{name}/{number}" for number in range(len(modality.column))]
    return [name] if modality.views == 1 else [f"{name}/{v}" for v in range(modality.views)]


def mixed_views(modalities: Mapping[str, Modality]) -> dict[str, Mix]:
    """The views that are mixed in training, by name."""
    found: dict[str, Mix] = {}
    for name, modality in modalities.items():
        if modality.mix is not None:
            names = view_names(name, modality)
            found |= dict.fromkeys(names[: modality.mix.get("views", len(names))], modality.mix)
    return found
