"""Learned prompts: what they are, what learns, and that head, zero-shot classification and exports say the same."""

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

import small_models
from clx.modalities.text import Text
from clx.pipelines.config import words_schema
from clx.pipelines.config.schema import Config
from clx.pipelines.data.splits import load_splits
from clx.pipelines.experiments.train import train
from clx.pipelines.model.build import Run, prepare
from clx.pipelines.model.scoring import Scale, class_embeddings, native_scale, of_classes
from clx.pipelines.model.towers import Embedder
from clx.pipelines.model.words import Words
from clx.pipelines.runs import checkpoint
from clx.pipelines.system.errors import BadInput, Stopped
from clx.pipelines.system.progress import Progress, Silent
from clx.pipelines.training.transfer import follow
from clx.pipelines.use.export import export
from clx.pipelines.use.zeroshot import Classifier
from configs import small, with_prompt
from trained import StopAt, weights

TEXTS = ["one two", "three", "two"]
PROMPT = {"tokens": 3, "count": 3, "router": 2, "negative": True}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "small"
    small_models.write(folder)
    return folder


def own(_: Path, **options: Any) -> Text:
    return Text(width=32, layers=1, **options)


@pytest.mark.parametrize("make", [small_models.clip_text, small_models.bert, own])
def test_a_prompt_that_begins_at_words_is_these_words(make: Callable[..., Text], models: Path) -> None:
    """In every encoder, with texts of unlike length; and gradients reach the prompts alone."""
    found = []
    for prompt in ("one two ", {"tokens": 8, "start": ["one two "]}):
        if isinstance(prompt, dict):
            prompt["tokens"] = len(make(models).numbers_of("one two "))
        modality = make(models, prompt=prompt, freeze=True, head="none")
        torch.manual_seed(0)
        model = Embedder({"text": modality}, modality.build_encoder().width)
        value = modality.collate([modality.read(text) for text in TEXTS])
        found.append(model({"text": value}, {"text": torch.ones(3, dtype=torch.bool)})["text"])
    torch.testing.assert_close(found[0], found[1])
    assert not found[0].requires_grad
    found[1].square().sum().backward()
    learned = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert learned == {"prompts.text.rows"}


def test_scores_are_those_of_the_loops() -> None:
    modality = own(Path(), prompt=PROMPT, freeze=True)
    torch.manual_seed(1)
    model = Embedder({"text": modality}, 8).double()
    prompts = model.prompts_of("text")
    rows = Words(words_schema.Words(of="text"), modality, TEXTS).rows(model.tower("text"), prompts)
    q = normalize(torch.randn(4, 8, dtype=torch.float64), dim=1)
    each = rows.view(3, 6, 8)
    torch.testing.assert_close(each.norm(dim=2), torch.ones(3, 6, dtype=torch.float64))
    assert prompts.router is not None
    for b in range(4):
        gate = prompts.router.weight @ q[b] + prompts.router.bias
        best = sorted(range(3), key=lambda k: -gate[k].item())[:2]
        total = sum(gate[k].exp() for k in best)
        for c in range(3):
            score = sum(gate[k].exp() / total * (q[b] @ each[c, k] - q[b] @ each[c, 3 + k]) for k in best)
            torch.testing.assert_close((prompts.asked(q) @ rows.T)[b, c], score)
    prompts.router, prompts.negative = None, None
    mean = each[:, :3].mean(1)
    torch.testing.assert_close(prompts.asked(q) @ rows[:, :24].T, q @ mean.T)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("prompts") / "run"
    raw = with_prompt(PROMPT, train__validate_every=6)
    train(Config.model_validate(raw), out, Silent())
    return out


def said_by_words(run: Run, z: Tensor) -> Tensor:
    rows = class_embeddings(run, {name: [name] for name in run.facts.classes})
    return of_classes(run, normalize(z, dim=1), "text") @ rows.T / native_scale(run).temperature


def test_head_and_zero_shot_say_the_same_and_only_prompts_learn(trained: Path) -> None:
    run = checkpoint.load(trained)
    begun = prepare(run.config, load_splits(run.config.data, 0)).model.state_dict()
    moved = {name for name, value in run.model.state_dict().items() if not torch.equal(value, begun[name])}
    learned = {"rows", "negative", "router.weight", "router.bias"}
    assert moved == {f"prompts.text.{name}" for name in learned} | {"towers.image.head.weight"}
    z = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        said = run.model.predict({"image": z}, {"image": torch.ones(5, dtype=torch.bool)})
    torch.testing.assert_close(said, said_by_words(run, z))
    assert said.std(1).min() > 0
    prompts = run.model.prompts_of("text")
    with torch.no_grad():  # rows that were kept are not those of other weights
        prompts.rows.add_(0.5)
        again = run.model.predict({"image": z}, {"image": torch.ones(5, dtype=torch.bool)})
    assert not torch.allclose(again, said)
    torch.testing.assert_close(again, said_by_words(run, z))


def test_new_classes_have_the_prompts_too(trained: Path) -> None:
    classifier = Classifier(trained, ["seven", "ten", "dozen"], multi_label=True)
    assert classifier.question.rows.shape == (3, 6 * 32)
    assert classifier.question.scale.kind == "sigmoid"
    assert classifier.question.scale.temperature == pytest.approx(0.07)
    with pytest.raises(BadInput, match="--dim 4: the router of this run's prompts looks at all columns"):
        Classifier(trained, ["seven", "ten"], dim=4)


def test_stopped_and_resumed_is_unbroken(trained: Path, tmp_path: Path, silent: Progress) -> None:
    with pytest.raises(Stopped):
        train(checkpoint.read_config(trained), tmp_path / "parts", StopAt(4))
    train(checkpoint.read_config(tmp_path / "parts"), tmp_path / "parts", silent, resume=True)
    whole, parts = (weights(folder) for folder in (trained, tmp_path / "parts"))
    assert whole.keys() == parts.keys()
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())


def test_prompts_of_a_run_that_was_trained_before(trained: Path, tmp_path: Path, silent: Progress) -> None:
    """Towers and temperature are those of the run, and the prompt begins at words as its tower embeds them."""
    base = with_prompt("") | {"objective": {"name": "clip", "temperature": 0.2}}
    train(Config.model_validate(base), tmp_path / "base", silent)
    prompt = {"tokens": 13, "start": ["a picture of "]}
    raw = with_prompt(prompt, train__lr=1e-12)
    raw["stages"] = [{"run": str(tmp_path / "base")}, {"freeze": True}]
    train(Config.model_validate(raw), tmp_path / "run", silent)
    before, after = checkpoint.load(tmp_path / "base"), checkpoint.load(tmp_path / "run")
    assert native_scale(after).temperature == pytest.approx(native_scale(before).temperature)
    said = class_embeddings(after, {"one": ["one"], "ten": ["ten"]})
    torch.testing.assert_close(said, class_embeddings(before, {"one": ["one"], "ten": ["ten"]}, ["a picture of {}"]))
    again = with_prompt({"tokens": 13}) | {"stages": [{"run": str(tmp_path / "run")}, {"freeze": True}]}
    rows = follow_rows(Config.model_validate(again), tmp_path / "run")
    torch.testing.assert_close(rows, after.model.prompts_of("text").rows.detach())


def follow_rows(config: Config, folder: Path) -> Tensor:
    splits = load_splits(config.data, 0)
    return follow(config, splits, checkpoint.load(folder), str(folder)).model.prompts_of("text").rows.detach()


def test_texts_by_prompts_are_exported(trained: Path, tmp_path: Path) -> None:
    rows = list(export(trained, "safetensors", tmp_path / "out"))
    assert {row["modality"]: row["difference"] for row in rows} == {"image": 0.0, "text": 0.0}
    classifier = Classifier(tmp_path / "out", ["one", "ten"])
    torch.testing.assert_close(classifier.question.rows, Classifier(trained, ["one", "ten"]).question.rows)


def test_sets_of_labels_learn_from_texts_and_are_told_of_pictures(tmp_path: Path, silent: Progress) -> None:
    """TaI-DPT: sentences and the labels in them teach the prompts of another column of the same tower."""
    some = list(itertools.permutations(["cat", "dog", "sun", "fox"], 2)) * 2
    lines = [f"the {a} and the {b} {k},{a}|{b}" for k, (a, b) in enumerate(some)]
    (tmp_path / "t.csv").write_text("\n".join(["text,tags", *lines]))
    raw = small(
        {"train": str(tmp_path / "t.csv"), "label": "tags", "several": "|"},
        {
            "text": {"width": 32, "layers": 1, "freeze": True, "head": "none", "dropout": 0.0},
            "names": {"like": "text", "column": "text", "prompt": {"tokens": 4}},
        },
        {"name": "label-ranking", "inputs": ["text"], "words": "names"},
        embed_dim=32,
        eval=["multilabel"],
        train={"steps": 20, "lr": 0.05},
    )
    found = train(Config.model_validate(raw), tmp_path / "run", silent)["evaluation"]["multilabel"]
    idle = raw | {"train": {"steps": 1, "lr": 1e-12, "batch_size": 16}}
    untrained = train(Config.model_validate(idle), tmp_path / "idle", silent)["evaluation"]["multilabel"]
    assert found["text"]["mAP"] > untrained["text"]["mAP"] + 0.01
    assert found["text->names"]["mAP"] > 0.7
    run = checkpoint.load(tmp_path / "run")
    assert not run.model.contexts("text")
    assert len(run.model.contexts("names")) == 1
    raw["objective"]["name"] = "asymmetric"  # of one prompt alone a bias says where a label applies
    train(Config.model_validate(raw), tmp_path / "c", silent)
    run = checkpoint.load(tmp_path / "c")
    assert native_scale(run, multi_label=True) == Scale(
        "sigmoid", pytest.approx(0.07), run.model.words()[0].bias.item()
    )
    assert run.model.words()[0].bias.item() != pytest.approx(-math.log(3), abs=1e-3)


def test_labels_with_vectors_of_their_own(tmp_path: Path, silent: Progress) -> None:
    raw = with_prompt({"tokens": 3, "count": 2, "per_label": True, "negative": True, "start": ["ab", "c"]})
    train(Config.model_validate(raw), tmp_path / "run", silent)
    run = checkpoint.load(tmp_path / "run")
    run.model.eval()
    prompts, tower, names = run.model.prompts_of("text"), run.model.tower("text"), run.facts.classes
    assert prompts.rows.shape == (2, len(names), 3, 32)
    modality = run.modalities["text"]
    every = [
        normalize(torch.cat([tower(modality.collate([modality.read(name)]), [context])]), dim=1)
        for c, name in enumerate(names)
        for context in prompts.every(c)
    ]
    rows = torch.stack(every).view(len(names), -1)
    torch.testing.assert_close(class_embeddings(run, {name: [name] for name in names}), rows, atol=1e-5, rtol=1e-4)
    z = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    head = run.model.predict({"image": z}, {"image": torch.ones(5, dtype=torch.bool)})
    torch.testing.assert_close(said_by_words(run, z), head.detach(), atol=1e-4, rtol=1e-4)
    run.model.words()[0].rows(tower, prompts)[1].sum().backward()
    assert prompts.rows.grad is not None
    assert prompts.rows.grad.abs().sum((0, 2, 3)).nonzero()[:, 0].tolist() == [1], "a label learns its own alone"
    mean = prompts.every()[0].rows
    torch.testing.assert_close(mean, prompts.rows[0].mean(0))
    new = class_embeddings(run, {"unheard": ["unheard"]})[0, :32]
    read = tower(modality.collate([modality.read("unheard")]), prompts.every()[:1])[0]
    torch.testing.assert_close(new, normalize(read, dim=0), atol=1e-5, rtol=1e-4)
    with pytest.raises(BadInput, match="per_label reads each label otherwise, which open_clip cannot"):
        list(export(tmp_path / "run", "open_clip", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


WRONG: list[tuple[Any, dict[str, Any], str]] = [
    ({"token": 3}, {}, "unknown key 'prompt.token'"),
    ({"tokens": 0}, {}, "prompt.tokens = 0: should be greater than or equal to 1"),
    ({"tokens": 3, "router": 2}, {}, "prompt.router is 2, of a prompt.count of 1"),
    ({"tokens": 3, "count": 2, "router": 1}, {}, "prompt.router 1: one prompt always weighs 1"),
    ({"tokens": 3, "per_label": 2}, {}, "prompt.per_label"),
    ({"tokens": 3, "router": True}, {}, "prompt.router = True: should be a whole number"),
    ({"tokens": 3, "count": 2, "start": ["a"]}, {}, "prompt.start has 1 texts, and prompt.count is 2"),
    (
        {"tokens": 3, "start": ["a photo of "]},
        {},
        "prompt.start 'a photo of ' has 11 tokens, more than prompt.tokens = 3",
    ),
    ({"tokens": 126}, {}, "prompt.tokens = 126 leaves no text of the 128 tokens of transformer"),
    ({"tokens": 3}, {"augmentation": {"cutoff": 0.2}}, "augmentation cutoff changes tokens"),
]


@pytest.mark.parametrize(("prompt", "text", "message"), WRONG)
def test_what_cannot_be_is_refused(
    prompt: Any, text: dict[str, Any], message: str, tmp_path: Path, silent: Progress
) -> None:
    raw = with_prompt(prompt)
    raw["modalities"]["text"] |= text
    with pytest.raises(BadInput, match=message):
        train(Config.model_validate(raw), tmp_path / "run", silent)
    assert not (tmp_path / "run").exists()


TERMS: list[tuple[dict[str, Any], str]] = [
    ({"name": "clip", "words": "text"}, "words: clip trains no head that tells labels; asymmetric, "),
    ({"name": "cross-entropy", "words": "txt"}, "words: unknown modality 'txt'.*did you mean 'text'"),
    ({"name": "cross-entropy", "words": "text"}, "words: labels are told of one input, and the term has image, text"),
]


@pytest.mark.parametrize(("term", "message"), TERMS)
def test_terms_that_cannot_be_are_refused(term: dict[str, Any], message: str, tmp_path: Path, silent: Progress) -> None:
    raw = with_prompt({"tokens": 3}) | {"objective": term}
    with pytest.raises(BadInput, match=message):
        train(Config.model_validate(raw), tmp_path / "run", silent)
