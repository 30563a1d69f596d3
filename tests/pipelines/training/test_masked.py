"""Tokens that an encoder is not shown: how many, which, and what stands there."""

import pytest
import torch

from clx.modalities.text import Text
from clx.modalities.text_vocabulary import parts_of, vocabulary
from clx.pipelines.training.masked import Masking, hidden

TEXTS = ["a" * 100, "words of many kinds, and more of them", "b"]


@pytest.mark.parametrize("encoder", ["transformer", "hf:minilm"])
def test_a_share_of_each_texts_own_tokens_is_masked(encoder: str) -> None:
    text = Text(encoder=encoder)
    value, known = text.collate([text.read(each) for each in TEXTS * 100]), vocabulary(text)
    x, own = value["x"], parts_of(known, value)
    u = torch.rand(3, *x.shape, generator=torch.Generator().manual_seed(0))
    shown, places, truth = hidden(value, Masking(known, 0.15, text.room), u)
    asked = truth > 0
    lengths = own.sum(1)
    assert asked.sum(1).tolist() == [max(1, int(0.15 * n + 0.5)) for n in lengths.tolist()]
    assert own.gather(1, places)[asked].all()  # neither padding nor what the tokenizer adds
    assert torch.equal(truth[asked] - 1, x.gather(1, places)[asked])
    untouched = torch.ones_like(x, dtype=torch.bool).scatter(1, places, ~asked)
    assert torch.equal(shown[untouched], x[untouched])
    now, before = shown.gather(1, places)[asked], truth[asked] - 1
    blank = now == known.blank
    assert abs(blank.float().mean() - 0.8) < 0.05
    assert abs((now == before).float().mean() - 0.1) < 0.05
    assert abs((~blank & (now != before)).float().mean() - 0.1) < 0.05
    few = {name: part[:1] for name, part in value.items()}
    assert torch.equal(hidden(few, Masking(known, 0.15, text.room), u[:, :1])[0], shown[:1])  # of a row alone


def test_what_stands_for_tokens() -> None:
    assert vocabulary(Text()) == (257, 0, (0,))
    words = vocabulary(Text(encoder="hf:minilm"))
    assert (words.size, words.blank) == (30522, 103)
    assert 100 not in words.own  # an unknown word is a part of the text
    with pytest.raises(ValueError, match="tokens of wordllama are not said or guessed"):
        vocabulary(Text(encoder="wordllama"))
