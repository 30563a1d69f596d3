"""`clx merge`: runs of one start become one that every command opens; others are refused with what differs."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from clx.pipelines.config.schema import Config
from clx.pipelines.experiments.train import train
from clx.pipelines.measures.merged_weights import average, by_delta, slerp
from clx.pipelines.runs.checkpoint import load, weights
from clx.pipelines.system.errors import BadInput
from clx.pipelines.system.progress import Silent
from clx.pipelines.use.merge import merge, merge_states
from command import Command
from configs import small
from samples import png

PICTURE = {"encoder": "cnn", "width": 4, "size": 8}
WORD = {"width": 32, "layers": 1}


def trained(
    folder: Path, name: str, modalities: dict[str, Any] | None = None, objective: Any = "clip", **more: Any
) -> Path:
    modalities = modalities or {"image": PICTURE, "text": WORD}
    raw = small({"train": str(folder / "pairs.csv"), "label": "label"}, modalities, objective)
    raw |= {"train": raw["train"] | {"steps": 2, "batch_size": 8}, "eval": []} | more
    train(Config.model_validate(raw), folder / name, Silent())
    return folder / name


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A start, two trainings from it, and others."""
    folder = tmp_path_factory.mktemp("merge")
    lines = ["image,text,size,label"]
    for k in range(16):
        (folder / f"{k}.png").write_bytes(png(k))
        lines.append(f"{k}.png,picture {k},{k / 7},{'ab'[k % 2]}")
    (folder / "pairs.csv").write_text("\n".join(lines) + "\n")
    start = {"stages": [{"run": str(trained(folder, "init"))}, {}]}
    trained(folder, "a", **start)
    trained(folder, "b", objective={"name": "siglip"}, **start)
    trained(folder, "stranger", train={"steps": 1, "batch_size": 8, "seed": 1})
    trained(folder, "wide", {"image": PICTURE | {"width": 8}, "text": WORD})
    trained(folder, "narrow", embed_dim=4)
    trained(folder, "other", {"image": PICTURE, "table": {"columns": ["size"]}})
    return folder


def state(path: Path) -> dict[str, torch.Tensor]:
    run = load(path)
    return weights(run.model, run.objective)


def test_every_tensor_is_merged_and_what_is_not_shared_is_the_firsts(runs: Path, tmp_path: Path) -> None:
    init, a, b = (state(runs / name) for name in ("init", "a", "b"))
    both = [runs / "a", runs / "b"]
    merge(both, tmp_path / "mean", shares=[1, 3])
    told = merge(both, tmp_path / "delta", "delta", base=runs / "init")
    arc = merge(both, tmp_path / "arc", "slerp", shares=[0.3, 0.7])
    mean, delta, slerped = (state(tmp_path / name) for name in ("mean", "delta", "arc"))
    assert list(mean) == list(a)
    straight = 0
    for name, value in a.items():
        if not value.is_floating_point() or name not in b:
            assert torch.equal(mean[name], value)
            continue
        torch.testing.assert_close(mean[name], average([value, b[name]], [0.25, 0.75]))
        if name.endswith(("running_mean", "running_var")):
            torch.testing.assert_close(delta[name], (value + b[name]) / 2)
            continue
        torch.testing.assert_close(delta[name], by_delta(init[name], [value, b[name]], [0.5, 0.5]))
        expected, linear = slerp(value, b[name], 0.7)
        straight += linear
        torch.testing.assert_close(slerped[name], expected)
    assert arc["linear"] == straight > 0
    assert told["statistics"] > 0
    assert not [name for name in told["kept"] if name.startswith("model.towers") and "num_batches" not in name]
    assert told["cosine"][0] > 0.9
    assert json.loads((tmp_path / "delta" / "merge.json").read_text())["base"] == str(runs / "init")


@pytest.mark.parametrize(
    ("names", "more", "said"),
    [
        (["a"], {}, "merge two runs or more"),
        (["a", "b", "init"], {"by": "slerp"}, "--by slerp is the way from one run to another, and 3 are given"),
        (["a", "b"], {"by": "delta"}, "--by delta needs --base"),
        (["a", "b"], {"base": "init"}, "--base is for --by delta, and this is --by average"),
        (["a", "b"], {"shares": [1.0]}, "--weights 1: expected one from 0 on for each of the 2 runs"),
        (["a", "b"], {"shares": [0.0, 0.0]}, "--weights 0,0: "),
        (["a", "stranger"], {}, "have no common start: the cosine of their weights is "),
        (["a", "wide"], {}, "modalities.image.width is 4 and 8"),
        (["a", "narrow"], {}, "embed_dim is 8 and 4"),
        (["a", "other"], {}, "has no modality text with a tower; it has image, table"),
        (["a", "b"], {"out": "a"}, "already exists"),
        (["a", "gone"], {}, "is not a run folder"),
    ],
)
def test_what_cannot_be_merged_is_refused(
    runs: Path, tmp_path: Path, names: list[str], more: dict[str, Any], said: str
) -> None:
    more = {key: runs / value if key == "base" else value for key, value in more.items()}
    out = runs / more.pop("out") if "out" in more else tmp_path / "out"
    with pytest.raises(BadInput, match=said):
        merge([runs / name for name in names], out, **more)
    assert not (tmp_path / "out").exists()


def test_from_the_shell_into_what_every_command_opens(clx: Command, runs: Path, tmp_path: Path) -> None:
    done = clx("merge", runs / "a", runs / "b", "-o", "both", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "running statistics of batch norms are averaged" in done.stderr
    assert json.loads(done.stdout)["weights"] == [0.5, 0.5]
    done = clx("eval", "both", "--task", "retrieval", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    again = clx("merge", runs / "b", runs / "a", "-o", "both", cwd=tmp_path)
    assert (again.returncode, "already exists" in again.stderr) == (2, True)
    again = clx("merge", runs / "b", runs / "a", "-o", "both", "--overwrite", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert yaml.safe_load((tmp_path / "both" / "config.yaml").read_text())["objective"][0]["name"] == "siglip"
    assert "evaluations" not in os.listdir(tmp_path / "both") or not os.listdir(tmp_path / "both" / "evaluations")
    resumed = clx("train", "--resume", "both", cwd=tmp_path)
    assert resumed.returncode == 2, resumed.stderr
    assert [line.split()[0] for line in resumed.stderr.splitlines()] == ["reading", "error:"]
    assert "both/trainer.pt cannot be read" in resumed.stderr
    done = clx("merge", runs / "a", runs / "b", "--weights", "x,1", "-o", "c", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2, "error: --weights x,1: expected numbers, as 0.3,0.7\n")


def test_what_a_loss_remembers_is_the_firsts_and_its_statistics_are_averaged() -> None:
    """A mean of two queues would be rows that no picture has."""
    one = {"objective.0.queue": torch.zeros(2), "objective.0.norm.running_mean": torch.zeros(2), "w": torch.zeros(2)}
    two = {name: value + 2 for name, value in one.items()}
    remembered = {name for name in one if name != "w"}
    merged, told = merge_states([one, two], {}, "average", [0.5, 0.5], remembered)
    assert {name: value[0].item() for name, value in merged.items()} == {
        "objective.0.queue": 0,
        "objective.0.norm.running_mean": 1,
        "w": 1,
    }
    assert told["kept"] == ["objective.0.queue"]
