"""A first guess at what the columns of a manifest mean, and what the user said about them."""

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace

from clx.pipelines.data.answers import (
    GRADE,
    LIKELY,
    OF_ONE,
    SAID,
    Likely,
    bare,
    beside_label,
    likely,
    lone_number,
    sure,
    telling,
)
from clx.pipelines.data.column_kinds import FOLDS, MEDIA, SAMPLED, SPLIT_NAMES, Column, kinds_of
from clx.pipelines.data.inferred import IGNORED, NONE, UNASKED, Asked, Inferred, identifier
from clx.pipelines.data.label_columns import matching
from clx.pipelines.data.label_sets import DIVIDERS
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.data.recognise_long import find_long
from clx.pipelines.data.recognise_pairs import has_roles, related
from clx.pipelines.system.errors import BadInput

YES_OR_NO_SPLIT = re.compile(r"(is[ _-]?|(in|for)[ _-])(train(ing)?|val(id|idation)?|test|holdout)([ _-]?set)?")


def infer_modalities(manifest: Manifest, asked: Asked = UNASKED) -> Inferred:
    """Guess from file extensions, leading bytes, names and up to 1000 rows spread over the manifest.

    What was asked for is obeyed. Raises `BadInput` where that does not fit the manifest.
    """
    asked = asked.of(manifest.columns)
    asked.check(manifest)
    found = Inferred(columns=kinds_of(manifest), group=asked.group)
    free = dict(found.columns)
    answers = {asked.label, *asked.target, *asked.pair, *matching(asked.labels, manifest.columns)}
    splits = [n for n, c in free.items() if c.kind == "split" and n not in answers and n not in asked.ignore]
    found.split = min(splits, key=lambda name: bare(name) not in SPLIT_NAMES, default=None)
    for name, column in found.columns.items():
        if name in asked.ignore:
            found.unused[name] = IGNORED
        elif name in splits:
            found.unused |= {name: "a second split"} if name != found.split else {}
        elif name == asked.group and column.kind not in (*MEDIA, "text"):  # which may be an input all the same
            found.unused[name] = "its rows stay in one split, by --group"
        elif column.kind == FOLDS and found.group is None and name not in answers:
            found.group = name
            found.unused[name] = "the rows of a fold stay in one split; --group names another column"
        elif column.distinct == 2 and YES_OR_NO_SPLIT.fullmatch(name.strip().lower()) and name not in answers:
            if found.split is None:
                own = shlex.quote(name)
                raise BadInput(
                    f"{manifest.name}: column {name!r} may say by yes or no which rows are of a split: write a column "
                    f"'split' of train, val and test in its place, or --label {own} or --ignore {own}"
                )
            found.unused[name] = "a second split"
        else:
            continue
        del free[name]
    for name in asked.pair:
        if free[name].kind in ("category", "an identifier"):
            free[name] = replace(free[name], kind="text")  # short, but the user says that it is an input
    _answers(manifest, found, free, asked)
    _several_labels(manifest, found, asked)
    if not asked.pair:
        kept = {name: column for name, column in found.columns.items() if name in free or name == asked.group}
        found.long = find_long(manifest, kept, found.answers)
    if found.long is not None:
        found.modalities["series"] = {}
        used = {found.long.get("id"), found.long["time"], *found.long["channels"]}
        found.unused.pop(str(found.long.get("id")), None)  # by --group
        found.unused |= {name: column.kind for name, column in free.items() if name not in used}
        return found
    _inputs(manifest, found, free, asked)
    return found


def _answers(manifest: Manifest, found: Inferred, free: dict[str, Column], asked: Asked) -> None:
    """The label or the target, taken out of the columns that are free to be inputs."""
    if asked.no_answer and NONE not in found.columns:
        for name in [name for name, column in free.items() if sure(column, found.columns)]:
            found.unused[name] = f"an answer by its name, and --label {NONE}"
            del free[name]
        return
    if asked.label or asked.labels or asked.target:
        found.label, found.target = asked.label, list(asked.target)
        found.labels = matching(asked.labels, manifest.columns)
        found.reasons |= {name: "by --target" if asked.target else "by --label" for name in found.answers}
        if asked.label is not None and (several := beside_label(free, asked.label)):
            why = f"1 and 0 as {asked.label}, so likely a label too: {several.given} learns it, -s "
            for name in several.columns:
                setting = f"modalities.table.columns={json.dumps([name], ensure_ascii=False)}"
                if name != asked.label:
                    found.unused[name] = f"{why}{shlex.quote(setting)} makes it an input"
    else:
        _answers_by_name(manifest, found, free, asked)
    for name in [*found.answers, *found.unused]:
        free.pop(name, None)
    if not found.answers and not found.likely:
        lone = lone_number(free)
        if lone is not None:
            found.target, found.reasons[lone] = [lone], "the one number beside the input"
            del free[lone]
        else:
            found.likely = [] if asked.pair else likely(free)
            if has_roles(free):  # the pair learns without a number that nobody calls an answer, but for a yes or no
                kept = [one for one in found.likely if bare(one.column) in LIKELY or free[one.column].switch]
                found.likely = kept
    for one in found.likely:
        for name in one.columns:
            found.unused[name] = f"likely the answer ({one.why}): {one.given}"
            free.pop(name, None)


def _answers_by_name(manifest: Manifest, found: Inferred, free: Mapping[str, Column], asked: Asked) -> None:
    """The one column that is an answer by its name; of several, and of a number beside inputs that learn from each
    other without an answer, none is taken before it is asked for. Names of classes go before their numbers."""
    kinds = {column.kind for name, column in free.items() if name in asked.pair or not asked.pair}
    aligned = "text" in kinds and bool(kinds & set(MEDIA))
    by_name = {name: kind for name, column in free.items() if (kind := sure(column, found.columns))}
    labels = [name for name, kind in by_name.items() if kind == "label"]
    targets = [name for name, kind in by_name.items() if kind == "target"]
    numbered = [name for name in labels if free[name].kind in ("number", "an identifier")]
    named = next(
        (n for n in labels if free[n].kind == "category" and numbered and telling(manifest, n, numbered)), None
    )
    labels.sort(key=lambda name: name != named)
    found.unused |= dict.fromkeys(labels[1:], "a second label")
    if aligned and asked.pair and (grades := [name for name in targets if bare(name) in GRADE]):
        why = "how well the two of a pair belong together, by its name"
        found.likely = [Likely(name, "--target", why) for name in grades]
    elif aligned and targets and (labels or asked.pair):
        found.unused |= {name: f"a number that --target {name} would predict" for name in targets}
        found.label = labels[0] if labels else None
        found.reasons |= {name: "by its name" for name in found.answers}
    elif aligned and targets:
        why = "by its name, beside pictures or sounds with texts"
        found.likely = [Likely(name, "--target", why) for name in targets]
    elif len(labels[:1] + targets) > 1:
        found.likely = [Likely(name, f"--{by_name[name]}", "by its name") for name in labels[:1] + targets]
    else:
        found.label, found.target = labels[0] if labels else None, targets
        found.reasons |= {name: "by its name" for name in found.answers}


def _several_labels(manifest: Manifest, found: Inferred, asked: Asked) -> None:
    """A label of texts such as `a|b` or `a;b`, whose parts come again, is a set of labels; so is `a, b` where half of
    the parts come alone, too, and they come in many combinations."""
    if found.label is None or not len(manifest):
        return
    first = manifest.take(range(min(len(manifest), SAMPLED)))
    cells = [cell for cell in first.column(found.label) if isinstance(cell, str)]
    for mark in DIVIDERS:
        parts = {part.strip() for cell in cells for part in cell.split(mark)}
        if sum(mark in cell for cell in cells) > 0.05 * len(cells) and len(parts) < len(set(cells)):
            found.several = mark
            return
    divided = {part.strip() for cell in cells if "," in cell for part in cell.split(",")}
    alone = {cell.strip() for cell in cells if "," not in cell}
    if divided and 2 * len(alone & divided) >= len(divided) and 2 * len(divided) <= len(set(cells)):
        found.several = ","  # `Paris, France` is one label: most of its parts come once, and never alone


def _inputs(manifest: Manifest, found: Inferred, free: dict[str, Column], asked: Asked) -> None:
    """Modalities of the columns that are left, and what each other one is not used for."""
    if asked.pair:
        for name in [name for name in free if name not in asked.pair]:
            found.unused[name] = "not of the pair"
            del free[name]
    _refuse_no_inputs(asked, free)
    if not found.modalities and related(found, free, asked):
        return
    answer = found.answers[0] if found.answers else None
    supervised = bool(asked.label or asked.labels or found.target)
    if answer is not None and not asked.pair:
        kinds = ("number", "category", "date", "text") if supervised else ("number", "category", "date")
        asked_of = [n for n, c in free.items() if c.kind in kinds and not _content(c, found)]
        for name in telling(manifest, answer, asked_of):
            found.unused[name] = f"{answer} follows from it with certainty"
            del free[name]
    pure = not any(column.kind in MEDIA for column in free.values())
    for name, column in list(free.items()):
        if pure and _names_rows(column):
            found.unused[name] = "an identifier: it names rows"
            del free[name]
        elif column.kind == "labels":
            found.unused[name] = f"sets of labels, which --label {name} would learn"
        elif not column.is_input:
            found.unused.setdefault(name, column.kind)
    for kind in (*MEDIA, "text"):
        named = [name for name, column in free.items() if column.kind == kind]
        first: str | None = None
        for each in named:
            name = kind if len(named) == 1 else identifier(each, found.modalities, kind)
            options = {} if name == kind else {"kind": kind}
            if kind == "text" and pure and found.answers and first is not None:
                options = {"like": first}  # read alike; together they say the answer
            first = first or name
            found.modalities[name] = options if name == each else {**options, "column": each}
    if pure:
        found.doubt = _score_or_number(found, [name for name, column in free.items() if column.kind == "text"])
    _table(found, free)


def _score_or_number(found: Inferred, texts: Sequence[str]) -> tuple[str, str, str] | None:
    """Two texts that no name calls a pair, and the one number that is or may be the answer."""
    answers = found.answers or [one.column for one in found.likely]
    if len(texts) != 2 or len(answers) != 1 or found.label or found.labels or bare(answers[0]) in OF_ONE:
        return None
    return (texts[0], texts[1], answers[0]) if found.columns[answers[0]].kind == "number" else None


def _table(found: Inferred, free: Mapping[str, Column]) -> None:
    numbers = [name for name, column in free.items() if column.kind in ("number", "date")]
    categories = [name for name, column in free.items() if column.kind == "category"]
    if numbers or (categories and not found.modalities):
        found.modalities["table"] = {"columns": [c for c in free if c in {*numbers, *categories}]}
    else:
        found.unused |= {column: "a category" for column in categories}


def _refuse_no_inputs(asked: Asked, free: Mapping[str, Column]) -> None:
    for name in asked.pair:
        if not free[name].is_input:
            raise BadInput(f"--pair {name}: this column is {free[name].kind}, no input")


def _content(column: Column, found: Inferred) -> bool:
    """Whether a text says something of its own: many different ones for each class."""
    classes = found.columns[found.label].distinct if found.label else 20
    return column.kind == "text" and column.distinct > SAID * max(2, classes)


def _names_rows(column: Column) -> bool:
    """A name or an address that hardly any two rows share."""
    named = re.fullmatch(r"(.*[_ ])?(name|url|email|e-mail|address|phone)", column.name.strip().lower())
    unique = column.known > 20 and column.distinct > 0.9 * column.known
    return column.kind in ("text", "category") and unique and named is not None
