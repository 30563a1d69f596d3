"""Which column is the answer: by name where that is sure, likely ones to ask about, and columns that tell it."""

import re
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clx.pipelines.data.column_kinds import MEDIA, Column
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.data.stretches import pieces

LABEL = {"label", "labels", "class", "classname", "category", "classindex", "classlabel", "classid"}
GRADE = {"relevance", "relevancescore", "medianrelevance", "similarity", "similarityscore", "relatednessscore"}
"""How well the two of a pair belong together: a pair is never taken without it in silence."""
OF_ONE = {
    *("price", "rating", "saleprice", "cost", "count", "cnt", "age", "salary", "income", "wage", "rent", "sales"),
    *("demand", "charges", "amount"),
}
"""Numbers of one thing: what two texts about it tell, never how well these go together."""
TARGET = {"target", "score", "y", "value", "rating", "price", *GRADE}
LIKELY = {
    *("survived", "species", "variety", "diagnosis", "outcome", "churn", "exited", "attrition", "income", "default"),
    *("fraud", "spam", "sentiment", "quality", "medv", "saleprice", "cnt", "count", "strength", "topic", "emotion"),
    *("age", "salary", "charges", "cost", "sales", "demand", "breed", "genre", "result", "response", "output", "type"),
    *("isduplicate", "intent", "toxic", "approved", "status", "grade", "wage", "rent", "amount", "yield"),
    *("activity", "gesture", "goldlabel"),
}
"""Names of answers in well-known tables: asked about, never taken in silence."""
LANGUAGE = re.compile(
    r"(.*[_ -])?[a-z]{2}|src|tgt|source|target|[a-z]+ish|[a-z]+ese|german|french|russian|arabic|italian"
)
"""Names of texts in one language each: `en`, `text_de`, `english`."""
OF_FILES = {
    *("width", "height", "size", "bytes", "filesize", "duration", "seconds", "length", "channels", "fps", "samplerate"),
    *("lat", "lon", "lng", "latitude", "longitude", "year", "hour", "tokens"),
}
"""Numbers that often stand beside files and say of them what nobody wants to predict."""
CHANCE = 1e-3  # of a column without any bearing on the answer to tell it in the rows that there are
SAID = 5
"""Different texts for each class up to which a text is other words for the class."""
ROWS = 50_000  # looked at for columns that tell the answer


def bare(name: str) -> str:
    """Letters and digits of a name, in lower case."""
    return re.sub(r"[\W_]", "", name.lower())


def sure(column: Column, beside: Collection[str] = ()) -> str | None:
    """`label` or `target` for a column that is one by its name and its cells; a `y` beside `x` and `z` is an axis."""
    name = bare(column.name)
    if bare(column.name.rpartition(".")[2]) in ("label", "labels"):  # of an object: `llm.label`
        name = "label"
    if name == "y" and {"x", "z"} <= set(map(bare, beside)):
        return None
    if name in LABEL and (column.kind in ("number", "category", "text", "labels") or column.kind.startswith("a")):
        return "label"  # also where the classes are called like identifiers
    if name in TARGET and column.kind == "number":
        return "label" if column.whole and column.distinct <= 20 and name in ("target", "y") else "target"
    return "label" if name in TARGET and column.kind == "category" and column.distinct <= 20 else None


@dataclass(frozen=True)
class Likely:
    """A column that is probably the answer, with the flag that says so."""

    column: str
    flag: str
    why: str
    beside: Sequence[str] = ()
    """Further columns of the same answer, each a label."""

    @property
    def columns(self) -> list[str]:
        """All of its columns."""
        return [self.column, *self.beside]

    @property
    def given(self) -> str:
        """As it is written in a shell."""
        return f"{self.flag} {shlex.quote(','.join(self.columns))}"


def likely(columns: Mapping[str, Column]) -> list[Likely]:
    """Probable answers, the most probable first, of columns of which none is an answer for sure.

    In a table without pictures, sounds or texts that is a well-known name, or else the last column; beside an input
    of its own several columns of 1 and 0, a well-known name, the one column of classes that there is, or any of
    several, the last first; beside texts alone the one number where there are no classes; beside two texts the one
    column of classes, unless the texts are one in two languages.
    """
    usable = [c for c in columns.values() if c.kind in ("number", "category") and c.distinct > 1]
    inputs = [c for c in columns.values() if c.kind in (*MEDIA, "text")]
    named = [_likely(c, "by its name") for c in usable if bare(c.name) in LIKELY]
    if several := _labels(usable, inputs):
        return [several, *(one for one in named if one.column not in several.columns)]
    if named:
        return named
    if not inputs and usable:
        return [_likely(usable[-1], "the last column")] if len(usable) > 1 else []
    sets = [c for c in columns.values() if c.kind == "labels"]
    if len(inputs) == len(sets) == 1:
        return [Likely(sets[0].name, "--label", f"sets of labels beside {inputs[0].name}")]
    classes = [c for c in usable if c.classes and c.kind == "category"]
    if len(inputs) == 1 and len(classes) == 1:
        return [_likely(classes[0], f"{classes[0].distinct} classes beside {inputs[0].name}")]
    asked = [c for c in usable if bare(c.name) not in OF_FILES]
    numbers = [c for c in asked if c.kind == "number"]
    if len(inputs) == 1 and numbers and len(usable) > 1:
        last = f"the last column, beside {inputs[0].name}"
        return [_likely(c, last if c is asked[-1] else f"beside {inputs[0].name}") for c in reversed(asked)]
    if len(inputs) < 2 or {c.kind for c in inputs} != {"text"}:
        return []
    if len(numbers) == 1 and not classes:
        return [_likely(numbers[0], "the one number beside texts")]
    if len(inputs) == 2 and len(classes) == 1 and not all(LANGUAGE.fullmatch(c.name.lower()) for c in inputs):
        return [_likely(classes[0], f"{classes[0].distinct} classes beside two texts")]
    return []


def beside_label(columns: Mapping[str, Column], label: str) -> Likely | None:
    """The columns of 1 and 0 of which `label` is one, where they seem to be a label each."""
    usable = [c for c in columns.values() if c.kind in ("number", "category") and c.distinct > 1]
    several = _labels(usable, [c for c in columns.values() if c.kind in (*MEDIA, "text")])
    return several if several is not None and label in several.columns else None


def _labels(usable: Sequence[Column], inputs: Sequence[Column]) -> Likely | None:
    """Columns of 1 and 0 alone beside a picture, a sound, a series or a text, where there are more of them than of
    others that a table would read."""
    each = [column.name for column in usable if column.switch and "," not in column.name]
    if not inputs or len(each) < 2 or 2 * len(each) <= len(usable):
        return None
    return Likely(each[0], "--label", f"one of {len(each)} columns of 1 and 0 beside {inputs[0].name}", each[1:])


def _likely(column: Column, why: str) -> Likely:
    return Likely(column.name, "--label" if column.classes else "--target", why)


def lone_number(columns: Mapping[str, Column]) -> str | None:
    """The one number beside one picture, sound, series or text, which can hardly be anything but what to predict."""
    numbers = [c for c in columns.values() if c.kind == "number"]
    inputs = [c for c in columns.values() if c.kind in (*MEDIA, "text")]
    rest = [c for c in columns.values() if c.kind in ("category", "date")]
    return numbers[0].name if len(numbers) == len(inputs) == 1 and not rest and numbers[0].distinct > 2 else None


def telling(manifest: Manifest, answer: str, columns: Sequence[str]) -> list[str]:
    """Those of `columns` from which `answer` follows with certainty, in up to 50,000 rows.

    Every value, seen twice or more on average, comes with one answer only (a number of the class, its other name), or
    one of a column's two values comes with all rows of one answer and with no others (a class as yes or no). Columns
    for which that is likely by chance, and those of nested cells, are none.
    """
    answers = _codes(manifest, answer)
    found = []
    for column in columns:
        values = _codes(manifest, column)
        if values is None or answers is None or column == answer:
            continue
        both = (values >= 0) & (answers >= 0)
        if _tells(values[both], answers[both]):
            found.append(column)
    return found


def _tells(values: NDArray[np.int64], answers: NDArray[np.int64]) -> bool:
    rows = len(values)
    if rows < 4 or len(counts := np.unique(answers, return_counts=True)[1]) < 2:
        return False
    same = float(((counts / rows) ** 2).sum())  # chance of two rows to have one answer
    distinct = len(np.unique(values))
    if 2 * distinct > rows or distinct < 2:
        return False
    most = int(answers.max()) + 1
    pairs = np.stack(np.divmod(np.unique(values * most + answers), most))
    if pairs.shape[1] == distinct:
        return bool(same ** (rows - distinct) < CHANCE)
    if distinct == 2:  # of more than two answers, one alone may have one of the values
        for value in np.unique(values):
            of = pairs[1, pairs[0] == value]
            inside = np.count_nonzero(values == value)
            if len(of) == 1 and np.count_nonzero(answers == of[0]) == inside:
                return bool(same ** (inside - 1) < CHANCE)
    return False


def _codes(manifest: Manifest, column: str) -> NDArray[np.int64] | None:
    """A number for each value of a column, -1 where it is missing; None for cells that have no order."""
    import pyarrow as pa
    import pyarrow.compute as pc

    some = manifest.take(np.arange(0, len(manifest), max(1, len(manifest) // ROWS)))
    cells = pa.chunked_array([piece for _, piece in pieces(some, column)], some.table.schema.field(column).type)
    cells = cells.unify_dictionaries().combine_chunks()
    if pa.types.is_dictionary(cells.type):
        cells = cells.dictionary_decode()
    if pa.types.is_nested(cells.type) or pa.types.is_binary(cells.type) or pa.types.is_null(cells.type):
        return None
    if pa.types.is_string(cells.type) or pa.types.is_large_string(cells.type):
        cells = pc.utf8_trim_whitespace(cells)
        cells = pc.if_else(pc.equal(cells, ""), None, cells)
    coded = cells.dictionary_encode()
    return np.asarray(pc.fill_null(coded.indices.cast(pa.int64()), -1))
