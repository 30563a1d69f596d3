"""Cells as labels, one or a set, and labels that look divided."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from clx.pipelines.config.data_schema import Balance, Data
from clx.pipelines.data.label_sets import check_label_sets, holds_sets, labels_in, spoken
from clx.pipelines.data.lists_in_text import words_of
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.system.errors import BadInput


def manifest(labels: list[object]) -> Manifest:
    table = pa.table({"tags": pa.array(labels)})
    return Manifest("t", Path("."), table, np.arange(len(table)))


@pytest.mark.parametrize(
    ("cell", "several", "labels"),
    [
        (None, None, None),
        ("a|b", None, ["a|b"]),
        ("a|b", False, ["a|b"]),
        ("a| b |a|", "|", ["a", "b"]),
        ("a, b", ",", ["a", "b"]),
        (["a", "b", "a"], None, ["a", "b"]),
        ([], "|", []),
        (np.array([3, 1]), None, ["3", "1"]),
        (7, "|", ["7"]),
    ],
)
def test_labels_in_a_cell(cell: object, several: object, labels: object) -> None:
    assert labels_in(cell, several) == labels  # type: ignore[arg-type]


def test_spoken() -> None:
    assert spoken(["a", "b"]) == "a|b"
    assert spoken(["a", "b"], ";") == "a;b"
    assert spoken(" a ") == " a "
    assert spoken(None) is None


def test_what_holds_sets() -> None:
    assert holds_sets(Data(train="t", label="tags"), manifest([["a"], []]))
    assert holds_sets(Data(train="t", label="tags"), manifest([[1, 2], [3]]))
    assert holds_sets(Data(train="t", label="tags", several="|"), manifest(["a", "b"]))
    assert not holds_sets(Data(train="t", label="tags"), manifest(["a|b", "b"]))
    assert not holds_sets(Data(train="t", label="tags", several=False), manifest(["a|b", "b"]))


def test_labels_that_look_divided() -> None:
    data, few = Data(train="t", label="tags"), manifest(["a|b", *["a"] * 19])
    assert check_label_sets(data, {"train": manifest(["a", None, "b"])}) is None
    said = check_label_sets(data, {"train": few})
    assert said is not None
    assert said.startswith("t row 1: tags is 'a|b', and 1 of 20 cells hold '|'")
    with pytest.raises(BadInput, match="t row 2: tags is 'a;b', and 1 of 3"):
        check_label_sets(data, {"train": few, "test": manifest(["a", "a;b", "b"])})
    for several in ("|", False):
        assert check_label_sets(data.model_copy(update={"several": several}), {"train": few}) is None
    with pytest.raises(BadInput, match="a set of labels has neither"):
        check_label_sets(Data(train="t", label="tags", balance=Balance()), {"train": manifest([["a"], ["b"]])})


def test_a_bare_divider_is_refused() -> None:
    with pytest.raises(ValueError, match="quote what divides the labels"):
        Data(train="t", label="tags", several="")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("['a cat', \"it's\"]", ["a cat", "it's"]),
        ('["a", "b"]', ["a", "b"]),
        ("[]", []),
        ("[1, 2]", None),
        ("[Verse 1] la la", None),
        ("[laughs]", None),
        ("['a', 1]", None),
        ("a", None),
        ("[" * 10_000 + "]" * 10_000, None),
    ],
)
def test_lists_in_text(text: str, words: list[str] | None) -> None:
    assert words_of(text) == words
