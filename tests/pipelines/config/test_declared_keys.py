"""Keys that several losses share are refused by the others with the names of those that take them."""

from typing import Any

import pytest

from clx.pipelines.config.objects import make_losses
from clx.pipelines.config.schema import Config
from clx.pipelines.system.errors import BadInput


def config(objective: dict[str, Any]) -> Config:
    modalities = {"a": {"kind": "text", "column": "x"}, "b": {"kind": "text", "column": "y"}}
    return Config.model_validate({"data": {"train": "t.csv"}, "modalities": modalities, "objective": objective})


@pytest.mark.parametrize(
    ("objective", "said"),
    [
        ({"name": "supcon", "exclude": "labels"}, r"objective.exclude: supcon leaves no rows out; .* clip, .* infonce"),
        (
            {"name": "siglip", "label_smoothing": 0.1},
            "siglip has no targets to smooth; .*clip",
        ),
        ({"name": "clip", "of": "a"}, "objective.of: clip compares no features; those that take it are relation"),
        ({"name": "cosent", "negatives": ["b"]}, "objective.negatives: cosent takes none; clip, "),
        ({"name": "moco", "exclude": {"above": 0.9, "by": "second"}}, "moco takes a word .* are clip, .*infonce"),
        ({"name": "clip", "exclude": {"above": 2, "by": "second"}}, r"exclude.above = 2: .*less than 1, or 'partner'$"),
        ({"name": "clip", "exclude": {"above": 0.9}}, "'exclude.by' is required$"),
        ({"name": "clip", "exclude": "lables"}, "exclude = 'lables': should be 'none', 'sample_id', 'labels' or 'rep"),
        ({"name": "clip", "label_smoothing": 1.0}, "label_smoothing = 1.0: should be less than 1"),
    ],
)
def test_refused(objective: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        make_losses(config(objective))


def test_taken() -> None:
    (loss,) = make_losses(config({"name": "clip", "label_smoothing": 0.1, "exclude": "none"}))
    assert (loss.label_smoothing, loss.exclude) == (0.1, "none")
