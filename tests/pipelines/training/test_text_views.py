"""Training on views of texts: what is made in the workers, what in the encoders, and what cannot be."""

from pathlib import Path
from typing import Any

import pytest
import torch

from clx.pipelines.config.objects import make_modalities
from clx.pipelines.config.schema import Config
from clx.pipelines.experiments.train import train
from clx.pipelines.model.towers import Embedder
from clx.pipelines.runs import checkpoint
from clx.pipelines.system.errors import BadInput, Stopped
from clx.pipelines.training.compiling import compile_encoders
from configs import small
from trained import StopAt, weights

WORDS = [
    "a",
    "small",
    "cat",
    "and",
    "two",
    "large",
    "dogs",
    "sleep",
    "under",
    "the",
    "old",
    "table",
    "while",
    "it",
    "rains",
    "all",
    "day",
]
EVERY = [
    {"delete": 0.2, "reorder": 0.3, "substitute": 0.3, "spans": 0.8},
    {"shuffle": 0.3, "cutoff": 0.2, "feature_cutoff": 0.2, "spans": 0.8, "halves": 0.5},
]


@pytest.fixture(scope="module")
def sentences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty texts of one to twelve words, in two columns."""
    path = tmp_path_factory.mktemp("texts") / "texts.csv"
    lines = [" ".join(WORDS[i % 5 : i % 5 + 1 + i % 12]) for i in range(40)]
    path.write_text("one,two\n" + "".join(f"{line},{line[::-1]}\n" for line in lines))
    return path


def made(path: Path, like: dict[str, Any] | None = None, **text: Any) -> Config:
    modalities = {"text": {"column": "one", "width": 32, "layers": 1, "views": 2, **text}}
    if like is not None:
        modalities["other"] = {"like": "text", "column": "two", **like}
    raw = small({"train": str(path)}, modalities, "nt-xent", train={"steps": 4, "chunk": 5, "validate_every": 2})
    return Config.model_validate(raw)


def test_a_run_that_was_stopped_has_the_same_views(sentences: Path, tmp_path: Path, silent: Any) -> None:
    config = made(sentences, {"augmentation": {"mask": 0.3}, "views": 1}, augmentation=EVERY, dropout=[0.0, 0.2],
                  noise=0.1)  # fmt: skip
    train(config, tmp_path / "whole", silent)
    assert any("texts have one word" in line for line in silent.said)
    with pytest.raises(Stopped):
        train(config, tmp_path / "parts", StopAt(2))
    train(checkpoint.read_config(tmp_path / "parts"), tmp_path / "parts", silent, resume=True)
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    logs = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "parts")]
    assert logs[0] == logs[1]


def test_each_view_has_its_rate_also_when_it_is_encoded_again(sentences: Path) -> None:
    """The first view drops nothing: its rows have their gradient also in chunks, after the second has dropped much."""
    modalities = make_modalities(made(sentences, dropout=[0.0, 0.9], augmentation="none"))
    text = modalities["text"]
    torch.manual_seed(0)
    model = Embedder(modalities, 8).train()
    inputs = text.collate([text.read(f"text number {k}") for k in range(6)])
    here = torch.ones(6, dtype=torch.bool)

    def step(chunk: int | None, *views: str) -> tuple[torch.Tensor, torch.Tensor]:
        model.zero_grad()
        model.tower("text").chunk = chunk
        z = model(dict.fromkeys(views, inputs), dict.fromkeys(views, here))
        z["text/0"].square().sum().backward()
        gradient = next(p.grad for p in model.parameters() if p.grad is not None and p.dim() > 1)
        return z[views[-1]].detach(), gradient.clone()

    plain, expected = step(None, "text/0")
    second, found = step(2, "text/0", "text/1")
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(second, plain, atol=1e-2)


def test_noise_is_as_long_as_it_says_and_of_training_alone(sentences: Path) -> None:
    modalities = make_modalities(made(sentences, noise=0.2, augmentation="none"))
    text, model = modalities["text"], Embedder(modalities, 8)
    inputs, here = text.collate([text.read("one"), text.read("two words")]), torch.ones(2, dtype=torch.bool)
    still = model.eval()({"text": inputs}, {"text": here})["text"]
    noisy = model.train()({"text": inputs}, {"text": here})["text"]
    torch.testing.assert_close((noisy - still).norm(dim=1) / still.norm(dim=1), torch.full((2,), 0.2))
    assert torch.equal(model.eval()({"text": inputs}, {"text": here})["text"], still)


def test_what_cannot_be_is_refused(sentences: Path, tmp_path: Path, silent: Any) -> None:
    with pytest.raises(BadInput, match=r"modalities\.other: augmentation substitute: text knows none"):
        train(made(sentences, {"augmentation": {"substitute": 0.1}}), tmp_path / "run", silent)
    with pytest.raises(BadInput, match=r"modalities\.other: .*the tower that it shares has a dropout for 2"):
        make_modalities(made(sentences, {"views": 3}, dropout=[0.0, 0.1], augmentation="mild"))
    modalities = make_modalities(made(sentences, augmentation={"cutoff": 0.1}))
    with pytest.raises(BadInput, match=r"train\.compile: modalities\.text has a dropout for each view or tokens"):
        compile_encoders(Embedder(modalities, 8), torch.device("cpu"))
