"""Options checked against a dataclass's fields."""

from dataclasses import dataclass
from typing import Annotated, Literal

import pytest
from annotated_types import Gt

from clx.pipelines.errors import BadInput
from clx.pipelines.options import construct


@dataclass
class Thing:
    name: str
    share: Annotated[float, Gt(0)] = 1.0
    mode: Literal["a", "b"] = "a"


def test_construct_checks_a_dataclass() -> None:
    assert construct(Thing, {"name": "x", "mode": "b"}, "here") == Thing("x", 1.0, "b")
    for options, word in (
        ({}, "required"),
        ({"name": "x", "share": 0}, "greater than 0"),
        ({"name": "x", "mod": "a"}, "did you mean 'mode'"),
        ({"name": "x", "mode": "c"}, "'a' or 'b'"),
    ):
        with pytest.raises(BadInput, match=word):
            construct(Thing, options, "here")
