"""Exported encoders give what the run gives, from files alone."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from clx import use
from clx.modalities.base import Encoder
from clx.pipelines.config.schema import Config
from clx.pipelines.data.splits import choose
from clx.pipelines.experiments.train import train
from clx.pipelines.runs import checkpoint
from clx.pipelines.system.errors import BadInput, Refused
from clx.pipelines.use import export, export_onnx
from command import Command, inside


def test_safetensors_are_a_run(clx: Command, digits_run: Path, tmp_path: Path) -> None:
    done = clx("export", digits_run, "--format", "safetensors", "-o", tmp_path / "out", "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert [row["file"] for row in rows] == ["image.safetensors", "table.safetensors", "text.safetensors"]
    assert all(row["difference"] == 0 for row in rows)
    old, new = checkpoint.load(digits_run), checkpoint.load(tmp_path / "out")
    states = [checkpoint.weights(run.model, run.objective) for run in (old, new)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    told = json.loads((tmp_path / "out" / "clx.json").read_text())
    assert told["temperature"] == pytest.approx(old.objective.leading.tau.item())
    assert set(told["modalities"]) == {"image", "table", "text"}
    evaluated = [clx("eval", run, "--task", "zeroshot", "--json").stdout for run in (digits_run, tmp_path / "out")]
    assert json.loads(evaluated[0])["zeroshot"] == json.loads(evaluated[1])["zeroshot"]
    again = clx("export", tmp_path / "out", "--format", "safetensors", "-o", tmp_path / "again")
    assert again.returncode == 0, again.stderr
    (tmp_path / "out" / "image.safetensors").write_bytes(b"x")
    with pytest.raises(BadInput, match="image.safetensors has 1 bytes"):
        checkpoint.load(tmp_path / "out")


def test_what_is_not_an_export_is_left_alone(digits_run: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("x")
    with pytest.raises(BadInput, match="is no export"):
        list(export.export(digits_run, "safetensors", tmp_path))
    with pytest.raises(BadInput, match="has no checkpoint 'first'"):
        list(export.export(digits_run, "safetensors", tmp_path / "new", checkpoint="first"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["thesis.txt"]


def test_a_file_that_gives_something_else_is_refused(
    digits_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = checkpoint.load_parts

    def changed(folder: Path) -> dict[str, torch.Tensor]:
        state = plain(folder)
        state["model.towers.image.head.weight"][0] += 0.1
        return state

    monkeypatch.setattr(checkpoint, "load_parts", changed)
    with pytest.raises(Refused, match="image.safetensors gives outputs that differ"):
        list(export.export(digits_run, "safetensors", tmp_path / "out"))
    monkeypatch.undo()
    assert len(list(export.export(digits_run, "safetensors", tmp_path / "out"))) == 3  # not taken for something else
    with pytest.raises(BadInput, match="is what is to be exported"):
        list(export.export(tmp_path / "out", "safetensors", tmp_path / "out"))


def need_onnx() -> None:
    for name in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(name, reason="the extra onnx is not installed")


def test_one_graph(digits_run: Path, tmp_path: Path) -> None:
    """A table's, the smallest: `embedding` is the name of one of its operations, too."""
    need_onnx()
    run = checkpoint.load(digits_run)
    module = export.Exported(run, "table").eval()
    (manifest,) = choose(run.config.data, 0, None, None).values()
    inputs = list(export.samples(run, manifest, "table"))
    assert [len(value["x"]) for value in inputs] == [1, 5, 32]
    export.to_onnx(module, inputs, tmp_path / "table.onnx")
    import onnxruntime

    session = onnxruntime.InferenceSession(tmp_path / "table.onnx")
    assert [one.name for one in session.get_outputs()] == ["embedding"]
    for value in inputs:
        [ours] = session.run(["embedding"], {"x": value["x"].numpy()})
        with torch.no_grad():
            theirs = F.normalize(run.model.towers["table"](value), dim=-1).numpy()
        assert np.abs(ours - theirs).max() < 1e-5
        assert np.abs(np.linalg.norm(ours, axis=1) - 1).max() < 1e-5


def test_without_the_extra(digits_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_onnx, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"pip install '\.\[onnx\]'"):
        list(export.export(digits_run, "onnx", tmp_path / "out"))


@pytest.mark.slow
def test_every_kind_as_a_graph(clx: Command, tmp_path: Path, silent: Any) -> None:
    need_onnx()
    config = {
        "data": {"train": "digits", "label": "label"},
        "modalities": {
            "image": {"encoder": "cnn", "width": 4, "size": 8, "head": "mlp"},
            "audio": {"encoder": "mel-transformer", "width": 32, "layers": 1, "sample_rate": 4000},
            "series": {"encoder": "tsai:InceptionTimePlus", "width": 16},
            "table": {"columns": ["seg_*"], "encoder": "ft-transformer", "width": 32, "layers": 1},
            "text": {"layers": 1, "width": 32},
        },
        "embed_dim": 16,
        "objective": [{"name": "clip", "temperature": 0.1}, {"name": "cross-entropy"}],
        "train": {"steps": 4, "batch_size": 32},
        "eval": [],
    }
    train(Config.model_validate(config), tmp_path / "run", silent)
    done = clx("export", tmp_path / "run", "--format", "onnx", "--json", timeout=600)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert {row["modality"] for row in rows} == set(config["modalities"])
    assert all(row["difference"] < 1e-5 for row in rows)
    told = json.loads((tmp_path / "run" / "onnx" / "clx.json").read_text())
    series = told["modalities"]["series"]
    length = checkpoint.read_facts(tmp_path / "run").states["series"]["length"]
    assert series["inputs"]["x"]["shape"] == ["batch", length, 1]
    assert told["modalities"]["audio"]["inputs"]["x"]["shape"] == ["batch", "steps"]
    import onnxruntime

    session = onnxruntime.InferenceSession(tmp_path / "run" / "onnx" / "image.onnx")
    assert [one.name for one in session.get_outputs()] == ["embedding", "prediction"]
    assert len(told["classes"]) == 10


@pytest.mark.slow
def test_an_encoder_that_cannot_be_traced_is_named(clx: Command, digits_run: Path, monkeypatch: Any) -> None:
    need_onnx()
    run = checkpoint.load(digits_run)
    module = export.Exported(run, "table").eval()

    class Asks(Encoder):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.unique(dim=0)[: int(x.sum())]

    module.tower.encoder = Asks()
    (manifest,) = choose(run.config.data, 0, None, None).values()
    with pytest.raises(export.Unfit, match="cannot trace it"):
        export.to_onnx(module, list(export.samples(run, manifest, "table")), Path("never.onnx"))


@pytest.mark.filterwarnings("ignore::clx.pipelines.system.errors.ClxWarning")
@pytest.mark.parametrize(("name", "said"), [("../x", "letters, digits"), ("model", "a file of that name")])
def test_names_of_modalities_stay_in_the_folder(tmp_path: Path, silent: Any, name: str, said: str) -> None:
    """Also those of a config that was changed after the run."""
    raw = {
        "data": {"train": "sklearn:iris", "label": "label"},
        "modalities": {"model": {"kind": "table", "columns": ["*"], "width": 32, "layers": 1, "views": 2}},
        "embed_dim": 4,
        "objective": {"name": "nt-xent"},
        "train": {"steps": 1, "batch_size": 8},
        "eval": [],
    }
    train(Config.model_validate(raw), tmp_path / "run", silent)
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text().replace("\n  model:\n", f"\n  {name}:\n"))
    with pytest.raises(BadInput, match=said):
        list(export.export(tmp_path / "run", "safetensors", tmp_path / "out"))
    assert not list(tmp_path.rglob("x*"))


def test_int8_says_what_it_costs(tmp_path: Path, silent: Any) -> None:
    need_onnx()
    config = {
        "data": {"train": "sklearn:wine", "label": "label"},
        "modalities": {"table": {"columns": ["*"], "width": 32, "views": 2}},
        "embed_dim": 8,
        "objective": {"name": "supcon"},
        "train": {"steps": 1, "batch_size": 16},
        "eval": [],
    }
    train(Config.model_validate(config), tmp_path / "run", silent)
    words = ["export", str(tmp_path / "run"), "--int8", "-o", str(tmp_path / "out"), "--format"]
    done = inside(*words, "onnx", "--json")
    assert done.code == 0, done.err
    (row,) = json.loads(done.out)
    assert "keep their nearest" in done.err
    assert 0.9 < row["cosine"] < 1
    assert row["difference"] > 0
    assert 0 < row["same_nearest"] <= 1
    assert inside(*words, "safetensors").code == 2


@pytest.mark.parametrize("head", ["linear", "none"])
def test_open_clip_opens_a_pair_of_its_towers(
    small_models: Path, files: Path, tmp_path: Path, silent: Any, head: str
) -> None:
    open_clip = pytest.importorskip("open_clip")
    name, weights = "clx-lora", small_models / "clip.pt"
    tower = {"encoder": f"open_clip:{name}", "pretrained": str(weights), "head": head}
    config = {
        "data": {"train": str(files / "manifest.csv")},
        "modalities": {"image": tower, "text": dict(tower)},
        "embed_dim": 32 if head == "none" else 16,
        "objective": {"name": "siglip"},
        "train": {"steps": 1, "batch_size": 8},
        "eval": [],
    }
    train(Config.model_validate(config), tmp_path / "run", silent)
    rows = list(export.export(tmp_path / "run", "open_clip", tmp_path / "out"))
    assert all(row["difference"] < 1e-5 for row in rows)
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'out'}")
    picture = files / "image" / "05400.png"
    with torch.no_grad():
        pixels = transform(Image.open(picture).convert("RGB"))[None]
        z = (
            model.encode_image(pixels, normalize=True),
            model.encode_text(open_clip.get_tokenizer(name)(["seven"]), True),
        )
    ours = use.embed(tmp_path / "run", [{"image": str(picture), "text": "seven"}])
    for mine, theirs in zip((ours["image"], ours["text"]), z, strict=True):
        assert F.normalize(torch.from_numpy(mine), dim=1) == pytest.approx(theirs, abs=1e-5)
    run = checkpoint.load(tmp_path / "run")
    assert model.logit_scale.exp().item() == pytest.approx(1 / run.objective.leading.tau.item(), rel=1e-5)
    assert model.logit_bias.item() == pytest.approx(run.objective.leading.scale()[1], rel=1e-5)


def test_sentence_transformers_opens_a_text_tower(tmp_path: Path, small_models: Path, silent: Any) -> None:
    library = pytest.importorskip("sentence_transformers")
    texts = [f"{colour} {thing}" for colour in ("one", "two", "three") for thing in ("one", "two", "three", "fox")]
    (tmp_path / "rows.csv").write_text("first,second\n" + "".join(f"{t},{t} there\n" for t in texts))
    text = {"kind": "text", "encoder": f"hf:{small_models / 'bert'}", "templates": ["query: {}"], "pooling": "cls"}
    config = {
        "data": {"train": str(tmp_path / "rows.csv")},
        "modalities": {"first": text, "second": {"kind": "text", "like": "first"}},
        "embed_dim": 8,
        "objective": {"name": "clip"},
        "train": {"steps": 1, "batch_size": 8},
        "eval": [],
    }
    train(Config.model_validate(config), tmp_path / "run", silent)
    rows = list(export.export(tmp_path / "run", "sentence-transformers", tmp_path / "out"))
    assert [row["file"] for row in rows] == ["model.safetensors"] * 2
    theirs = library.SentenceTransformer(str(tmp_path / "out"), device="cpu").encode(texts)
    ours = use.embed(tmp_path / "run", [{"first": t} for t in texts])["first"]
    assert F.normalize(torch.from_numpy(ours), dim=1) == pytest.approx(torch.from_numpy(theirs), abs=1e-5)


def test_what_another_library_cannot_open_is_named(clx: Command, digits_run: Path, tmp_path: Path) -> None:
    for form, said in (("open_clip", "towers of one model, open_clip:NAME"), ("sentence-transformers", "hf:NAME")):
        done = clx("export", digits_run, "--format", form, "-o", tmp_path / form)
        assert done.returncode == 1
        assert said in done.stderr
