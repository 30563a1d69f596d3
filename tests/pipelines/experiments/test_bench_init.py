"""`clx bench init`: a recipe, the sweep around it and a yardstick, logged and not made twice."""

import json
from pathlib import Path

import pytest

from clx.pipelines.data import choose_recipe
from clx.pipelines.experiments import bench_init, yardsticks
from clx.pipelines.system.errors import BadInput
from command import Command


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recipes of a few steps, and a sweep of two settings."""
    monkeypatch.setattr(choose_recipe, "STEPS", 30)
    monkeypatch.setattr(choose_recipe, "FEWEST_EPOCHS", 4)
    monkeypatch.setattr(bench_init, "RATES", (1.0,))
    monkeypatch.setattr(bench_init, "LENGTHS", (0.5,))
    flowers = bench_init.classification("sklearn:iris", yardsticks.boosted_classes("label"))
    monkeypatch.setattr(bench_init, "SETS", {"iris": flowers})


def test_a_set_is_swept_and_logged(short: None, tmp_path: Path) -> None:
    log, said = tmp_path / "log.jsonl", list[str]()
    (row,) = bench_init.table(["iris"], tmp_path, 2, True, log, said.append)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    settings = [line["setting"] for line in lines]
    assert settings[:3] == ["recipe", "recipe", "yardstick"]
    assert len(lines) == len(said) == 2 + 1 + 2 * 2
    recipe = [line["test"] for line in lines[:2]]
    assert row["recipe"] == pytest.approx(sum(recipe) / 2)
    assert row["yardstick"] == lines[2]["test"] < 0.2
    best = [line for line in lines if line["setting"] == row["setting"]]
    assert row["best of sweep"] == pytest.approx(sum(line["test"] for line in best) / 2)
    low, high = row["interval"]
    assert low <= row["difference"] <= high
    assert bench_init.table(["iris"], tmp_path, 2, True, log, said.append) == [row]
    assert len(said) == len(lines), "nothing is made twice"


def test_what_is_not_there_is_refused(clx: Command, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no set 'airfoils' .did you mean 'airfoil'"):
        bench_init.table(["airfoils"], tmp_path, 2, False, None, print)
    (tmp_path / "log.jsonl").write_text("[]\n")
    done = clx("bench", "init", "wine", "--log", "log.jsonl", cwd=tmp_path)
    assert (done.returncode, "is not a log of this command" in done.stderr) == (2, True)
    done = clx("bench", "init", "airfoil", "--data", "nowhere", cwd=tmp_path)
    assert (done.returncode, "nowhere/uci/airfoil.csv" in done.stderr) == (2, True), done.stderr
