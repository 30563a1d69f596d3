"""The page: nothing in it is live but its own script, and what it says is what was saved."""

import csv
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clx.pipelines.config.schema import Config
from clx.pipelines.experiments.train import train
from clx.pipelines.report import confusions
from clx.pipelines.report.rendered import digest
from clx.pipelines.report.report import report
from clx.pipelines.runs.folder import read_config
from clx.pipelines.system.progress import Silent
from pages import HOSTILE, evaluation, shown


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
