"""`clx eval` as a pipeline: what the tasks ask, what they refuse, and OpenCLIP models."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import normalize

from clx.pipelines.config.task_names import TASKS
from clx.pipelines.data.splits import load_splits
from clx.pipelines.evaluation import results
from clx.pipelines.evaluation.embeddings import contents, embed_manifest
from clx.pipelines.evaluation.evaluate import FILES, evaluate, evaluate_run
from clx.pipelines.evaluation.evaluated_rows import evaluated_rows, source_in
from clx.pipelines.evaluation.meaning import MEANING
from clx.pipelines.evaluation.results import Settings
from clx.pipelines.runs.checkpoint import load
from clx.pipelines.system.errors import BadInput
from configs import OPEN_CLIP

QUICK = Settings(resamples=20, episodes=20)


@pytest.fixture(scope="module")
def every(copy: Path) -> dict[str, Any]:
    """All tasks."""
    run = load(copy)
    return evaluate(run, source_in(load_splits(run.config.data, 0), "test"), TASKS, QUICK)


def test_every_task_has_its_lines(every: dict[str, Any]) -> None:
    assert {task: set(every[task]) for task in ("zeroshot", "probe", "knn", "svm", "recall", "fewshot")} == {
        "zeroshot": {"image", "table", "image+table"},
        **dict.fromkeys(("probe", "knn", "svm", "recall", "fewshot"), {"image", "table", "text", "image+table"}),
    }
    names = ("image", "table", "text")
    pairs = {f"{a}->{b}" for a in names for b in names if a != b}
    assert set(every["retrieval"]) == pairs | {"table+text->image", "image+text->table", "image+table->text"}
    assert set(every["geometry"]) == pairs | set(names)
    left = {"classification", "multilabel", "sts", "regression", "forecast", "forgetting", "analogies", "similarity"}
    assert set(every["skipped"]) == left
    assert (every["schema"], every["step"], every["split"], every["rows"]) == (2, 60, "test", 100)
    for task in every.keys() & set(results.tables(every)):
        for line in every[task].values():
            for name, limits in line.items():
                if name.endswith("_ci"):
                    assert limits[0] <= limits[1]
                    assert line[name[:-3]] is not None
    assert every["probe"]["image"]["top1"] > 0.5  # chance is 0.1
    assert every["knn"]["table"]["top1"] > 0.6
    assert every["svm"]["table"]["top1"] > 0.6
    assert every["fewshot"]["text"]["5-shot"] > every["fewshot"]["text"]["1-shot"] > 0.5
    matrix = every["zeroshot"]["image"]["confusion"]
    counts = np.array(matrix["counts"])
    assert counts.sum() == 100
    assert counts.trace() / 100 == pytest.approx(every["zeroshot"]["image"]["top1"])
    assert len(matrix["classes"]) == len(counts) == 10
    assert json.loads(results.dumps(every)) == json.loads(json.dumps(every))


def test_every_figure_is_explained(every: dict[str, Any]) -> None:
    tasks = every.keys() & set(TASKS)
    seen = {name for task in tasks for line in every[task].values() for name in line if not name.endswith("_ci")}
    counts = {"rows", "train_rows", "queries", "candidates", "classes", "ways", "episodes"}
    about = {"confusion", "path", "features", "weights", "R@5", "R@10", "5-shot", "roc"}
    assert seen - counts - about <= MEANING.keys()
    assert {"mae", "rmse", "gm", "r2", "pearson", "spearman"} <= MEANING.keys()


def test_retrieval_is_that_of_a_loop_over_rows(copy: Path) -> None:
    run = load(copy)
    source = evaluated_rows(run.config.data, 0, None, None, None)
    embedded = embed_manifest(run, source.rows)
    image, text = (contents(run, embedded, name).tolist() for name in ("image", "text"))
    first = {thing: row for row, thing in reversed(list(enumerate(text)))}
    partners: dict[int, set[int]] = {}
    for one, other in zip(image, text, strict=True):
        partners.setdefault(one, set()).add(other)
    z = {name: normalize(value, dim=1) for name, value in embedded.z.items()}
    things = list(first)
    scores = z["image"] @ z["text"][[first[thing] for thing in things]].T
    found = []
    for row in range(100):
        order = [things[k] for k in scores[row].argsort(descending=True)]
        places = sorted(order.index(thing) for thing in partners[image[row]])
        found.append((places[0] < 5, places[0] + 1, np.mean([(k + 1) / (at + 1) for k, at in enumerate(places)])))
    line = evaluate(run, source, ["retrieval"], QUICK)["retrieval"]["image->text"]
    assert (line["queries"], line["candidates"]) == (100, len(first))
    recall, ranks, precision = zip(*found, strict=True)
    assert line["R@5"] == pytest.approx(np.mean(recall))
    assert line["median_rank"] == np.median(ranks)
    assert line["mAP"] == pytest.approx(np.mean(precision), abs=1e-5)


def test_what_the_data_do_not_allow_is_named(copy: Path, tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("seg_a,seg_b,seg_c,seg_d,seg_e,seg_f,seg_g,display\n" + "1,1,1,1,1,1,0,red\n" * 3)
    with pytest.raises(BadInput, match="zeroshot: .* no column 'label'.*retrieval: needs two modalities"):
        evaluate_run(copy, ["zeroshot", "retrieval"], QUICK, data=str(tmp_path / "m.csv"), say=str)
    with pytest.raises(BadInput, match="'knnn'.*'knn'"):
        evaluate_run(copy, ["knnn"], QUICK, say=str)
    with pytest.raises(BadInput, match="other than those it is asked about"):
        evaluate_run(copy, ["probe"], QUICK, split="train", say=str)


def test_an_open_clip_model_on_a_class_folder(tmp_path: Path) -> None:
    import open_clip

    from clx.modalities.openclip import quiet

    (tmp_path / "clx-eval.json").write_text(json.dumps(OPEN_CLIP))
    open_clip.add_model_config(tmp_path / "clx-eval.json")
    with quiet():
        model, _, preprocess = open_clip.create_model_and_transforms("clx-eval")
    model.eval()
    torch.save(model.state_dict(), tmp_path / "w.pt")
    draw = np.random.default_rng(0)
    photos = tmp_path / "photos"
    for name, shade in (("red", 0), ("blue", 2), ("green", 1)):
        (photos / name).mkdir(parents=True)
        for k in range(12):
            pixels = draw.integers(0, 90, (32, 32, 3), dtype=np.uint8)
            pixels[..., shade] += 150
            Image.fromarray(pixels).save(photos / name / f"{k}.png")
    words = {"red": ["a red photo", "a warm one"], "blue": ["sky"], "green": ["grass", "leaves"]}
    templates = ("{}", "I see {} here")
    settings = Settings(phrasings=words, templates=templates, resamples=50, episodes=10, shots=(1,))
    said: list[str] = []
    found = evaluate_run(
        "clx-eval", ["all"], settings, pretrained=str(tmp_path / "w.pt"), data=str(photos), say=said.append
    )
    assert (found["model"], found["step"], found["split"]) == ("clx-eval", None, "all")
    allowed = {"zeroshot", "probe", "knn", "svm", "recall", "fewshot", "geometry"}  # there are images and classes only
    assert set(found["skipped"]) == set(TASKS) - allowed - {*FILES}, "all are those that need no file"
    paths = [(name, photos / name / f"{k}.png") for name in ("blue", "green", "red") for k in range(12)]
    with torch.no_grad(), quiet():
        tokens = open_clip.get_tokenizer("clx-eval")
        classes = []
        for name in ("blue", "green", "red"):
            rows = model.encode_text(tokens([t.format(w) for w in words[name] for t in templates]))
            classes.append(normalize(normalize(rows, dim=1).mean(0), dim=0))
        images = torch.stack([preprocess(Image.open(path)) for _, path in paths])
        answers = (normalize(model.encode_image(images), dim=1) @ torch.stack(classes).T).argmax(1)
    truth = torch.tensor([("blue", "green", "red").index(name) for name, _ in paths])
    assert found["zeroshot"]["image"]["top1"] == pytest.approx((answers == truth).double().mean().item())
    assert found["probe"]["image"]["top1"] > 0.8  # colours are easy even for random weights
    assert found["knn"]["image"]["rows"] + found["knn"]["image"]["train_rows"] == 36
    assert any("drawn at random" in line for line in said)
    assert found["geometry"]["image"]["temperature"] == pytest.approx(1 / model.logit_scale.exp().item(), rel=1e-4)


def test_an_open_clip_model_on_a_manifest_of_other_columns(tmp_path: Path) -> None:
    import open_clip

    from clx.modalities.openclip import quiet

    (tmp_path / "clx-eval2.json").write_text(json.dumps(OPEN_CLIP))
    open_clip.add_model_config(tmp_path / "clx-eval2.json")
    with quiet():
        torch.save(open_clip.create_model("clx-eval2").state_dict(), tmp_path / "w.pt")
    draw = np.random.default_rng(0)
    for k in range(8):
        Image.fromarray(draw.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(tmp_path / f"{k}.png")
    lines = [f"{k}.png,a picture of the number {k},{'ab'[k % 2]}" for k in range(8)]
    (tmp_path / "m.csv").write_text("\n".join(["photo,caption,species", *lines]))
    given: dict[str, Any] = {"pretrained": str(tmp_path / "w.pt"), "data": str(tmp_path / "m.csv"), "say": str}
    guessed = evaluate_run("clx-eval2", ["retrieval", "zeroshot"], QUICK, label="species", **given)
    assert set(guessed["retrieval"]) == {"image->text", "text->image"}
    assert guessed["zeroshot"]["image"]["rows"] == 8
    columns = {"image": "photo", "text": "caption"}
    named = evaluate_run("clx-eval2", ["retrieval"], QUICK, label="species", columns=columns, **given)
    assert named["retrieval"] == guessed["retrieval"]
    with pytest.raises(BadInput, match="no column 'specie'"):
        evaluate_run("clx-eval2", ["zeroshot"], QUICK, label="specie", **given)
    with pytest.raises(BadInput, match="no column 'photos'"):
        evaluate_run("clx-eval2", ["zeroshot"], QUICK, columns={"image": "photos"}, **given)
    with pytest.raises(BadInput, match="image and text"):
        evaluate_run("clx-eval2", ["zeroshot"], QUICK, columns={"sound": "photo"}, **given)
    with pytest.raises(BadInput, match="--data"):
        evaluate_run("clx-eval2", ["zeroshot"], QUICK, pretrained=given["pretrained"], say=str)


def test_recall_is_that_of_cosines(copy: Path) -> None:
    run = load(copy)
    source = evaluated_rows(run.config.data, 0, None, None, None)
    embedded = embed_manifest(run, source.rows)
    line = evaluate(run, source, ["recall"], QUICK)["recall"]["image"]
    z, labels = normalize(embedded.z["image"], dim=1), embedded.labels
    scores = (z @ z.T).fill_diagonal_(-2)
    hits = labels[scores.argmax(1)] == labels
    assert (line["queries"], line["candidates"], line["classes"]) == (100, 100, 10)
    assert line["R@1"] == pytest.approx(hits.double().mean().item())
    assert line["R@1_ci"][0] < line["R@1"] < line["R@1_ci"][1]
