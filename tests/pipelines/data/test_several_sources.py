"""Several sources to train on: one table of their rows, each row at home in its own source."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clx.modalities.image import Image
from clx.pipelines.batches.cells import cell_at
from clx.pipelines.config.data_schema import Data, Fraction
from clx.pipelines.config.options import parse
from clx.pipelines.data.leaks import leaks
from clx.pipelines.data.shared_content import keys_of, sharing
from clx.pipelines.data.splits import load_splits
from clx.pipelines.system.errors import BadInput
from clx.pipelines.use.embed import describe
from samples import png


def data(*sources: object, **more: object) -> Data:
    return parse(Data, {"train": list(sources), **more}, "test")


def test_rows_stand_one_after_the_other_and_are_named_by_their_source(write, tmp_path: Path) -> None:
    one = write("a.csv", "text,label\na,1\nb,2\n")
    pq.write_table(pa.table({"label": [3, None], "more": [0.5, 1.0]}), tmp_path / "b.parquet")
    other = str(tmp_path / "b.parquet")
    train = load_splits(data(one, {"source": other}), seed=0)["train"]
    assert train.row(1) == {"text": "b", "label": "2", "more": None}
    assert [train.row(i) for i in (2, 3)] == [
        {"text": None, "label": "3", "more": 0.5},
        {"text": None, "label": None, "more": 1.0},
    ]
    assert [train.where(i) for i in (1, 2)] == [f"{one} row 2", f"{other} row 1"]
    said = "\n".join(train.notes)
    assert "column 'label' holds numbers, read as text" in said
    assert f"{other} has no column 'text': it is missing there" in said
    assert f"{one} has no column 'more': it is missing there" in said
    assert f"2 of {one}, 2 of {other}, each once an epoch" in said


def test_splits_are_those_of_all_sources(write) -> None:
    one = write("a.csv", "a,split\n0,train\n1,val\n2,test\n")
    other = write("b.csv", "a\n" + "".join(f"{i}\n" for i in range(10, 20)))
    splits = load_splits(data(one, other), seed=0)
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 11, "val": 1, "test": 1}
    drawn = load_splits(data(other, write("c.csv", "a\n1\n2\n3\n4\n"), val=Fraction(fraction=0.5)), seed=1)
    assert {name: len(rows) for name, rows in drawn.items()} == {"train": 7, "val": 7}
    assert sorted(drawn["train"].column("a") + drawn["val"].column("a")) == sorted(
        map(str, [*range(10, 20), 1, 2, 3, 4])
    )
    parts = drawn["train"].part_rows()
    assert [part.stop - part.start for part in parts] == [
        sum(int(cell) >= 10 for cell in drawn["train"].column("a")),
        sum(int(cell) < 10 for cell in drawn["train"].column("a")),
    ]


def test_paths_count_from_the_folder_of_their_own_table(tmp_path: Path) -> None:
    sources = []
    for k, name in enumerate(("one", "two")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.png").write_bytes(png(k))
        (tmp_path / name / "same.png").write_bytes(png(9))
        (tmp_path / name / "rows.csv").write_text("image\n0.png\nsame.png\n")
        sources.append(str(tmp_path / name / "rows.csv"))
    train = load_splits(data(*sources), seed=0)["train"]
    cells = [cell_at(train, i, "image", Image(encoder="cnn", size=8)) for i in range(4)]
    assert cells == [tmp_path / folder / name for folder in ("one", "two") for name in ("0.png", "same.png")]
    keys = keys_of(train, "image", Path())
    assert keys[0] != keys[2]
    assert keys[1] == keys[3]
    groups = sharing(train, {"image": True})
    assert groups.columns == ("image",)
    assert groups.groups[1] == groups.groups[3] != groups.groups[0]
    twin = load_splits(Data(train=sources[1]), seed=0)["train"]
    (said,) = leaks({"train": train.take([0, 1]), "val": twin}, {"image": True})
    assert said.startswith("1 of 2 val rows have the image of a training row")
    assert describe(train)["digest"] != describe(load_splits(data(*sources[::-1]), seed=0)["train"])["digest"]


def test_class_folders_beside_a_table(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "folders" / name).mkdir(parents=True)
        (tmp_path / "folders" / name / "0.png").write_bytes(png(0))
    (tmp_path / "0.png").write_bytes(png(1))
    (tmp_path / "rows.csv").write_text("image,label\n0.png,bird\n")
    train = load_splits(data(str(tmp_path / "rows.csv"), str(tmp_path / "folders")), seed=0)["train"]
    assert train.column("label") == ["bird", "cat", "dog"]
    assert train.where(0) == f"{tmp_path / 'rows.csv'} row 1"
    assert train.where(1) == str(tmp_path / "folders" / "cat" / "0.png")
    assert cell_at(train, 2, "image", Image(encoder="cnn", size=8)) == tmp_path / "folders" / "dog" / "0.png"


def test_an_epoch_with_shares_is_said(write) -> None:
    one, other = write("a.csv", "a\n" + "1\n" * 80), write("b.csv", "a\n" + "2\n" * 20)
    train = load_splits(data({"source": one, "share": 1}, {"source": other, "share": 1}), seed=0)["train"]
    assert train.notes[-2:] == (
        f"{one}: 50 % of the rows of a step; an epoch of 100 rows goes 0.625 times over its 80 rows",
        f"{other}: 50 % of the rows of a step; an epoch of 100 rows goes 2.5 times over its 20 rows",
    )


@pytest.mark.parametrize(
    ("train", "more", "said"),
    [
        ([{"source": "a.csv", "share": 0}], {}, "data.train|train.0.share = 0: should be greater than 0"),
        ([{"source": "a.csv", "share": -1}], {}, "greater than 0"),
        ([{"source": "a.csv", "share": 1}, "b.csv"], {}, "b.csv has no share: give each source one, or none"),
        (["a.csv", "a.csv"], {}, "a.csv is named twice"),
        ([], {}, "at least 1 item"),
        (
            [{"source": "a.csv", "share": 1}],
            {"label": "a", "balance": {"by": "sampling"}},
            "shares change how often they come",
        ),
        (["a.csv"], {"windows": {"length": 2, "stride": 1}}, "series of one source"),
    ],
)
def test_what_is_refused_before_anything_is_read(train: list[object], more: dict[str, object], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        data(*train, **more)


def test_sources_that_do_not_go_together_are_refused(write, tmp_path: Path) -> None:
    one, held_out = write("a.csv", "a\n1\n"), write("b.csv", "a,split\n1,val\n")
    with pytest.raises(BadInput, match=f"no training rows; those of {one} have"):
        load_splits(data({"source": one, "share": 1}, {"source": held_out, "share": 1}), seed=0)
    pq.write_table(pa.table({"a": [[1.0, 2.0]]}), tmp_path / "c.parquet")
    with pytest.raises(BadInput, match="column 'a' holds"):
        load_splits(data(one, str(tmp_path / "c.parquet")), seed=0)
