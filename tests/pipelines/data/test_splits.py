"""Splits: disjoint, stable, and by the column, the fraction or the files that are asked for."""

import pytest

from clx.pipelines.config.data_schema import Data, Fraction
from clx.pipelines.data.splits import choose, load_splits
from clx.pipelines.system.errors import BadInput


def test_split_column_is_obeyed_in_any_case(write) -> None:
    source = write("a.csv", "a,split\n0,train\n1,Dev\n2,TEST\n3,train\n4,valid\n")
    splits = load_splits(Data(train=source), seed=0)
    assert {k: m.column("a") for k, m in splits.items()} == {"train": ["0", "3"], "val": ["1", "4"], "test": ["2"]}
    assert splits["test"].where(0) == f"{source} row 3"


def test_split_column_of_another_name(write) -> None:
    source = write("a.csv", "a,fold\n0,train\n1,test\n")
    assert set(load_splits(Data(train=source), seed=0)) == {"train"}
    assert set(load_splits(Data(train=source, split="fold"), seed=0)) == {"train", "test"}
    with pytest.raises(BadInput, match="no column 'flod'"):
        load_splits(Data(train=source, split="flod"), seed=0)


def test_fraction_is_disjoint_stable_and_takes_training_rows_only(write) -> None:
    source = write("a.csv", "a,split\n" + "".join(f"{i},{'test' if i % 4 == 0 else 'train'}\n" for i in range(100)))
    data = Data(train=source, val=Fraction(fraction=0.2))
    splits, again = load_splits(data, seed=3), load_splits(data, seed=3)
    assert {k: len(m) for k, m in splits.items()} == {"train": 60, "val": 15, "test": 25}
    assert len(set().union(*(m.column("a") for m in splits.values()))) == 100
    assert all((splits[k].rows == again[k].rows).all() for k in splits)
    assert set(load_splits(data, seed=4)["val"].rows) != set(splits["val"].rows)


def test_a_split_that_was_drawn_is_not_in_the_file(write) -> None:
    source = write("a.csv", "a\n" + "1\n" * 9)
    drawn = Data(train=source, val=Fraction(fraction=0.2))
    assert [len(rows) for rows in choose(drawn, 0, None, "train").values()] == [7]
    for otherwise in ("file", "first"):
        with pytest.raises(
            BadInput, match=f"leave out --split .*, or --data for the train rows .* drew from {source}$"
        ):
            choose(drawn, 0, source, "train", otherwise=otherwise)
    with pytest.raises(
        BadInput, match="no column 'split' that tells its val rows: leave out --split for all of its rows$"
    ):
        choose(Data(train="digits"), 0, source, "val", otherwise="file")


def test_fraction_of_almost_nothing(write) -> None:
    two, one = write("two.csv", "a\n1\n2\n"), write("one.csv", "a\n1\n")
    assert len(load_splits(Data(train=two, val=Fraction(fraction=0.01)), seed=0)["val"]) == 1
    with pytest.raises(BadInput, match="leaves none to train on"):
        load_splits(Data(train=one, val=Fraction(fraction=0.5)), seed=0)


def test_splits_from_separate_files(write) -> None:
    train, val = write("train.csv", "a\n1\n"), write("val.csv", "a\n2\n")
    test = write("test.csv", "a,split\n3,test\n4,train\n")
    splits = load_splits(Data(train=train, val=val, test=test), seed=0)
    assert {k: m.column("a") for k, m in splits.items()} == {"train": ["1"], "val": ["2"], "test": ["3"]}
    with pytest.raises(BadInput, match="no row has the split 'val'"):
        load_splits(Data(train=train, val=test), seed=0)
    with pytest.raises(BadInput, match="already have that split"):
        load_splits(Data(train=test, test=val), seed=0)
