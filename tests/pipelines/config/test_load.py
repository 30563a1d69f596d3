"""The config: precedence, strictness and messages."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from clx.pipelines.config.load import dump, load_config, override, read_source, recipes
from clx.pipelines.config.options import parse
from clx.pipelines.config.schema import Config
from clx.pipelines.config.stage_configs import config_of, trained_before
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
        "stages": [{"objective": "supremix"}, {}],
    }
    config = parse(Config, raw, "c")
    assert config.data.target == ["y"]
    assert [term.name for term in config.objective] == ["l1", "conr"]
    override(raw, "stages.0.objective.temperature=0.2")
    assert raw["stages"][0]["objective"] == {"name": "supremix", "temperature": 0.2}
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
    assert config_of(Config.model_validate(raws), 0).modalities["table"]["head"] == "mlp"
    raws["modalities"]["table"] |= {"unlocked": 1}
    assert config_of(Config.model_validate(raws), 0).modalities["table"]["head"] == "linear"


@pytest.mark.parametrize(
    ("stages", "match"),
    [
        ([{"train": {"epoch": 3}}, {}], "stages.0: .*epoch.*did you mean 'epochs'"),
        ([{}, {"train": {"epoch": 3}}], "train.epoch.*did you mean 'train.epochs'|epoch.*did you mean 'epochs'"),
        ([{"trian": {"steps": 3}}, {}], "unknown key 'stages.0.trian' .did you mean 'train'"),
        ([{"data": 3}, {}], "stages.0.data = 3"),
        ([{"run": "x", "head": "mlp"}, {}], "head is for a stage that is trained here"),
        ([{}], "two or more"),
        ([{}, {"run": "x"}], "the last is trained here"),
        ([{}, {"run": "x"}, {}], "run is for the first"),
        ([{"freeze": True}, {}], "takes nothing over"),
        ([{"train": {"lr": 1.0}}, {"train": {"lr": 2.0}}], "-s train.lr=3: every stage sets train.lr itself"),
    ],
)
def test_keys_of_stages_are_checked_at_once(tmp_path: Path, stages: list[Any], match: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps(two_stages(tmp_path / "t.csv") | {"stages": stages}))
    with pytest.raises(BadInput, match=match):
        load_config(str(path), ["train.lr=3"])


def test_stages_are_laid_over_the_keys_above_them(tmp_path: Path) -> None:
    """Key by key; read back as saved, the keys above are of the last, and nothing changes."""
    raw: dict[str, Any] = {
        "data": {"train": "weak.csv", "label": "kind"},
        "modalities": {"text": {"width": 32}},
        "train": {"steps": 9, "lr": 0.1},
        "stages": [
            {"objective": "nt-xent", "modalities": {"text": {"views": 2}}, "train": {"epochs": 2}, "embed_dim": 8},
            {"objective": ["clip"], "data": {"train": "gold.csv"}, "modalities": {"image": {}}, "train": {"lr": 0.2}},
        ],
    }
    config = parse(Config, raw, "c")
    (first,) = trained_before(config).values()
    assert (first.data.train, first.data.label, first.train.steps, first.train.epochs) == ("weak.csv", "kind", None, 2)
    assert (first.modalities, first.embed_dim) == ({"text": {"width": 32, "views": 2}}, 8)
    assert (config.data.train, config.data.label, config.train.steps, config.train.lr) == ("gold.csv", "kind", 9, 0.2)
    assert (config.modalities, config.embed_dim) == ({"text": {"width": 32}, "image": {}}, 128)
    path = tmp_path / "saved.yaml"
    path.write_text(dump(config))
    again = load_config(str(path), ["train.lr=3"])  # of the last
    assert again.train.lr == 3
    assert load_config(str(path)) == config
    assert trained_before(again) == {0: first}


def test_what_came_before_is_refused_with_what_there_is_now(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps(two_stages(tmp_path / "t.csv") | {"pretrain": {"run": "runs/first"}}))
    with pytest.raises(BadInput, match=r"pretrain is gone: stages: .*\{run: runs/X\}"):
        load_config(str(path))
    path.write_text(json.dumps(two_stages(tmp_path / "t.csv") | {"pretrain": {"run": "runs/first"}, "format": 5}))
    stages = load_config(str(path)).stages
    assert [(stage.run, stage.freeze) for stage in stages] == [("runs/first", False), (None, True)]


def test_epochs_that_are_given_decide_over_a_recipes_steps() -> None:
    assert load_config("rotation").train.steps
    for settings, flags in (([], {"train.epochs": 2}), (["train.epochs=2"], {})):
        train = load_config("rotation", settings, flags).train
        assert (train.steps, train.epochs) == (None, 2)


def test_minutes_are_a_length_of_their_own(tmp_path: Path) -> None:
    for source, other in (("rotation", "steps"), ("digits", "epochs")):
        config = load_config(source, ["train.minutes=2"])
        assert (config.train.minutes, config.train.steps, config.train.epochs) == (2, None, None)
        path = tmp_path / "saved.yaml"
        path.write_text(dump(config))
        assert load_config(str(path)) == config
        again = load_config(str(path), [f"train.{other}=7"]).train
        assert (again.minutes, getattr(again, other)) == (None, 7)
        path.write_text(json.dumps(read_source("rotation") | {"train": {"minutes": 2, other: 3}}))
        with pytest.raises(BadInput, match=f"minutes and {other} both say how long"):
            load_config(str(path))
    staged = two_stages(tmp_path / "t.csv", {"train": {"minutes": 2}}, format=5)
    path.write_text(json.dumps(staged))
    staged_config = load_config(str(path))
    assert (config_of(staged_config, 0).train.minutes, staged_config.train.steps) == (2, 8)


def test_so_they_do_in_a_sweep_and_in_the_first_stage() -> None:
    raw = {"train": {"steps": 20}, "stages": [{"train": {"steps": 30}}, {}]}
    override(raw, "stages.0.train.epochs=2")
    assert raw == {"train": {"steps": 20}, "stages": [{"train": {"epochs": 2}}, {}]}


def test_a_misspelt_section_is_named_before_it_is_missed(tmp_path: Path) -> None:
    path = tmp_path / "typo.yaml"
    path.write_text("data: {train: digits}\nmodalites: {table: {}}\nobjective: clip\n")
    with pytest.raises(BadInput, match="unknown key 'modalites' .did you mean 'modalities'"):
        load_config(str(path))
