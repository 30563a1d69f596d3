"""Changes of texts by words: what is left out, moved, replaced or shown alone, each with one strength.

A text is a list of words, each with the space behind it; a character of Chinese or Japanese is a word by itself,
without one. All changes leave at least one word. What becomes of a text follows from the text and its own draws alone,
whatever the others of its batch are. Shares are of the text's own words, rounded to whole words, at least one of them.
"""

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from clx.modalities.draws import Draws

Words = list[str]
WIDE = "\u3000-\u30ff\u3400-\u9fff\uff00-\uffef"
WORD = re.compile(rf"[{WIDE}]|[^\s{WIDE}]+")
SENTENCE = re.compile(r"(?<=[.!?;])\s+|(?<=[\u3002\uff01\uff1f])|\n+")
BLANK = "_"
"""Stands for a masked word where the encoder has no token of its own for that."""
STOP_WORDS = frozenset(
    re.findall(
        r"\w+",
        """
    a about after all also am an and any are as at be because been before being between both but by can could did
    do does doing down during each few for from further had has have having he her here hers him his how i if in into is
    it its just me more most my no nor not now of off on once only or other our out over own same she should so some
    such than that the their them then there these they this those through to too under until up very was we were what
    when where which while who whom why will with would you your""",
    )
)
"""English words that say little by themselves."""


def words_of(text: str) -> Words:
    """The words of a text."""
    found = WORD.findall(text)
    return [word if len(word) == 1 and re.match(f"[{WIDE}]", word) else f"{word} " for word in found]


def text_of(words: Words) -> str:
    """The text of words."""
    return "".join(words).strip()


def sentences_of(text: str) -> list[str]:
    """The sentences of a text, and the lines."""
    return [part for part in SENTENCE.split(text) if part.strip()]


def longest(texts: Sequence[Words]) -> int:
    """Words of the longest text."""
    return max(map(len, texts), default=0)


def count(share: float, total: int) -> int:
    """A share of `total` as a number from 1 to `total` - 1, where `total` is at least 2."""
    return min(max(1, round(share * total)), total - 1)


def delete(texts: Sequence[Words], s: float, draws: Draws) -> list[Words]:
    """Each word is left out with probability `s`; of a text that would lose all, one word stays."""
    drawn = draws.rand(longest(texts)).tolist()
    found = []
    for words, row in zip(texts, drawn, strict=True):
        kept = [word for word, u in zip(words, row, strict=False) if u >= s]
        found.append(kept or [max(zip(row, words, strict=False))[1]])
    return found


def typos(texts: Sequence[Words], s: float, draws: Draws) -> list[Words]:
    """Each word of two letters or more has, with probability `s`, one letter left out, written twice or exchanged with
    the next."""
    drawn = draws.rand(longest(texts), 3).tolist()
    return [
        [_mistyped(word, *u) if u[0] < s else word for word, u in zip(*row, strict=False)]
        for row in zip(texts, drawn, strict=True)
    ]


def _mistyped(word: str, _: float, where: float, how: float) -> str:
    letters = word.rstrip()
    if len(letters) < 2:
        return word
    at = int(where * (len(letters) - 1))
    middle = ("", 2 * letters[at], letters[at + 1] + letters[at])[int(how * 3)]
    return letters[:at] + middle + letters[at + 1 + (how >= 2 / 3) :] + word[len(letters) :]


def span(texts: Sequence[Words], s: float, draws: Draws) -> list[Words]:
    """A stretch of a share `s` of the words is left out, at a place that is drawn."""
    found = []
    for words, u in zip(texts, draws.rand().tolist(), strict=True):
        if len(words) > 1:
            width = count(s, len(words))
            start = int(u * (len(words) - width + 1))
            words = words[:start] + words[start + width :]
        found.append(words)
    return found


def reorder(texts: Sequence[Words], s: float, draws: Draws) -> list[Words]:
    """Two stretches change places; together they are a share `s` of the words, each at least a word."""
    found = []
    for words, (u, v) in zip(texts, draws.rand(2).tolist(), strict=True):
        n = len(words)
        if n > 1:
            width = min(max(1, round(s * n / 2)), n // 2)
            room = n - 2 * width + 1  # places of the first stretch, if the second one came right behind it
            first, second = sorted((int(u * room), int(v * room)))
            a, b = first, second + width
            words = [
                *words[:a],
                *words[b : b + width],
                *words[a + width : b],
                *words[a : a + width],
                *words[b + width :],
            ]
        found.append(words)
    return found


def crop(texts: Sequence[Words], s: float, draws: Draws) -> list[Words]:
    """A stretch alone is shown, of a share that is drawn evenly from `s` / 10 to `s` (Contriever: .05 to .5)."""
    found = []
    for words, (u, v) in zip(texts, draws.rand(2).tolist(), strict=True):
        width = max(1, int(len(words) * (s / 10 + u * (s - s / 10))))
        start = int(v * (len(words) - width + 1))
        found.append(words[start : start + width])
    return found


def sentences(texts: Sequence[Words], s: float, draws: Draws) -> list[Words]:
    """Each sentence is left out with probability `s`; of a text that would lose all, one sentence stays."""
    parts = [sentences_of(text_of(words)) for words in texts]
    drawn = draws.rand(max(map(len, parts), default=0)).tolist()
    found = []
    for words, each, row in zip(texts, parts, drawn, strict=True):
        kept = [part for part, u in zip(each, row, strict=False) if u >= s]
        kept = kept or [max(zip(row, each, strict=False))[1]]
        found.append(words if len(each) < 2 else words_of(" ".join(kept)))
    return found


def stop_words(texts: Sequence[Words], s: float, draws: Draws) -> list[Words]:
    """With probability `s` a text loses all of its English stop words; one of nothing else stays as it is."""
    found = []
    for words, u in zip(texts, draws.rand().tolist(), strict=True):
        kept = [word for word in words if word.strip().strip(".,;:!?\"'()").lower() not in STOP_WORDS]
        found.append(kept if u < s and kept else words)
    return found


def masked(texts: Sequence[Words], s: float, draws: Draws, blank: str) -> list[Words]:
    """Each word becomes `blank` with probability `s`."""
    drawn = draws.rand(longest(texts)).tolist()
    return [
        [word.replace(word.strip(), blank) if u < s else word for word, u in zip(words, row, strict=False)]
        for words, row in zip(texts, drawn, strict=True)
    ]


def halves(words: Words) -> tuple[Words, Words]:
    """The first half of a text's words and the second one."""
    return words[: len(words) // 2], words[len(words) // 2 :]


def beta_of(order: int, draws: Draws) -> Tensor:
    """Beta(`order`, 6 - `order`), `[N]`: so is the `order`-th smallest of five even draws."""
    return draws.rand(5).sort(1).values[:, order - 1]


def span_length(share: float, most: int, least: int) -> int:
    """Words of a span: `share`, 0 to 1, of the way from the shortest to the longest."""
    return int(share * (most - least) + least)


def spans_between(words: Words, s: float) -> tuple[int, int]:
    """The longest span of a text, a share `s` of it, and the shortest, a sixteenth of that (DeCLUTR: 512, 32)."""
    most = max(1, int(s * len(words)))
    return most, max(1, most // 16)


def anchors(texts: Sequence[Words], s: float, draws: Draws) -> list[tuple[int, int]]:
    """First word and end of each text's anchor span, of up to a share `s` of it and mostly of a long one.

    The text is cut into slots of the longest length. One of them is drawn evenly, and in it the start, evenly from
    where the span stays in the slot.

    Reference:
        Giorgi et al. 2021, DeCLUTR, arXiv 2006.03659, section 3.1, with one anchor a text.
    """
    share, where = beta_of(4, draws).tolist(), draws.rand(2).tolist()
    found = []
    for words, part, (u, v) in zip(texts, share, where, strict=True):
        most, least = spans_between(words, s)
        length = span_length(part, most, least)
        start = int(u * (len(words) // most)) * most + int(v * (most - length + 1))
        found.append((start, start + length))
    return found


def beside(anchor: tuple[int, int], length: int, total: int) -> tuple[int, int]:
    """The first and the last place where a span may start that touches, crosses or lies in an anchor, of `total`
    words."""
    return max(0, anchor[0] - length), min(anchor[1], total - length)


def near(texts: Sequence[Words], spans: Sequence[tuple[int, int]], s: float, draws: Draws) -> list[tuple[int, int]]:
    """A span `beside` each anchor, of up to a share `s` of the text and mostly of a short one; its start is even."""
    share, where = beta_of(2, draws).tolist(), draws.rand().tolist()
    found = []
    for words, anchor, part, u in zip(texts, spans, share, where, strict=True):
        length = span_length(part, *spans_between(words, s))
        low, high = beside(anchor, length, len(words))
        start = low + int(u * (high - low + 1))
        found.append((start, start + length))
    return found


def coin(probability: float, draws: Draws) -> list[bool]:
    """Whether something that has a probability happens, `[N]`."""
    happens: list[bool] = torch.lt(draws.rand(), probability).tolist()
    return happens
