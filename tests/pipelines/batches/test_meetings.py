"""Batches by a column: whose rows meet, that no row is lost without a word, and that counters alone decide."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clx.modalities.image import Image
from clx.pipelines.batches.batch import Key
from clx.pipelines.batches.check import check_source
from clx.pipelines.batches.dataset import BatchDataset
from clx.pipelines.batches.loader import Order
from clx.pipelines.batches.meetings import (
    ByValue,
    Distinct,
    Episodes,
    Together,
    dealt,
    meetings_of,
    most_batches,
)
from clx.pipelines.config.options import parse
from clx.pipelines.config.schema import Config
from clx.pipelines.data.values import Values, values_of
from clx.pipelines.system.errors import BadInput
from clx.pipelines.training.dry_run import dry_run
from clx.pipelines.training.rank_part import Part
from samples import manifest, png


def values(*counts: int, without: int = 0) -> Values:
    """Rows of so many values, mixed, and some that have none."""
    codes = np.repeat(np.arange(len(counts)), counts)
    codes = np.random.default_rng(1).permutation(np.r_[codes, np.full(without, -1)])
    return Values("kind", [f"v{k}" for k in range(len(counts))], codes.astype(np.int32))


UNEVEN = values(23, 11, 9, 4, 2, 1, 1, 1, without=3)
RULES: dict[str, Callable[[int], ByValue]] = {
    "together": lambda seed: Together(UNEVEN, 5, seed, mixed=True),
    "together dropped": lambda seed: Together(UNEVEN, 5, seed, mixed=False),
    "distinct": lambda seed: Distinct(UNEVEN, 5, seed),
    "episodes": lambda seed: Episodes(UNEVEN, 3, 2, seed),
}


@pytest.mark.parametrize("name", RULES)
def test_a_step_follows_from_its_number_and_the_seed_alone(name: str) -> None:
    rule, again = RULES[name](7), RULES[name](7)
    steps = [rule.step(number) for number in range(3 * rule.per_pass)]
    backwards = [again.step(number) for number in reversed(range(3 * rule.per_pass))][::-1]
    for (rows, turns), (others, their_turns) in zip(steps, backwards, strict=True):
        np.testing.assert_array_equal(rows, others)
        np.testing.assert_array_equal(turns, their_turns)
    rows, turns = map(np.concatenate, zip(*steps, strict=True))
    assert rows.dtype == np.int64
    assert len({*zip(rows.tolist(), turns.tolist(), strict=True)}) == len(rows)  # its views are new ones each time
    first, second = (rows[k * len(rows) // 3 : (k + 1) * len(rows) // 3] for k in (0, 1))
    assert first.tolist() != second.tolist()
    assert rows.tolist() != np.concatenate([RULES[name](8).step(k)[0] for k in range(len(steps))]).tolist()

    def order(start: int) -> Order:
        return Order(len(UNEVEN.codes), rule.batch_size, 7, start, 20, rule=RULES[name](7))

    keys = list(order(0))
    assert [key.rows.tolist() for key in order(13)] == [key.rows.tolist() for key in keys[13:]]
    parts = zip(*(Part(order(0), rank, 3) for rank in range(3)), strict=True)
    for key, of_ranks in zip(keys, parts, strict=True):
        assert np.concatenate([part.rows for part in of_ranks]).tolist() == key.rows.tolist()


@pytest.mark.parametrize("name", RULES)
def test_what_is_left_out_is_counted_and_other_rows_each_pass(name: str) -> None:
    rule = RULES[name](0)
    passes = [set(rule.batches(turn).ravel().tolist()) for turn in range(60)]
    told, count = rule.described(), len(UNEVEN.codes)
    assert len(passes[0]) == count - told["rows_left_out_of_a_pass"]
    assert told["batches_of_a_pass"] == len(rule.batches(3)) == rule.per_pass
    never = set(range(count)) - set.union(*passes)
    short = {i for i in range(count) if UNEVEN.codes[i] < 0 or UNEVEN.counts[UNEVEN.codes[i]] < 5}
    without = set(np.flatnonzero(UNEVEN.codes < 0).tolist())
    assert never == {"together": set(), "together dropped": short, "distinct": set(), "episodes": without}[name]


def test_rows_of_one_value_fill_batches_of_their_own_and_share_the_rest() -> None:
    rule = Together(UNEVEN, 5, 0, mixed=True)
    assert rule.per_pass == 11
    codes = rule.values.apart()
    for turn in range(5):
        batches = codes[rule.batches(turn)]
        assert len(np.unique(rule.batches(turn))) == 55
        alone = [line[0] for line in batches if len(set(line.tolist())) == 1]
        assert sorted(alone) >= [0, 0, 0, 0, 1, 1, 2]
        # a value that shares batches stands in one, or is cut once where one ends
        rest = [line.tolist() for line in batches if len(set(line.tolist())) > 1]
        assert max(sum(value in line for line in rest) for value in range(8)) <= 2
    dropped = Together(UNEVEN, 5, 0, mixed=False)
    assert {len(set(line)) for line in codes[dropped.batches(4)].tolist()} == {1}
    assert dropped.per_pass == 7
    assert "kind has 8 values of 1 to 23 rows, 3 rows without one; a batch has 1 of them, a pass 7" in dropped.line()
    assert "20 of 55 rows are in none of a pass" in dropped.line()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=30), st.integers(1, 6), st.integers(0, 99))
def test_no_batch_has_a_value_twice_and_no_more_batches_can_be_made(counts: list[int], size: int, seed: int) -> None:
    codes = np.repeat(np.arange(len(counts)), counts)
    most = most_batches(np.array(counts), size)
    assert sum(min(count, most) for count in counts) >= most * size
    assert sum(min(count, most + 1) for count in counts) < (most + 1) * size
    if most:
        places = dealt(codes, most, size, np.random.default_rng(seed))
        assert places.shape == (most, size)
        assert len(np.unique(places)) == places.size
        assert all(len(set(line)) == size for line in codes[places].tolist())


def test_who_meets_whom_is_even_where_every_value_is_there_twice() -> None:
    rule = Distinct(values(*[2] * 12), 6, 0)
    met, passes = np.zeros((12, 12)), 600
    for turn in range(passes):
        for line in rule.values.codes[rule.batches(turn)]:
            met[np.ix_(line, line)] += 1
    np.testing.assert_array_equal(np.diag(met), 2 * passes)  # four batches of six: every row is in one
    others = met[~np.eye(12, dtype=bool)] / (2 * passes * 5 / 11)
    assert np.abs(others - 1).max() < 0.2


def test_an_episode_has_so_many_classes_and_repeats_rows_of_small_ones_alone() -> None:
    rule = Episodes(values(9, 7, 4, 1, without=2), 3, 3, 0)
    seen = set()
    for number in range(4 * rule.per_pass):
        rows, turns = rule.step(number)
        of, counts = np.unique(rule.values.codes[rows], return_counts=True)
        assert (len(of), counts.tolist()) == (3, [3, 3, 3])
        assert of.min() >= 0
        for value in of.tolist():
            own = rows[rule.values.codes[rows] == value]
            assert len(set(own.tolist())) == min(3, rule.values.counts[value])
        assert len({*zip(rows.tolist(), turns.tolist(), strict=True)}) == 9
        seen |= set(of.tolist())
    assert seen == {0, 1, 2, 3}
    assert "3 classes of 3 rows each; 1 of them have fewer, which come again" in rule.line()


def config(batches: Any, data: dict[str, Any] | None = None, size: int = 4) -> Config:
    raw = {"data": {"train": "a.csv", **(data or {})}, "modalities": {"text": {}}, "objective": "clip"}
    return parse(Config, raw | {"train": {"batch_size": size, "batches": batches}}, "c")


BALANCED = {"label": "kind", "balance": {"by": "sampling"}}
SHARES = {"train": [{"source": "a.csv", "share": 1}, {"source": "b.csv", "share": 2}], "label": "kind"}


@pytest.mark.parametrize(
    ("batches", "data", "said"),
    [
        ({"together": "a", "distinct": "b"}, {}, "give one of together"),
        ({}, {}, "give one of together"),
        ({"classes": 2}, {"label": "kind"}, "classes and rows go together"),
        ({"classes": 2, "rows": 3}, {"label": "kind"}, "2 classes with 3 rows each have 6 rows, and batch_size is 4"),
        ({"classes": 2, "rows": 2}, {}, "classes are those of data.label, which is not given"),
        ({"distinct": "a", "rest": "dropped"}, {}, "rest is of together"),
        ({"together": "a"}, BALANCED, "data.balance.by: weights goes with batches"),
        ({"together": "a"}, SHARES, "both say which rows a batch has: leave one out"),
        ({"apart": "a"}, {}, "distinct"),
    ],
)
def test_settings_that_say_nothing_together(batches: Any, data: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        config(batches, data)


@pytest.mark.parametrize(
    ("batches", "label", "said"),
    [
        ({"together": "knd"}, None, "train.batches.together: no column 'knd' in t.csv.*kind"),
        ({"together": "kind", "rest": "dropped"}, None, "no value of kind has the 4 rows of a batch, the most have 3"),
        ({"distinct": "few"}, None, "few has 2 different values, and a batch of 4 rows would have as many"),
        ({"distinct": "tags"}, None, "tags of t.csv holds lists"),
        ({"classes": 4, "rows": 1}, "few", "4 classes in a batch, and few has 2 in the training rows"),
        ({"classes": 2, "rows": 2}, "tags", "needs one class per row, and in tags of t.csv are sets"),
    ],
)
def test_batches_that_cannot_be_made(batches: Any, label: str | None, said: str) -> None:
    few, tags = ["x", "y"] * 3, pa.array([["a"], ["b", "c"]] * 3)
    rows = manifest(text=list("abcdef"), kind=["u", "u", "u", "v", None, "v"], few=few, tags=tags)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match=said):
        meetings_of(config(batches, {"label": label}), rows)


def test_values_are_numbered_by_their_rows_and_classes_by_their_names() -> None:
    rows = manifest(kind=["b", None, "a", "b"], label=[1.0, 2.0, None, 1.0])
    found = values_of(rows, "kind", "key")
    assert (found.names, found.codes.tolist(), found.without) == (["b", "a"], [0, -1, 1, 0], 1)
    assert found.apart().tolist() == [0, 2, 1, 0]
    assert [found.like(row).tolist() for row in (3, 2, 1)] == [[0], [0, 1, 2, 3], [0, 1, 2, 3]]
    made = meetings_of(config({"classes": 2, "rows": 2}, {"label": "label"}), rows)
    assert isinstance(made, ByValue)
    assert made.values.names == ["1", "2"]


def test_a_bad_row_gives_its_place_to_one_of_its_value_while_there_is_one() -> None:
    rows = manifest(image=[png(0), b"junk", png(2), png(3), b"junk", png(5)], kind=list("aabbcb"))
    data = BatchDataset(rows, {"image": Image(encoder="cnn", size=8)}, augment=True, on_bad="replace")
    data.alike = values_of(rows, "kind", "key")
    found = [data[Key(epoch, 0, np.array([1, 4]))].sample_id.tolist() for epoch in range(30)]
    assert {one for one, _ in found} == {0}
    assert {other for _, other in found} == {0, 2, 3, 5}  # nothing else is of its value


def test_what_batches_look_like_is_told_before_training(tmp_path: Path, write: Any) -> None:
    train = write("a.csv", "text,caption,tie\n" + "".join(f"a word {i},thing {i},{i // 5}\n" for i in range(22)))
    test = write("b.csv", "text,caption\none,two\nthree,four\n")  # a column to meet by is of training alone
    raw = {"data": {"train": train, "test": test}, "modalities": {"text": {"width": 32, "layers": 1}}}
    raw |= {"objective": "clip", "train": {"batch_size": 5, "batches": {"together": "tie"}}, "eval": []}
    raw["modalities"] |= {"caption": {"like": "text", "column": "caption"}}
    made = tmp_path / "c.yaml"
    made.write_text(json.dumps(raw))
    report = check_source(None, str(made))
    assert report["ok"]
    assert {found["column"]: found["use"] for found in report["columns"]}["tie"] == "batches: its rows meet"
    told = report["batches"]
    assert (told["values"], told["batches_of_a_pass"], told["rows_left_out_of_a_pass"]) == (5, 4, 2)
    assert told["rows_of_a_value"] == {"min": 2, "median": 5, "max": 5}
    assert told["values_of_a_batch"] == {"min": 1, "mean": 1.0, "max": 1}
    assert dry_run(Config.model_validate(raw))["batches"] == told
