"""The report: what it says agrees with oracles, nothing in it is live but its own script, and a browser draws it."""

import base64
import csv
import io
import itertools
import json
import math
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from clx.modalities.audio import Audio
from clx.modalities.image import Image as Image_
from clx.modalities.series import Series
from clx.modalities.table import Table
from clx.modalities.text import Text
from clx.pipelines import overview, pictures
from clx.pipelines.checkpoint import load
from clx.pipelines.config import Config
from clx.pipelines.errors import BadInput
from clx.pipelines.evaluate import Source, evaluate
from clx.pipelines.folder import read_config
from clx.pipelines.manifest import load_evaluation
from clx.pipelines.previews import preview
from clx.pipelines.report import digest, report
from clx.pipelines.train import train

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
    train(Config.model_validate(raw), run, Quiet())
    (run / "evaluations").mkdir()
    (run / "evaluations" / "one.json").write_text(json.dumps(evaluation(HOSTILE[0], 0.5)))
    return run


class Quiet:
    def step(self, done: int, total: int, **shown: float) -> None: ...
    def say(self, text: str) -> None: ...


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


@pytest.fixture(scope="module")
def seen(digits_run: Path) -> pictures.Seen:
    run = load(digits_run)
    _, manifest = load_evaluation(run.config.data, 0, None, None)
    return pictures.look(run, manifest, 200, pytest.fail)


def test_answers_are_those_of_the_evaluation(seen: pictures.Seen) -> None:
    expected = evaluate(seen.run, Source("test", seen.manifest), ["zeroshot"])["zeroshot"]
    found = {given["input"]: given for given in pictures.answers(seen)}
    assert set(found) == set(expected)
    for name, given in found.items():
        right = sum(n for i, j, n in given["cells"] if i == j)
        assert right / given["rows"] == pytest.approx(expected[name]["top1"])
        counts = np.zeros((len(seen.embedded.classes),) * 2, dtype=int)
        for i, j, n in given["cells"]:
            counts[i, j] = n
        assert expected[name]["confusion"] == {"classes": seen.embedded.classes, "counts": counts.tolist()}
        assert given["wrong"] == given["rows"] - right
        sure = [mistake["sure"] for mistake in given["mistakes"]]
        assert sure == sorted(sure, reverse=True)
        for mistake in given["mistakes"]:
            assert mistake["said"] != seen.rows[mistake["row"]][1]


def test_similarity_is_the_mean_over_pairs_of_other_rows() -> None:
    draw = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 9, 4, generator=draw)
    number = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2])
    for x, y, same in ((a, b, False), (a, a, True)):
        found = pictures._group_means(x, y, number, 4, same)
        for g in range(3):
            for h in range(3):
                among = itertools.product(torch.where(number == g)[0], torch.where(number == h)[0])
                pairs = [x[i] @ y[j] for i, j in among if not (same and i == j)]
                assert found[g, h].item() == pytest.approx(torch.stack(pairs).mean().item(), abs=1e-5)
        assert found[3].isnan().all()
        assert pictures.thousandths(found)[3] == [None] * 4  # no pair is no cosine of 0
        assert pictures.thousandths(found)[0][1] == round(found[0, 1].item() * 1000)


def test_partners_and_others(seen: pictures.Seen) -> None:
    line = next(pair for pair in pictures.paired(seen) if pair["inputs"] == "image and text")
    matrix = seen.unit["image"] @ seen.unit["text"].T
    off = matrix[~torch.eye(len(matrix), dtype=torch.bool)]
    assert line["paired"] == pytest.approx(matrix.diag().mean().item(), abs=1e-5)
    assert line["others"] == pytest.approx(off.mean().item(), abs=1e-5)


def test_neighbours_are_the_nearest_distinct_things(seen: pictures.Seen) -> None:
    found = pictures.neighbours(seen)["directions"]
    ways = {(way["from"], way["to"]): way["lines"] for way in found}
    assert ("image", "text") in ways
    assert ("image+table", "text") in ways
    for line in ways["image", "text"]:
        row = seen.items[line["asked"][0]]["row"]
        scores = seen.unit["text"] @ seen.unit["image"][row]
        best = sorted({(round(float(s), 4), int(t)) for s, t in zip(scores, seen.things["text"], strict=True)})
        assert [hit[1] / 1000 for hit in line["hits"]] == pytest.approx([s for s, _ in best[::-1][:5]], abs=1e-3)
        words = [seen.items[hit[0]]["text"] for hit in line["hits"]]
        assert len(set(words)) == len(words)
        for item, _, partner in line["hits"]:
            same = seen.things["text"][seen.items[item]["row"]] == seen.things["text"][row]
            assert bool(partner) == bool(same)


def test_map_is_sklearns_pca_of_distinct_things(seen: pictures.Seen) -> None:
    from sklearn.decomposition import PCA

    found = pictures.space(seen, 150)
    assert 150 <= len(found["item"]) < 160
    shown = [seen.items[k] for k in found["item"]]
    names = [seen.names[item["modality"]] for item in shown]
    assert names == [seen.names[k] for k in found["modality"]]
    keys = [(name, int(seen.things[name][item["row"]])) for name, item in zip(names, shown, strict=True)]
    assert len(set(keys)) == len(keys)
    x = torch.stack([seen.unit[name][item["row"]] for name, item in zip(names, shown, strict=True)]).double().numpy()
    pca = PCA(2).fit(x)
    assert found["pca"]["share"] == pytest.approx(pca.explained_variance_ratio_.tolist(), abs=1e-6)
    mine = np.array(found["pca"]["xy"], dtype=float)
    for k, axis in enumerate(pca.transform(x).T):
        assert abs(np.corrcoef(mine[k], axis)[0, 1]) > 0.9999
    assert all(len(points) == len(seen.names) for points in found["of"])
    assert np.ptp(np.array(found["tsne"]["xy"])) == 999


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], pictures.Seen]:
    """A run with a numeric target, looked at, by the name of its objective."""
    folder = tmp_path_factory.mktemp("numbers")
    draw = np.random.default_rng(0)
    with (folder / "rows.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["a", "b", "y", "split"])
        for k in range(200):
            a, b = draw.normal(size=2)
            rows.writerow([a, b, "" if k == 4 else a + 0.3 * b, "test" if k % 4 == 0 else "train"])

    def make(objective: str) -> pictures.Seen:
        raw = {
            "data": {"train": str(folder / "rows.csv"), "target": ["y"]},
            "modalities": {"table": {"columns": ["a", "b"], "width": 32, "layers": 1}},
            "embed_dim": 8,
            "objective": {"name": objective},
            "train": {"steps": 5, "batch_size": 32},
            "eval": [],
        }
        train(Config.model_validate(raw), folder / objective, Quiet())
        run = load(folder / objective)
        _, manifest = load_evaluation(run.config.data, 0, None, None)
        return pictures.look(run, manifest, 1000, pytest.fail)

    return make


def test_regression_by_region(numbers: Callable[[str], pictures.Seen]) -> None:
    seen = numbers("l1")
    splits = load_evaluation(seen.run.config.data, 0, None, "train")[1]
    found = pictures.regression(seen, splits)
    known = seen.targets.isfinite()
    assert int(known.sum()) == 49  # one test row has no target
    with torch.no_grad():
        said = seen.run.model.predict({"table": seen.embedded.z["table"]}, seen.embedded.present)[:, 0]
    error = (said - seen.targets).abs()
    assert found["how"] == "by the trained head"
    assert found["mae"] == pytest.approx(error[known].mean().item(), rel=1e-5)
    edges = found["edges"]
    assert sum(found["rows"]) == 49
    assert sum(found["train"]) == 150
    for k, mean in enumerate(found["error"]):
        last = k == len(edges) - 2
        part = known & (seen.targets >= edges[k]) & ((seen.targets < edges[k + 1]) | last)
        assert found["rows"][k] == int(part.sum())
        if part.any():
            assert mean == pytest.approx(error[part].mean().item(), rel=1e-5)
        else:
            assert mean is None
    by = pictures.similarity(seen)
    assert by["by"] == "target"
    assert len(by["names"]) == len(by["matrices"][0]["values"]) == 20


def test_regression_without_a_head_never_predicts_a_row_from_itself(numbers: Callable[[str], pictures.Seen]) -> None:
    seen = numbers("rank-n-contrast")
    known = seen.targets.isfinite()
    noise = np.random.default_rng(0).normal(size=int(known.sum()))
    seen.unit["table"] = torch.eye(len(seen))  # a row tells nothing about any other
    said = pictures._ridge(seen, known, noise)
    assert abs(np.corrcoef(said, noise)[0, 1]) < 0.9
    assert np.abs(said - noise).mean() > 0.5 * np.abs(noise - noise.mean()).mean()


def shown(config: Config, **changes: Any) -> overview.Shown:
    return overview.Shown(
        **{"name": "a", "folder": Path("a"), "config": config, "metrics": [], "evaluations": []} | changes
    )


def test_thinned_curves_keep_every_spike() -> None:
    values = [math.sin(k / 50) for k in range(20_000)]
    values[777], values[13_131], values[5] = 40.0, -40.0, float("nan")
    x, y = overview.thinned(list(enumerate(values)))
    assert len(x) <= overview.POINTS
    assert x == sorted(set(x))
    assert (x[0], x[-1]) == (0, 19_999)
    assert dict(zip(x, y, strict=True))[777] == 40.0
    assert dict(zip(x, y, strict=True))[13_131] == -40.0
    x, y = overview.thinned([(1, 1.0), (2, float("inf")), (3, 2.0)])
    assert (x, y) == ([1, 2, 3], [1.0, None, 2.0])


def test_config_difference_names_the_keys_that_differ_alone(make_config: Callable[..., Config]) -> None:
    a, b = make_config(), make_config(train__lr=0.5, objective={"name": "dcl", "temperature": 0.1})
    table = overview.difference([shown(a), shown(b, name="b")])
    assert table
    found = {row[0].text: [cell.text for cell in row[1:]] for row in table.rows}
    assert found["train.lr"] == ["0.001", "0.5"]
    assert found["objective.name"] == ['"clip"', '"dcl"']
    assert found["objective.learn_temperature"] == ["true", "absent"]
    assert set(found) == {"train.lr", "objective.name", "objective.learn_temperature"}
    assert overview.difference([shown(a), shown(a)]) is None
    less = a.model_copy(update={"modalities": {"image": a.modalities["image"]}})
    table = overview.difference([shown(a), shown(less)])
    assert table
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["modalities.table", '"mlp"', "absent"],
        ["modalities.text", '"transformer"', "absent"],
    ]


def test_figures_side_by_side(make_config: Callable[..., Config]) -> None:
    config = make_config()
    old, new, other = evaluation("x", 0.4), evaluation("x", 0.6, key="new"), evaluation("x", 0.5)
    runs = [shown(config, evaluations=[old, new]), shown(config, name="b", evaluations=[other])]
    (table,) = overview.evaluation_tables(runs)
    rows = {row[0].text: row[1:] for row in table.rows}
    assert [cell.text for cell in rows["x: top1"]] == ["0.600", "0.500"]  # the newest counts
    assert [cell.best for cell in rows["x: top1"]] == [True, False]
    assert rows["x: top1"][0].interval == "0.500 to 0.700"
    assert not any(cell.best for cell in rows["x: median_rank"])  # a tie has no best
    assert "x: rows" not in rows  # a count in which they agree
    (alone,) = overview.evaluation_tables(runs[1:])
    assert [head for head in alone.heads] == ["input", "top1", "rows", "median_rank"]


def test_a_thousand_classes_are_cut_to_those_with_most_mistakes() -> None:
    classes = [str(k) for k in range(1000)]
    cells = [[k, k, 5] for k in range(1000)] + [[k, 0, 3] for k in range(900, 1000)]
    made = overview.answer("t", "n.", classes, cells)
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
    (joined,) = overview.answers(one, fresh)
    assert joined["mistakes"] == ["m"]
    for other in ({"step": 2}, {"data": "more"}, {"split": "val"}):
        assert len(overview.answers(one, fresh | other)) == 2
    twice = shown(read_config(hostile), evaluations=[evaluation("table", 0.5), evaluation("table", 0.5, key="later")])
    assert [given["mistakes"] for given in overview.answers(twice, fresh)] == [["m"]]
    reworded = evaluation("table", 0.5) | {"settings": {"templates": ["a {}"], "phrasings": {}}}
    assert len(overview.answers(shown(read_config(hostile), evaluations=[reworded]), fresh)) == 2


def test_short_names() -> None:
    assert overview.short_names([Path("/x/a"), Path("/y/b")]) == ["a", "b"]
    assert overview.short_names([Path("/x/a"), Path("/y/a"), Path("/y/b")]) == ["x/a", "y/a", "y/b"]
    with pytest.raises(BadInput, match="twice"):
        overview.short_names([Path("/x/a"), Path("/x/a")])


def test_features_over_time_are_one_projection_of_the_encoders_steps(tmp_path: Path) -> None:
    raw = {
        "data": {"train": "digits", "label": "label"},
        "modalities": {"series": {"width": 64, "layers": 1, "views": 2, "augmentation": {"crops": 0.3, "autotcl": 1}}},
        "embed_dim": 8,
        "objective": {"name": "nt-xent"},
        "train": {"steps": 2, "batch_size": 16},
        "eval": [],
    }
    train(Config.model_validate(raw), tmp_path / "run", Quiet())
    run = load(tmp_path / "run")
    _, manifest = load_evaluation(run.config.data, 0, None, None)
    seen = pictures.look(run, manifest, 30, pytest.fail)
    (found,) = pictures.over_time(seen)
    every, drawn, mapped = [], [], []
    for line in found["lines"]:
        sample = seen.read(seen.items[line["item"]]["row"], "series")[1]
        with torch.no_grad():
            steps, _ = run.model.towers["series"].encoder.steps(**run.modalities["series"].collate([sample]))
        assert len(line["parts"][0]) == steps.shape[1]
        every.append(steps[0].double())
        drawn.append(np.array(line["parts"], dtype=float).T)
        mapped.append(np.array(line["features"], dtype=float).T)
    x, mine = torch.cat(every).numpy(), np.concatenate(drawn)
    axes = np.linalg.svd(x - x.mean(0))[2][:3]
    assert np.abs(mine).max(0).tolist() == [99, 99, 99]
    for k, part in enumerate(((x - x.mean(0)) @ axes.T).T):
        assert abs(np.corrcoef(part, mine[:, k])[0, 1]) > 0.99
    assert found["width"] == x.shape[1] > 16
    most = x.std(0).argsort()[::-1][:16]
    features, shown = (x - x.mean(0))[:, most], np.concatenate(mapped)
    np.testing.assert_allclose(shown, features / np.abs(features).max() * 99, atol=0.51)
    assert pictures.answers(seen)[0]["how"] == "by the 10 nearest other rows"
    (views,) = pictures.views(seen)
    assert views["augmentation"] == "crops 0.3, autotcl 1"
    assert views == pictures.views(seen)[0]  # drawn anew, the same
    for line in views["lines"]:
        whole, cut = line["sample"]["curves"][0], [view["curves"][0] for view in line["views"]]
        assert None not in whole
        assert len(cut) == 4
        assert any(None in view for view in cut)  # what a crop leaves out
        assert all(len(view) == len(whole) for view in cut)
        like = []
        for view in cut:
            both = np.array([(a, b) for a, b in zip(whole, view, strict=True) if b is not None])
            like.append(np.corrcoef(both.T)[0, 1])
        assert like[0] > 0.999  # the first is a crop and nothing else
        assert max(like[1:]) < 0.99


def test_votes_leave_a_row_itself_out(seen: pictures.Seen) -> None:
    from sklearn.neighbors import NearestNeighbors

    rows = seen.embedded.labels >= 0
    x, labels = seen.unit["image"].numpy(), seen.embedded.labels.numpy()
    near = NearestNeighbors(n_neighbors=pictures.VOTERS).fit(x).kneighbors(return_distance=False)
    expected = np.stack([(labels[near] == c).mean(1) for c in range(len(seen.embedded.classes))], 1)
    found = pictures._votes(seen, "image", rows).numpy()
    assert (np.abs(found - expected).max(1) < 1e-9).mean() > 0.97  # equal but for ties in distance


def picture(uri: str) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))


def test_preview_of_a_sound() -> None:
    rate = 8000
    time = np.arange(rate) / rate
    wave = np.sin(2 * np.pi * 1000 * time) * (time > 0.5)
    found = preview(Audio(sample_rate=rate), torch.from_numpy(wave.astype(np.float32)))
    assert found["seconds"] == 1.0
    quiet, loud = found["wave"][:30], found["wave"][34:]
    assert max(quiet) == 0
    assert min(loud) >= 90
    assert max(loud) == 99
    dark = picture(found["spectrum"]).astype(int)[..., :3].mean(2)  # rows from 4000 Hz down to 0
    band = dark[:, 40].argmin()
    assert band == pytest.approx(dark.shape[0] * 0.75, abs=2)
    assert dark[:, 5].min() > 200


def test_preview_of_a_series_leaves_out_what_tells_of_gaps() -> None:
    values = torch.stack([torch.linspace(0, 1, 300), torch.zeros(300), torch.ones(300), torch.ones(300)], 1)
    found = preview(Series(gaps="indicate"), values)
    assert (found["steps"], found["channels"]) == (300, 2)
    up, flat = found["curves"]
    assert (up[0], up[-1], set(flat)) == (0, 99, {0})
    assert up == sorted(up)


def test_preview_of_a_series_shows_steps_without_values_as_holes() -> None:
    values = torch.arange(10.0)[:, None]
    values[[0, 1, 5]] = torch.nan
    found = preview(Series(gaps="mask"), values)["curves"]
    assert found == [[None, None, 0, 14, 28, None, 57, 71, 85, 99]]


def test_preview_of_an_image_a_text_and_a_table() -> None:
    pixels = torch.zeros(3, 200, 100, dtype=torch.uint8)
    pixels[0] = 255
    seen = picture(preview(Image_(), pixels)["image"])
    assert seen.shape == (64, 32, 3)
    assert seen[30, 15, 0] > 230
    assert len(preview(Text(), "x" * 1000)["text"]) == 240
    cells = {f"c{k}": k / 3 for k in range(20)} | {"c1": None}
    found = preview(Table(), None, cells)
    assert found["cells"][:3] == [["c0", "0"], ["c1", ""], ["c2", "0.6667"]]
    assert found["more"] == 4
