"""`clx eval` as a pipeline: what the tasks ask, what they refuse, OpenCLIP models, and what is kept."""

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import normalize

from clx.pipelines.config.schema import TASKS, Data
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.data.splits import load_splits
from clx.pipelines.evaluation import results
from clx.pipelines.evaluation.embeddings import contents, embed_manifest
from clx.pipelines.evaluation.evaluate import evaluate, evaluate_run
from clx.pipelines.evaluation.evaluated_rows import evaluated_rows, source_in
from clx.pipelines.evaluation.result_key import _add_rows
from clx.pipelines.evaluation.results import Settings
from clx.pipelines.evaluation.zeroshot import phrasings_for
from clx.pipelines.runs.checkpoint import load
from clx.pipelines.runs.folder import FOLDER, LAST
from clx.pipelines.system.errors import BadInput

QUICK = Settings(resamples=20, episodes=20)


@pytest.fixture(scope="module")
def copy(digits_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the run to evaluate in."""
    return Path(shutil.copytree(digits_run, tmp_path_factory.mktemp("copy") / "run"))


@pytest.fixture(scope="module")
def every(copy: Path) -> dict[str, Any]:
    """All tasks, on some of the rows: the support vectors of task svm take most of the time."""
    run = load(copy)
    splits = load_splits(run.config.data, 0)
    every = {"train": 24, "val": 4, "test": 4}
    some = {name: manifest.take(range(0, len(manifest), every[name])) for name, manifest in splits.items()}
    return evaluate(run, source_in(some, "test"), TASKS, QUICK)


def test_every_task_has_its_lines(every: dict[str, Any]) -> None:
    assert {task: set(every[task]) for task in ("zeroshot", "probe", "knn", "svm", "fewshot")} == {
        "zeroshot": {"image", "table", "image+table"},
        **dict.fromkeys(("probe", "knn", "svm", "fewshot"), {"image", "table", "text", "image+table"}),
    }
    names = ("image", "table", "text")
    pairs = {f"{a}->{b}" for a in names for b in names if a != b}
    assert set(every["retrieval"]) == pairs | {"table+text->image", "image+text->table", "image+table->text"}
    assert set(every["geometry"]) == pairs | set(names)
    assert set(every["skipped"]) == {"regression", "forecast"}
    assert (every["schema"], every["step"], every["split"], every["rows"]) == (2, 60, "test", 270)
    for task in every.keys() & set(results.tables(every)):
        for line in every[task].values():
            for name, limits in line.items():
                if name.endswith("_ci"):
                    assert limits[0] <= limits[1]
                    assert line[name[:-3]] is not None
    assert every["probe"]["image"]["top1"] > 0.7  # chance is 0.1
    assert every["knn"]["table"]["top1"] > 0.8
    assert every["svm"]["table"]["top1"] > 0.8
    assert every["fewshot"]["text"]["5-shot"] > every["fewshot"]["text"]["1-shot"] > 0.5
    matrix = every["zeroshot"]["image"]["confusion"]
    counts = np.array(matrix["counts"])
    assert counts.sum() == 270
    assert counts.trace() / 270 == pytest.approx(every["zeroshot"]["image"]["top1"])
    assert len(matrix["classes"]) == len(counts) == 10
    assert json.loads(results.dumps(every)) == json.loads(json.dumps(every))


def test_every_figure_is_explained(every: dict[str, Any]) -> None:
    tasks = every.keys() & set(TASKS)
    seen = {name for task in tasks for line in every[task].values() for name in line if not name.endswith("_ci")}
    counts = {"rows", "train_rows", "queries", "candidates", "ways", "episodes"}
    about = {"confusion", "path", "features", "weights", "graded_by", "R@5", "R@10", "5-shot"}
    assert seen - counts - about <= results.MEANING.keys()
    assert {"mae", "rmse", "gm", "r2", "pearson", "spearman"} <= results.MEANING.keys()


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
    for row in range(1080):
        order = [things[k] for k in scores[row].argsort(descending=True)]
        places = sorted(order.index(thing) for thing in partners[image[row]])
        found.append((places[0] < 5, places[0] + 1, np.mean([(k + 1) / (at + 1) for k, at in enumerate(places)])))
    line = evaluate(run, source, ["retrieval"], QUICK)["retrieval"]["image->text"]
    assert (line["queries"], line["candidates"]) == (1080, len(first))
    recall, ranks, precision = zip(*found, strict=True)
    assert line["R@5"] == pytest.approx(np.mean(recall))
    assert line["median_rank"] == np.median(ranks)
    assert line["mAP"] == pytest.approx(np.mean(precision), abs=1e-5)


def test_what_was_evaluated_is_not_evaluated_again(digits_run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(digits_run, tmp_path / "run", ignore=shutil.ignore_patterns(FOLDER)))
    said: list[str] = []
    once = evaluate_run(copy, ["geometry"], QUICK, say=said.append)
    again = evaluate_run(copy, ["geometry"], QUICK, say=said.append)
    assert said[:2] == ["embedding 1080 rows of digits test", "geometry"]
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


def test_a_changed_file_is_evaluated_again(copy: Path, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    for k in range(4):
        Image.fromarray(draw.integers(0, 255, (8, 8), dtype=np.uint8)).save(tmp_path / f"{k}.png")
    (tmp_path / "m.csv").write_text("image,label\n" + "\n".join(f"{k}.png,{k % 2}" for k in range(4)))

    def key() -> str:
        found: str = evaluate_run(copy, ["zeroshot"], QUICK, data=str(tmp_path / "m.csv"), say=str)["key"]
        return found

    first = key()
    assert key() == first
    os.utime(tmp_path / "2.png", (1, 1))
    touched = key()
    (tmp_path / "m.csv").write_text("image,label\n" + "\n".join(f"{k}.png,0" for k in range(4)))
    assert len({first, touched, key()}) == 3


def test_the_key_follows_names_categories_and_files_of_pieces(tmp_path: Path) -> None:
    import hashlib

    import pyarrow as pa

    from clx.modalities.series import Series

    series = SimpleNamespace(modalities={"s": Series()})

    def key(**columns: Any) -> str:
        digest = hashlib.blake2b()
        made = pa.table(columns)
        _add_rows(digest, series, Manifest("m", tmp_path, made, np.arange(len(made))))
        return digest.hexdigest()

    x, y = pa.array([1, 2]), pa.array([3, 4])
    assert key(a=x, b=y) == key(a=x, b=y)
    assert key(a=x, b=y) != key(b=x, a=y)
    cats = pa.array(["cat", "dog"]).dictionary_encode()
    assert key(a=cats) != key(a=pa.array(["dog", "cat"]).dictionary_encode())
    np.save(tmp_path / "r.npy", np.zeros(20))
    pieces = pa.array(["r.npy#0:10", "r.npy#10:20"])
    before = key(s=pieces)
    os.utime(tmp_path / "r.npy", (1, 1))
    assert key(s=pieces) != before


def test_rows_are_not_learned_from_to_be_asked(tmp_path: Path) -> None:
    lines = [f"{k},{k % 2}" for k in range(20)]
    for name, some in (("train", lines[:10]), ("val", lines[10:15]), ("test", lines[15:])):
        (tmp_path / f"{name}.csv").write_text("\n".join(["x,label", *some]) + "\n")
    train_rows, val_rows, test_rows = (str(tmp_path / f"{name}.csv") for name in ("train", "val", "test"))
    data = Data(train=train_rows, val=val_rows, label="label")
    own = evaluated_rows(data, 0, train_rows, None, None)
    assert (own.split, own.train, own.drawn) == ("all", None, True)  # asked is a part, learned from the others
    val = evaluated_rows(data, 0, val_rows, None, None)
    assert val.train is not None
    assert (val.train.name, val.val) == (train_rows, None)
    other = evaluated_rows(data, 0, test_rows, None, None)
    assert (other.train is None, other.val is None) == (False, False)
    drawn = Data.model_validate({"train": train_rows, "val": {"fraction": 0.3}, "label": "label"})
    apart = evaluated_rows(drawn, 0, None, None, train_rows)
    assert apart.train is not None
    assert not set(apart.rows.rows.tolist()) & set(apart.train.rows.tolist())
    for source, learn in ((test_rows, test_rows), (train_rows, train_rows)):
        with pytest.raises(BadInput, match="these are the rows to evaluate"):
            evaluated_rows(data, 0, source, None, learn)


def test_another_source_is_cut_into_windows_too(tmp_path: Path) -> None:
    np.save(tmp_path / "r.npy", np.zeros(20))
    (tmp_path / "m.csv").write_text("series\nr.npy\n")
    listed = str(tmp_path / "m.csv")
    data = Data.model_validate({"train": listed, "windows": {"length": 10, "stride": 10}})
    found = evaluated_rows(data, 0, listed, None, None)
    assert found.rows.column(data.windows.column) == ["r.npy#0:10", "r.npy#10:20"]  # type: ignore[union-attr]


def test_embeddings_that_are_not_finite_are_refused(copy: Path) -> None:
    run = load(copy)
    with torch.no_grad():
        next(run.model.towers["image"].parameters()).fill_(float("nan"))
    with pytest.raises(BadInput, match="image embeddings are not finite"):
        embed_manifest(run, load_splits(run.config.data, 0)["test"].take(range(8)))


def test_figures_are_told_where_they_cannot_be_kept(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(folder: Path, result: dict[str, Any]) -> None:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(results, "save", refuse)
    said: list[str] = []
    assert "geometry" in evaluate_run(copy, ["geometry"], QUICK, force=True, say=said.append)
    assert said[-1] == f"the result is not kept in {copy}: Permission denied"


def test_what_the_data_do_not_allow_is_named(copy: Path, tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("seg_a,seg_b,seg_c,seg_d,seg_e,seg_f,seg_g,display\n" + "1,1,1,1,1,1,0,red\n" * 3)
    with pytest.raises(BadInput, match="zeroshot: .* no column 'label'.*retrieval: needs two modalities"):
        evaluate_run(copy, ["zeroshot", "retrieval"], QUICK, data=str(tmp_path / "m.csv"), say=str)
    with pytest.raises(BadInput, match="'knnn'.*'knn'"):
        evaluate_run(copy, ["knnn"], QUICK, say=str)
    with pytest.raises(BadInput, match="other than those it is asked about"):
        evaluate_run(copy, ["probe"], QUICK, split="train", say=str)


def test_words_for_classes() -> None:
    assert phrasings_for(["cat", "dog"], {}) == {"cat": ["cat"], "dog": ["dog"]}
    assert phrasings_for(["b"], {"a": ["x"], "b": ["y", "z"]}) == {"b": ["y", "z"]}
    assert phrasings_for(["0", "1"], {"cat": ["cat"], "dog": ["dog"]}) == {"0": ["cat"], "1": ["dog"]}
    with pytest.raises(BadInput, match="'dgo'.*'dog'"):
        phrasings_for(["cat", "dgo"], {"cat": ["cat"], "dog": ["dog"]})


OPEN_CLIP = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


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
    assert set(found["skipped"]) == {"retrieval", "regression", "forecast"}  # there are images and classes only
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
