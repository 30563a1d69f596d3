"""Configs of earlier formats: read where a run saved them, refused where a person wrote them."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from clx.pipelines.config.load import dump, load_config
from clx.pipelines.config.objects import make_losses
from clx.pipelines.config.options import parse
from clx.pipelines.config.schema import Config
from clx.pipelines.config.upgrade import FORMAT, upgrade
from clx.pipelines.system.errors import BadInput

MODALITIES = {"table": {"columns": ["x"]}, "text": {}, "image": {}}


def raw(*terms: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"data": {"train": "rows.csv"}, "modalities": MODALITIES, "objective": list(terms), **more}


def terms(config: dict[str, Any]) -> list[dict[str, Any]]:
    read: list[dict[str, Any]] = upgrade(config, "config")["objective"]
    return read


def test_old_words_of_a_saved_config_are_translated() -> None:
    old = (
        {"name": "symile", "negatives": "shuffled"},
        {"name": "average-view", "of": "mv-dhel"},
        {"name": "pairwise", "of": "mv-dhel"},
    )
    new = [{"name": "symile", "tuples": "shuffled"}, {"name": "average-view", "two_view": "mv-dhel"}]
    new.append({"name": "pairwise", "two_view": "mv-dhel"})
    assert terms(raw(*old)) == new
    first = upgrade(raw({"name": "l1"}, pretrain={"objective": list(old)}), "config")["stages"][0]
    assert first["objective"] == new
    make_losses(parse(Config, upgrade(raw(*old), "config"), "config"))


def test_heads_of_format_1_looked_at_all_inputs() -> None:
    assert terms(raw({"name": "l1", "inputs": ["table"]}, {"name": "conr", "inputs": ["table"]})) == [
        {"name": "l1", "inputs": None, "fuse": "mean"},
        {"name": "conr", "inputs": ["table"]},
    ]


def test_heads_of_format_2_looked_at_the_mean_of_all_inputs() -> None:
    old = raw({"name": "l1", "inputs": ["table"]}, {"name": "clip"}, format=2)
    assert terms(old) == [{"name": "l1", "inputs": ["table"], "fuse": "mean"}, {"name": "clip"}]
    assert upgrade(raw({"name": "l1"}, format=2) | {"objective": "mse"}, "config")["objective"] == {
        "name": "mse",
        "fuse": "mean",
    }
    assert terms(raw({"name": "l1"}, format=FORMAT)) == [{"name": "l1"}]
    one = raw({"name": "l1"}, format=2) | {"modalities": {"table": {}}}  # where all ways are the same
    assert upgrade(one, "config")["objective"] == [{"name": "l1"}]


def test_val_rows_of_format_2_were_drawn_one_by_one() -> None:
    old = raw({"name": "l1"}, format=2)
    old["data"] |= {"val": {"fraction": 0.1}}
    assert upgrade(old, "config")["data"]["val"] == {"fraction": 0.1, "by": "row", "stratify": False}
    assert upgrade(old | {"format": 3}, "config")["data"]["val"] == {"fraction": 0.1}
    assert upgrade(raw({"name": "l1"}, format=2), "config")["data"] == {"train": "rows.csv"}


def test_a_dumped_config_reads_back_and_is_left_alone() -> None:
    config = parse(Config, raw({"name": "l1", "inputs": ["table"]}), "config")
    saved = yaml.safe_load(dump(config))
    assert saved["format"] == FORMAT
    assert parse(Config, upgrade(saved, "config"), "config") == config


@pytest.mark.parametrize("number", [FORMAT + 1, 0, "2", True, None])
def test_a_format_that_this_version_does_not_know_is_refused(number: Any) -> None:
    with pytest.raises(BadInput, match="config format"):
        upgrade(raw({"name": "clip"}, format=number), "config.yaml")


@pytest.mark.parametrize(
    ("term", "reason"),
    [
        ({"name": "symile", "negatives": "shuffled"}, "'negatives' is called 'tuples' now"),
        ({"name": "average-view", "of": "mv-dhel"}, "'of' is called 'two_view' now"),
    ],
)
def test_a_file_that_a_person_wrote_is_told_the_new_word(term: dict[str, Any], reason: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(raw(term)))
    with pytest.raises(BadInput, match=reason):
        load_config(str(path))
    path.write_text(yaml.safe_dump(raw(term, format=1)))  # copied from a run
    make_losses(load_config(str(path)))


def test_missing_steps_were_no_holes_before_format_3(tmp_path: Path) -> None:
    long = {"time": "t", "channels": ["x"]}
    old = upgrade({"data": {"train": "x.csv", "long": long}, "format": 2}, "config.yaml")
    assert old["data"]["long"] == {"holes": False, **long}
    new = upgrade({"data": {"train": "x.csv", "long": long}, "format": 3}, "config.yaml")
    assert new["data"]["long"] == long


def test_what_was_kept_was_kept_in_memory(tmp_path: Path) -> None:
    saved = {"data": {"train": "rows.csv", "cache": True}, "modalities": MODALITIES, "objective": "clip", "format": 2}
    assert upgrade(saved, "config")["data"]["cache"] == "memory"
    off = upgrade(saved | {"data": {"train": "rows.csv", "cache": False}}, "config")
    assert parse(Config, off, "config").data.cache is None
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in saved.items() if key != "format"}))
    with pytest.raises(BadInput, match="data.cache = True: it is called `memory` now"):
        load_config(str(path))
    assert load_config(str(path), ["data.cache=disk", "train.workers=auto"]).data.cache == "disk"
    with pytest.raises(BadInput, match="train.workers"):
        load_config(str(path), ["data.cache=disk", "train.workers=-1"])


def test_batches_of_a_step_in_format_3_are_chunks_of_one() -> None:
    """A first stage took over what it did not change: both together made its steps."""

    def stages(train: dict[str, int], first: dict[str, int]) -> tuple[dict[str, object], dict[str, object]]:
        new = upgrade({"train": train, "pretrain": {"train": first}, "format": 3}, "config.yaml")
        return new["train"], new["stages"][0]["train"]

    four = {"batch_size": 256, "chunk": 64, "chunk_statistics": "chunk"}
    assert stages({"batch_size": 64, "accumulate": 4}, {"steps": 5}) == (four, {"steps": 5})
    assert stages({"batch_size": 64, "accumulate": 1}, {"accumulate": 4}) == ({"batch_size": 64}, four)
    assert stages({"batch_size": 64, "accumulate": 4}, {"batch_size": 32})[1] == {"batch_size": 128, "chunk": 32}
    alone = {"batch_size": 64, "chunk": None, "chunk_statistics": "batch"}
    assert stages({"batch_size": 64, "accumulate": 4}, {"accumulate": 1}) == (four, alone)


def test_a_board_is_one_of_the_trackers(tmp_path: Path) -> None:
    old = {"tensorboard": True, "log_to": ["wandb"], "steps": 3}
    stage = {"whole": True, "train": {"tensorboard": False, "steps": 2}}
    read = upgrade(raw({"name": "clip"}, format=FORMAT, train=old, stages=[stage, {}]), "config")
    assert read["train"] == {"log_to": ["tensorboard", "wandb"], "steps": 3}
    assert read["stages"][0]["train"] == {"steps": 2}
    path = tmp_path / "my.yaml"
    path.write_text(yaml.safe_dump(raw({"name": "clip"}, train={"tensorboard": True})))
    with pytest.raises(BadInput, match=r"tensorboard is gone: write log_to: \[tensorboard\]"):
        load_config(str(path))
