"""Heads of labels' names: what they score, what learns, samples of the labels, and that every command scores alike."""

import itertools
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from clx.modalities.text import Text
from clx.modalities.text_encoders import ByteTransformer
from clx.pipelines.batches.dataset import BatchDataset
from clx.pipelines.batches.loader import batches, once
from clx.pipelines.config.options import parse
from clx.pipelines.config.schema import Config
from clx.pipelines.config.words_schema import LabelSample
from clx.pipelines.data.splits import load_splits
from clx.pipelines.experiments.train import train
from clx.pipelines.model.build import Run, prepare
from clx.pipelines.model.label_sample import among, applying, choose
from clx.pipelines.model.scoring import Scale, class_embeddings, native_scale, of_classes
from clx.pipelines.runs import checkpoint
from clx.pipelines.system.errors import BadInput, Stopped
from clx.pipelines.system.progress import Progress, Silent
from clx.pipelines.training.step import Learner
from clx.pipelines.training.transfer import take_class_heads
from clx.pipelines.use.predict import Predictor
from clx.pipelines.use.zeroshot import Classifier
from configs import small
from trained import StopAt, weights

NAMES = ["cat", "dog", "sun", "fox", "sea", "owl"]
BIAS = -math.log(len(NAMES) - 1)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sentences, the two things in each, and one of them."""
    out = tmp_path_factory.mktemp("words") / "t.csv"
    some = list(itertools.permutations(NAMES, 2)) * 2
    lines = [f"the {a} and the {b} {k},{a}|{b},{a}" for k, (a, b) in enumerate(some)]
    out.write_text("\n".join(["text,tags,first", *lines]))
    return out


def raw_config(table: Path, name: str = "multilabel-softmax", **term: Any) -> dict[str, Any]:
    labels = {"label": "tags", "several": "|"} if name != "cross-entropy" else {"label": "first"}
    return small(
        {"train": str(table)} | labels,
        {
            "text": {"width": 32, "layers": 1, "dropout": 0.1, "templates": ["{}", "the {}"]},
            "names": {"like": "text", "column": "tags"},
        },
        {"name": name, "inputs": ["text"], "words": "names"} | term,
        embed_dim=16,
        train={"steps": 12, "batch_size": 16, "lr": 0.01, "validate_every": 6},
        eval=["multilabel" if name != "cross-entropy" else "classification"],
    )


@pytest.fixture(scope="module")
def trained(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "run"
    raw = raw_config(table, "binary-cross-entropy", labels_per_step=2)
    train(Config.model_validate(raw), out, Silent())
    return out


def begun(raw: dict[str, Any]) -> Run:
    config = Config.model_validate(raw)
    return prepare(config, load_splits(config.data, 0))


def said_by_words(run: Run, z: Tensor, names: list[str]) -> Tensor:
    """The cosines that zero-shot classification has."""
    rows = class_embeddings(run, {name: [name] for name in names})
    return of_classes(run, normalize(z, dim=1), "names") @ rows.T


def test_head_zero_shot_and_predictions_say_the_same(trained: Path, table: Path) -> None:
    run = checkpoint.load(trained)
    scale = native_scale(run, multi_label=True)
    (words,) = run.model.words()
    assert words.bias is not None
    assert scale == Scale("sigmoid", pytest.approx(words.temperature(None).item()), words.bias.item())
    assert (scale.temperature, scale.bias) != (pytest.approx(0.1, abs=1e-4), pytest.approx(BIAS, abs=1e-4)), "learned"
    z = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        said = run.model.predict({"text": z}, {"text": torch.ones(5, dtype=torch.bool)})
    cosines = said_by_words(run, z, run.facts.classes)
    torch.testing.assert_close(said, cosines / scale.temperature + scale.bias)
    torch.testing.assert_close(said.sigmoid(), scale.probabilities(cosines))
    alone = run.model.alone("text")
    assert alone is not None
    torch.testing.assert_close(alone(z), said)
    line = next(iter(Predictor(trained).predict(str(table), probabilities=True)))
    classifier = Classifier(trained, run.facts.classes, multi_label=True, modality="text")
    (found,) = classifier.classify(["the cat and the dog 0"], top=6)
    assert {name: line[f"p_{name}"] for name in NAMES} == pytest.approx(dict(found.scores), abs=1e-5)


def test_what_the_head_learns_is_in_the_log(trained: Path, table: Path) -> None:
    steps = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    told = [line for line in steps if "words.text.temperature" in line]
    assert told
    assert told[-1]["words.text.temperature"] != pytest.approx(0.1, abs=1e-5)
    assert told[-1]["words.text.bias"] != pytest.approx(BIAS, abs=1e-5)
    fixed = begun(raw_config(table, "binary-cross-entropy", words={"of": "names", "learn_temperature": False}))
    assert set(fixed.model.learned()) == {"words.text.bias"}
    assert begun(raw_config(table)).model.learned() == {}


def test_labels_that_training_did_not_have_are_scored_by_their_texts(trained: Path) -> None:
    classifier = Classifier(trained, ["cat", "elk"], multi_label=True, modality="text")
    assert classifier.question.rows.shape == (2, 16)
    (found,) = classifier.classify(["the elk"])
    assert {name for name, _ in found.scores} == {"cat", "elk"}


def test_gradients_reach_the_tower_by_the_labels_alone(table: Path) -> None:
    """Also where no row is encoded; and an own temperature is learned where a bias is."""
    for name, begin in (("binary-cross-entropy", (0.1, BIAS)), ("multilabel-softmax", (0.07, None))):
        run = begun(raw_config(table, name))
        (words,) = run.model.words()
        words.eval()
        z = torch.randn(3, 16)
        run.model.predict({"text": z}, {"text": torch.ones(3, dtype=torch.bool)})[:, 2].sum().backward()
        assert all(p.grad is not None for p in run.model.tower("text").head.parameters())
        assert words.temperature(None).item() == pytest.approx(begin[0])
        assert (words.bias is None) == (begin[1] is None)
        assert words.bias is None or words.bias.item() == pytest.approx(begin[1])
        learned = {n for n, p in words.named_parameters() if p.grad is not None}
        assert learned == ({"log_temperature", "bias"} if begin[1] is not None else set())
    given = raw_config(table, words={"of": "names", "temperature": 0.2, "learn_temperature": True})
    assert begun(given).model.words()[0].temperature(None).requires_grad


def test_stopped_and_resumed_is_unbroken(trained: Path, tmp_path: Path, silent: Progress) -> None:
    """With a sample of the labels, templates and dropout drawn at each step."""
    with pytest.raises(Stopped):
        train(checkpoint.read_config(trained), tmp_path / "parts", StopAt(4))
    train(checkpoint.read_config(tmp_path / "parts"), tmp_path / "parts", silent, resume=True)
    whole, parts = (weights(folder) for folder in (trained, tmp_path / "parts"))
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())


def test_a_frozen_encoder_reads_the_names_once(
    table: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, silent: Progress
) -> None:
    raw = raw_config(table)
    raw["modalities"]["names"] = {"kind": "text", "column": "tags", "width": 32, "layers": 1, "freeze": True}
    read = Counter[int]()
    encode = ByteTransformer.forward

    def counted(self: ByteTransformer, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if len(x) == len(NAMES):
            read[id(self)] += 1
        return encode(self, x, mask)

    run = begun(raw)
    (words,) = run.model.words()
    tower = run.model.tower("names")
    monkeypatch.setattr(ByteTransformer, "forward", counted)
    generator = torch.Generator().manual_seed(0)
    first = words.rows(tower, None, None, generator)
    with torch.no_grad():
        for p in tower.head.parameters():
            p.add_(torch.randn_like(p))  # a constant does nothing behind a layer norm, whose features sum to 0
    assert not torch.allclose(words.rows(tower, None, None, generator), first)
    assert first.requires_grad
    assert list(read.values()) == [1]
    with torch.no_grad():  # other weights, as a checkpoint has them
        next(tower.encoder.parameters()).add_(0.1)
    words.rows(tower, None, None, generator)
    assert list(read.values()) == [2]


def test_learned_from_their_texts_labels_are_told(table: Path, tmp_path: Path, silent: Progress) -> None:
    raw = raw_config(table)
    raw["train"]["steps"] = 60
    found = train(Config.model_validate(raw), tmp_path / "run", silent)["evaluation"]["multilabel"]
    idle = raw | {"train": {"steps": 1, "lr": 1e-12, "batch_size": 16}}
    untrained = train(Config.model_validate(idle), tmp_path / "idle", silent)["evaluation"]["multilabel"]
    assert found["text"]["R@3"] > untrained["text"]["R@3"] + 0.1
    assert found["text->names"]["P@1"] == found["text"]["P@1"]  # the same order, by cosines


def test_a_sample_is_the_positives_and_others_evenly() -> None:
    applies = torch.tensor([False, True, False, False, True, False, False])
    counts = torch.zeros(7)
    for seed in range(400):
        chosen = choose(LabelSample(others=2), applies, torch.Generator().manual_seed(seed))
        assert chosen.labels.tolist() == sorted({*chosen.labels.tolist()})
        assert len(chosen.labels) == 4
        assert chosen.stands_for.sum().item() == 7
        assert dict(zip(chosen.labels.tolist(), chosen.stands_for.tolist(), strict=True))[4] == 1
        counts[chosen.labels] += 1
    assert counts[applies].tolist() == [400, 400]
    assert (counts[~applies] - 160).abs().max() < 40
    again = [choose(LabelSample(others=2), applies, torch.Generator().manual_seed(399)).labels for _ in "ab"]
    assert all(torch.equal(each, chosen.labels) for each in again), "of the generator alone"
    plain = choose(LabelSample(others=2, corrected=False), applies, torch.Generator())
    assert plain.stands_for.tolist() == [1] * 4
    given = {"labels": torch.tensor([4, -1, 1])}
    assert torch.equal(applying(given, 7), applies)
    assert among(chosen, given, 7)["labels"].tolist() == [
        chosen.labels.tolist().index(4),
        -1,
        chosen.labels.tolist().index(1),
    ]
    sets = torch.zeros(2, 7).index_fill(1, torch.tensor([1]), 1.0)
    sets[1] = torch.nan
    assert applying({"label_sets": sets}, 7).nonzero()[:, 0].tolist() == [1]
    assert among(chosen, {"label_sets": sets}, 7)["label_sets"].shape == (2, 4)


@pytest.mark.parametrize("words", ["names", None])
def test_a_step_looks_at_the_sample_alone_and_validation_at_all(table: Path, words: str | None) -> None:
    """Labels that are not drawn have no gradient, of a linear head, too."""
    raw = raw_config(table, "cross-entropy", labels_per_step=1)
    raw["objective"]["words"] = words
    raw["train"]["batch_size"] = 2
    run = begun(raw)
    learner = Learner(run, run.config.train, 1)
    manifest = load_splits(run.config.data, 0)["train"]
    rows = BatchDataset(manifest, run.modalities, label="first", classes=run.class_index)
    batch = next(iter(batches(rows, once(2, 2))))
    seen = []
    predict = run.model.predict

    def heard(*args: Any, **more: Any) -> Tensor:
        said = predict(*args, **more)
        seen.append(said.shape[1])
        return said

    run.model.predict = heard  # type: ignore[method-assign]
    learner.contrast(batch, run.model, run.objective, 0, 0)
    run.model.eval(), run.objective.eval()
    learner.contrast(batch, run.model, run.objective, 0)
    assert seen[0] in (2, 3)
    assert seen[1] == len(NAMES)


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("cross-entropy", {"words": {"of": "names", "bias": 1.0}}, "words.bias: cross-entropy compares labels"),
    ("cross-entropy", {"words": {"of": "names", "scale": 1.0}}, "unknown key .*scale"),
    ("cross-entropy", {"labels_per_step": 6}, "would draw 6 labels, and the training rows have 6"),
    ("label-ranking", {"labels_per_step": 2}, "label-ranking looks at all labels; those that can do with a sample are"),
    ("multilabel-softmax", {"form": "top-k", "k": 2, "labels_per_step": 2}, "top-k finds its k among all labels"),
    ("multilabel-softmax", {"form": "top-k", "k": 6}, "k = 6: of 6 labels all would be among the best"),
    (
        "binary-cross-entropy",
        {"words": None, "prototypes_per_label": 2, "labels_per_step": 2},
        "a sample is of a linear head",
    ),
    ("cross-entropy", {"labels_per_step": {"others": 2, "correct": True}}, "unknown key .*correct"),
]


@pytest.mark.parametrize(("name", "term", "message"), WRONG)
def test_what_cannot_be_is_refused(name: str, term: dict[str, Any], message: str, table: Path) -> None:
    raw = raw_config(table, name, **term)
    with pytest.raises(BadInput, match=message):
        train(parse(Config, raw, "config"), table.parent / "none", Silent())


def test_what_is_given_of_a_head_is_not_taken_over(trained: Path, table: Path) -> None:
    source = checkpoint.load(trained)
    for given in ({"temperature": 0.5}, {"bias": -3.0}, {}):
        run = begun(raw_config(table, "binary-cross-entropy", words={"of": "names", **given}))
        take_class_heads(run, source)
        (mine,), (theirs,) = run.model.words(), source.model.words()
        assert mine.bias is not None
        assert theirs.bias is not None
        wanted = (given.get("temperature", theirs.temperature(None).item()), given.get("bias", theirs.bias.item()))
        assert (mine.temperature(None).item(), mine.bias.item()) == pytest.approx(wanted)


def test_the_prompt_has_the_temperature(table: Path) -> None:
    raw = raw_config(table, words={"of": "names", "temperature": 0.2})
    raw["modalities"]["names"]["prompt"] = {"tokens": 3}
    with pytest.raises(BadInput, match=r"set modalities.names.prompt.temperature"):
        begun(raw)
    raw["objective"]["words"] = "names"
    raw["modalities"]["names"]["prompt"]["temperature"] = 0.2
    run = begun(raw)
    assert isinstance(run.modalities["names"], Text)
    run.model.eval()
    z = torch.randn(3, 16)
    with torch.no_grad():
        said = run.model.predict({"text": z}, {"text": torch.ones(3, dtype=torch.bool)})
    torch.testing.assert_close(said, said_by_words(run, z, run.facts.classes) / 0.2)
