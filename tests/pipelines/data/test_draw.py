"""Drawing validation rows: what hangs together stays together, classes and targets are there alike."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from clx.pipelines.config.data_schema import Data, Fraction
from clx.pipelines.data.draw import draw, held_together, with_groups
from clx.pipelines.data.groups import components
from clx.pipelines.data.leaks import leaks
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.data.shared_content import sharing
from clx.pipelines.data.splits import load_splits
from clx.pipelines.system.errors import BadInput

INPUTS = {"image": True, "text": False}


def table(name: str = "a.csv", root: str = ".", **columns: Any) -> Manifest:
    made = pa.table(columns)
    return Manifest(name, Path(root), made, np.arange(len(made)))


def drawn(rows: Manifest, seed: int = 0, val: Any = None, **data: Any) -> tuple[Manifest, Manifest, Data]:
    settings = Data.model_validate({"train": "a.csv", "val": val or {"fraction": 0.1}, **data})
    assert isinstance(settings.val, Fraction)
    return *draw(rows, settings.val, settings, seed, INPUTS), settings


CAPTIONS = {
    "image": [f"{k // 5}.png" for k in range(500)],
    "text": [f"what one sees in picture {k}" for k in range(500)],
    "label": [f"{k // 5 % 4}" for k in range(500)],
}


def test_rows_of_one_image_stay_together_and_classes_are_there_alike() -> None:
    train, val, data = drawn(table(**CAPTIONS), label="label")
    assert val.split_from == train.split_from == "10 % drawn by image, stratified by label"
    assert not set(train.column("image")) & set(val.column("image"))
    assert len(val) == 50
    assert sorted(np.unique(val.column("label"), return_counts=True)[1]) == [10, 10, 15, 15], "images of five rows"
    again = data.model_validate({"train": "a.csv", "label": "label", "val": with_groups(data, {"val": val}).val})
    assert again.val == Fraction(fraction=0.1, by=["image"])
    assert (draw(table(**CAPTIONS), again.val, again, 0, {})[1].rows == val.rows).all()
    assert set(drawn(table(**CAPTIONS), seed=1, label="label")[1].rows) != set(val.rows)


def test_rows_hang_together_by_images_and_texts() -> None:
    keys = [np.array([1, 1, 2, 3, 0, 0], dtype=np.uint64), np.array([7, 8, 8, 9, 0, 9], dtype=np.uint64)]
    assert components(keys, 6).tolist() == [0, 0, 0, 1, 2, 1]
    both = table(
        image=[f"{k // 2}.png" for k in range(40)], text=[f"the words of row {(k + 1) // 2}" for k in range(40)]
    )
    assert sharing(both, {"image": True}).columns == ("image",)
    found = sharing(both, INPUTS)  # a chain through all rows: texts are given up
    assert (found.columns, found.given_up) == (("image",), ("text",))
    assert "(by text most rows would hang together)" in (drawn(both)[1].split_from or "")


def test_words_of_classes_and_numbers_keep_nothing_together() -> None:
    words = table(
        image=[f"{k}.png" for k in range(200)], text=[["seven", "a photo of a cat"][k % 2] for k in range(200)]
    )
    val = drawn(words)[1]
    assert val.split_from == "10 % drawn by row"
    assert val.rows.tolist() == sorted(np.random.default_rng(0).permutation(200)[:20]), "as it always was"


def test_most_rows_of_one_image_are_drawn_by_row() -> None:
    train, val, data = drawn(table(image=["none.png"] * 30 + [f"{k}.png" for k in range(10)]))
    assert val.split_from == "10 % drawn by row (by image most rows would hang together)"
    assert with_groups(data, {"val": val}).val == Fraction(fraction=0.1, by="row")


def test_targets_are_there_in_all_their_range() -> None:
    y = np.random.default_rng(0).exponential(size=400)
    train, val, _ = drawn(table(y=y), target="y")
    assert val.split_from == "10 % drawn by row, stratified by y"
    assert np.histogram(val.column("y"), np.quantile(y, np.linspace(0, 1, 11)))[0].tolist() == [4] * 10
    assert len(train) == 360


def test_a_class_is_never_held_out_whole() -> None:
    train, val, _ = drawn(table(label=["a"] * 20 + ["b"] * 8 + ["c", "d"]), val={"fraction": 0.4}, label="label")
    assert set(train.column("label")) == {"a", "b", "c", "d"}
    assert len(val) == 12


def test_a_column_decides_or_row() -> None:
    rows = table(**CAPTIONS, patient=[f"p{k % 20}" for k in range(500)])
    train, val, _ = drawn(rows, val={"fraction": 0.1, "by": "patient"})
    assert val.split_from == "10 % drawn by patient"
    assert len(set(val.column("patient"))) == 2
    assert not set(train.column("patient")) & set(val.column("patient"))
    assert len(set(drawn(rows, val={"fraction": 0.1, "by": "row"})[1].column("image"))) > 30
    with pytest.raises(BadInput, match="no column 'pateint' .did you mean 'patient'"):
        drawn(rows, val={"fraction": 0.1, "by": "pateint"})
    with pytest.raises(BadInput, match="all 4 rows of a.csv hang together by one"):
        drawn(table(one=["x"] * 4), val={"fraction": 0.3, "by": "one"})


def test_val_and_test_are_shares_of_the_same_rows(tmp_path: Path) -> None:
    rows = "\n".join(f"{k},{k // 2},{k % 3}" for k in range(100))
    (tmp_path / "a.csv").write_text(f"x,patient,y\n{rows}\n")
    given = {"train": str(tmp_path / "a.csv"), "label": "y", "val": {"fraction": 0.2}}
    data = Data.model_validate(given | {"test": {"fraction": 0.3, "by": "patient"}})
    splits = load_splits(data, 0)
    assert {split: len(part) for split, part in splits.items()} == {"train": 50, "val": 20, "test": 30}
    assert len(np.unique(np.concatenate([part.rows for part in splits.values()]))) == 100
    assert splits["test"].split_from == "30 % drawn by patient, stratified by y"
    assert not {*splits["test"].column("patient")} & {p for s in ("train", "val") for p in splits[s].column("patient")}
    assert held_together(data) == ["patient"]
    frozen = with_groups(data, splits)
    assert (frozen.val, frozen.test) == (Fraction(fraction=0.2, by="row"), data.test)
    assert all((part.rows == splits[split].rows).all() for split, part in load_splits(frozen, 0).items())
    with pytest.raises(BadInput, match=r"data\.test\.by: .*no column 'pateint'"):
        load_splits(Data.model_validate(given | {"test": {"fraction": 0.3, "by": "pateint"}}), 0)
    with pytest.raises(ValueError, match="val and test take 1 of the training rows"):
        Data.model_validate(given | {"test": {"fraction": 0.8}})


def test_leaks_are_told_with_their_rows() -> None:
    train = table(image=["a.png", "b.png"], text=["a photo of a cat", "a photo of a dog"])
    test = table("t.csv", image=["c.png", "./b.png", "b.png"], text=["a photo of a cat"] * 3)
    assert list(leaks({"train": train, "test": test}, INPUTS)) == [
        "2 of 3 test rows have the image of a training row: t.csv row 2 that of a.csv row 2"
    ]
    assert not list(leaks({"train": train, "test": table("t.csv", "other", image=["b.png"])}, INPUTS)), "another file"


def test_copies_of_a_file_are_that_file(tmp_path: Path) -> None:
    for k in range(20):
        (tmp_path / f"{k}.png").write_bytes(f"picture {k // 2}".encode())
    rows = table(root=str(tmp_path), image=[f"{k}.png" for k in range(20)])
    assert sharing(rows, INPUTS).groups.tolist() == [k // 2 for k in range(20)]
    train, val, data = drawn(rows, val={"fraction": 0.2})
    assert {int(row) // 2 for row in val.rows} & {int(row) // 2 for row in train.rows} == set()
    again = with_groups(data, {"val": val}).val
    assert isinstance(again, Fraction)
    assert (draw(rows, again, data, 0, {})[1].rows == val.rows).all()
    other = table("t.csv", root=str(tmp_path), image=["1.png", "x.png"])
    assert list(leaks({"train": rows.take([0]), "test": other}, INPUTS)) == []
    told = list(leaks({"train": rows.take([0, 4]), "test": other}, INPUTS))
    assert told == ["1 of 2 test rows have the image of a training row: t.csv row 1 that of a.csv row 1"]
