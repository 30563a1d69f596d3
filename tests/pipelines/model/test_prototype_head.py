"""A head of prototypes: it trains, tells sets of labels, comes back from its files, and says what it cannot do."""

from pathlib import Path
from typing import Any

import pytest
import torch

from clx.losses.label_prototypes import LabelPrototypes
from clx.pipelines.config.objects import make_losses
from clx.pipelines.config.schema import Config
from clx.pipelines.experiments.train import train
from clx.pipelines.model.prototype_head import PrototypeHead
from clx.pipelines.runs.open import open_model
from clx.pipelines.system.errors import BadInput
from clx.pipelines.system.progress import Silent

TABLE = {"columns": ["a", "b"], "width": 32, "layers": 1, "augmentation": "none", "dropout": 0.0}
TERMS = [
    {"name": "binary-cross-entropy", "prototypes_per_label": 2},
    {"name": "label-prototypes", "prototypes_per_label": 2},
]


def config(rows: str = "rows.csv", terms: list[dict[str, Any]] | None = None, **data: Any) -> Config:
    return Config.model_validate(
        {
            "data": {"train": rows, "label": "tags", "several": "|", **data},
            "modalities": {"table": TABLE, "other": {"kind": "table", **TABLE}},
            "objective": [{"inputs": ["table"], **term} for term in terms or TERMS] + [{"name": "clip"}],
            "embed_dim": 8,
            "train": {"batch_size": 16, "epochs": 6, "lr": 0.02},
            "eval": [],
        }
    )


def test_of_one_label_side_by_side() -> None:
    head = PrototypeHead(4, 2, 3)
    z = torch.randn(5, 4)
    cosines = torch.nn.functional.cosine_similarity(z[:, None], head.rows[None], dim=2)
    torch.testing.assert_close(head(z), cosines.view(5, 2, 3).sum(2))


def test_a_run_learns_them_and_comes_back(tmp_path: Path) -> None:
    g = torch.Generator().manual_seed(0)
    points = torch.randn(64, 2, generator=g)
    tags = ["|".join([*(["x", "y"] if a > 0 else []), *(["z"] if b > 0 else ["w"])]) for a, b in points.tolist()]
    cells = [f"{a},{b},{t}" for (a, b), t in zip(points.tolist(), tags, strict=True)]
    (tmp_path / "rows.csv").write_text("\n".join(["a,b,tags", *cells]) + "\n")
    train(config(str(tmp_path / "rows.csv")), tmp_path / "run", Silent())
    run = open_model(tmp_path / "run")
    head = run.model.predictor
    assert isinstance(head, PrototypeHead)
    v = torch.nn.functional.normalize(head.rows.detach(), dim=1).view(4, 2, -1).mean(1)
    names = run.facts.classes
    assert v[names.index("x")] @ v[names.index("y")] > v[names.index("z")] @ v[names.index("w")]
    counted = next(loss for loss in run.objective.losses if isinstance(loss, LabelPrototypes)).get_buffer("together")
    assert counted[names.index("x"), names.index("y")] == counted.diagonal()[names.index("x")] > 0
    assert run.tells_sets


@pytest.mark.parametrize(
    ("terms", "more", "said"),
    [
        ([{"name": "clip", "prototypes_per_label": 2}], {}, "clip trains no head of labels; "),
        (
            [{**TERMS[0], "inputs": ["table", "other"]}],
            {},
            "of one input, and the term has table, other",
        ),
        (TERMS, {"target": ["a"]}, "prototypes are of labels, and data.target has numbers"),
        (
            [TERMS[0], {"name": "label-prototypes"}],
            {},
            "has 2 and label-prototypes has None",
        ),
        ([{**TERMS[0], "words": "other"}], {}, "words"),
    ],
)
def test_what_it_cannot_do(terms: list[dict[str, Any]], more: dict[str, Any], said: str) -> None:
    wrong = config(terms=terms, **more)
    with pytest.raises(BadInput, match=said):
        make_losses(wrong)
