"""Labels that are columns of 1 and 0: what their cells say, what is refused, and what is not known."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from clx.pipelines.batches.columns import check_columns
from clx.pipelines.config.data_schema import Data
from clx.pipelines.config.objects import make_modalities
from clx.pipelines.config.schema import Config
from clx.pipelines.data.inferred import Asked
from clx.pipelines.data.label_columns import wholly_known, with_labels
from clx.pipelines.data.label_sets import holds_sets
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.data.splits import choose, load_splits
from clx.pipelines.data.understood import understood
from clx.pipelines.data.write_recipe import infer_config
from clx.pipelines.model.build import class_names
from clx.pipelines.system.errors import BadInput

CSV = "text,toxic,obs_a,obs_b\none,1,0,1\ntwo,0,,1\nthree,,,\nfour,0,0,0\n"


def told(source: str, label: list[str], **more: Any) -> list[tuple[Any, Any]]:
    """Of each training row, the labels that apply, and those known not to."""
    rows = load_splits(Data(train=source, label=label, **more), seed=0)["train"]
    return list(zip(rows.column("labels"), rows.column("absent_labels"), strict=True))


WANTED = [
    (["toxic", "obs_b"], ["obs_a"]),
    (["obs_b"], ["toxic"]),
    (None, None),
    ([], ["toxic", "obs_a", "obs_b"]),
]


def test_columns_become_sets(write: Any) -> None:
    assert told(write("a.csv", CSV), ["toxic", "obs_*"]) == WANTED
    data = Data(train=write("a.csv", CSV), label=["toxic", "obs_*"])
    rows = load_splits(data, seed=0)["train"]
    assert holds_sets(data, rows)
    assert wholly_known(data, rows) == 2
    assert class_names(Config(data=data, modalities={"text": {}}, objective="mlcd"), rows) == [
        "obs_a",
        "obs_b",
        "toxic",
    ]
    assert rows.notes == (
        f"{rows.name}: 3 labels from columns toxic, obs_a, obs_b: 4 of 12 cells unknown, 37.5 % of the known cells say "
        "that a label applies; 1 rows without any that is known; no cell says that obs_a applies",
    )


@pytest.mark.parametrize(
    ("present", "absent"), [("1", "0"), ("1.0", "0.0"), ("true", "False"), ("YES", "no"), (" 1 ", "0 ")]
)
def test_ways_to_say_so(write: Any, present: str, absent: str) -> None:
    cells = f"text,a,b\none,{present},{absent}\ntwo,{absent},\nthree,,N/A\n"
    assert told(write("a.csv", cells), ["a", "b"]) == [(["a"], ["b"]), ([], ["a"]), (None, None)]


def test_other_files_say_the_same(tmp_path: Path) -> None:
    columns = {"text": ["one", "two", "three"], "a": [True, False, None], "b": [0.0, float("nan"), None]}
    columns |= {"c": [1, None, None]}
    parquet.write_table(pa.table(columns), tmp_path / "a.parquet")
    lines = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    lines[1]["b"] = None
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for name in ("a.parquet", "a.jsonl"):
        assert told(str(tmp_path / name), ["a", "b", "c"]) == [(["a", "c"], ["b"]), ([], ["a"]), (None, None)], name


def test_a_column_in_pieces_is_read_as_one() -> None:
    cells = pa.chunked_array([[1, 0], [None], [0, 1]])
    data, rows = Data(train="t", label=["a"]), Manifest("t", Path(), pa.table({"a": cells}), np.arange(5))
    assert with_labels(rows, data).column("labels") == [["a"], [], None, [], ["a"]]
    odd = Manifest("t", Path(), pa.table({"a": pa.chunked_array([[1, 0], [None, 3]])}), np.arange(4))
    with pytest.raises(BadInput, match="t row 4, column a: 3 says neither"):
        with_labels(odd, data)


def test_names_of_labels_are_never_taken_for_what_cells_say(tmp_path: Path) -> None:
    columns = {"text": ["one", "two"], "-1": [1, 0], "a|b": [None, 1], "unknown": [0, None], "?x": [1, 1]}
    parquet.write_table(pa.table(columns), tmp_path / "a.parquet")
    wanted = [(["-1", "?x"], ["unknown"]), (["a|b", "?x"], ["-1"])]
    assert told(str(tmp_path / "a.parquet"), ["-1", "a|b", "unknown", "?x"]) == wanted


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("-1", "a.csv row 2, column b: '?-1'? may say .* -s data.label_cells.-1=absent or -s data.label_cells.-1=unk"),
        ("0.3", "a.csv row 2, column b: '?0.3'? says neither .* -s 'data.label_cells={\"0.3\": unknown}' says what"),
        ("2", "a.csv row 2, column b: '?2'? says neither"),
        ("maybe", "a.csv row 2, column b: 'maybe' says neither"),
    ],
)
def test_other_cells_are_refused_by_row(write: Any, cell: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        told(write("a.csv", f"text,a,b\none,1,0\ntwo,1,{cell}\nthree,0,{cell}\n"), ["a", "b"])


def test_what_other_cells_say_is_told(write: Any) -> None:
    source = write("a.csv", "text,a,b\none,1,-1\ntwo,-1,1.0\nthree,1,\n")
    assert told(source, ["a", "b"], label_cells={-1: "absent"}) == [(["a"], ["b"]), (["b"], ["a"]), (["a"], [])]
    assert told(source, ["a", "b"], label_cells={"-1.0": "unknown"}) == [(["a"], []), (["b"], []), (["a"], [])]
    assert told(source, ["a", "b"], label_cells={-1: "present", "": "absent"})[2] == (["a"], ["b"])
    source = write("b.csv", "text,a\none,1\ntwo,0\nthree,-1\nfour,maybe\n")
    with pytest.raises(BadInput, match=r"b.csv row 2, column a: '?0'? stands beside -1, which is absent: -s data"):
        told(source, ["a"], label_cells={-1: "absent", "Maybe": "unknown"})
    cells = {-1: "absent", 0: "unknown", "Maybe": "unknown"}
    assert told(source, ["a"], label_cells=cells) == [(["a"], []), (None, None), ([], ["a"]), (None, None)]


def test_what_does_not_fit_is_refused(write: Any, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="data.label, a list, makes a column 'labels' of its own: rename"):
        told(write("a.csv", "text,a,labels\none,1,x\n"), ["a"])
    with pytest.raises(BadInput, match="the label column 'none' reads as a missing label: rename it"):
        told(write("b.csv", "text,none\none,1\n"), ["none"])
    parquet.write_table(pa.table({"text": ["one"], "a": [[1, 0]]}), tmp_path / "a.parquet")
    with pytest.raises(BadInput, match="column a: a label's own column holds 1 or 0, and this lists"):
        told(str(tmp_path / "a.parquet"), ["a"])
    for wrong in ({"label": "a", "label_cells": {-1: "absent"}}, {"label": ["a"], "several": "|"}, {"label": []}):
        with pytest.raises(ValueError, match=r"label_cells is for|several divides|at least 1 item"):
            Data(train="x", **wrong)  # type: ignore[arg-type]


def test_a_label_that_a_source_lacks_is_not_known_there(write: Any) -> None:
    a = write("a.csv", "text,x,y\none,1,0\n")
    b = write("b.csv", "text,y,z\ntwo,1,0\n")
    c = write("c.csv", "text\nthree\n")
    data = Data(train=[{"source": s} for s in (a, b, c)], label=["x", "y", "z"], val=b)  # type: ignore[list-item]
    splits = load_splits(data, seed=0)
    rows = splits["train"]
    assert rows.column("labels") == [["x"], ["y"], None]
    assert rows.column("absent_labels") == [["y"], ["z"], None]
    assert class_names(Config(data=data, modalities={"text": {}}, objective="mlcd"), rows) == ["x", "y", "z"]
    assert splits["val"].column("labels") == [["y"]]
    (other,) = choose(data, 0, c, otherwise="file").values()
    assert "labels" not in other.columns


def test_windows_of_a_series_have_its_labels(write: Any) -> None:
    steps = "".join(f"{who},{t},{t % 5},{a},{b}\n" for who, a, b in (("p", 1, ""), ("q", 0, 1)) for t in range(8))
    source = write("a.csv", "who,t,v,a,b\n" + steps)
    more = {"long": {"id": "who", "time": "t", "channels": ["v"]}, "windows": {"length": 4, "stride": 4}}
    assert told(source, ["a", "b"], **more) == [(["a"], []), (["a"], []), (["b"], ["a"]), (["b"], ["a"])]
    with pytest.raises(BadInput, match="changes within who p"):
        told(write("b.csv", "who,t,v,a,b\n" + steps.replace("p,3,3,1", "p,3,3,0")), ["a", "b"], **more)


def config(source: str, **modalities: Any) -> Config:
    raw = {"data": {"train": source, "label": ["toxic", "obs_*"]}, "modalities": modalities}
    return Config.model_validate({**raw, "objective": {"name": "binary-cross-entropy"}})


def test_labels_are_no_inputs_of_a_table(write: Any) -> None:
    made = config(
        write("a.csv", CSV.replace("text", "x").replace("one", "1").replace("two", "2.5")),
        table={"columns": ["*", "[ox]*"]},
    )
    modalities = make_modalities(made)
    rows = load_splits(made.data, seed=0)["train"]
    check_columns(made, modalities, rows)
    assert modalities["table"].columns == ["x"]  # type: ignore[attr-defined]
    seen = understood(made, {"train": rows})
    assert {at["column"]: (at["use"], at["missing"]) for at in seen["columns"]} == {
        "x": ("input table", 0),
        "toxic": ("label", 1),
        "obs_a": ("label", 2),
        "obs_b": ("label", 1),
    }


WORDS = [
    "the",
    "a",
    "page",
    "is",
    "not",
    "good",
    "at",
    "all",
    "but",
    "this",
    "time",
    "one",
    "more",
    "edit",
    "was",
    "made",
]


def comments(write: Any, more: str = "") -> str:
    lines = []
    for i in range(60):
        words = " ".join(WORDS[(3 * i + k) % 16] for k in range(5))
        lines.append(f"{words} {i * i},{i % 2},{i // 2 % 2},{'' if i % 5 == 0 else i // 4 % 2}")
    return str(write("c.csv", f"comment,toxic,rude,mean{more}\n" + "\n".join(lines) + "\n"))


def test_init_asks_about_columns_of_1_and_0_and_takes_them(write: Any) -> None:
    source = comments(write)
    asked = (
        r"'toxic' is probably the answer \(one of 3 columns of 1 and 0 beside comment\): say --label toxic,rude,mean"
    )
    with pytest.raises(BadInput, match=asked):
        infer_config(source)
    for label in ("toxic,rude,mean", "toxic, [rm]*"):
        written = infer_config(source, Asked(label=label))
        assert written.config["data"]["label"] == [part.strip() for part in label.split(",")]
        assert written.config["modalities"] == {"text": {"column": "comment"}}
        assert written.config["objective"] == {"name": "binary-cross-entropy"}
    one = infer_config(source, Asked(label="rude"))
    assert one.config["modalities"] == {"text": {"column": "comment"}}
    assert "--label toxic,rude,mean" in one.found.unused["toxic"]
    assert """-s 'modalities.table.columns=["toxic"]'""" in one.found.unused["toxic"]
    one = infer_config(source, Asked(label="rude"), ["modalities.table.columns=[mean]"])
    assert one.config["modalities"]["table"] == {"columns": ["mean"]}
    with pytest.raises(BadInput, match="--label rood: .*no column 'rood'"):
        infer_config(source, Asked(label="toxic,rood"))
    with pytest.raises(BadInput, match="--target mean: --label names it too"):
        infer_config(source, Asked(label="toxic,mean", target=["mean"]))
