"""What the cells of a column are, by what most of them are: one odd cell never changes what its column is."""

import datetime
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from clx.modalities.dates import is_date, is_season
from clx.modalities.numbers import missing
from clx.pipelines.data.file_kinds import is_picture, kind_of_bytes, kind_of_file
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.data.number_columns import amounts, codes_in_text, is_index, numbers_in_text, plain_number
from clx.pipelines.data.split_names import split_of

CELLS = {"list": "lists of lists", "dict": "objects", "infinite": "infinite", "bytes": "bytes of an unknown type"}
SAMPLED = 1000  # rows looked at
MEDIA = ("image", "audio", "series")
SPLIT_NAMES = ("split", "fold", "subset", "partition")
TEXT_NAME = re.compile(
    r"((product|item|doc|passage)[_ -])?"
    r"(text|captions?|sentence|description|title|prompt|transcript|question|query|headline|review|comment|body|abstract"
    r"|search[_ ]term)([_ -]?\d+|[_ -][a-z]{2})?"
)
"""Also numbered, or with the code of a language: `caption_2`, `text_ja`."""
ID_NAME = re.compile(r"(.*[_\s.-])?(id|idx|index|uuid|guid)")
SETS_NAME = re.compile(r"(labels?|class(es)?|tags?|categor(y|ies)|genres?|attributes?|topics?)")
IDS_NAME = re.compile(r".*(id|idx|index|uuid)s?|.*indices")
SHORT = 100
"""Entries of a list of numbers that may be a set of classes; a longer one is a series."""
FOLD_NAME = re.compile(r"((cv|k|outer|test|val)[_ -]?)?folds?([_ -]?(id|no|nr|number))?")
FOLDS = "numbers of folds"
MOST_FOLDS = 20
SWITCHES = ({0.0, 1.0}, {-1.0, 1.0}, {-1.0, 0.0, 1.0})
INDEX_NAMES = ("", "unnamed: 0", "index", "idx", "row", "no", "nr")
CAMEL_ID = re.compile(r".*[a-z](Id|ID)")
DATE = re.compile(r"\d{1,4}([-/.])\d{1,2}\1\d{1,4}([ T]\d{1,2}:\d{2}.*)?")
"""Also those of which it has to be asked what they mean, `1/2/24`."""
UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003134f]"
)
"""Letters of scripts that put no space between words: Thai, Lao, Burmese, Khmer, Japanese, Chinese."""


@dataclass(frozen=True)
class Column:
    """A column by a sample of its cells."""

    name: str
    kind: str
    """image, audio, series, text, number, category, date, labels (lists of short texts, or of numbers of classes) or
    split; else why it is none of these: empty, one value only, an index, an identifier, numbers of folds, cells of
    type X."""
    known: int = 0
    """Cells looked at that are not missing."""
    distinct: int = 0
    """Different ones among them."""
    whole: bool = False
    """Numbers without a fraction."""
    switch: bool = False
    """1 and 0 alone, or -1, or true and false, or yes and no: whether something applies."""
    highest: float | None = None
    """Of numbers."""
    captions: bool = False
    """Texts in lists."""
    longest: int = 0
    """Bytes of UTF-8 that 99 % of the texts have at most."""

    @property
    def is_input(self) -> bool:
        return self.kind in (*MEDIA, "text", "number", "category", "date")

    @property
    def in_table(self) -> bool:
        """Whether a table reads it, unless it is told otherwise."""
        return self.kind in ("number", "category", "date")

    @property
    def classes(self) -> bool:
        """Whether its values could be classes: words, or a few whole numbers that come again."""
        again = self.whole and self.distinct <= 20 and 2 * self.distinct <= self.known
        return self.distinct > 1 and (self.kind == "category" or (self.kind == "number" and again))


_known: "WeakKeyDictionary[Manifest, dict[str, Column]]" = WeakKeyDictionary()


def kinds_of(manifest: Manifest) -> dict[str, Column]:
    """Every column of a manifest, by up to 1000 rows spread over it, which are looked at once."""
    if manifest not in _known:
        _known[manifest] = _kinds_of(manifest)
    return dict(_known[manifest])


def _kinds_of(manifest: Manifest) -> dict[str, Column]:
    rows = np.unique(np.linspace(0, len(manifest) - 1, min(len(manifest), SAMPLED)).astype(int))
    sampled = [manifest.row(int(i)) for i in rows]
    found = {
        name: of_cells(name, [(int(i), row[name]) for i, row in zip(rows, sampled, strict=True)])
        for name in manifest.columns
    }
    for name, each in found.items():
        first = next((row[name] for row in sampled if isinstance(row[name], str)), "")
        if each.kind == "series" and "\0" not in first and is_picture(str(manifest.root / first)):
            found[name] = replace(each, kind="image")
    if (files := manifest.path_column) in MEDIA:  # of a folder are what they were found to be, whatever they are called
        found[files] = replace(found[files], kind=files)
    return found


def of_cells(name: str, cells: Sequence[tuple[int, Any]]) -> Column:
    """A column by its cells, each with its row. Among words `-` is one of them, as beside `+`, else nothing."""
    known = [(i, value) for i, value in cells if not missing(value)]
    found = column(name, known)
    if found.kind in ("category", "one value only") and kind_of_cell(known[0][1]) == "words":
        return column(name, [(i, value) for i, value in cells if not missing(value) or str(value).strip() == "-"])
    return found


def column(name: str, cells: Sequence[tuple[int, Any]]) -> Column:
    """A column by its cells that are not missing, each with its row."""
    bare, values = name.strip().lower(), [value for _, value in cells]
    if not values:
        return Column(name, "empty")
    kinds = Counter(kind_of_cell(v) for v in values if not (isinstance(v, list) and not v)) or Counter(["list"])
    if len({*kinds} & {"number", "words"}) and not {*kinds} - {"number", "words"} and numbers_in_text(values):
        kinds = Counter({"number": kinds.total()})  # some of them with a unit or a decimal comma
    elif "number" in kinds and codes_in_text(values):
        kinds["words"] += kinds.pop("number")
    kind, distinct = most(kinds), len(set(map(content, values)))
    facts: dict[str, Any] = {"known": len(values), "distinct": distinct}
    if _are_splits(bare, values):
        return Column(name, "split", **facts)
    if kind == "series" and (other := _kind_of_whole_lists(bare, values)):
        return Column(name, other, **facts)
    if kind in MEDIA:
        return Column(name, kind, **facts)
    if kind == "bytes":
        return Column(name, "bytes of an unknown type", **facts)
    if kind == "texts":
        return _listed(name, values, facts)
    if kind == "number":
        numbers = [(row, float(value)) for row, value in cells if plain_number(value) is not None]
        whole = bool(numbers) and all(value.is_integer() for _, value in numbers)
        switch = {value for _, value in numbers} in SWITCHES
        facts["highest"] = max(amounts(values), default=None)
        return Column(name, _kind_of_numbers(name, numbers, distinct, whole), whole=whole, switch=switch, **facts)
    if kind == "date" and not all(isinstance(value, str) and is_season(value) for value in values):
        return Column(name, "date" if distinct > 1 else "one value only", **facts)
    if set(kinds) - {"number", "date", "words", *MEDIA}:
        what = f"cells that are {CELLS.get(kind_of_cell(values[0]), 'of several kinds')}"
        return Column(name, _nested(values) or what, **facts)
    texts = [str(value) for value in values]
    switch = {text.strip().lower() for text in texts} in ({"true", "false"}, {"yes", "no"})
    return Column(name, _kind_of_texts(bare, texts, distinct), longest=longest(texts), switch=switch, **facts)


def _are_splits(bare: str, values: Sequence[Any]) -> bool:
    """Whether cells name splits: under a split's name also where some say `holdout`, which is refused with its row when
    it is read; under any other, such as `phase`, where each is such a word, and training is one of them."""
    if not all(isinstance(value, str) for value in values):
        return False
    found = {split_of(value) for value in set(values)}
    if bare in SPLIT_NAMES:
        return None not in found or "train" in found
    return None not in found and "train" in found and len(found) > 1


def content(value: Any) -> str | bytes:
    """What is equal for equal cells; to write out a thousand series takes longer than all the rest."""
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        return value.tobytes()
    return value if isinstance(value, bytes) else str(value)


def kind_of_cell(value: Any) -> str:
    """image, audio, series, bytes, texts (a list of them), list, number, date or words; `inf` is an odd cell. Several
    images or recordings are what each is."""
    if isinstance(value, np.ndarray):
        return "series"
    if isinstance(value, bytes):
        return kind_of_bytes(value) or "bytes"
    if isinstance(value, list | tuple):
        alike = {kind_of_cell(each) for each in value}
        if alike in ({"image"}, {"audio"}):
            return alike.pop()
        return "texts" if value and all(isinstance(each, str) for each in value) else "list"
    if isinstance(value, datetime.date | datetime.datetime):
        return "date"
    if isinstance(value, bool):
        return "words"
    if isinstance(value, str):
        if plain_number(value) is not None:
            return "number"
        file = kind_of_file(value) if "\n" not in value else None
        return file or ("date" if DATE.fullmatch(value.strip()) or is_date(value) else "words")
    if isinstance(value, int | float):
        return "number" if math.isfinite(value) else "infinite"
    return type(value).__name__


def most(kinds: Counter[str]) -> str | None:
    """The kind of nine cells in ten, or of all but one."""
    kind, count = kinds.most_common(1)[0]
    total = kinds.total()
    return kind if count >= 0.9 * total or count == total - 1 >= 2 else None


def longest(texts: Sequence[str]) -> int:
    return int(np.quantile([len(text.encode()) for text in texts], 0.99))


def words(text: str) -> float:
    """About how many words a text has: two letters count as one where a script puts no spaces."""
    unspaced = len(UNSPACED.findall(text))
    return max(float(len(text.split())), unspaced / 2)


def _listed(name: str, values: Sequence[Any], facts: dict[str, Any]) -> Column:
    """Lists of texts are several captions, or, where the texts are short and come again, sets of labels."""
    texts = [text for value in values if isinstance(value, list | tuple) for text in value]
    often = len(texts) >= 2 * len(set(texts))
    if np.mean([words(text) for text in texts]) < 3 and often and not TEXT_NAME.fullmatch(name.strip().lower()):
        return Column(name, "labels", **facts)
    return Column(name, "text", captions=True, longest=longest(texts), **facts)


def _nested(values: Sequence[Any]) -> str | None:
    if any(isinstance(value, dict) for value in values):
        return "objects"
    return (
        "lists of objects" if any(isinstance(v, list) and any(isinstance(o, dict) for o in v) for v in values) else None
    )


def _kind_of_whole_lists(bare: str, values: Sequence[Any]) -> str | None:
    """Whether short lists of whole numbers are identifiers or sets of classes, by the column's name; else a series."""
    lists = [value for value in values if isinstance(value, np.ndarray)]
    if any(value.ndim > 1 or len(value) > SHORT or (value % 1 != 0).any() for value in lists):
        return None
    if IDS_NAME.fullmatch(bare):
        return "an identifier"
    return "labels" if SETS_NAME.fullmatch(bare) else None


def _kind_of_numbers(name: str, numbers: Sequence[tuple[int, float]], distinct: int, whole: bool) -> str:
    bare = name.strip().lower()
    if whole and is_index(numbers) and (len(numbers) >= 20 or bare in INDEX_NAMES):
        return "an index"
    if not bare:
        return "it has no name"
    if whole and 1 < distinct <= MOST_FOLDS and 2 * distinct <= len(numbers) and FOLD_NAME.fullmatch(bare):
        return FOLDS
    if (whole or not numbers) and (ID_NAME.fullmatch(bare) or CAMEL_ID.fullmatch(name.strip())):
        return "an identifier"
    return "number" if distinct > 1 else "one value only"


def _kind_of_texts(bare: str, values: Sequence[str], distinct: int) -> str:
    mean = sum(map(words, values)) / len(values)
    numbered = sum(any(map(str.isdigit, value)) for value in values)
    if ID_NAME.fullmatch(bare) and mean < 1.5 and 2 * numbered > len(values):
        return "an identifier"  # `review_id`, which is no review in Indonesian
    if TEXT_NAME.fullmatch(bare) or mean >= 3:
        return "text"
    if not bare:
        return "it has no name"
    if distinct == 1:
        return "one value only"
    if ID_NAME.fullmatch(bare) and mean < 1.5:
        return "an identifier"
    if len(values) > 20 and distinct > 0.9 * len(values):
        return "an identifier" if mean < 1.5 else "text"
    return "category"
