"""Answers: by name, likely ones, and columns from which they follow."""

import numpy as np
import pytest

from clx.pipelines.data.answers import likely, sure, telling
from clx.pipelines.data.column_kinds import Column, kinds_of
from samples import manifest

N = 60
CLASSES = [("a", "b", "c")[i % 3] for i in range(N)]


@pytest.mark.parametrize(
    ("column", "answer"),
    [
        (Column("Class Index", "number", 40, 4, whole=True), "label"),
        (Column("label", "an identifier", 40, 40), "label"),
        (Column("target", "number", 40, 3, whole=True), "label"),
        (Column("target", "number", 40, 39, whole=True), "target"),
        (Column("price", "number", 40, 3, whole=True), "target"),
        (Column("species", "category", 40, 3), None),
        (Column("label", "image", 40, 40), None),
    ],
)
def test_answers_by_name(column: Column, answer: str | None) -> None:
    assert sure(column) == answer


def test_likely_answers_of_tables() -> None:
    rng = np.random.default_rng(0)
    numbers = {name: rng.random(N).tolist() for name in ("a", "b")}
    assert (
        likely(kinds_of(manifest(**numbers, Species=CLASSES, c=rng.random(N).tolist())))[0].given == "--label Species"
    )
    (last,) = likely(kinds_of(manifest(**numbers)))
    assert (last.given, last.why) == ("--target b", "the last column")
    odd = likely(kinds_of(manifest(a=numbers["a"], **{"it's on": CLASSES})))
    assert odd[0].given == """--label 'it'"'"'s on'"""
    assert likely(kinds_of(manifest(a=numbers["a"]))) == []  # alone it is all there is


def test_a_column_tells_the_answer_when_each_value_has_one() -> None:
    rng = np.random.default_rng(0)
    order = rng.permutation(N)
    rows = manifest(
        label=[CLASSES[i] for i in order],
        other_name=[CLASSES[i].upper() for i in order],
        group=[str(i % 6) for i in order],
        is_a=[int(CLASSES[i] == "a") for i in order],
        almost=["x" if k == 0 else CLASSES[i] for k, i in enumerate(order)],
        wrong=["a" if k == int(order.argmax()) else CLASSES[i] for k, i in enumerate(order)],
        every=[str(i) for i in order],
        noise=rng.integers(3, size=N).tolist(),
        constant=["x"] * N,
        holes=[None if k % 5 == 0 else CLASSES[i] for k, i in enumerate(order)],
        series=[[1.0, 2.0]] * N,
    )
    assert telling(rows, "label", rows.columns) == ["other_name", "group", "is_a", "almost", "holes"]


def test_a_few_rows_tell_nothing_by_chance() -> None:
    rows = manifest(label=["a", "b", "a", "b"], x=[1, 2, 1, 2])
    assert telling(rows, "label", ["x"]) == []
