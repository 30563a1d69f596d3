"""A leaderboard of runs whose figures are made up."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from clx.pipelines.report.leaderboard import boards, leaderboard
from clx.pipelines.system.errors import BadInput


def made_up(folder: Path, name: str, config: dict[str, Any], figures: dict[str, Any], **state: Any) -> None:
    run = folder / name
    (run / "checkpoints" / "step-00000001").mkdir(parents=True)
    modalities = {"table": {}}
    (run / "config.yaml").write_text(yaml.safe_dump({"modalities": modalities, **config}))
    (run / "state.json").write_text(json.dumps({"state": "finished", "steps": 9, **state}))
    (run / "results.json").write_text(json.dumps({"schema": 2, **figures}))


def classes(loss: str, seed: int, steps: int = 9, source: str = "sklearn:wine") -> dict[str, Any]:
    return {
        "data": {"train": source, "label": "label"},
        "objective": {"name": loss},
        "train": {"seed": seed, "steps": steps},
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    sweep = tmp_path / "sweep"
    for loss, values in {"cross-entropy": (0.80, 0.82), "supcon": (0.81, 0.83), "triplet": (0.5, 0.7)}.items():
        for seed, value in enumerate(values):
            figures = {"probe": {"table": {"top1": value}}, "knn": {"table": {"top1": 0.1}}}
            made_up(sweep, f"wine_{loss}_{seed}", classes(loss, seed), figures, rows_per_s=500.0)
    target = {"data": {"train": "gone.csv", "target": ["y"]}, "train": {"steps": 9}}
    for loss, steps in (("l1", 9), ("mse", 10)):
        config = target | {"objective": {"name": loss}, "train": {"steps": steps}}
        made_up(sweep, f"gone_{loss}", config, {"regression": {"table->y": {"r2": 0.5, "mae": 3.0}}})
    made_up(sweep, "begun", classes("vicreg", 0), {}, state="interrupted")
    return sweep


def test_objectives_are_ranked_by_data_and_recommendations_are_judged(folder: Path) -> None:
    said: list[str] = []
    wine, gone = boards(folder, said.append)
    assert [(p.objective, p.seeds, p.cost) for p in wine.places] == [
        ("supcon", 2, 2.0),
        ("cross-entropy", 2, 2.0),
        ("triplet", 2, 2.0),
    ]
    assert wine.measure == "probe.*.top1"
    assert wine.places[0].mean == pytest.approx(0.82)
    low, high = wine.places[0].interval or (0, 0)
    assert (high - low) / 2 == pytest.approx(12.706 * 0.01, rel=1e-3)  # Student's t of one degree, deviation .01414
    assert (wine.recommended, wine.hit) == ("cross-entropy", True)  # .81 is .988 of .82
    assert (gone.data, gone.measure, gone.recommended, gone.hit) == ("gone", "regression.*.r2", None, None)
    assert [place.interval for place in gone.places] == [None, None]
    assert "1 runs are not finished and left out" in said
    assert any("differ in train.steps" in line for line in said)
    assert any("gone: no recommendation" in line for line in said)


def test_a_recommendation_that_falls_short_is_a_miss(folder: Path) -> None:
    made_up(folder, "alone", classes("cross-entropy", 0, source="sklearn:iris"), {"knn": {"table": {"top1": 0.9}}})
    assert {board.data: board.hit for board in boards(folder, lambda line: None)}["iris"] is None  # beside nothing
    made_up(folder, "best", classes("multi-similarity", 0), {"probe": {"table": {"top1": 0.9}}})
    assert {board.data: board.hit for board in boards(folder, lambda line: None)}["wine"] is False


def test_a_label_that_no_run_learns_is_no_answer(tmp_path: Path) -> None:
    for loss in ("nt-xent", "vicreg"):
        made_up(tmp_path, loss, classes(loss, 0), {"probe": {"table": {"top1": 0.9}}})
    (board,) = boards(tmp_path, lambda line: None)
    assert (board.recommended, board.hit) == ("nt-xent", True)


def test_page_and_markdown(folder: Path, tmp_path: Path) -> None:
    told = leaderboard(folder, tmp_path / "page.html", lambda line: None)
    assert (told["hits"], told["judged"]) == (1, 1)
    lines = told["markdown"].splitlines()
    assert lines[2].startswith("| wine | probe top1 | supcon 0.820 (0.693 to 0.947) | cross-entropy 0.810 | hit |")
    assert len({line.count(" | ") for line in lines[2:]}) == 1
    page = (tmp_path / "page.html").read_text()
    assert "1 of 1 sets of data" in page
    assert "cross-entropy" in page
    assert "http" not in page.replace("http-equiv", "")
    json.dumps(told, allow_nan=False)
    leaderboard(folder, tmp_path / "page.html", lambda line: None)  # over its own page


def test_nothing_to_show(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="no finished run"):
        leaderboard(tmp_path / "empty", tmp_path / "a.html", lambda line: None)
    made_up(tmp_path / "empty", "bare", classes("clip", 0), {})
    with pytest.raises(BadInput, match="figure in common"):
        leaderboard(tmp_path / "empty", tmp_path / "a.html", lambda line: None)
    (tmp_path / "mine.html").write_text("mine")
    with pytest.raises(BadInput, match="no report of clx"):
        leaderboard(folder, tmp_path / "mine.html", lambda line: None)
