"""Predictions of a run's head on the rows of a manifest, one line a row, in the order of the file."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from clx.pipelines.batches.batch import BadRow, Batch, Key
from clx.pipelines.batches.columns import check_columns, column_of, columns_of, has_columns
from clx.pipelines.batches.dataset import BatchDataset
from clx.pipelines.batches.loader import batches, once
from clx.pipelines.data.file_kinds import looked_at
from clx.pipelines.data.label_sets import spoken
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.data.readers import READERS, table_suffix
from clx.pipelines.data.splits import choose
from clx.pipelines.data.writers import Line
from clx.pipelines.data.written_columns import as_numbers
from clx.pipelines.model.build import Run
from clx.pipelines.system.errors import BadInput, explain_out_of_memory, nearest
from clx.pipelines.system.process_group import Group
from clx.pipelines.use.embedding_shards import BATCHES
from clx.pipelines.use.new_values import NewValues

if TYPE_CHECKING:
    import pyarrow as pa


def rows_to_predict(run: Run, source: str | None, split: str | None) -> Manifest:
    """The rows of a source, all of them or those of a split; without a source the run's own test rows. A picture, a
    recording or the like that one input reads is a row of its own. Targets are numbers where all cells are."""
    if source is not None and split is None and (column := column_of_file(run, Path(source).expanduser())):
        import pyarrow as pa

        path = Path(source).expanduser()
        return Manifest(source, path.parent, pa.table({column: [path.name]}), np.zeros(1, dtype=np.int64))
    (manifest,) = choose(run.config.data, run.config.train.seed, source, split, otherwise="file").values()
    return as_numbers(manifest, run.config.data.target)


def column_of_file(run: Run, path: Path) -> str | None:
    """The column that holds such a file where one input alone predicts from its kind; None for tables, and for runs on
    tables of time steps or windows."""
    data = run.config.data
    if data.long or data.windows or not path.is_file() or table_suffix(path.name) in READERS:
        return None
    kind = looked_at(str(path))[0]
    names = [name for name in run.readers(kind) if name in run.model.predict_from and run.modalities[name].files]
    column = column_of(names[0], run.modalities[names[0]]) if len(names) == 1 else None
    return column if isinstance(column, str) else None


def kept_columns(run: Run, manifest: Manifest, keep: Sequence[str] = ()) -> list[str]:
    """Columns to repeat beside the predictions: those named, else all that are no input and hold plain values."""
    for name in keep:
        if name not in manifest.columns:
            raise BadInput(f"--keep {name}: no such column in {manifest.name}{nearest(name, manifest.columns)}")
    if keep:
        return list(keep)
    inputs = set(columns_of(run.modalities))
    return [field.name for field in manifest.table.schema if field.name not in inputs and _is_plain(field.type)]


def _is_plain(kind: "pa.DataType") -> bool:
    import pyarrow.types as types

    kind = kind.value_type if types.is_dictionary(kind) else kind
    return not (types.is_nested(kind) or types.is_binary(kind) or types.is_large_binary(kind))


def predict_on(
    group: Group,
    run: Run,
    manifest: Manifest,
    keep: Sequence[str],
    probabilities: bool,
    batch_size: int,
    new: NewValues,
) -> Iterator[tuple[list[Line], list[BadRow]]]:
    """As `predict`, by all ranks of a group, which go through it alike: a block of batches each at a time. Rank 0 has
    what one process would have, the others nothing."""
    own = NewValues()
    keys = once(len(manifest), batch_size)
    for start in range(0, len(keys), BATCHES * group.size):
        first = start + BATCHES * group.rank
        mine = keys[first : first + BATCHES]
        made = list(predict(run, manifest, keep, probabilities, batch_size, own, mine)) if mine else []
        for of_rank in group.collected(made):
            yield from of_rank
    new.join(group.collected(own))


def predict(
    run: Run,
    manifest: Manifest,
    keep: Sequence[str] = (),
    probabilities: bool = False,
    batch_size: int = 256,
    new: NewValues | None = None,
    keys: Sequence[Key] | None = None,
) -> Iterator[tuple[list[Line], list[BadRow]]]:
    """Lines, batch by batch, and the rows among them that could not be used: these have None for a prediction. Of some
    batches alone where `keys` are given. `new` counts the cells that hold what training did not.

    A line has `row` (1 is the first row of data), the columns of `keep`, and `predicted_NAME` for each target, in
    its units; of a run with classes `predicted_NAME` and its `probability`, of one with sets of labels in
    `predicted_NAME` those that apply with a probability of 0.5 or more, divided by `|`; and with `probabilities` also
    `p_CLASS` for each class. Modalities whose columns the manifest lacks are missing in every row.
    """
    looked_at = {name: m for name, m in run.modalities.items() if name in run.model.predict_from}
    modalities = {name: m for name, m in looked_at.items() if has_columns(manifest, name, m)}
    if not modalities:
        check_columns(run.config, looked_at, manifest)
    data = BatchDataset(manifest, modalities, on_bad="skip")
    names = answer_names(run, probabilities)
    bad: list[BadRow] = []

    def lines(answers: dict[int, list[Any]]) -> tuple[list[Line], list[BadRow]]:
        unread = bad.copy()
        bad.clear()
        nothing = dict.fromkeys([one.row for one in unread], [None] * len(names))
        done = sorted((answers | nothing).items())
        cells = [{"row": int(manifest.rows[i]) + 1, **plain(manifest.row(i, keep))} for i, _ in done]
        return [
            line | dict(zip(names, answer, strict=True)) for line, (_, answer) in zip(cells, done, strict=True)
        ], unread

    keys = once(len(data), batch_size) if keys is None else keys
    for batch in batches(data, keys, run.config.train.workers, report=bad.extend):
        places = np.searchsorted(manifest.rows, batch.sample_id.numpy()).tolist()
        if new is not None:
            new.look(modalities, manifest, batch)
        predictable = run.model.predictable(batch.present).tolist()
        columns = ",".join(columns_of(modalities))
        bad += [
            BadRow(i, manifest.where(i), columns, "every input is missing")
            for i, some in zip(places, predictable, strict=True)
            if not some
        ]
        with explain_out_of_memory(lambda: f"with batches of {batch_size} rows: --batch-size takes fewer"):
            answers = answer(run, batch, probabilities)
        yield lines(dict(zip(places, answers, strict=True)))
    if bad:
        yield lines({})


def schema_of(run: Run, manifest: Manifest, keep: Sequence[str], probabilities: bool) -> "pa.Schema":
    """Names and types of a line's values."""
    import pyarrow as pa

    kinds = {"row": pa.int64()}
    for name in keep:
        kind = manifest.table.schema.field(name).type
        number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
        kinds[name] = kind if number else pa.string()
    for name in answer_names(run, probabilities):
        kinds[name] = pa.float64()
    if not run.config.data.target:
        kinds[f"predicted_{run.config.data.label_column}"] = pa.string()
    return pa.schema(kinds)


def answer_names(run: Run, probabilities: bool) -> list[str]:
    """The columns of what is predicted."""
    if run.config.data.target:
        return [f"predicted_{name}" for name in run.config.data.target]
    every = [f"p_{name}" for name in run.facts.classes] if probabilities else []
    return [f"predicted_{run.config.data.label_column}", *([] if run.tells_sets else ["probability"]), *every]


@torch.no_grad()
def answer(run: Run, batch: Batch, probabilities: bool) -> list[list[Any]]:
    """What is predicted for each row of a batch, in the order of `answer_names`."""
    moved = batch.to(run.device)
    outputs = run.model.predict(run.model(moved.inputs, moved.present), moved.present).cpu()
    if run.config.data.target:
        return [[float(f"{value:.7g}") for value in row] for row in outputs.tolist()]  # float32 knows no more
    if head := run.set_head:
        chances = head.chances(outputs)
        both = zip(head.applying(chances).tolist(), chances.tolist(), strict=True)
        return [_applying(run, said) + (line if probabilities else []) for said, line in both]
    shares = outputs.softmax(1)
    best = shares.max(1)
    every = shares.tolist() if probabilities else [[]] * len(shares)
    ranked = zip(best.indices.tolist(), best.values.tolist(), every, strict=True)
    return [[run.facts.classes[k], share, *each] for k, share, each in ranked]


def _applying(run: Run, said: list[bool]) -> list[Any]:
    """The classes that are said to apply, as one text."""
    names = [name for name, applies in zip(run.facts.classes, said, strict=True) if applies]
    return [spoken(names, run.config.data.several)]


def plain(cells: Line) -> Line:
    """Cells as JSON and CSV can hold them: dates, for one, become text."""
    return {
        name: value if value is None or isinstance(value, str | int | float) else str(value)
        for name, value in cells.items()
    }
