"""Scores of queries and classes, and what becomes of them."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clx.pipelines.model import scoring
from clx.pipelines.model.scoring import Scale, class_embeddings, embed_items, queries


def test_lift_weighs_a_label_against_the_mean_of_the_others() -> None:
    scores = torch.randn(5, 7, generator=torch.Generator().manual_seed(0)).double()
    scores[0, 2] = 30.0  # all less the greatest must not cancel
    found = Scale("lift", 0.5).probabilities(scores)
    for i, row in enumerate(scores.tolist()):
        for j in range(7):
            others = [math.exp((s - row[j]) / 0.5) for k, s in enumerate(row) if k != j]
            assert found[i, j].item() == pytest.approx(1 / (1 + sum(others) / 6), rel=1e-9)
    two = torch.tensor([[1.0, 1.0, 0.0, 0.0, 0.0]])
    assert (Scale("lift", 0.1).probabilities(two)[0] > 0.5).tolist() == [True, True, False, False, False]


@pytest.fixture
def run(digits_run: Path) -> Any:
    from clx.pipelines.runs.checkpoint import load

    return load(digits_run)


def test_embeddings_of_labels_are_kept_on_disk(run: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("CLX_CACHE", str(tmp_path))
    phrasings = {"one": ["one", "uno"], "two": ["two"]}
    made = class_embeddings(run, phrasings, ["{}", "a {}"], cache=True)
    [file] = tmp_path.rglob("*.safetensors")
    calls = []
    embed = scoring.embed
    monkeypatch.setattr(scoring, "embed", lambda *args, **more: calls.append(args) or embed(*args, **more))
    assert torch.equal(class_embeddings(run, phrasings, ["{}", "a {}"], cache=True), made)
    assert not calls
    class_embeddings(run, phrasings, ["{}"], cache=True)
    class_embeddings(run, {"one": ["one"], "two": ["uno", "two"]}, ["{}", "a {}"], cache=True)
    with torch.no_grad():
        next(run.model.towers["text"].parameters()).add_(1)
    class_embeddings(run, phrasings, ["{}", "a {}"], cache=True)
    assert len(calls) == 3
    file.write_bytes(b"damaged")
    calls.clear()
    with torch.no_grad():
        next(run.model.towers["text"].parameters()).sub_(1)
    class_embeddings(run, phrasings, ["{}", "a {}"], cache=True)
    assert len(calls) == 1


def test_symile_asks_with_products_and_its_embedding_of_what_is_absent(make_config: Any) -> None:
    from clx.pipelines.model.build import Facts, build

    config = make_config(objective={"name": "symile"}, modalities={
        "image": {"encoder": "cnn", "width": 4, "size": 8}, "audio": {"sample_rate": 8000},
        "text": {"layers": 1, "width": 32}})  # fmt: skip
    run = build(config, Facts({}, [], [], []))
    run.model.eval()
    rows = class_embeddings(run, {"a": ["a"], "b": ["b"]})
    items: list[dict[str, Any]] = [
        {"image": run.modalities["image"].read(np.full((8, 8, 3), 99, np.uint8)), "audio": torch.randn(4000)},
        {"image": run.modalities["image"].read(np.full((8, 8, 3), 9, np.uint8))},
    ]
    unit = torch.nn.functional.normalize
    absent = unit(run.objective.leading.absent[run.objective.leading.names.index("audio")], dim=0)
    for item in items:
        z, present = embed_items(run, [item])
        image, audio = unit(z["image"][0], dim=0), unit(z["audio"][0], dim=0) if "audio" in z else absent
        expected = [(image * audio * row).sum().item() for row in rows]
        assert (queries(run, z, present, "text") @ rows.T)[0].tolist() == pytest.approx(expected, abs=1e-6)


def test_each_symile_term_scores_by_its_own_inputs(make_config: Any) -> None:
    from clx.pipelines.model.build import Facts, build

    words = {"layers": 1, "width": 32}
    config = make_config(
        objective=[
            {"name": "symile", "inputs": ["image", "audio", "text"]},
            {"name": "symile", "inputs": ["image", "german"], "weight": 0.5},
            {"name": "clip", "inputs": ["audio", "german"]},
        ],
        modalities={
            "image": {"encoder": "cnn", "width": 4, "size": 8},
            "audio": {"sample_rate": 8000},
            "text": words,
            "french": {"like": "text", "column": "text"},
            "german": {"kind": "text", "column": "text", **words},
        },
    )
    run = build(config, Facts({}, [], [], []))
    run.model.eval()
    g = torch.Generator().manual_seed(0)
    z = {name: torch.randn(1, config.embed_dim, generator=g) for name in run.modalities}
    u = {name: torch.nn.functional.normalize(row, dim=1) for name, row in z.items()}
    first = run.objective.losses[0]

    def absent(loss: Any, name: str) -> torch.Tensor:
        return torch.nn.functional.normalize(loss.absent[loss.place(name)][None], dim=1)

    def asked(names: str, candidate: str) -> torch.Tensor:
        some = {name: z[name] for name in names.split()}
        return queries(run, some, {name: torch.ones(1, dtype=torch.bool) for name in some}, candidate)

    with torch.no_grad():
        close = torch.testing.assert_close
        close(asked("image", "text"), u["image"] * absent(first, "audio"))
        close(asked("image audio german", "text"), u["image"] * u["audio"])  # no term joins german and text
        close(asked("text audio german", "image"), u["text"] * u["audio"] + u["german"])
        close(asked("french", "image"), u["french"] * absent(first, "audio"))  # in the place of text
        close(asked("image audio", "french"), u["image"] * u["audio"])
        close(asked("text", "french"), u["text"])  # neither stands for the other: cosines
        close(asked("audio", "german"), u["audio"])
        close(asked("image german", "german"), u["image"])
