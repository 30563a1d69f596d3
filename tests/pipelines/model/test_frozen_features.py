"""Features of frozen encoders on files: made once for all runs of a process, while the files stay as they are."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clx.modalities.series import Series
from clx.modalities.text import Text
from clx.pipelines.batches.loader import once
from clx.pipelines.config.schema import Config
from clx.pipelines.data.splits import load_splits
from clx.pipelines.model import frozen_features
from clx.pipelines.model.build import prepare
from clx.pipelines.model.frozen_features import features
from clx.pipelines.model.tower import Tower
from clx.pipelines.training.rows import keep_frozen_features
from configs import small
from trained import trainer_of


def test_files_are_encoded_once_whatever_the_table_is_called(tmp_path: Path) -> None:
    for k in range(6):
        np.save(tmp_path / f"{k}.npy", np.sin(np.arange(20) * (k + 1)))
    (tmp_path / "a.csv").write_text("series\n" + "".join(f"{k}.npy\n" for k in range(6)) + "none.npy\n")
    (tmp_path / "b.csv").write_text("series\nother.npy\n" + "".join(f"{k}.npy\n" for k in range(6)) + "none.npy\n")
    series = {"encoder": "tcn", "width": 8, "freeze": True, "augmentation": "none", "head_dropout": 0.1, "views": 2}
    raw = small({"train": str(tmp_path / "a.csv"), "val": None}, {"series": series}, "infonce")
    config = Config.model_validate(raw)
    first = load_splits(config.data, 0)["train"]
    run = prepare(config, {"train": first})
    run.model.eval()
    calls: list[int] = []
    run.model.tower("series").encoder.register_forward_hook(lambda module, given, out: calls.append(len(out)))

    found = features(run, "series", first)
    assert sorted(found) == [0, 1, 2, 3, 4, 5]
    assert calls == [6]
    later = load_splits(config.data.model_copy(update={"train": str(tmp_path / "b.csv")}), 0)["train"]
    again = features(run, "series", later.take(np.arange(1, 8)))
    assert sorted(again) == [1, 2, 3, 4, 5, 6]  # by their numbers in the other table
    assert calls == [6]
    for row, value in found.items():
        torch.testing.assert_close(again[row + 1], value, rtol=0, atol=0)
    raw["modalities"]["series"] |= {"head": "mlp", "head_dropout": 0.3}
    other = prepare(Config.model_validate(raw), {"train": first})
    other.model.tower("series").encoder.load_state_dict(run.model.tower("series").encoder.state_dict())
    other.model.eval()
    assert features(other, "series", first)[0] is found[0]  # whatever head it has
    np.save(tmp_path / "3.npy", np.zeros(21) + np.arange(21))
    assert not torch.allclose(features(run, "series", first)[3], found[3])
    assert calls == [6, 6]


def test_it_is_said_how_far_features_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"series": [float(i + k) for k in range(9)], "text": f"what {i}"} for i in range(18)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    series = {"encoder": "dilated", "width": 16, "layers": 1, "freeze": True, "augmentation": "none"}
    modalities = {"series": series, "text": {"width": 32, "layers": 1}}
    data = {"train": str(tmp_path / "a.jsonl"), "val": None, "cache": "memory"}
    trainer = trainer_of(Config.model_validate(small(data, modalities, "clip")), tmp_path)
    monkeypatch.setattr(frozen_features, "MANY", 18)
    monkeypatch.setattr(frozen_features, "EVERY", 0.0)
    monkeypatch.setattr(frozen_features, "once", lambda count, size: once(count, 6))
    heard: list[str] = []
    for _ in range(2):  # they are known the second time
        keep_frozen_features(trainer.run, trainer.learner, trainer.rows, say=heard.append)
    of = "features of series by dilated"
    assert heard == [f"{of}, once: 18 rows", f"{of}: 6 of 18 rows", f"{of}: 12 of 18 rows"]


@pytest.mark.parametrize("crop", [0.0, 0.5])
def test_steps_of_a_frozen_encoder_are_computed_once_and_an_encoder_over_them_learns(
    crop: float, tmp_path: Path
) -> None:
    rows = [{"series": [float(i * k % 7) for k in range(5 + i % 4)], "text": f"what {i}"} for i in range(16)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    over = {"width": 8, "dropout": 0.1, "crop": crop, "mask": 0.2, "noise": 0.1}
    series = {"encoder": "dilated", "width": 8, "layers": 1, "freeze": True, "augmentation": "none"}
    modalities = {"series": {**series, "step_encoder": over}, "text": {"width": 32, "layers": 1}}
    data = {"train": str(tmp_path / "a.jsonl"), "val": None, "cache": "memory"}
    trainer = trainer_of(Config.model_validate(small(data, modalities, "clip")), tmp_path)
    tower, key = trainer.learner.model.tower("series"), once(16, 16)[0]
    plain = replace(trainer.rows, cache=None)[key]
    keep_frozen_features(trainer.run, trainer.learner, trainer.rows)
    known = trainer.rows[key]
    assert known.inputs["series"].keys() == {"steps", "mask"}
    assert not tower.encoder.get_submodule("inner").training
    trainer.learner.model.eval()
    torch.testing.assert_close(tower(known.inputs["series"]), tower(plain.inputs["series"]))
    trainer.learner.model.train()
    assert not torch.equal(tower(known.inputs["series"]), tower(known.inputs["series"]))  # training varies the steps
    before = {name: p.clone() for name, p in tower.named_parameters()}
    trainer.learner.update(known)
    still = {name for name, p in tower.named_parameters() if torch.equal(p, before[name])}
    assert still == {name for name in before if name.startswith("encoder.inner.")}


def test_an_encoder_over_steps_wants_steps() -> None:
    with pytest.raises(ValueError, match="lora and step_encoder"):
        Text(encoder="hf:x", lora={"rank": 1}, pretrained="x", step_encoder={})
    with pytest.raises(ValueError, match="prompt and step_encoder"):
        Text(width=32, prompt={"tokens": 2}, step_encoder={})
    assert Tower(Text(width=32, prompt="a word", step_encoder={"width": 16}), 8).width == 16
    with pytest.raises(ValueError, match="and minirocket has none"):
        Tower(Series(encoder="minirocket", width=84, step_encoder={}), 8)


@pytest.mark.parametrize(
    ("options", "once_only"),
    [
        ({}, True),  # `mild` changes no word, and there is one template
        ({"templates": ["{}", "the {}"]}, False),
        ({"templates": ["{}", "the {}"], "augmentation": "none"}, True),
        ({"augmentation": {"delete": 0.2}}, False),
        ({"views": 2, "head_dropout": 0.1}, False),
    ],
)
def test_texts_that_augmentation_leaves_alone_are_read_once(
    options: dict[str, Any], once_only: bool, tmp_path: Path
) -> None:
    (tmp_path / "a.csv").write_text("text,names\n" + "".join(f"what {i},it is {i}\n" for i in range(16)))
    text = {"width": 32, "layers": 1, "freeze": True, **options}
    modalities = {"text": text, "names": {"kind": "text", "width": 32, "layers": 1}}
    config = small({"train": str(tmp_path / "a.csv"), "val": None, "cache": "memory"}, modalities, "clip")
    trainer = trainer_of(Config.model_validate(config), tmp_path)
    plain = replace(trainer.rows, cache=None)[once(16, 16)[0]]
    keep_frozen_features(trainer.run, trainer.learner, trainer.rows)
    assert ("text" in trainer.rows.features) == once_only
    if once_only:
        tower = trainer.learner.model.eval().tower("text")
        known = trainer.rows[once(16, 16)[0]]
        torch.testing.assert_close(tower(known.inputs["text"]), tower(plain.inputs["text"]))
