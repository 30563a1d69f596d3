"""What is said of many columns alike is one line."""

from pathlib import Path

from clx.modalities.text import Text
from clx.pipelines.batches.check import check_source
from clx.pipelines.batches.cuts import cut_lines, guessed_lines
from clx.pipelines.data.splits import load_manifest


def test_lengths_and_cut_cells_of_several_columns_are_a_line_each(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b\n" + "".join(f"{'x' * (300 + k)},{'y' * (320 + k)}\n" for k in range(4)))
    texts = {name: Text(column=name) for name in "ab"}
    for name, text in texts.items():
        text.fit("x" * (310 if name == "a" else 330) for _ in range(2))
    (line,) = guessed_lines(texts)
    assert line.startswith("modalities.a, modalities.b: texts are read up to 310, 330 bytes;")
    short = {name: Text(column=name, max_length=301) for name in "ab"}
    (line,) = cut_lines(load_manifest(str(tmp_path / "t.csv")), short)
    assert "a 2 of 4 over 301 bytes (max_length), b 4 of 4 over" in line
    assert line.endswith("the first is t.csv row 3")


def test_repeated_rows_of_texts_are_told(tmp_path: Path) -> None:
    rows = [f"what is the number of thing {k},it is number {k} as told\n" for k in range(20)]
    (tmp_path / "qa.csv").write_text("question,answer\n" + "".join(rows + rows[:3]))
    report = check_source(str(tmp_path / "qa.csv"), None)
    assert (report["ok"], report["counts"]) == (True, {"duplicate": 1})
    assert report["findings"][0]["reason"] == "3 of 23 rows repeat the content of another row of train"
