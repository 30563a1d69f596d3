"""Stages: each goes on with the towers of the one before; all are checked before the first, and any is resumed."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clx.pipelines.config.objects import make_losses
from clx.pipelines.config.options import parse
from clx.pipelines.config.schema import Config
from clx.pipelines.experiments.train import train
from clx.pipelines.runs import checkpoint
from clx.pipelines.runs.listing import summary
from clx.pipelines.runs.stages import stage_folder
from clx.pipelines.system.errors import BadInput, Stopped
from clx.pipelines.training import schedule
from clx.pipelines.training.dry_run import dry_run
from command import Command
from configs import small
from trained import Heard, StopAt, ticking, weights


def write_table(path: Path, rows: int, first: int = 0) -> Path:
    lines = ["id,a,b,y,split"]
    for i in range(first, first + rows):
        a, b = (i * 37 % 101) / 50 - 1, (i * 53 % 89) / 44 - 1
        lines.append(f"n{i},{a:.3f},{b:.3f},{3 * a - b:.3f},{('train', 'train', 'val', 'test')[i % 4]}")
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Contrast on one file, a head on another with the towers kept, then both on it for longer."""
    folder = tmp_path_factory.mktemp("tables")
    weak, gold = write_table(folder / "weak.csv", 64), write_table(folder / "gold.csv", 48, 100)
    table = {"columns": ["a", "b"], "width": 32, "layers": 2, "head": "linear", "augmentation": "none"}
    stages = [
        {"data": {"train": str(weak)}, "objective": "rank-n-contrast", "train": {"steps": 6}},
        {"freeze": True, "train": {"steps": 3, "lr": 0.01}},
        {"train": {"steps": 5}, "modalities": {"table": {"dropout": 0.2}}},
    ]
    data = {"train": str(gold), "target": ["y"]}
    train = {"batch_size": 16, "validate_every": 2, "keep": 5}
    return small(data, {"table": table}, "l1", embed_dim=8, train=train) | {"stages": stages}


@pytest.fixture(scope="module")
def run(raw: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    out, heard = tmp_path_factory.mktemp("runs") / "three", Heard()
    train(Config.model_validate(raw), out, heard)
    return out, heard.said


def encoder(folder: Path, step: str = "last") -> dict[str, torch.Tensor]:
    return dict(checkpoint.load(folder, step).model.tower("table").encoder.state_dict())


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_each_goes_on_with_the_towers_of_the_one_before(run: tuple[Path, list[str]]) -> None:
    out, said = run
    first, second = stage_folder(out, 0), stage_folder(out, 1)
    assert (first, second) == (out / "stages" / "1", out / "stages" / "2")
    assert same(encoder(first), encoder(second)), "kept as it was"
    assert same(encoder(second), encoder(out, "0"))
    assert not same(encoder(second), encoder(out))
    configs = [checkpoint.read_config(folder) for folder in (first, second, out)]
    assert [config.objective[0].name for config in configs] == ["rank-n-contrast", "l1", "l1"]
    assert [config.train.steps for config in configs] == [6, 3, 5]
    assert [len(config.stages) for config in configs] == [0, 2, 3]
    assert [checkpoint.last(folder).step for folder in (first, second, out)] == [6, 3, 5]
    told = [line.replace(str(out.parent), "") for line in said if line.startswith("stage ")]
    assert [line.partition(" on ")[0] for line in told] == [
        "stage 1 of 3: rank-n-contrast", "stage 2 of 3: l1", "stage 3 of 3: l1"]  # fmt: skip
    assert [line.rpartition(", ")[2] for line in told] == ["6 steps", "3 steps", "5 steps"]
    assert any("weak.csv" in line for line in told[:1])
    assert summary(out)["objective"] == "rank-n-contrast > l1 > l1"


@pytest.mark.parametrize(
    ("at", "of"), [(3, 6), (3, 3), *(pytest.param(*each, marks=pytest.mark.slow) for each in ((6, 6), (2, 3), (2, 5)))]
)
def test_stopped_in_any_stage_or_between_two_and_resumed_equals_unbroken(
    raw: dict[str, Any], run: tuple[Path, list[str]], tmp_path: Path, at: int, of: int
) -> None:
    out, whole = tmp_path / "run", run[0]
    with pytest.raises(Stopped, match=f"clx train --resume {out}$|clx train --resume {out} ") as stopped:
        train(Config.model_validate(raw), out, StopAt(at, of=of))
    if of < 6 and of != 5:
        assert "in stage 2" in str(stopped.value)
    assert summary(out)["stage"] == {6: "1 of 3", 3: "2 of 3", 5: "3 of 3"}[of]
    heard = Heard()
    train(checkpoint.read_config(out), out, heard, resume=True)
    assert len(heard.steps) == {6: 14, 3: 8, 5: 5}[of] - at, "nothing is done twice"
    assert same(weights(whole), weights(out))
    assert (out / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()


def test_all_are_checked_before_the_first_begins(raw: dict[str, Any], tmp_path: Path) -> None:
    def refused(changes: dict[str, Any], match: str, k: int = 1) -> None:
        stages = [stage | (changes if place == k else {}) for place, stage in enumerate(raw["stages"])]
        for ask in (lambda c: train(c, tmp_path / "run", Heard()), dry_run):
            with pytest.raises(BadInput, match=match):
                ask(Config.model_validate(raw | {"stages": stages}))
            assert not (tmp_path / "run").exists()

    refused({"data": {"train": str(tmp_path / "none.csv")}}, "stage 2 of 3: data .*none.csv: no such file")
    refused({"modalities": {"table": {"width": 64}}}, "stage 2 of 3: .*encoder of modalities.table .* stage 1 has")
    refused({"train": {"batch_size": 999}}, "stage 2 of 3: train.batch_size is 999")
    refused({"modalities": {"table": {"layers": 3}}}, "encoder of modalities.table .* that stage 2 has", 2)


def test_a_plan_names_the_steps_of_each_stage(raw: dict[str, Any]) -> None:
    plan = dry_run(Config.model_validate(raw))
    assert (plan["stages"], plan["steps"]) == ({1: 6, 2: 3}, 5)
    json.dumps(plan)


def test_a_wider_stage_in_between_has_a_head_of_its_own(raw: dict[str, Any], tmp_path: Path) -> None:
    stages = [{"train": {"steps": 1}}, {"train": {"steps": 1}, "embed_dim": 12}, {"train": {"steps": 1}}]
    heard = Heard()
    train(Config.model_validate(raw | {"stages": stages}), tmp_path / "run", heard)
    taken = [line.partition(": ")[2] for line in heard.said if line.startswith("from ")]
    assert taken == ["table.encoder, to be fine-tuned"] * 2


def test_a_stage_may_last_minutes(raw: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stages = [raw["stages"][0] | {"train": {"minutes": 0.5}}, {"train": {"steps": 1}}]
    config, out = Config.model_validate(raw | {"stages": stages}), tmp_path / "run"
    assert dry_run(config)["stages"] == {1: "0.5 minutes"}
    monkeypatch.setattr(schedule, "time", ticking(10))
    with pytest.raises(Stopped, match=r"stopped at step 1, 0\.17 of 0\.5 minutes in stage 1"):
        train(config, out, StopAt(1, of=3))
    heard = Heard()
    train(checkpoint.read_config(out), out, heard, resume=True)
    assert heard.steps == [2, 3, 1]
    assert any(line.startswith("stage 1 of 2: ") and line.endswith("0.5 minutes") for line in heard.said)


def test_embeddings_of_all_stages_stand_side_by_side(raw: dict[str, Any], clx: Command, tmp_path: Path) -> None:
    """Every command sees the joined ones; training, and the next run, go on with the last stage's alone."""
    joined = raw | {
        "keep": "concat",
        "objective": "rank-n-contrast",
        "eval": ["knn"],
        "stages": raw["stages"][:1] + [{}],
    }
    joined["data"] = raw["data"] | {"label": "y", "bin_width": 1.0}
    out = tmp_path / "run"
    result = train(Config.model_validate(joined), out, Heard())["evaluation"]
    assert result["dim"] == 16
    parts = [checkpoint.load(stage_folder(out, 0), "last"), checkpoint.load(out, "best", alone=True)]
    whole = checkpoint.load(out)
    table = whole.modalities["table"]
    value = table.collate([table.read({"a": 0.1 * k, "b": 0.3}) for k in range(3)])
    here = {"table": torch.ones(3, dtype=torch.bool)}
    with torch.no_grad():
        z = [run.model({"table": value}, here)["table"] for run in [*parts, whole]]
    alike = torch.cat([torch.nn.functional.normalize(one, dim=1) for one in z[:2]], 1)
    torch.testing.assert_close(z[2], alike)
    done = clx("embed", out, "--data", joined["data"]["train"], "-o", tmp_path / "z.npy")
    assert done.returncode == 0, done.stderr
    assert np.load(tmp_path / "z.npy").shape[-1] == 16
    refused = clx("export", out, "--format", "safetensors", "-o", tmp_path / "export")
    assert (refused.returncode, "joins the towers of stages" in refused.stderr) == (2, True)
    again = joined | {"stages": [{"run": str(out)}, {"train": {"steps": 1}}]}
    train(Config.model_validate(again | {"eval": []}), tmp_path / "again", Heard())
    assert checkpoint.load(tmp_path / "again").model.embed_dim == 24


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"keep": "concat", "stages": []}, "there are none"),
        ({"keep": "concat"}, "objective: l1 trains a head that looks at the last stage's embeddings"),
        ({"keep": "concat", "objective": {"name": "nt-xent", "dims": [4, 8]}}, "dims are of the last stage's"),
        (
            {"keep": "concat", "objective": {"name": "nt-xent"}, "modalities": {"text": {"prompt": {"tokens": 4}}}},
            "modalities.text.prompt: learned prompts are of one tower",
        ),
    ],
)
def test_what_cannot_be_joined_is_refused(raw: dict[str, Any], changes: dict[str, Any], match: str) -> None:
    with pytest.raises(BadInput, match=match):
        make_losses(parse(Config, raw | changes, "c"))
