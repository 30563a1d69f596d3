"""Every cell opened before GPU hours are spent: what cannot be read, and what leaks from one split to another."""

import io
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from clx.modalities.base import Modality
from clx.modalities.errors import at_fault
from clx.modalities.numbers import number
from clx.pipelines.batches.cells import ASKED, are_elsewhere, ask_for, cell_of, cells, read_cell
from clx.pipelines.batches.check_content import (
    compare_content,
    compare_groups,
    compare_texts,
    content_digest,
    repeated_texts,
)
from clx.pipelines.batches.check_summary import CLASSES, ColumnFindings, describe_column, describe_target
from clx.pipelines.batches.columns import asked_of, check_columns, column_of, has_columns, said_of_readings, spread
from clx.pipelines.batches.cuts import cut_line, is_cut, spoken
from clx.pipelines.batches.findings import Findings
from clx.pipelines.batches.meetings import meetings_of
from clx.pipelines.batches.telling_columns import TELLS, telling_columns
from clx.pipelines.config.load import load_config
from clx.pipelines.config.objects import make_modalities
from clx.pipelines.config.options import parse
from clx.pipelines.config.schema import Config
from clx.pipelines.data.inferred import UNASKED, Asked
from clx.pipelines.data.label_columns import require_label_columns
from clx.pipelines.data.label_sets import MANY, divided, labels_in
from clx.pipelines.data.leaks import groups_of
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.data.shared_content import inputs_of
from clx.pipelines.data.splits import load_splits
from clx.pipelines.data.understood import understood
from clx.pipelines.data.write_recipe import infer_config
from clx.pipelines.data.wrong_answers import infinite, wrong_answers
from clx.pipelines.system.errors import BadInput
from clx.pipelines.system.remote import Unreachable, shown

Step = Callable[[int, int], None]
"""Is told how many rows are done, and of how many."""


def check_source(
    source: str | None,
    config: str | None,
    step: Step = lambda done, total: None,
    asked: Asked = UNASKED,
    settings: Sequence[str] = (),
) -> dict[str, Any]:
    """The report of `check` on a source, on the data of a config, or on a source read as a config says, with what was
    `understood` of it.

    Without a config the meaning of the columns is guessed, but for what is `asked`. Raises `BadInput` for data that
    cannot be opened.
    """
    unused: dict[str, str] = {}
    if config is not None:
        if asked != UNASKED:
            raise BadInput("--config says what the columns are: leave out --label, --target, --pair, --group, --ignore")
        known = load_config(config, settings)
        if source is not None and source != known.data.train:
            known = known.model_copy(
                update={"data": known.data.model_copy(update={"train": source, "val": None, "test": None})}
            )
        splits = load_splits(known.data, known.train.seed, inputs=inputs_of(known))
    elif source is not None:
        written = infer_config(source, asked, settings, sure=False)
        known, splits, unused = parse(Config, written.config, f"data {source}"), written.splits, written.found.unused
    else:
        raise BadInput("name the data to check, or a config with --config")
    modalities = make_modalities(known)
    require_label_columns(known.data, splits["train"])
    for split, manifest in splits.items():
        check_columns(known, asked_of(known, modalities, split), manifest)
    data, told = known.data, telling_columns(known, modalities, splits["train"])
    report = check(
        splits, modalities, data.label_column, data.target, step, data.bin_width, data.several, told, groups_of(known)
    )
    seen = understood(known, splits, unused)
    del seen["classes"]  # those of each split are told
    for split, at in seen.pop("splits").items():
        if split in splits:
            report["splits"][split]["from"] = at["from"]
    meetings = meetings_of(known, splits["train"])
    report |= {} if meetings is None else {"batches": meetings.described()}
    return {"data": data.named, **seen, **report}


def check(
    splits: Mapping[str, Manifest],
    modalities: Mapping[str, Modality],
    label: str | None = None,
    target: Sequence[str] = (),
    step: Step = lambda done, total: None,
    bin_width: float | None = None,
    several: str | Literal[False] | None = None,
    told: Sequence[tuple[str, str]] = (),
    groups: Sequence[str] = (),
) -> dict[str, Any]:
    """Open every cell of every split; `told` are columns from which an answer follows (see `telling_columns`), `groups`
    those that are to hold rows together.

    Returns `ok` (no errors), `splits` (rows, and by input cells, missing, bad and lengths; classes), `targets` (see
    `describe_target`), `written` (columns of text read as numbers or dates, in words), `findings` (at most 1000 of a
    sort), `counts` and `errors` (how many of each sort). Bad cells,
    content that occurs in two splits, a constant target and a label of one class are errors; content repeated within a
    split, classes that training lacks and rows without any input are warnings.
    """
    modalities = spread(modalities)
    for name, modality in modalities.items():
        try:
            modality.fit(cells(splits["train"], name, modality))
        except ValueError as error:
            raise BadInput(f"{splits['train'].name}, modalities.{name}: {error}") from None
    findings = Findings()
    for column, answer in told:
        findings.add("tells the answer", splits["train"].name, column, TELLS.format(answer=answer), error=False)
    found, classes = _open_all(splits, modalities, label, target, findings, step, several)
    _divided_labels(splits, label, several, findings)
    for name, modality in modalities.items():
        _say_readings(name, modality, splits, found, findings)
        compare_content(name, spoken(column_of(name, modality)), splits, found, findings)
    compare_texts(splits, modalities, findings)
    repeated_texts(splits, modalities, findings)
    compare_groups(splits, groups, findings)
    _unknown_classes(classes, splits, label, findings)
    for wrong in wrong_answers(splits, label, target, cells=False):
        findings.add(*wrong, error=True)
    return {
        "ok": not findings.errors.total(),
        "splits": {
            split: {
                "rows": len(manifest),
                "from": manifest.split_from,
                "inputs": {n: describe_column(n, m, found[split][n], len(manifest)) for n, m in modalities.items()},
                "classes": dict(classes[split].most_common(CLASSES)),
            }
            for split, manifest in splits.items()
        },
        "written": said_of_readings(modalities, splits["train"]),
        "targets": {column: describe_target(splits, column, bin_width) for column in target},
        "findings": sorted(findings.listed, key=lambda finding: finding["level"]),
        "counts": dict(findings.counts),
        "errors": {what: count for what, count in findings.errors.items() if count},
    }


def _open_all(
    splits: Mapping[str, Manifest],
    modalities: Mapping[str, Modality],
    label: str | None,
    target: Sequence[str],
    findings: Findings,
    step: Step,
    several: str | Literal[False] | None,
) -> tuple[dict[str, dict[str, ColumnFindings]], dict[str, Counter[str]]]:
    """What the cells hold, and how many rows each class has, by split."""
    found = {split: {name: ColumnFindings() for name in modalities} for split in splits}
    classes: dict[str, Counter[str]] = {split: Counter() for split in splits}
    total, done = sum(map(len, splits.values())), 0
    for split, manifest in splits.items():
        there = {name: modality for name, modality in modalities.items() if has_columns(manifest, name, modality)}
        for name in modalities.keys() - there:  # only negatives, of test rows
            found[split][name].missing = len(manifest)
        far = are_elsewhere(manifest, there)
        for i in range(len(manifest)):
            if far and i % ASKED == 0:
                ask_for(manifest, range(i, min(i + ASKED, len(manifest))), there)
            row = manifest.row(i)
            _check_row(manifest, i, row, there, found[split], findings)
            for column in target:
                _check_target(manifest, i, column, row[column], findings)
            if label and row[label] is not None:
                classes[split].update(labels_in(row[label], several) or [])
            done += 1
            step(done, total)
    return found, classes


def _check_row(
    manifest: Manifest,
    i: int,
    row: dict[str, Any],
    modalities: Mapping[str, Modality],
    found: dict[str, ColumnFindings],
    findings: Findings,
) -> None:
    empty = 0
    for name, modality in modalities.items():
        at, column = found[name], column_of(name, modality)
        try:
            cell = cell_of(row, name, modality, manifest.of_row(i))
            if cell is None:
                at.missing += 1
                empty += 1
                continue
            sample = read_cell(modality, cell)
            several = isinstance(sample, list)
            at.several += several
            parts = zip(cell, sample, strict=True) if modality.pair or several else [(cell, sample)]
            lengths = [_length(modality.kind, one, read_as) for one, read_as in parts]
            content = content_digest(cell) if modality.files else None
        except (MemoryError, Unreachable):
            raise
        except Exception as error:  # decoders raise what they like, and one bad file must not hide the others
            at.bad += 1
            named = row[column] if isinstance(column, str) else None
            named = named[0] if isinstance(named, list) and len(named) == 1 else named
            file = f"{shown(named)}: " if isinstance(named, str) and modality.files else ""
            at_column, reason = at_fault(error, column)
            reason = reason if isinstance(error, ValueError) else f"{type(error).__name__}: {reason}"
            file = "" if "://" in reason else file  # which says it already
            findings.add("bad cell", manifest.where(i), at_column, file + reason, error=True)
            continue
        if is_cut(modality, cell):
            at.first_cut = at.first_cut if at.cut else i
            at.cut += 1
        at.lengths.extend(length for length in lengths if length is not None)
        if content is not None:
            at.hashes.append(int.from_bytes(content, "big"))
            at.rows.append(i)
    if empty == len(modalities):
        findings.add("empty row", manifest.where(i), "", "no input at all", error=False)


def _check_target(manifest: Manifest, i: int, column: str, value: Any, findings: Findings) -> None:
    try:
        endless = math.isinf(number(value))
    except ValueError as error:
        findings.add("bad cell", manifest.where(i), column, str(error), error=True)
        return
    if endless:
        findings.add("bad cell", manifest.where(i), column, infinite(value), error=True)


def _length(kind: str, cell: Any, sample: Any) -> float | None:
    """Characters of a text, seconds of a recording as stored, time steps of a series; None for the rest."""
    if kind == "text":
        return float(len(cell))
    if kind == "audio":
        import soundfile

        info = soundfile.info(io.BytesIO(cell) if isinstance(cell, bytes) else str(cell))
        return float(info.frames / info.samplerate)
    return float(len(sample)) if kind == "series" else None


def _say_readings(
    name: str,
    modality: Modality,
    splits: Mapping[str, Manifest],
    found: Mapping[str, Mapping[str, ColumnFindings]],
    findings: Findings,
) -> None:
    """What the cells were taken for, and those of which the model sees the beginning alone."""
    column = column_of(name, modality)
    for line in modality.understood():
        findings.add("guess", splits["train"].name, spoken(column), line, error=False)
    for split, manifest in splits.items():
        at = found[split][name]
        if at.cut:
            where = manifest.where(at.first_cut)
            said = cut_line(at.cut, len(manifest) - at.missing - at.bad, column, modality, where)
            findings.add("cut", where, spoken(column), said, error=False)


def _divided_labels(
    splits: Mapping[str, Manifest], label: str | None, several: str | Literal[False] | None, findings: Findings
) -> None:
    """Labels that may be several in one text: an error where training would refuse them."""
    for manifest in splits.values():
        if label and (found := divided(label, several, manifest)):
            findings.add("divided label", manifest.name, label, found[0], error=found[1] >= MANY)


def _unknown_classes(
    classes: Mapping[str, Counter[str]], splits: Mapping[str, Manifest], label: str | None, findings: Findings
) -> None:
    for split, manifest in splits.items():
        for value in sorted(set(classes[split]) - set(classes["train"])):
            reason = f"{classes[split][value]} rows of {split} have the class {value!r}, which training lacks"
            findings.add("unknown class", manifest.name, label or "", reason, error=False)
