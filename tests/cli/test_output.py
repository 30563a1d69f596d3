"""Tables as a terminal shows them."""

import re
import sys
from pathlib import Path

import pytest

from clx.cli import output, runs
from clx.cli.evaluation_tables import crossed, retrieval_in_short, tell_skipped
from clx.cli.search import show
from clx.pipelines.runs.folder import read_config
from clx.pipelines.use.search import Neighbours

Captured = pytest.CaptureFixture[str]


def drawn(
    rows: list[dict[str, object]],
    capsys: Captured,
    monkeypatch: pytest.MonkeyPatch,
    heads: tuple[str, ...] = ("input", "dim"),
    unbroken: str = "",
) -> list[str]:
    """Lines of a terminal 60 columns wide."""
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("TERM", "xterm")  # a dumb one has 80
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    output.emit_table(rows, "title", hidden="task", heads=heads, unbroken=unbroken)
    lines = re.sub("\x1b\\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    assert max(map(len, lines)) <= 60
    return lines


ROWS: list[dict[str, object]] = [
    {"task": "t", "input": name, **{f"figure{k}": f"0.{k}23 (0.111-0.222)" for k in range(6)}, **more}
    for name, more in (("image", {}), ("image+audio", {"only": 7}), ("text", {}))
]


def test_too_wide_a_table_is_turned_with_every_figure_whole(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = drawn(ROWS, capsys, monkeypatch)
    found = [[text.strip() for text in line.split("│")[1:-1]] for line in lines if "│" in line]
    for k in range(6):
        whole = f"0.{k}23 (0.111-0.222)"
        assert [f"figure{k}", whole, whole] in found  # two columns fit
        assert [f"figure{k}", whole] in found  # and one is left
    assert ["only", "", "7"] in found
    assert sum("title" in line for line in lines) == 1


def test_rows_of_one_input_are_told_apart_by_their_width(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = drawn([ROWS[0] | {"dim": 4}, ROWS[0] | {"dim": 16}], capsys, monkeypatch)
    assert any(line.split() == ["┃", "┃", "image", "dim", "4", "┃", "image", "dim", "16", "┃"] for line in lines)


@pytest.mark.parametrize("rows", [ROWS[:1] * 2, [{"input": "image", "top1": 0.5}]])
def test_a_table_stays_upright_where_it_fits_or_rows_are_called_alike(
    rows: list[dict[str, object]], capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert any("inpu" in line for line in drawn(rows, capsys, monkeypatch))


def test_words_stay_whole_where_the_figures_can_be_broken(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"input": "image+audio+series", "a": "0.972 (0.963-0.981)", "b": "0.972 (0.962-0.981)"}]
    assert any("│ image+audio+series │" in line for line in drawn(rows, capsys, monkeypatch))


def test_cells_that_are_held_together_leave_the_breaking_to_others(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[dict[str, object]] = [{"item": "x" * 80, "by": "image", "#1": "three 0.960", "#2": "nine 0.014"}]
    lines = drawn(rows, capsys, monkeypatch, (), "#")
    assert any("three 0.960 │ nine 0.014" in line for line in lines)


def test_wide_characters_take_two_columns(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[dict[str, object]] = [{"input": "東京の夜景と高い塔", "top1": 0.5}]
    assert any("│ 東京の夜景と高い塔 │" in line for line in drawn(rows, capsys, monkeypatch))


def test_rows_without_a_figure(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    assert drawn([{"input": "x" * 80}], capsys, monkeypatch)


def test_retrieval_in_many_directions_is_said_in_short() -> None:
    found = {f"a->{k}": {"R@10": k / 20} for k in range(13)} | {"a+b->c": {"R@10": 1.0}}
    said = retrieval_in_short({"retrieval": found})
    assert said == "retrieval: R@10 0.300 on average over 13 directions, from 0.000 (a->0) to 0.600 (a->12)"
    assert retrieval_in_short({"retrieval": dict(list(found.items())[:12])}) is None


def test_retrieval_in_many_directions_is_a_table_from_input_to_input() -> None:
    names = ["a", "b", "c", "d"]
    ways = [(asked, answer) for asked in [*names, "b+c+d"] for answer in names if answer not in asked]
    rows = [{"input": "->".join(way), "R@10": k / 20} for k, way in enumerate(ways)]
    square = crossed([*rows, {"input": "d->e", "R@10": 0.9}])
    assert square is not None
    assert [line["asked with"] for line in square] == ["a", "b", "c", "d", "e", "all others"]
    assert square[0] == {"asked with": "a", "a": None, "b": 0, "c": 0.05, "d": 0.1, "e": None}
    assert square[3]["e"] == 0.9
    assert square[-1] == {"asked with": "all others", "a": 0.6}
    assert crossed(rows) is None, "few"
    assert crossed([*rows, *rows, {"input": "d->e", "R@10": 0.9}]) is None, "of several widths"


def test_rows_that_an_evaluation_leaves_out_are_told_of(capsys: Captured) -> None:
    tell_skipped({"skipped": {"knn": "no"}, "classification": {"image": {"unknown_class": 14}, "text": {}}})
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "knn left out: no",
        "classification of image: 14 rows left out, since training had no row of their class",
    ]


def test_a_run_is_shown_without_keys_that_are_not_set_and_with_tables_of_figures(
    digits_run: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    runs.show(digits_run)
    said = re.sub("\x1b\\[[0-9;]*m", "", capsys.readouterr().out)
    assert "null" not in said
    assert f"train: {read_config(digits_run).data.train}" in said, "with its folder"
    assert "zeroshot on " in said
    assert "zeroshot.image.top1" not in said.partition("zeroshot on ")[2]


def test_hits_of_several_rows_say_how_many(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    hits: list[dict[str, object]] = [{"rank": 1, "rows": [3, 9], "id": "a"}, {"rank": 2, "rows": [4], "id": "b"}]
    show(Neighbours("seven", "text", "image", hits), json=False)
    assert "│    1 │    2 │ a  │" in capsys.readouterr().out
    show(Neighbours("seven", "text", "image", hits[1:]), json=False)
    assert "rows" not in capsys.readouterr().out
