"""Words that may stand for others: of a file, or of the training texts themselves, by the company they keep."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch.nn.functional import normalize

from clx.modalities.draws import Draws
from clx.modalities.text_words import Words, longest, words_of

Substitutes = dict[str, list[str]]
"""By a word in small letters, what may stand for it."""
MOST_WORDS = 2000
"""Most frequent words of the texts that have neighbours, and are neighbours."""
LEAST = 5
"""Times that a word must be there: of rarer ones the company tells nothing."""
REACH = 2
"""Words to each side that are a word's company."""
NEIGHBOURS = 4
EDGE = ".,;:!?\"'()"


def plain(word: str) -> str:
    """A word without the space behind it and without what encloses it, in small letters."""
    return word.strip().strip(EDGE).lower()


def neighbours(texts: Iterable[str]) -> Substitutes:
    """The words of some texts whose company is most alike, at most four for each word, nearest first.

    A word's company is its row of positive pointwise mutual information, log(p(w, c) / (p(w) p(c))) where above 0, with
    the words c up to two places away; rows are compared by cosine, and those that share nothing are no neighbours.

    Reference:
        Bullinaria & Levy 2007, Extracting semantic representations from word co-occurrence statistics.
    """
    lines = [[plain(word) for word in words_of(text)] for text in texts]
    counts = Counter(word for line in lines for word in line if word)
    known = [word for word, times in counts.most_common(MOST_WORDS) if times >= LEAST]
    number = {word: place for place, word in enumerate(known)}
    pairs: Counter[tuple[int, int]] = Counter()
    for line in lines:
        places = [number.get(word, -1) for word in line]
        for apart in range(1, REACH + 1):
            pairs.update((a, b) for a, b in zip(places, places[apart:], strict=False) if a >= 0 and b >= 0)
    if not pairs:
        return {}
    together = torch.zeros(len(known), len(known))
    index = torch.tensor(list(pairs)).T
    together.index_put_((index[0], index[1]), torch.tensor(list(pairs.values())).float())
    together = together + together.T
    of_each = together.sum(1)
    expected = of_each[:, None] * of_each[None] / of_each.sum()
    company = normalize((together / expected.clamp(min=1e-12)).clamp(min=1).log(), dim=1)
    alike = company @ company.T
    alike.fill_diagonal_(0)
    best = alike.topk(min(NEIGHBOURS, len(known)), dim=1)
    rows = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    found = {
        word: [known[k] for k, cosine in zip(*row, strict=True) if cosine > 0]
        for word, row in zip(known, rows, strict=True)
    }
    return {word: others for word, others in found.items() if others}


def read(path: Path) -> Substitutes:
    """A file's words: a line holds words that may stand for each other, tabs or commas between them. Raises
    `ValueError`."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "no UTF-8 text"
        raise ValueError(f"substitutes: {path} cannot be read: {reason}") from None
    found: Substitutes = {}
    for line in lines:
        group = list(dict.fromkeys(word.strip() for word in line.replace("\t", ",").split(",") if word.strip()))
        for word in group:
            others = [other for other in group if other != word and other not in found.get(plain(word), [])]
            found.setdefault(plain(word), []).extend(others)
    found = {word: others for word, others in found.items() if others}
    if not found:
        raise ValueError(f"substitutes: {path} has no line of two words, tabs or commas between them")
    return found


def substitute(texts: Sequence[Words], s: float, draws: Draws, known: Substitutes) -> list[Words]:
    """Each word that has substitutes becomes one of them with probability `s`; what encloses it stays."""
    chance, which = draws.rand(longest(texts)).tolist(), draws.rand(longest(texts)).tolist()
    return [
        [
            stands_for(word, known.get(plain(word), []), v) if u < s else word
            for word, u, v in zip(words, row, other, strict=False)
        ]
        for words, row, other in zip(texts, chance, which, strict=True)
    ]


def stands_for(word: str, others: Sequence[str], u: float) -> str:
    """The substitute at a share `u` of the way through `others`, with a capital and signs as the word has them; the
    word itself where there is none."""
    core = word.strip().strip(EDGE)
    if not others or not core:
        return word
    chosen = others[int(u * len(others))]
    chosen = chosen[:1].upper() + chosen[1:] if core[:1].isupper() else chosen
    before, _, after = word.partition(core)
    return before + chosen + after
