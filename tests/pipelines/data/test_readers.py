"""Every format read, and every malformed file refused with its row."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clx.pipelines.config.data_schema import Data
from clx.pipelines.data import readers
from clx.pipelines.data.cell_files import resolve
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.data.readers import read_file
from clx.pipelines.data.splits import load_manifest, load_splits
from clx.pipelines.system.errors import BadInput, ClxWarning

DATA = Path(__file__).parents[3].parent / "shared" / "data"


def rows(manifest: Manifest) -> list[dict]:
    return [manifest.row(i) for i in range(len(manifest))]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_separator_is_sniffed_and_quotes_may_hold_it(write, separator) -> None:
    lines = [["image", "text"], ["a.png", f'"one{separator} two"'], ["b.png", "x,y" if separator != "," else "x"]]
    source = write("a.csv", "\n".join(separator.join(line) for line in lines))
    assert load_manifest(source).row(0) == {"image": "a.png", "text": f"one{separator} two"}


def test_csv_with_bom_crlf_newlines_and_quotes_in_cells(write) -> None:
    source = write("a.csv", b'\xef\xbb\xbfimage, text\r\na.png,"two\r\nlines"\r\n\r\nb.png,"say ""x"""\r\n')
    manifest = load_manifest(source)
    assert manifest.columns == ["image", "text"]
    assert rows(manifest) == [{"image": "a.png", "text": "two\r\nlines"}, {"image": "b.png", "text": 'say "x"'}]


def test_csv_cells_are_text_and_blank_cells_none(write) -> None:
    manifest = load_manifest(write("a.csv", 'a,b,c\n007,1.50,\n  ,NaN,""\n'))
    assert rows(manifest) == [{"a": "007", "b": "1.50", "c": None}, {"a": None, "b": "NaN", "c": None}]


def test_tsv_with_commas(write) -> None:
    assert load_manifest(write("a.tsv", "a,b\tc\n1,2\t3\n")).row(0) == {"a,b": "1,2", "c": "3"}


def test_one_column_without_separator(write) -> None:
    assert load_manifest(write("a.csv", "text\nhello\nworld\n")).column("text") == ["hello", "world"]


def test_jsonl_keeps_types_and_does_not_make_dates_of_text(write) -> None:
    lines = [{"n": 1, "x": 0.5, "t": "2020-01-01", "s": [1, 2, None]}, {"n": 2, "x": None, "t": " ", "s": [3.5]}]
    manifest = load_manifest(write("a.jsonl", "\n".join(map(json.dumps, lines))))
    first, second = rows(manifest)
    assert (first["n"], first["x"], first["t"]) == (1, 0.5, "2020-01-01")
    assert isinstance(first["n"], int)
    np.testing.assert_array_equal(first["s"], [1, 2, np.nan])
    assert second["x"] is None
    assert second["t"] is None
    np.testing.assert_array_equal(second["s"], [3.5])


def test_parquet_with_bytes_paths_and_series(tmp_path) -> None:
    table = pa.table(
        {
            "image": [{"bytes": b"x", "path": "a.png"}, {"bytes": None, "path": "b.png"}, None],
            "series": [[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0]], None],
            "word": pa.array(["a", "b", None]).dictionary_encode(),
            "number": [1.5, float("nan"), None],
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    first, second, third = rows(load_manifest(str(tmp_path / "a.parquet")))
    assert (first["image"], second["image"]) == (b"x", "b.png")
    assert first["series"].shape == (2, 2)
    assert first["series"].flags.writeable
    assert second["series"].tolist() == [[5.0, 6.0]]
    assert (first["word"], first["number"], second["number"]) == ("a", 1.5, None)
    assert set(third.values()) == {None}


def test_parquet_in_a_folder_named_like_a_partition_gains_no_column(tmp_path) -> None:
    (tmp_path / "split=train").mkdir()
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "split=train" / "a.parquet")
    assert load_manifest(str(tmp_path / "split=train" / "a.parquet")).columns == ["text"]


def test_class_folders(write, tmp_path) -> None:
    for name in ("cat/1.png", "cat/deep/2.JPG", "dog/3.png", "dog/notes.md", ".hidden/4.png"):
        write(name, b"x")
    manifest = load_manifest(str(tmp_path))
    found = {(row["image"], row["label"]) for row in rows(manifest)}
    assert found == {("cat/1.png", "cat"), ("cat/deep/2.JPG", "cat"), ("dog/3.png", "dog")}
    assert manifest.where(0) == f"{tmp_path}/cat/1.png"


def test_class_folders_by_split(write, tmp_path) -> None:
    for name in ("train/a/1.wav", "train/b/2.wav", "validation/a/3.wav", "test/b/4.wav"):
        write(name, b"x")
    splits = load_splits(Data(train=str(tmp_path)), seed=0)
    assert {split: m.column("audio") for split, m in splits.items()} == {
        "train": ["train/a/1.wav", "train/b/2.wav"],
        "val": ["validation/a/3.wav"],
        "test": ["test/b/4.wav"],
    }


def test_classes_named_like_splits_are_classes(write, tmp_path) -> None:
    write("train/1.png", b"x")
    write("plane/2.png", b"x")
    assert sorted(load_manifest(str(tmp_path)).column("label")) == ["plane", "train"]


def test_flat_folder_has_no_labels(write, tmp_path) -> None:
    write("1.npy", b"x")
    assert load_manifest(str(tmp_path)).columns == ["series"]


def test_folder_with_metadata(write, tmp_path) -> None:
    write("metadata.csv", "file_name,split\na.wav,train\nb.wav,test\n")
    splits = load_splits(Data(train=str(tmp_path)), seed=0)
    assert splits["test"].where(0) == f"{tmp_path}/metadata.csv row 2"
    assert resolve(splits["test"].cell(0, "file_name"), splits["test"]) == tmp_path / "b.wav"


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", b"", "the file is empty"),
        ("a.csv", b"\xef\xbb\xbf \n", "the file is empty"),
        ("a.csv", "a,b", "a header but no rows"),
        ("a.csv", "a,b\n", "a header but no rows"),
        ("a.csv", "a,b\n1,2\n\n3\n", "row 2: 1 cells where the header has 2 columns: '3'"),
        ("a.csv", 'a,b\n1,"2\n2"\n3,4,5\n', "row 2: 3 cells where the header has 2 columns"),
        ("a.csv", 'a,b\n1,2\n3,"4\n5,6\n', "row 2: a quote opens and is never closed"),
        ("a.csv", "a,b,a\n1,2,3\n", "column 'a' appears more than once"),
        ("a.csv", "a,b\n1,2\n3,é\n".encode("latin-1"), "line 3: not UTF-8 text (invalid"),
        ("a.csv", "a,é\n1,2\n".encode("latin-1"), "line 1: not UTF-8"),
        ("a.csv", "a,b\n1,2\n".encode("utf-16"), "begins like UTF-16"),
        ("a.jsonl", '{"a": 1}\n\n{"a": 2,}\n', "line 3: not JSON: "),
        ("a.jsonl", '[{"a": 1}, 2]\n', "row 2: expected an object, found a number"),
        ("a.jsonl", '{"a": 1}\n[2]\n', "line 2: expected one JSON object per line, found a list"),
        ("a.jsonl", '{"a": 1}\n{"a": "x"}\n', "line 2: 'a' is text here and a number in line 1"),
        ("a.jsonl", b'{"a": "x"}\n{"a": "\xff"}\n', "line 2: not UTF-8 text"),
        ("a.jsonl", "\n\n", "there are no rows of data"),
        ("a.parquet", b"PAR1 no", "not a Parquet file"),
        ("a.xlsx", b"x", "expected a folder or a file ending in .csv"),
        ("a.csv", "a,split\n1,train\n2,tset\n", "row 2: split is 'tset', but a split is one of train, val"),
        ("a.csv", "a,split\n1,train\n2,\n", "row 2: split is empty"),
        ("a.csv", "a,split\n1,test\n", "no row has the split 'train' (found: test)"),
        ("a.jsonl", '{"split": 1}\n', "column 'split' should hold train, val or test"),
    ],
)
def test_malformed_files_are_refused_with_one_line(write, name, content, says) -> None:
    source = write(name, content)
    with pytest.raises(BadInput) as error:
        load_splits(Data(train=source), seed=0)
    assert says in str(error.value)
    assert source in str(error.value)
    assert "\n" not in str(error.value)


def test_a_ragged_file_never_aborts_the_process(write, tmp_path) -> None:
    """A function of Python's given to Arrow's reader was let go of by a thread of its own while Python ended: exit
    code 134 in some runs. The process has to end for that to show, so there are two."""
    write("a.csv", "a,b,c\n" + "1,2,3\n" * 5 + "1,2,3,4\n1,2\n")
    code = (
        "import sys; from pathlib import Path; from clx.pipelines.data.readers import read_file\n"
        "try:\n    read_file(Path('a.csv'), 'a.csv')\nexcept Exception as error:\n    sys.exit(str(error))"
    )
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
        assert "a.csv row 6: 4 cells where the header has 3 columns: '1,2,3,4'" in done.stderr
    given = {
        keyword.arg
        for path in Path(readers.__file__).parent.glob("*.py")
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call)
        for keyword in call.keywords
    }
    assert "invalid_row_handler" not in given


def test_bad_byte_is_counted_over_the_whole_file(write) -> None:
    filler = "é,x\n" * 5_000_000  # more than one block, cut in the middle of a letter
    source = write("a.csv", b"ab,c\n" + filler.encode() + b"\xff,y\n")
    with pytest.raises(BadInput, match=f"line 5000002: .* at byte {5 + 25_000_000}"):
        load_manifest(source)


def test_absent_sources(tmp_path) -> None:
    with pytest.raises(BadInput, match="no such file or folder"):
        load_manifest(str(tmp_path / "a.csv"))
    with pytest.raises(BadInput, match="no image, audio or series files in this folder"):
        load_manifest(str(tmp_path))
    with pytest.raises(BadInput, match="did you mean 'digits'"):
        load_splits(Data(train="digit"), seed=0)
    with pytest.raises(BadInput, match="did you mean 'aeon:GunPoint'"):
        load_splits(Data(train="aeon:Gunpoint"), seed=0)


def test_folder_of_two_kinds_is_refused(write, tmp_path) -> None:
    write("a/1.png", b"x")
    write("a/1.wav", b"x")
    with pytest.raises(BadInput, match="1 image and 1 audio files"):
        load_manifest(str(tmp_path))


@pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data")
@pytest.mark.parametrize(
    ("source", "counts"),
    [
        ("fsdd", {"train": 2700, "test": 300}),
        ("mnist10k/mnist10k.parquet", {"train": 8000, "test": 2000}),
        ("cifar10/test.parquet", {"train": 10000}),
        ("uci/bike.csv", {"train": 15642, "test": 1737}),
        ("stsb_dir/val.csv", {"train": 1000}),
    ],
)
def test_real_data(source, counts) -> None:
    splits = load_splits(Data(train=str(DATA / source)), seed=0)
    assert {split: len(manifest) for split, manifest in splits.items()} == counts
    assert None not in splits["train"].row(5).values()


def test_ts_archives(tmp_path: Path) -> None:
    (tmp_path / "two.ts").write_text(
        "@problemName two\n@timeStamps false\n@missing true\n@univariate false\n@dimension 2\n@equalLength false\n"
        "@classLabel true up down\n@data\n1,2,3:4,?,6:up\n7,8:9,10:down\n"
    )
    table = read_file(tmp_path / "two.ts", "two.ts")
    assert table.column("label").to_pylist() == ["up", "down"]
    first, second = table.column("series").to_pylist()
    assert first[0] == [1, 4]
    assert np.isnan(first[1][1])
    assert second == [[7, 9], [8, 10]]
    (tmp_path / "bad.ts").write_text("@data\nx\n")
    with pytest.raises(BadInput, match="bad.ts: not a .ts file"):
        read_file(tmp_path / "bad.ts", "bad.ts")


@pytest.mark.parametrize(
    ("separator", "opens", "closes"),
    [("\t", '"So', '"Oh" she said'), (",", '"So he said', '"Oh" she said')],
)
def test_a_quote_that_swallows_rows_is_refused(write, separator, opens, closes) -> None:
    texts = ["fine", opens, "one", "two", closes, "end"]
    source = write("a.tsv" if separator == "\t" else "a.csv", "\n".join(f"{t}{separator}x" for t in ["text", *texts]))
    with pytest.raises(BadInput, match=r"row 2: a quote opens a cell there that goes on over the rows below"):
        load_manifest(source)


def test_a_quote_that_swallows_part_of_a_wide_table_or_the_next_row_is_refused(write) -> None:
    wide = ",".join(f"c{k}" for k in range(150))
    rows = "\n".join(",".join([text, *["1"] * 149]) for text in ("fine", '"So', '"Oh" she said'))
    with pytest.raises(BadInput, match=r"row 2: a quote opens a cell there that goes on"):
        load_manifest(write("a.csv", f"{wide}\n{rows}\n"))


def test_text_behind_a_quote_in_one_line_is_no_swallowed_row(write) -> None:
    source = write(
        "a.csv", 'text,label\n"Dear all,\nfirst, second\nbye" ,x\n"abc" ,y\n"one\ntwo" \t,z\n'.replace(" \t", " ")
    )
    assert load_manifest(source).column("label") == ["x", "y", "z"]


def test_lines_with_tabs_in_a_quoted_cell_are_told_of_where_they_look_like_rows(write) -> None:
    code = write("a.tsv", 'code\tlabel\n"def f():\n\treturn 1\n",x\ny\tz\n'.replace('",x', '"\tx'))
    assert load_manifest(code).column("label") == ["x", "z"]
    texts = ["fine", '"Great', "one", "two", 'it is 5"', "end"]
    swallowed = write("b.tsv", "\n".join(f"{text}\tx" for text in ["text", *texts]))
    with pytest.warns(ClxWarning, match=r"b.tsv row 2: a cell in quotes has lines with as many tabs as a row"):
        load_manifest(swallowed)


def test_lines_with_commas_in_a_quoted_cell_are_no_rows(write) -> None:
    source = write("a.csv", 'text,label\n"Dear all,\nfirst, second\nbye, you",x\n"Dear ""all"",\na, b\nbye",y\n')
    assert load_manifest(source).column("label") == ["x", "y"]


def test_a_header_in_the_middle_is_refused(write) -> None:
    source = write("a.csv", "a,b\n1,2\na,b\n3,4\na,b\n")
    with pytest.raises(BadInput, match="a.csv row 2: repeats the header, and so do 1 more: delete such lines"):
        load_manifest(source)
    assert len(load_manifest(write("b.csv", "a,b\n1,2\na,c\n"))) == 2
