"""Batches that grow around rows: whose neighbours they have, who never meets, and that the model's are saved."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clx.pipelines.batches import nearby
from clx.pipelines.batches.meetings import Together, meetings_of
from clx.pipelines.batches.nearby import Near, Places, grown
from clx.pipelines.config.options import parse
from clx.pipelines.config.schema import Config
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.data.values import Values
from clx.pipelines.system.errors import BadInput
from samples import manifest

GOLDEN = Path(__file__).parent / "golden"


class Replayed:
    """Orders that were drawn once."""

    def __init__(self, orders: list[list[int]]) -> None:
        self.orders = iter(orders)

    def permutation(self, x: Any) -> Any:
        """The next of them."""
        return next(self.orders)


@pytest.mark.parametrize("name", ["s", "m"])
def test_the_order_is_that_of_sample4geo(name: str) -> None:
    found = np.load(GOLDEN / f"sample4geo_order_{name}.npz")
    hyper, place = json.loads(str(found["hyper"])), {row: k for k, row in enumerate(found["in_ids"].tolist())}
    lists = [[place[row] for row in near][: hyper["neighbour_range"]] for near in found["in_neighbours"].tolist()]
    far = Replayed([[place[row] for row in each if row >= 0] for each in found["aux_far_shuffled"].tolist()])
    pool, used = [place[row] for row in found["aux_pool"].tolist()], np.zeros(len(place), dtype=bool)
    size, bring = hyper["batch_size"], hyper["neighbour_select"]
    batches = grown(pool, lambda row: np.array(lists[row]), size, bring, [], used, far)
    np.testing.assert_array_equal(found["in_ids"][batches.ravel()], found["expected"])


@pytest.mark.parametrize("name", ["s", "m"])
def test_batches_of_one_cell_are_as_many_as_those_of_mcl(name: str) -> None:
    found = np.load(GOLDEN / f"mcl_batches_{name}.npz")
    labels, size = found["in_pseudo_labels"], json.loads(str(found["hyper"]))["batch_size"]
    values = Values("cell", [str(k) for k in range(labels.max() + 1)], labels.astype(np.int32))
    rule = Together(values, size, 0, mixed=False)

    def cells(batches: np.ndarray[Any, Any]) -> list[list[int]]:
        return sorted(sorted(set(labels[line].tolist())) for line in batches)

    assert cells(rule.batches(0)) == cells(found["expected"])


def config(near: dict[str, Any], size: int = 4, **more: Any) -> Config:
    raw: dict[str, Any] = {"data": {"train": "a.csv"}, "modalities": {"text": {}}, "objective": "clip"}
    return parse(Config, raw | {"train": {"batch_size": size, "batches": near, **more}}, "c")


def towns(count: int = 60, each: int = 1, **more: list[Any]) -> Manifest:
    """Rows at places in five towns far from each other, the last without one."""
    at = np.random.default_rng(0).normal(size=(count, 2)) + 100 * np.repeat(np.arange(5), count // 5)[:, None]
    x, y = np.repeat(at, each, axis=0).T.tolist()
    x[-1] = None
    return manifest(text=[f"a sentence of its own {i}" for i in range(len(x))], x=x, y=y, **more)


def rule_of(made: Config, rows: Manifest) -> Near:
    rule = meetings_of(made, rows)
    assert isinstance(rule, Near)
    return rule


def test_a_batch_has_rows_that_are_near_each_other_and_no_row_twice() -> None:
    rows = towns()
    rule = rule_of(config({"near": ["x", "y"]}, 6), rows)
    assert (rule.per_pass, rule.places.count) == (10, 59)
    town = np.arange(60) // 12
    for turn in range(3):
        batches = rule.batches(turn)
        assert sorted(batches.ravel().tolist()) == list(range(60))
        together = np.mean([(town[line][:, None] == town[line]).mean() for line in batches])
        assert together > 0.42  # of random rows 0.32; each row drawn brings two of its own town
    told = rule.described()
    assert (told["places"], told["rows_without_a_place"], told["neighbours"]) == (59, 1, 6)
    assert "rows near each other by x and y. 59 places, 1 rows without one, 6 neighbours of each" in rule.line()
    again = rule_of(config({"near": ["x", "y"]}, 6), rows)
    backwards = [again.step(number) for number in reversed(range(25))][::-1]
    steps = [rule.step(number) for number in range(25)]
    assert [(r.tolist(), t.tolist()) for r, t in steps] == [(r.tolist(), t.tolist()) for r, t in backwards]
    pairs = [pair for r, t in steps for pair in zip(r.tolist(), t.tolist(), strict=True)]
    assert len(set(pairs)) == len(pairs)


def test_who_would_be_a_false_negative_never_meets() -> None:
    kinds = [f"k{i % 9}" for i in range(120)]
    rows = towns(each=2, kind=kinds)
    cells = rows.column("text")
    cells[7] = cells[0]  # the content of an input
    rows = manifest(text=cells, x=rows.column("x"), y=rows.column("y"), kind=kinds)
    rule = rule_of(config({"near": ["x", "y"], "distinct": "kind"}, 6), rows)
    for line in [line for turn in range(4) for line in rule.batches(turn)]:
        assert len({kinds[i] for i in line}) == 6
        assert len({(i // 2 if i < 119 else -1) for i in line}) == 6
        assert not {0, 7} <= set(line.tolist())
    lists = np.array([[j for j in range(31) if j != i][:30] for i in range(120)])  # as a model would give them
    for line in rule.renew(2, lists):
        assert len({kinds[i] for i in line}) == 6
    assert rule.held[0] == 2


def test_places_on_the_sphere() -> None:
    degrees = np.array([[0.0, 179.9], [0.0, -179.9], [0.0, 170.0], [89.0, 0.0], [89.0, 180.0], [np.nan, 0.0]])
    places = Places(degrees, sphere=True)
    near = places.near(2)
    assert [int(near[places.codes[k], 0]) for k in (0, 3)] == [places.codes[1], places.codes[4]]
    assert places.codes[5] == -1
    flat = Places(degrees, sphere=False)
    assert flat.near(2)[flat.codes[0], 0] == flat.codes[2]
    rows = manifest(text=list("abcdefgh"), lat=[1.0] * 8, Lon=[float(k) for k in range(8)])
    assert rule_of(config({"near": ["lat", "Lon"]}), rows).places.sphere
    assert not rule_of(config({"near": ["lat", "Lon"], "degrees": False}), rows).places.sphere
    assert rule_of(config({"near": ["Lon"]}), rows).places.count == 8


@pytest.mark.parametrize(
    ("near", "said"),
    [
        ({"near": ["x", "z"]}, "train.batches.near: no column 'z'"),
        ({"near": ["text"]}, "column text: 'a sentence of its own 0' is not a number"),
        ({"near": ["x", "y"], "degrees": True}, "is no place in degrees"),
        ({"near": ["x"], "degrees": True}, "degrees are of two columns"),
        ({"near": ["x"], "refresh": 2}, "refresh is of then"),
        ({"distinct": "x", "reach": 3}, "reach is of near"),
        ({"near": ["x"], "together": "x"}, "give one of together"),
        (
            {"near": ["x", "y"], "distinct": "few"},
            "no batch of 4 rows can be made of 60 rows at 59 places .*or their few",
        ),
    ],
)
def test_what_is_refused(near: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        rule_of(config(near), towns(few=["a", "b"] * 30)).batches(0)


def test_too_many_rows_are_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearby, "MOST", 59)
    with pytest.raises(BadInput, match="59 rows at most, and there are 60: .*clx mine --communities"):
        rule_of(config({"near": ["x", "y"]}), towns())
