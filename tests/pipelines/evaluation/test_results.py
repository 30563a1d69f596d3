"""What is kept of evaluations."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from clx.pipelines.evaluation import results
from clx.pipelines.evaluation.evaluate import evaluate_run
from clx.pipelines.evaluation.results import Settings
from clx.pipelines.runs.folder import FOLDER, LAST

QUICK = Settings(resamples=20, episodes=20)


def test_what_was_evaluated_is_not_evaluated_again(digits_run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(digits_run, tmp_path / "run", ignore=shutil.ignore_patterns(FOLDER)))
    said: list[str] = []
    once = evaluate_run(copy, ["geometry"], QUICK, say=said.append)
    again = evaluate_run(copy, ["geometry"], QUICK, say=said.append)
    assert said[0].startswith("embedding 100 rows of ")
    assert said[1] == "geometry"
    assert "evaluated before" in said[2]
    said.clear()
    assert again == json.loads(results.dumps(once))
    assert again["model"] == str(copy)
    copy = copy.rename(tmp_path / "moved")
    ended = evaluate_run(copy, say=said.append)  # as training ended
    assert ended["model"] == str(copy)
    assert "evaluated before" in said.pop()
    assert not said
    assert ended["key"] == json.loads((copy / LAST).read_text())["key"]
    keys = {again["key"], ended["key"]}
    for changes in ({"checkpoint": "30"}, {"settings": Settings(resamples=21, episodes=20)}):
        keys.add(evaluate_run(copy, ["zeroshot"], **{"settings": QUICK, **changes}, say=said.append)["key"])  # type: ignore[arg-type]
    assert len(keys) == 4
    assert {each["key"] for each in results.saved(copy)} == keys
    for name, content in (("a", '{"schema": 2}'), ("b", '{"schema": 2, "key": [1]}'), ("c", "[]"), ("d", "{")):
        (copy / FOLDER / f"{name}.json").write_text(content)  # others' files are passed over
    assert {each["key"] for each in results.saved(copy)} == keys
    evaluate_run(copy, ["geometry"], QUICK, force=True, say=said.append)
    assert not any("evaluated before" in line for line in said)
    assert len(list(results.saved(copy))) == 4


def test_figures_are_told_where_they_cannot_be_kept(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(folder: Path, result: dict[str, Any]) -> None:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(results, "save", refuse)
    said: list[str] = []
    assert "geometry" in evaluate_run(copy, ["geometry"], QUICK, force=True, say=said.append)
    assert said[-1] == f"the result is not kept in {copy}: Permission denied"
