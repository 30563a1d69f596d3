"""Two texts that belong together, by their names: with negatives, with a score, with classes of the pair."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from clx.pipelines.data.answers import GRADE, bare
from clx.pipelines.data.column_kinds import MEDIA, Column
from clx.pipelines.data.inferred import Asked, Inferred, identifier

ANCHOR = {"anchor", "query", "searchterm", "question", "prompt", "sentence", "sentence1", "sent1"}
POSITIVE = {
    *("positive", "pos", "positivepassage", "answer", "passage", "document", "sentence2", "sent2", "positivedoc"),
    *("title", "doc", "doctext", "passagetext", "producttitle", "producttext", "productdescription", "itemtitle"),
    *("chosen", "correct", "correctanswer"),
}
NEGATIVE = re.compile(
    r"((hard)?neg(ative)?s?|hard|wrong|incorrect|distractors?|rejected)"
    r"((answer|passage|doc|document|text|sentence|response|title)s?)?\d*"
)
SCORE = {"score", "label", "similarity", "isduplicate", "duplicate", "goldlabel", "relatednessscore", "target", "gold"}


def related(found: Inferred, free: dict[str, Column], asked: Asked) -> bool:
    """Two texts, or two inputs of one kind that the user calls a pair, perhaps with negatives or a score."""
    texts = [name for name, column in free.items() if column.kind == "text" or name in asked.pair]
    if asked.pair:
        first, second = asked.pair
        alike = free[first].kind == free[second].kind
        if not alike and not (len(found.target) == 1 and bare(found.target[0]) in GRADE):
            return False
        negatives: list[str] = []
        found.shape = "pair"
    else:
        alike = True
        if any(column.kind in MEDIA for column in free.values()):
            return False
        negatives = [name for name in texts if NEGATIVE.fullmatch(bare(name))]
        rest = [name for name in texts if name not in negatives]
        by_roles = _by_roles(rest)
        rest = list(by_roles) if by_roles else rest
        if len(rest) != 2:
            return False
        first, second = rest
        if bare(second) in ANCHOR and bare(first) in POSITIVE:
            first, second = second, first
        named = bare(first) in ANCHOR and bare(second) in POSITIVE
        graded = len(found.target) == 1 and bare(found.target[0]) in GRADE
        if not (negatives or named or graded or siblings(first, second)):
            return False
        found.shape = "negatives" if negatives else "pair"
    scored = _score_of_pair(found) if not negatives else None
    if scored is not None:
        found.shape = scored
    if found.shape == "classified pair":
        found.modalities["text"] = {"column": first, "pair": second}
    else:
        a = identifier(first, (), free[first].kind)
        b = identifier(second, (a,), free[second].kind)
        found.modalities[a] = _named(a, first, {"kind": free[first].kind})
        found.modalities[b] = _named(b, second, {"like": a} if alike else {"kind": free[second].kind})
        if negatives:
            name = identifier(negatives[0] if len(negatives) == 1 else "negative", found.modalities, "text")
            column: Any = negatives[0] if len(negatives) == 1 else negatives
            found.modalities[name] = _named(name, column, {"like": a})
    used = {first, second, *negatives}
    other = "not of the pair" if negatives else "not of the pair; called 'negative' it is what this is drawn away from"
    found.unused |= {n: other if c.is_input else c.kind for n, c in free.items() if n not in used}
    return True


def _score_of_pair(found: Inferred) -> str | None:
    """How alike two texts are, as a number or a flag, is a score; more classes than two are classes of the pair."""
    if found.target:
        return "scored pair" if len(found.target) == 1 else None
    candidates = [found.label] if found.label else [one.column for one in found.likely if bare(one.column) in SCORE]
    if len(candidates) != 1:
        return None
    column = found.columns[candidates[0]]
    if column.kind == "number" and (column.distinct == 2 or not column.whole):
        found.label, found.target, found.likely = None, candidates, []
        found.unused.pop(candidates[0], None)
        found.reasons.setdefault(candidates[0], "by its name")
        return "scored pair"
    return "classified pair" if found.label else None


def has_roles(columns: Mapping[str, Column]) -> bool:
    """Whether the names of the texts say which is drawn to which, or away from it, so that no number is needed."""
    texts = [name for name, column in columns.items() if column.kind == "text"]
    rest = [name for name in texts if not NEGATIVE.fullmatch(bare(name))]
    by_roles = _by_roles(rest)
    if len(rest) < len(texts):
        return len(rest) == 2 or by_roles is not None
    return len(rest) == 2 and by_roles is not None and not siblings(*rest)


def _by_roles(texts: Sequence[str]) -> tuple[str, str] | None:
    """The one text that asks and the one that answers, by their names."""
    anchors = [name for name in texts if bare(name) in ANCHOR]
    positives = [name for name in texts if bare(name) in POSITIVE]
    return (anchors[0], positives[0]) if len(anchors) == len(positives) == 1 else None


def siblings(first: str, second: str) -> bool:
    """Whether two names differ in a number or a letter at the end alone: sentence1 and sentence2, text_a and text_b."""
    a, b = bare(first), bare(second)
    pair = {a[-1:], b[-1:]}
    return (a[:-1] == b[:-1] and pair in ({"1", "2"}, {"a", "b"}, {"0", "1"})) or {a, b} == {"premise", "hypothesis"}


def _named(name: str, column: Any, options: dict[str, Any]) -> dict[str, Any]:
    options = {key: value for key, value in options.items() if (key, value) != ("kind", name)}
    return options if name == column else {**options, "column": column}
