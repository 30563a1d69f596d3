"""Random views of texts: changes by words and by tokens, one after the other, each with one strength."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

from clx.modalities import text_words
from clx.modalities.draws import Draws
from clx.modalities.text_prompts import Prompt
from clx.modalities.text_substitutes import Substitutes, plain, substitute
from clx.modalities.text_tokens import TokenChanges
from clx.modalities.text_words import Words

Policy = Mapping[str, float]
"""Changes by name with their strengths, in the order in which they are made."""
WordChange = Callable[[Sequence[Words], float, Draws], list[Words]]


@dataclass(frozen=True)
class Change:
    """What changes a text, the largest strength it may have, and what its strength means."""

    most: float
    about: str
    of: Literal["words", "first", "tokens", "last"] = "words"
    """Changes of words are made in the policy's order, between the `first`, which needs the words as they were, and the
    `last`; those of tokens when the encoder's own are known."""


CHANGES = {
    "delete": Change(0.95, "each word left out with this probability"),
    "span": Change(0.95, "a stretch of this share of the words left out"),
    "reorder": Change(1, "two stretches, together this share of the words, change places"),
    "substitute": Change(1, "each word that has substitutes becomes one of them with this probability"),
    "mask": Change(0.95, "each word becomes the tokenizer's mask, or `_`, with this probability"),
    "crop": Change(1, "a stretch alone, of a tenth of this share to this share of the words (Contriever: 0.5)"),
    "sentences": Change(0.95, "each sentence left out with this probability"),
    "stop_words": Change(1, "all English words that say little left out, with this probability for the whole text"),
    "spans": Change(
        1, "a long span of up to this share in the first view, short ones beside it in the others (DeCLUTR)", "first"
    ),
    "shuffle": Change(1, "this share of the tokens change places", "tokens"),
    "cutoff": Change(0.95, "this share of the embedded tokens become zeros (ConSERT)", "tokens"),
    "feature_cutoff": Change(0.95, "this share of the embedded tokens' columns become zeros (ConSERT: 0.2)", "tokens"),
    "halves": Change(1, "with this probability read as two halves, whose features are averaged (CompCSE: 1)", "last"),
}
TOKEN_CHANGES = tuple(name for name, change in CHANGES.items() if change.of == "tokens")
PRESETS: dict[str, Policy] = {"none": {}, "mild": {}, "strong": {"delete": 0.15}}
"""`none` stays in the first template; `mild` is in any, as every other policy is."""
ON_WORDS: dict[str, WordChange] = {
    name: getattr(text_words, name) for name in ("delete", "span", "reorder", "crop", "sentences", "stop_words")
}
SEVERAL_WORDS = tuple(
    name for name, change in CHANGES.items() if change.of != "tokens" and name not in ("mask", "substitute")
)
"""Changes that leave a text of one word as it is."""


def check(policy: Policy) -> None:
    """Raise ValueError for an unknown change or a strength out of its range."""
    for name, strength in policy.items():
        if name not in CHANGES:
            near = get_close_matches(name, CHANGES, n=1, cutoff=0.0)[0]
            raise ValueError(f"augmentation has no {name!r}; the nearest is {near!r} (all: {', '.join(CHANGES)})")
        if not 0 <= strength <= CHANGES[name].most:
            raise ValueError(f"augmentation {name} = {strength:g}: should be 0 to {CHANGES[name].most:g}")


def told(texts: Sequence[str], used: Collection[str], known: Substitutes) -> list[str]:
    """What a user should know of changes that leave some of the training texts as they are, a line each. Raises
    `ValueError` where they all stay as they are."""
    found = []
    words = [text_words.words_of(text) for text in texts]
    few = [name for name in SEVERAL_WORDS if name in used]
    if few and (single := sum(len(each) < 2 for each in words)):
        if single == len(words):
            raise ValueError(f"augmentation {few[0]} changes no text of one word, and all are of one")
        found.append(f"{single} of {len(words)} texts have one word, which {', '.join(few)} leaves as it is")
    if "sentences" in used and not any(len(text_words.sentences_of(text)) > 1 for text in texts):
        raise ValueError("augmentation sentences changes no text of one sentence, and all are of one")
    if "substitute" in used and words:
        able = sum(plain(word) in known for each in words for word in each) / sum(map(len, words))
        if not able:
            raise ValueError(
                "augmentation substitute: no word of the texts has a substitute; substitutes names a file of some"
            )
        found.append(f"{able:.0%} of the words have substitutes, {len(known)} different ones")
    return found


@dataclass
class Making:
    """How one view of a batch of texts is made."""

    policy: Policy
    draws: Draws
    further: bool
    """Whether this is the second view of the texts, or one after it."""
    anchor: Draws
    """The draws of the texts' first view, by which `spans` finds the span that all views are about."""
    blank: str
    """What a masked word becomes."""
    known: Substitutes
    """The substitutes of words."""

    def prompts(self, texts: Sequence[str], templates: Sequence[str]) -> list[Prompt | list[Prompt]]:
        """The view of each text, a list where it is read as two halves."""
        parts = self.parts(texts)
        strengths = {name: s for name, s in self.policy.items() if name in TOKEN_CHANGES and s}
        keys = self.draws.bits(2).tolist() if strengths else [(0, 0)] * len(texts)
        found: list[Prompt | list[Prompt]] = []
        for each, template, own in zip(parts, templates, keys, strict=True):
            changes = [TokenChanges(key, **strengths) if strengths else None for key in own]
            made = [Prompt(text, template, change) for text, change in zip(each, changes, strict=False)]
            found.append(made if len(made) > 1 else made[0])
        return found

    def parts(self, texts: Sequence[str]) -> list[list[str]]:
        """Each text as its words have become, alone or in two halves."""
        words = [text_words.words_of(text) for text in texts]
        if s := self.policy.get("spans"):
            spans = text_words.anchors(words, s, self.anchor.child(0))
            spans = text_words.near(words, spans, s, self.draws) if self.further else spans
            words = [each[start:end] for each, (start, end) in zip(words, spans, strict=True)]
        for name, s in self.policy.items():
            if not s:
                continue
            if name in ON_WORDS:
                words = ON_WORDS[name](words, s, self.draws)
            elif name == "substitute":
                words = substitute(words, s, self.draws, self.known)
            elif name == "mask":
                words = text_words.masked(words, s, self.draws, self.blank)
        in_two = text_words.coin(self.policy.get("halves", 0), self.draws)
        return [
            [text_words.text_of(part) for part in (text_words.halves(each) if two and len(each) > 1 else (each,))]
            for each, two in zip(words, in_two, strict=True)
        ]
