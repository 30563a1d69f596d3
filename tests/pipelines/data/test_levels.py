"""Levels of labels: how they are numbered, and what a config may say of them."""

from typing import Any

import pytest
from pydantic import ValidationError

from clx.pipelines.config.data_schema import Data
from clx.pipelines.data.label_sets import levels_of
from clx.pipelines.system.errors import BadInput


def test_names_are_numbered_at_whatever_level_they_stand() -> None:
    found = levels_of(["animal/dog/poodle", "animal/cat", "dog"], "/")
    assert found is not None
    (animal, dog, poodle), (other, cat, none), (alone, *behind) = found
    assert (animal, dog) == (other, alone)
    assert [none, *behind] == [-1, -1, -1]
    assert len({animal, dog, poodle, cat}) == 4
    assert levels_of(["a/b"], None) is None


def test_a_divider_that_divides_nothing() -> None:
    with pytest.raises(BadInput, match="data.levels: '/' divides none of the labels, a, b"):
        levels_of(["a", "b"], "/")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "levels needs label"),
        ({"label": "y", "target": ["y"]}, "which is no target"),
        ({"label": "y", "several": "/"}, "several and levels are both '/'"),
    ],
)
def test_what_levels_go_with(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Data(train="t", levels="/", **fields)
