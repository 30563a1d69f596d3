"""Several captions or images in one row: which are drawn, which are averaged, and that a run on them resumes."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clx.modalities.draws import Draws
from clx.modalities.image import Image
from clx.modalities.text import Prompt, Text
from clx.pipelines.batches.batch import Key
from clx.pipelines.batches.cells import collate, content_of, vary
from clx.pipelines.batches.cuts import cut_lines, is_cut
from clx.pipelines.batches.dataset import BatchDataset
from clx.pipelines.config.schema import Config
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.data.pieces import Piece
from clx.pipelines.data.splits import load_manifest, load_splits
from clx.pipelines.experiments.train import train
from clx.pipelines.model.build import prepare
from clx.pipelines.model.rows_present import mean_of_rows
from clx.pipelines.system.errors import Stopped
from clx.pipelines.system.remote import Url
from clx.pipelines.use.export import export
from configs import small
from samples import png
from trained import StopAt, weights

ROWS = 24
WORDS = ("red", "green", "blue")


def captions(i: int) -> list[str]:
    return [f"{word} {i}" for word in WORDS[: 1 + i % 3]]


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    """24 rows of one or two images, one to three captions, and none to two labels."""
    lines = []
    for i in range(ROWS):
        images = [f"{i}.png", f"{i}b.png"][: 1 + i % 2]
        for k, name in enumerate(images):
            (tmp_path / name).write_bytes(png(2 * i + k))
        lines.append({"photo": images, "caption": captions(i), "tags": [t for t in ("a", "b") if (i + len(t)) % 3]})
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path / "m.jsonl"


def config(path: Path, objective: Any = "clip", **more: Any) -> Config:
    modalities = {
        "image": {"column": "photo", "size": 8, "width": 4},
        "text": {"column": "caption", "width": 32, "layers": 1},
    }
    return Config.model_validate(small({"train": str(path), "label": "tags"}, modalities, objective, **more))


def drawn(data: BatchDataset, epoch: int, view: str = "text") -> list[str]:
    """The captions of all rows in a training batch of an epoch."""
    held: list[str] = []

    def look(samples: Any) -> Any:
        held.append([str(sample) for sample in samples])
        return Text.collate(data.modalities["text"], samples)  # type: ignore[arg-type]

    data.modalities["text"].collate = look  # type: ignore[method-assign]
    data[Key(epoch, 0, np.arange(ROWS))]
    return held[int(view.partition("/")[2] or 0)]  # type: ignore[return-value]


def rows_of(path: Path, **more: Any) -> BatchDataset:
    views = more.pop("views", 1)
    text = Text(column="caption", width=32, layers=1, views=views)
    return BatchDataset(load_manifest(str(path)), {"text": text}, **more)


def test_one_caption_is_drawn_for_each_row_and_epoch(listed: Path) -> None:
    epochs = [drawn(rows_of(listed, augment=True, seed=5), epoch) for epoch in range(40)]
    assert epochs == [drawn(rows_of(listed, augment=True, seed=5), epoch) for epoch in range(40)]
    assert epochs != [drawn(rows_of(listed, augment=True, seed=6), epoch) for epoch in range(40)]
    for i in range(ROWS):
        counts = Counter(epoch[i] for epoch in epochs)
        assert set(counts) == set(captions(i))
        assert min(counts.values()) >= 40 / len(counts) / 3  # all alike, as far as 40 draws tell


def test_what_is_drawn_depends_on_seed_row_and_epoch_alone(listed: Path) -> None:
    whole = rows_of(listed, augment=True, seed=5)
    some = rows_of(listed, augment=True, seed=5)
    some.manifest = some.manifest.take([7, 2, 11])
    batch = {i: caption for i, caption in enumerate(drawn(whole, 3))}
    held: list[Any] = []
    some.modalities["text"].collate = lambda samples: held.append(samples) or {}  # type: ignore
    some[Key(3, 9, np.array([2, 0]))]
    assert [str(sample) for sample in held[0]] == [batch[11], batch[7]]


def test_views_have_different_captions(listed: Path) -> None:
    first, second = (drawn(rows_of(listed, augment=True, views=2), 1, f"text/{v}") for v in (0, 1))
    for i in range(ROWS):
        assert {first[i], second[i]} <= set(captions(i))
        assert (first[i] != second[i]) == (len(captions(i)) > 1)


def test_validation_has_the_first_caption(listed: Path) -> None:
    assert drawn(rows_of(listed, first=True), 0) == [captions(i)[0] for i in range(ROWS)]


def test_use_has_all_of_them_and_their_mean(listed: Path) -> None:
    run = prepare(made := config(listed), load_splits(made.data, 0))
    run.model.eval()
    data = BatchDataset(load_manifest(str(listed)), run.modalities)
    batch = data[Key(0, 0, np.arange(ROWS))]
    assert batch.inputs["text"]["of"].tolist() == [i for i in range(ROWS) for _ in captions(i)]
    assert batch.inputs["image"]["of"].tolist() == [i for i in range(ROWS) for _ in range(1 + i % 2)]
    z = run.model(batch.inputs, batch.present)["text"]
    text = run.modalities["text"]
    tower = run.model.tower("text")
    for i in (0, 1, 2):
        alone = tower(text.collate([text.read(caption) for caption in captions(i)]))
        torch.testing.assert_close(z[i], alone.mean(0))


def test_images_are_averaged_in_training_unless_one_is_to_be_drawn(listed: Path) -> None:
    for several, count in (("mean", ROWS + ROWS // 2), ("one", ROWS)):
        image = Image(column="photo", size=8, width=4, several=several)  # type: ignore[arg-type]
        batch = BatchDataset(load_manifest(str(listed)), {"image": image}, augment=True)[Key(0, 0, np.arange(ROWS))]
        assert len(batch.inputs["image"]["x"]) == count
        assert ("of" in batch.inputs["image"]) == (several == "mean")


def test_lists_are_varied_one_by_one() -> None:
    text = Text(templates=["{}", "a {}"])
    samples = [[Prompt("x"), Prompt("y")], Prompt("z"), [Prompt("v"), Prompt("w"), Prompt("u")]]
    (view,) = vary(text, [samples], [Draws.seeded(0, 3)])
    assert [[one.text for one in row] for row in view] == [["x", "y"], ["z"], ["v", "w", "u"]]
    assert collate(text, view)["of"].tolist() == [0, 0, 1, 2, 2, 2]


def test_mean_of_rows() -> None:
    found = mean_of_rows(torch.tensor([[1.0], [3.0], [5.0]]), torch.tensor([0, 0, 1]))
    assert found.tolist() == [[2.0], [5.0]]


def test_a_row_that_has_an_empty_list_lacks_the_input(tmp_path: Path) -> None:
    import pyarrow as pa

    table = pa.table({"text": [["a", "b"], [], None, [" "]]})
    data = BatchDataset(Manifest("t", tmp_path, table, np.arange(4)), {"text": Text()})
    assert data[Key(0, 0, np.arange(4))].present["text"].tolist() == [True, False, False, False]


@pytest.mark.parametrize("cache", [pytest.param(None, marks=pytest.mark.slow), "memory"])
def test_a_run_on_lists_resumes_bit_for_bit(listed: Path, tmp_path: Path, silent: Any, cache: str | None) -> None:
    objective = [{"name": "clip"}, {"name": "binary-cross-entropy", "inputs": ["image"]}]
    made = config(listed, objective, train={"steps": 6, "batch_size": 8, "workers": 0 if cache else 1})
    made = made.model_copy(update={"data": made.data.model_copy(update={"cache": cache})})
    train(made, tmp_path / "whole", silent)
    with pytest.raises(Stopped):
        train(made, tmp_path / "parts", StopAt(4))
    train(made, tmp_path / "parts", silent, resume=True)
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    logs = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "parts")]
    assert logs[0] == logs[1]


def test_a_frozen_text_encoder_still_has_another_caption_each_epoch(listed: Path, tmp_path: Path, silent: Any) -> None:
    made = config(listed, train={"steps": 6, "batch_size": 8})
    text = {**made.modalities["text"], "freeze": True, "augmentation": "none"}
    runs = {}
    for several in ("one", "mean"):
        modalities = {**made.modalities, "text": {**text, "several": several}}
        for cache in (None, "memory"):
            data = made.data.model_copy(update={"cache": cache})
            one = made.model_copy(update={"modalities": modalities, "data": data})
            train(one, tmp_path / f"{several}{cache}", silent)
            runs[several, cache] = weights(tmp_path / f"{several}{cache}")
    for several in ("one", "mean"):
        plain, cached = runs[several, None], runs[several, "memory"]
        assert all(torch.allclose(plain[name], cached[name], atol=1e-5) for name in plain)
    assert any(
        not torch.allclose(runs["one", "memory"][name], runs["mean", "memory"][name], atol=1e-4) for name in plain
    )


def test_contents_are_those_of_the_caption_that_was_drawn(listed: Path) -> None:
    data = rows_of(listed, augment=True, contents=True)
    batch = data[Key(4, 0, np.arange(ROWS))]
    assert batch.contents is not None
    assert batch.contents["text"].tolist() == [content_of(caption) for caption in drawn(data, 4)]
    first = rows_of(listed, first=True, contents=True)[Key(0, 0, np.arange(ROWS))].contents
    assert first is not None
    assert first["text"].tolist() == [content_of(captions(i)[0]) for i in range(ROWS)]


def test_a_caption_that_is_cut_counts(listed: Path) -> None:
    text = Text(column="caption", max_length=6)
    assert [is_cut(text, captions(i)) for i in (0, 1, 2)] == [False, True, True]  # green is too long
    (line,) = cut_lines(load_manifest(str(listed)), {"text": text})
    assert line.startswith("16 of 24 cells of caption")


def test_columns_of_negatives_are_cut_each_by_itself(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("wrong_1,wrong_2\nshort,short too\nshort,longer than it\n")
    wrong = Text(column=["wrong_1", "wrong_2"], max_length=10)
    (line,) = cut_lines(load_manifest(str(tmp_path / "t.csv")), {"wrong": wrong})
    assert line.startswith("1 of 2 cells of wrong_2 (50.0%)")
    assert line.endswith("row 2")


def test_content_is_all_of_a_cell() -> None:
    one, other = np.zeros(5000), np.zeros(5000)
    other[2500] = 1  # which NumPy's own text of a long array leaves out
    assert content_of((one, one)) == content_of((one.copy(), one)) != content_of((one, other))
    rows = [Piece(Url("https://there/t.parquet"), 0, row, "image.png", True) for row in (1, 2, 1)]
    assert content_of(rows[0]) == content_of(rows[2]) != content_of(rows[1])
    assert content_of(Url("https://there/get?id=1")) != content_of(Url("https://there/get?id=2"))
    assert content_of(["a cat", "b"]) != content_of(["a", "cat b"])
    assert content_of({"x": 1, "y": 2}) == content_of({"y": 2, "x": 1}) != content_of({"x": 2, "y": 1})


def test_a_run_on_lists_is_exported(listed: Path, tmp_path: Path, silent: Any) -> None:
    train(config(listed, ["clip"], train={"batch_size": 8}), tmp_path / "run", silent)
    found = list(export(tmp_path / "run", "safetensors", tmp_path / "out"))
    assert [(row["modality"], row["difference"]) for row in found] == [("image", 0), ("text", 0)]
    assert found[0]["compared"].startswith("1x3x8x8, 5x3x8x8")
