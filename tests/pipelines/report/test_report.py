"""The report: what it says agrees with oracles, nothing in it is live but its own script, and a browser draws it."""

import csv
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clx.pipelines.config.schema import Config
from clx.pipelines.experiments.train import train
from clx.pipelines.report import confusions, run_facts, tables
from clx.pipelines.report.report import digest, report
from clx.pipelines.runs.folder import read_config
from clx.pipelines.system.progress import Silent

HOSTILE = ['<script>alert("x")</script>', "</script><img src=x onerror=alert(1)>", "quiet & 'plain'"]


class Tags(HTMLParser):
    """Every tag with its attributes, and the text of scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inside: list[tuple[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] in ("script", "style", "title", "th"):
            self.inside.append((self.tags[-1][0], data))

    def only(self, tag: str) -> list[str]:
        return [text for name, text in self.inside if name == tag and text.strip()]


def embedded(page: str) -> dict[str, Any]:
    """The JSON that the page draws."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found
    made: dict[str, Any] = json.loads(found[1])
    return made


def write(folder: Path, **options: Any) -> dict[str, Any]:
    made = report([folder], folder.parent / "page.html", say=lambda text: None, **options)
    return made | {"page": Path(made["report"]).read_text(encoding="utf-8")}


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on a manifest whose labels and names are an attack, with a saved evaluation of the same kind."""
    folder = tmp_path_factory.mktemp("<b>hostile")
    draw = np.random.default_rng(0)
    with (folder / "rows.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["label", "x", "<i>y", "split"])
        for k in range(120):
            rows.writerow([HOSTILE[k % 3], draw.normal(k % 3), draw.normal(), "test" if k % 4 == 0 else "train"])
    raw = {
        "data": {"train": str(folder / "rows.csv"), "label": "label"},
        "modalities": {
            "table": {"columns": ["x", "<i>y"], "width": 32, "layers": 1},
            "text": {"column": "label", "width": 32, "layers": 1},
        },
        "embed_dim": 8,
        "objective": {"name": "clip", "exclude": "labels"},
        "train": {"steps": 3, "batch_size": 16},
        "eval": [],
    }
    run = folder / "run<script>"
    train(Config.model_validate(raw), run, Silent())
    (run / "evaluations").mkdir()
    (run / "evaluations" / "one.json").write_text(json.dumps(evaluation(HOSTILE[0], 0.5)))
    return run


def evaluation(name: str, top1: float, step: int = 3, key: str = "k") -> dict[str, Any]:
    """A saved evaluation of three rows."""
    counts = [[1, 1, 0], [0, 1, 0], [0, 0, 0]]
    line = {"top1": top1, "top1_ci": [top1 - 0.1, top1 + 0.1], "rows": 3, "median_rank": 2.0, "top5": None}
    return {
        "schema": 2,
        "key": key,
        "step": step,
        "data": name,
        "split": "test",
        "rows": 3,
        "zeroshot": {name: line | {"confusion": {"classes": HOSTILE, "counts": counts}}},
    }


def test_nothing_is_live_but_the_pages_own_script(hostile: Path) -> None:
    page = write(hostile)["page"]
    seen = Tags(page)
    assert [tag for tag, _ in seen.tags].count("script") == 2
    assert not [tag for tag, _ in seen.tags if tag in ("img", "iframe", "object", "b", "i")]
    assert not [key for _, attributes in seen.tags for key in attributes if key.startswith("on") or key == "style"]
    for _, attributes in seen.tags:
        for key in ("src", "href"):
            assert (attributes.get(key) or "#").startswith(("#", "data:"))
    assert set(re.findall(r"https?://[^\"'\s)]*", page)) == {"http://www.w3.org/2000/svg"}  # a name, not a request
    panel = embedded(page)["panels"][0]
    assert sorted(panel["classes"]) == sorted(HOSTILE)  # data arrive as they are, and are only ever set as text
    assert any("<i>y" in str(item.get("cells")) for item in panel["items"])


def test_policy_allows_this_script_and_this_style_only(hostile: Path) -> None:
    page = write(hostile)["page"]
    seen = Tags(page)
    policy = next(a["content"] or "" for tag, a in seen.tags if tag == "meta" and "http-equiv" in a)
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    script = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    style = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    assert len(script) == len(style) == 1
    assert f"script-src '{digest(script[0])}'" in policy
    assert f"style-src '{digest(style[0])}'" in policy
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", script[0])


def shown(config: Config, **changes: Any) -> run_facts.ReportedRun:
    return run_facts.ReportedRun(
        **{"name": "a", "folder": Path("a"), "config": config, "metrics": [], "evaluations": []} | changes
    )


def test_config_difference_names_the_keys_that_differ_alone(make_config: Callable[..., Config]) -> None:
    a, b = make_config(), make_config(train__lr=0.5, objective={"name": "dcl", "temperature": 0.1})
    table = tables.difference([shown(a), shown(b, name="b")])
    assert table
    found = {row[0].text: [cell.text for cell in row[1:]] for row in table.rows}
    assert found["train.lr"] == ["0.001", "0.5"]
    assert found["objective.name"] == ['"clip"', '"dcl"']
    assert found["objective.learn_temperature"] == ["true", "absent"]
    assert set(found) == {"train.lr", "objective.name", "objective.learn_temperature"}
    assert tables.difference([shown(a), shown(a)]) is None
    less = a.model_copy(update={"modalities": {"image": a.modalities["image"]}})
    table = tables.difference([shown(a), shown(less)])
    assert table
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["modalities.table", '"mlp"', "absent"],
        ["modalities.text", '"transformer"', "absent"],
    ]


def test_figures_side_by_side(make_config: Callable[..., Config]) -> None:
    config = make_config()
    old, new, other = evaluation("x", 0.4), evaluation("x", 0.6, key="new"), evaluation("x", 0.5)
    runs = [shown(config, evaluations=[old, new]), shown(config, name="b", evaluations=[other])]
    (table,) = tables.evaluation_tables(runs)
    rows = {row[0].text: row[1:] for row in table.rows}
    assert [cell.text for cell in rows["x: top1"]] == ["0.600", "0.500"]  # the newest counts
    assert [cell.best for cell in rows["x: top1"]] == [True, False]
    assert rows["x: top1"][0].interval == "0.500 to 0.700"
    assert not any(cell.best for cell in rows["x: median_rank"])  # a tie has no best
    assert "x: rows" not in rows  # a count in which they agree
    options = {"k": 5, "confidence": 0.9, "phrasings": {"a": ["b"], "c": ["d"]}}  # k is not one of zeroshot
    fewer = evaluation("y", 0.9, key="newest") | {"data": "x", "settings": options}
    (table,) = tables.evaluation_tables([shown(config, evaluations=[old, new, fewer])])
    assert [row[0].text for row in table.rows] == ["y"]  # nothing of an evaluation with other options
    assert table.caption == "checkpoint of step 3, confidence 0.9, 2 phrasings"
    (alone,) = tables.evaluation_tables(runs[1:])
    assert [head for head in alone.heads] == ["input", "top1", "rows", "median_rank"]


def test_a_thousand_classes_are_cut_to_those_with_most_mistakes() -> None:
    classes = [str(k) for k in range(1000)]
    cells = [[k, k, 5] for k in range(1000)] + [[k, 0, 3] for k in range(900, 1000)]
    made = confusions.answer("t", "n.", classes, cells)
    assert made["classes"] == classes[900:]
    assert made["totals"] == [8] * 100
    assert "100 of 1000 classes" in made["note"]


def test_saved_confusion_takes_the_mistakes_of_the_same_checkpoint(hostile: Path) -> None:
    panel = embedded(write(hostile)["page"])["panels"][0]
    titles = [given["title"] for given in panel["answers"]]
    assert len(titles) == 2  # of another input: both stand
    assert panel["answers"][0]["cells"] == [[0, 0, 1], [0, 1, 1], [1, 1, 1]]
    one = shown(read_config(hostile), evaluations=[evaluation("table", 0.5)])
    fresh = {"step": 3, "data": "table", "split": "test", "classes": HOSTILE}
    fresh["answers"] = [{"how": "so", "input": "table", "rows": 2, "wrong": 1, "cells": [], "mistakes": ["m"]}]
    (joined,) = confusions.answers(one, fresh)
    assert joined["mistakes"] == ["m"]
    for other in ({"step": 2}, {"data": "more"}, {"split": "val"}):
        assert len(confusions.answers(one, fresh | other)) == 2
    twice = shown(read_config(hostile), evaluations=[evaluation("table", 0.5), evaluation("table", 0.5, key="later")])
    assert [given["mistakes"] for given in confusions.answers(twice, fresh)] == [["m"]]
    reworded = evaluation("table", 0.5) | {"settings": {"templates": ["a {}"], "phrasings": {}}}
    assert len(confusions.answers(shown(read_config(hostile), evaluations=[reworded]), fresh)) == 2
