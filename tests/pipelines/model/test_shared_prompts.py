"""One learned prompt for several columns of a tower: what learns, what is saved, said, exported and refused."""

from pathlib import Path
from typing import Any

import pytest
import torch

from clx.pipelines.batches.telling_columns import learned_prompts
from clx.pipelines.config.schema import Config
from clx.pipelines.data.splits import load_splits
from clx.pipelines.experiments.train import train
from clx.pipelines.model.build import prepare
from clx.pipelines.model.scoring import embed
from clx.pipelines.runs import checkpoint
from clx.pipelines.system.errors import BadInput
from clx.pipelines.system.progress import Progress, Silent
from clx.pipelines.use.export import export, graph_of
from configs import small
from trained import weights

TEXT = {"width": 32, "layers": 1, "freeze": True, "head": "none", "dropout": 0.0}
TERM = {"name": "infonce", "inputs": ["text", "passage"], "negatives": ["wrong"]}


def raw_config(folder: Path, text: Any, passage: Any = None, wrong: Any = None) -> dict[str, Any]:
    """Two columns and one of negatives through one tower, each with the prompt that is given."""
    rows = [f"the {k},a {k} b,no {k + 1}" for k in range(40)]
    (folder / "t.csv").write_text("\n".join(["text,passage,wrong", *rows]))
    columns: dict[str, dict[str, Any]] = {"text": {**TEXT}, "passage": {"like": "text"}, "wrong": {"like": "text"}}
    for name, prompt in zip(columns, (text, passage, wrong), strict=True):
        columns[name] |= {} if prompt is None else {"prompt": prompt}
    return small({"train": str(folder / "t.csv")}, columns, TERM, embed_dim=32, train={"lr": 0.05})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Text and negatives with one prompt, passages with none."""
    folder = tmp_path_factory.mktemp("shared")
    raw = raw_config(folder, {"tokens": 3}, None, {"like": "text"})
    train(Config.model_validate(raw), folder / "run", Silent())
    return folder / "run"


def test_columns_that_share_a_prompt_have_one(trained: Path) -> None:
    run = checkpoint.load(trained)
    assert [name for name in weights(trained) if ".prompts." in name] == [
        "model.prompts.text.rows",
        "model.prompts.text.temperature",
    ]
    assert run.model.prompts_of("wrong") is run.model.prompts_of("text")
    assert not run.model.contexts("passage")
    z = {name: embed(run, name, [modality.read("one")]) for name, modality in run.modalities.items()}
    assert torch.equal(z["text"], z["wrong"])
    assert not torch.allclose(z["text"], z["passage"], atol=1e-3)
    assert {name: run.config.modalities[name].get("prompt") for name in ("passage", "wrong")} == {
        "passage": "",
        "wrong": {"like": "text"},
    }


def test_both_columns_teach_the_prompt(tmp_path: Path, silent: Progress) -> None:
    """Its gradient is the sum of what each column's would be: a prompt of the partner is learned by both alone."""
    moved = []
    for text, passage in (({"tokens": 3}, {"like": "text"}), ({"like": "passage"}, {"tokens": 3})):
        train(Config.model_validate(raw_config(tmp_path, text, passage)), tmp_path / f"run{len(moved)}", silent)
        moved.append(weights(tmp_path / f"run{len(moved)}"))
    torch.testing.assert_close(moved[0]["model.prompts.text.rows"], moved[1]["model.prompts.passage.rows"])
    assert "model.prompts.passage.rows" not in moved[0]


def test_what_is_said_of_prompts(trained: Path) -> None:
    assert learned_prompts(checkpoint.load(trained).modalities) == [
        "3 learned vectors before the texts of text, wrong, one prompt for all of them",
        "no prompt before the texts of passage, though text has one; modalities.passage.prompt: {like: text} shares it",
    ]


def test_a_column_without_the_prompt_is_a_graph_of_its_own(trained: Path, tmp_path: Path) -> None:
    """And one that shares it has that of the other."""
    run = checkpoint.load(trained)
    assert {name: graph_of(run, name, run.scored()) for name in run.scored()} == {"text": "text", "passage": "passage"}
    raw = raw_config(tmp_path, {"tokens": 3}, {"like": "text"})
    run = prepare(config := Config.model_validate(raw), load_splits(config.data, 0))
    assert {name: graph_of(run, name, run.scored()) for name in run.scored()} == {"text": "text", "passage": "text"}


@pytest.mark.slow
def test_a_column_without_the_prompt_is_a_file_of_its_own(trained: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    files = {row["modality"]: row["file"] for row in export(trained, "onnx", tmp_path / "out")}
    assert files == {"text": "text.onnx", "passage": "passage.onnx"}


WRONG: list[tuple[Any, Any, str]] = [
    ({"tokens": 3}, {"like": "txt"}, "passage.prompt.like: no other modality 'txt'.*did you mean 'text'"),
    ({"tokens": 3}, {"like": "text", "tokens": 3}, "passage.prompt.tokens: the vectors are those of text"),
    ("query: ", {"like": "text"}, "modalities.text.prompt is words, which each column says itself"),
    (None, {"like": "text"}, "modalities.text.prompt is not set"),
    ({"like": "wrong"}, {"like": "text"}, "text.prompt.like: modalities.wrong.prompt is not set"),
    ({"like": "text"}, None, "text.prompt.like: no other modality 'text'"),
    ({"count": 2}, None, "prompt.tokens is required"),
]


@pytest.mark.parametrize(("text", "passage", "message"), WRONG)
def test_what_cannot_be_shared_is_refused(
    text: Any, passage: Any, message: str, tmp_path: Path, silent: Progress
) -> None:
    with pytest.raises(BadInput, match=message):
        train(Config.model_validate(raw_config(tmp_path, text, passage)), tmp_path / "run", silent)


def test_a_prompt_of_a_prompt_or_of_another_tower_is_refused(tmp_path: Path, silent: Progress) -> None:
    raw = raw_config(tmp_path, {"tokens": 3}, {"like": "text"}, {"like": "passage"})
    with pytest.raises(BadInput, match="passage has the prompt of text itself: write like: text"):
        train(Config.model_validate(raw), tmp_path / "run", silent)
    raw["modalities"]["wrong"] = {"kind": "text", **TEXT, "prompt": {"like": "text"}}
    with pytest.raises(BadInput, match="text is of another tower.*set modalities.wrong.like"):
        train(Config.model_validate(raw), tmp_path / "run", silent)
