"""LoRA on towers of every library: only the changes learn, they alone are saved, and they can be merged."""

import copy
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from clx.modalities.base import Modality
from clx.modalities.image import Image
from clx.pipelines.experiments.train import train
from clx.pipelines.model.lora import OURS, merge
from clx.pipelines.model.towers import Tower
from clx.pipelines.runs import checkpoint
from clx.pipelines.runs.open import open_model
from clx.pipelines.system.errors import BadInput, Stopped
from clx.pipelines.use.export import export
from configs import Make
from small_models import MODELS, bert, clip_image, inputs
from trained import StopAt, weights

Options = dict[str, Any]


def tower(modality: Modality) -> Tower:
    torch.manual_seed(7)
    return Tower(modality, 8).eval()


def shaken(one: Tower) -> Tower:
    """With changes that change something."""
    for name, parameter in one.named_parameters():
        if name.endswith("lora_b"):
            nn.init.normal_(parameter, 0, 0.3, generator=torch.Generator().manual_seed(len(name)))
    return one


@pytest.mark.parametrize("make", MODELS)
def test_only_changes_and_the_head_learn_and_are_saved(make: Any, folder: Path) -> None:
    plain, modality = tower(make(folder)), make(folder, lora={"rank": 2, "alpha": 4})
    adapted, value = tower(modality), inputs(modality)
    adapted.head.load_state_dict(plain.head.state_dict())
    torch.testing.assert_close(adapted(value), plain(value), rtol=0, atol=0)  # B is zero
    shaken(adapted)
    said = adapted(value)
    assert (said - plain(value)).abs().max() > 1e-3
    said.square().sum().backward()
    learned = {name for name, p in adapted.named_parameters() if p.requires_grad}
    assert {name.rpartition(".")[2] for name in learned if not name.startswith("head")} == set(OURS)
    assert all(p.grad is not None and p.grad.any() for p in adapted.parameters() if p.requires_grad)
    saved = adapted.state_dict()
    assert {name for name in saved if name != "encoder.lora_base"} == learned
    again = copy.deepcopy(tower(modality))
    again.load_state_dict(saved)
    assert torch.equal(again(value), said)
    merge(adapted.encoder)
    torch.testing.assert_close(adapted(value), said, rtol=1e-4, atol=1e-5)
    whole = adapted.state_dict()
    assert whole.keys() == plain.state_dict().keys()
    plain.load_state_dict(whole)
    torch.testing.assert_close(plain(value), said, rtol=1e-4, atol=1e-5)


def test_changes_of_other_weights_are_refused(folder: Path) -> None:
    saved = tower(bert(folder, lora={"rank": 2})).state_dict()
    other = tower(bert(folder, lora={"rank": 2}))
    with torch.no_grad():
        next(iter(other.encoder.parameters())).add_(1)
    other.load_state_dict(saved)  # the digest is that of the weights as they were read
    saved["encoder.lora_base"] = saved["encoder.lora_base"] + 1
    with pytest.raises(RuntimeError, match="not those that the adapters were trained on"):
        other.load_state_dict(saved)
    with pytest.raises(RuntimeError, match="not those"):
        other.load_state_dict(tower(bert(folder)).state_dict())


def test_targets(folder: Path) -> None:
    one = tower(bert(folder, lora={"rank": 3, "targets": ["query", "value"]}))
    names = [name for name, p in one.encoder.named_parameters() if p.requires_grad]
    assert len(names) == 2 * 2 * 2
    assert all(".query." in name or ".value." in name for name in names)
    assert {tuple(p.shape) for p in one.encoder.parameters() if p.requires_grad} == {(3, 16), (16, 3)}


def test_dropout_is_of_the_changes_alone(folder: Path) -> None:
    modality = bert(folder, lora={"rank": 2, "dropout": 0.5})
    one, value = shaken(tower(modality)), inputs(modality)
    still = one(value)
    for part in one.encoder.modules():
        part.training = hasattr(part, "lora_dropout")
    torch.manual_seed(0)
    dropped = one(value)
    assert (dropped - still).abs().max() > 1e-3
    torch.manual_seed(0)
    assert torch.equal(dropped, one(value))


@pytest.mark.parametrize(
    ("make", "options", "said"),
    [
        (bert, {"lora": {"rank": 2, "targets": ["q_proj"]}}, "no linear layer called 'q_proj'; it has query, key"),
        (clip_image, {"lora": {"rank": 2, "dropout": 0.1}}, "lora.dropout: in_proj of this encoder"),
        (bert, {"lora": {"rank": 2}, "freeze": True}, "leave out freeze"),
        (bert, {"lora": {"rank": 2}, "freeze": True, "unlocked": 1}, "leave out freeze"),
        (bert, {"lora": {"rank": 2}, "pretrained": False}, "set pretrained"),
    ],
)
def test_what_cannot_be(make: Any, options: Options, said: str, folder: Path) -> None:
    with pytest.raises(ValueError, match=said):
        Tower(make(folder, **options), 8)
    with pytest.raises(ValueError, match="option of encoders"):
        Image(encoder="cnn", lora={"rank": 2})


def test_a_run_of_adapters(
    folder: Path, tmp_path: Path, make_config: Make, silent: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Saved small, resumed bit for bit, opened from another folder, exported whole."""
    shutil.copytree(folder, tmp_path / "models")
    monkeypatch.chdir(tmp_path / "models")
    towers = {
        "image": {"encoder": "open_clip:clx-lora", "pretrained": "clip.pt", "lora": {"rank": 2}},
        "text": {"encoder": "hf:bert", "lora": {"rank": 2, "dropout": 0.2}},
    }
    loop = {"steps": 4, "batch_size": 8, "ema": 0.5, "validate_every": 4}
    config = make_config(modalities=towers, train=loop)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(config, whole, silent)
    with pytest.raises(Stopped):
        train(config, parts, StopAt(2))
    train(checkpoint.read_config(parts), parts, silent, resume=True)
    saved = weights(whole)
    assert saved.keys() == weights(parts).keys()
    assert all(torch.equal(value, weights(parts)[name]) for name, value in saved.items())
    of_encoders = [name for name in saved if ".encoder." in name]
    assert {name.rpartition(".")[2] for name in of_encoders} == {*OURS, "lora_base"}
    trained = torch.load(checkpoint.last(whole).path / "trainer.pt", weights_only=True)
    assert trained["trained"].keys() == saved.keys()
    assert len(trained["optimizer"]["state"]) == len([n for n in saved if n.endswith((*OURS, "head.weight"))]) + 1
    monkeypatch.chdir(tmp_path)  # where no `clip.pt` is
    run = open_model(whole)
    assert all(row["file"] for row in export(whole, "safetensors", tmp_path / "out"))
    again = open_model(tmp_path / "out")
    assert again.modalities["image"].lora is None
    assert "encoder.tower.conv1.weight" in load_file(tmp_path / "out" / "image.safetensors")
    for name in ("image", "text"):
        value = inputs(run.modalities[name])
        old, new = (each.model.tower(name)(value) for each in (run, again))
        torch.testing.assert_close(new, old, rtol=1e-4, atol=1e-5)
    (tmp_path / "models" / "clip.pt").unlink()
    with pytest.raises(BadInput, match="modalities.image: no checkpoint file .*clip.pt"):
        open_model(whole)


@pytest.mark.slow
def test_a_run_of_adapters_as_graphs(folder: Path, tmp_path: Path, make_config: Make, silent: Any) -> None:
    """ONNX has the changes merged: `export` compares what its files give with what the run gives."""
    for name in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(name, reason="the extra onnx is not installed")
    towers = {
        "image": {"encoder": "open_clip:clx-lora", "pretrained": str(folder / "clip.pt"), "lora": {"rank": 2}},
        "text": {"encoder": f"hf:{folder / 'bert'}", "lora": {"rank": 2}},
    }
    train(make_config(modalities=towers, train={"steps": 4, "batch_size": 8, "lr": 0.05}), tmp_path / "run", silent)
    assert any(value.abs().max() > 0.01 for name, value in weights(tmp_path / "run").items() if name.endswith("lora_b"))
    rows = list(export(tmp_path / "run", "onnx", tmp_path / "out"))
    assert [row["modality"] for row in rows] == ["image", "text"]
    assert all(row["file"] and row["difference"] < 1e-5 for row in rows), rows
