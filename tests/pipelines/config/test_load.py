"""The config: precedence, strictness and messages."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from clx.pipelines.config.load import dump, first_stage, load_config, override, recipes
from clx.pipelines.config.options import parse
from clx.pipelines.config.schema import Config
from clx.pipelines.config.upgrade import upgrade
from clx.pipelines.system.errors import BadInput
from configs import two_stages

BASE = {
    "data": {"train": "pairs.csv"},
    "modalities": {"image": {}, "text": {}},
    "objective": {"name": "clip", "temperature": 0.1},
    "train": {"epochs": 3},
}


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(BASE))
    return str(path)


def test_precedence_is_default_file_setting_flag(file: str) -> None:
    assert load_config(file).train.batch_size == Config.model_fields["train"].default.batch_size
    assert load_config(file).train.epochs == 3
    assert load_config(file, ["train.epochs=4"]).train.epochs == 4
    assert load_config(file, ["train.epochs=4"], {"train.epochs": 5}).train.epochs == 5
    assert load_config(file, ["train.epochs=4"], {"train.epochs": None}).train.epochs == 4


def test_toml_says_the_same_as_yaml(file: str, tmp_path: Path) -> None:
    toml = tmp_path / "c.toml"
    toml.write_text(
        '[data]\ntrain = "pairs.csv"\n[modalities.image]\n[modalities.text]\n'
        '[objective]\nname = "clip"\ntemperature = 0.1\n[train]\nepochs = 3\n'
    )
    assert load_config(str(toml)) == load_config(file)


def test_settings_reach_lists_new_keys_and_numbers(file: str) -> None:
    config = load_config(file, ["data.val.fraction=0.2", "train.lr=1e-4", "modalities.image.encoder=cnn"])
    assert config.data.val is not None
    assert config.train.lr == 1e-4
    assert config.modalities["image"] == {"encoder": "cnn"}
    two = [{"name": "clip"}, {"name": "l1", "weight": 2}]
    config = load_config(file, [f"objective={yaml.safe_dump(two, default_flow_style=True)}", "objective.1.weight=3"])
    assert [term.weight for term in config.objective] == [None, 3]


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("train.epohcs=3", ["unknown key 'train.epohcs'", "did you mean 'epochs'"]),
        ("data.train=[{sorce: a.csv}]", ["unknown key 'data.train.0.sorce'", "did you mean 'source'"]),
        ("dta.train=x", ["unknown key 'dta'", "did you mean 'data'"]),
        ("train.lr=-1", ["train.lr = -1", "greater than 0"]),
        ("train.device=gpu", ["train.device = 'gpu'"]),
        ("train.batch_size=many", ["-s train.batch_size=many", "should be a whole number"]),
        ("train=3", ["train = 3"]),
        ("train.epochs.x=3", ["holds a value"]),
        ("objective.9.name=clip", []),
        ("epochs", ["expected key.path=value"]),
        ("data.val.fraction=1.5", ["data.val.fraction = 1.5: should be less than 1"]),
        ("train.lr=inf", ["should be a finite number"]),
        ("a=[", ["-s a=["]),
    ],
)
def test_wrong_settings_are_one_line(file: str, setting: str, words: list[str]) -> None:
    if not words:
        assert load_config(file, [setting]).objective  # a dictionary takes any key; the loss refuses it later
        return
    with pytest.raises(BadInput) as caught:
        load_config(file, [setting])
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_unknown_sources(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="did you mean 'digits'"):
        load_config("digit")
    with pytest.raises(BadInput, match="no such file"):
        load_config(str(tmp_path / "no.yaml"))
    broken = tmp_path / "b.yaml"
    for text in (b"a: [", b"\xff\xfe\x00", b"- 1\n- 2\n", b"", b"a: 1\n---\nb: 2\n", b"[" * 5000):
        broken.write_bytes(text)
        with pytest.raises(BadInput) as caught:
            load_config(str(broken))
        assert "\n" not in str(caught.value)


def test_no_code_runs_from_yaml(tmp_path: Path) -> None:
    path = tmp_path / "evil.yaml"
    path.write_text(f"!!python/object/apply:os.system ['touch {tmp_path}/marker']")
    with pytest.raises(BadInput):
        load_config(str(path))
    assert not (tmp_path / "marker").exists()


def test_dump_reads_back(file: str) -> None:
    config = load_config(file, ["data.val.fraction=0.2"])
    assert parse(Config, upgrade(yaml.safe_load(dump(config)), "again"), "again") == config


TWO: dict[str, Any] = {"image": {}, "text": {}}


@pytest.mark.parametrize(
    ("objective", "data", "modalities", "tasks"),
    [
        ("l1", {"target": "y"}, {"table": {}}, ["regression"]),
        ("l1", {"target": "y"}, TWO, ["regression"]),
        (["l1", "clip"], {"target": "y"}, TWO, ["retrieval", "regression"]),
        ("cosent", {"target": "y"}, {"a": {"kind": "text"}, "b": {"like": "a"}}, ["sts"]),
        ("mse", {"windows": {"length": 8, "stride": 8, "horizon": 2}}, {"series": {}}, ["forecast"]),
        ("nt-xent", {"label": "c"}, {"image": {}}, ["probe", "knn"]),
        ("nt-xent", {}, {"image": {}}, ["geometry"]),
        ("cross-entropy", {"label": "c"}, {"image": {}}, ["classification"]),
        ("cross-entropy", {"label": "c"}, TWO, ["classification"]),
        (["clip", "cross-entropy"], {"label": "c"}, TWO, ["classification", "zeroshot", "retrieval"]),
        ("clip", {"label": "c"}, TWO, ["zeroshot", "retrieval"]),
        ("clip", {}, TWO, ["retrieval"]),
        ("clip", {"label": "c"}, {"image": {}, "audio": {}}, ["retrieval", "probe", "knn"]),
        ("clip", {"label": "c"}, {"image": {}, "words": {"kind": "text"}}, ["zeroshot", "retrieval"]),
    ],
)
def test_tasks_follow_objective_and_data_where_none_are_given(
    objective: Any, data: dict[str, Any], modalities: dict[str, Any], tasks: list[str], tmp_path: Path
) -> None:
    raw = {"data": {"train": "t.csv", **data}, "modalities": modalities, "objective": objective}
    config = parse(Config, raw, "c")
    assert config.eval == tasks
    assert parse(Config, raw | {"eval": ["knn"]}, "c").eval == ["knn"]
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(raw | {"eval": tasks}))
    assert load_config(str(tmp_path / "c.yaml")).eval == tasks, "what is chosen may also be named"


@pytest.mark.parametrize(
    ("task", "reason"),
    [
        ("zeroshot", "needs data.label"),
        ("probe", "needs data.label"),
        ("classification", "needs data.label"),
        ("retrieval", "needs two modalities, the config has image"),
        ("sts", "needs two modalities"),
        ("regression", "needs data.target"),
        ("forecast", "needs data.windows"),
    ],
)
def test_a_task_that_cannot_be_is_refused_where_it_is_named(tmp_path: Path, task: str, reason: str) -> None:
    raw = {"data": {"train": "t.csv"}, "modalities": {"image": {}}, "objective": "nt-xent"}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(raw | {"eval": ["geometry", task]}))
    with pytest.raises(BadInput, match=f"eval names '{task}', which {reason}"):
        load_config(str(tmp_path / "c.yaml"))
    (tmp_path / "saved.yaml").write_text(yaml.safe_dump(raw | {"format": 2, "eval": [task]}))
    assert load_config(str(tmp_path / "saved.yaml")).eval == [task], "an earlier version chose it"


def test_names_stand_for_objectives_and_targets() -> None:
    raw: dict[str, Any] = {
        "data": {"train": "t.csv", "target": "y"},
        "modalities": {"table": {}},
        "objective": ["l1", {"name": "conr", "weight": 2}],
        "pretrain": {"objective": "supremix"},
    }
    config = parse(Config, raw, "c")
    assert config.data.target == ["y"]
    assert [term.name for term in config.objective] == ["l1", "conr"]
    override(raw, "pretrain.objective.temperature=0.2")
    assert raw["pretrain"]["objective"] == {"name": "supremix", "temperature": 0.2}
    with pytest.raises(BadInput, match="objective"):
        parse(Config, raw | {"objective": 3}, "c")


@pytest.mark.parametrize("name", sorted(recipes()))
def test_recipes_are_valid_and_say_what_they_are(name: str) -> None:
    assert recipes()[name].startswith("# ")
    if "sweep" in yaml.safe_load(recipes()[name]):
        with pytest.raises(BadInput, match="clx sweep"):
            load_config(name)
    else:
        assert load_config(name)


def test_a_frozen_encoder_keeps_its_head_in_the_first_stage() -> None:
    """All that such a tower learns is its head: thrown away, the stage would have been for nothing."""
    raws = two_stages(Path("t.csv"))
    raws["modalities"]["table"] |= {"freeze": True, "head": "mlp"}
    assert first_stage(Config.model_validate(raws)).modalities["table"]["head"] == "mlp"
    raws["modalities"]["table"] |= {"unlocked": 1}
    assert first_stage(Config.model_validate(raws)).modalities["table"]["head"] == "linear"


@pytest.mark.parametrize(
    ("pretrain", "match"),
    [
        ({"objective": {"name": "supcon"}, "train": {"epoch": 3}}, "pretrain.*epoch.*did you mean 'epochs'"),
        ({"objective": {"name": "supcon"}, "modalities": {"tabel": {}}}, "unknown modality 'tabel'.*'table'"),
        ({}, "either run"),
        ({"run": "x", "head": "mlp"}, "first stage"),
    ],
)
def test_keys_of_the_first_stage_are_checked_at_once(tmp_path: Path, pretrain: dict[str, Any], match: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps(two_stages(tmp_path / "t.csv", pretrain=pretrain)))
    with pytest.raises(BadInput, match=match):
        load_config(str(path))


def test_epochs_that_are_given_decide_over_a_recipes_steps() -> None:
    assert load_config("rotation").train.steps
    for settings, flags in (([], {"train.epochs": 2}), (["train.epochs=2"], {})):
        train = load_config("rotation", settings, flags).train
        assert (train.steps, train.epochs) == (None, 2)


def test_so_they_do_in_a_sweep_and_in_the_first_stage() -> None:
    raw = {"train": {"steps": 20}, "pretrain": {"train": {"steps": 30}}}
    override(raw, "pretrain.train.epochs=2")
    assert raw == {"train": {"steps": 20}, "pretrain": {"train": {"epochs": 2}}}


def test_a_misspelt_section_is_named_before_it_is_missed(tmp_path: Path) -> None:
    path = tmp_path / "typo.yaml"
    path.write_text("data: {train: digits}\nmodalites: {table: {}}\nobjective: clip\n")
    with pytest.raises(BadInput, match="unknown key 'modalites' .did you mean 'modalities'"):
        load_config(str(path))
