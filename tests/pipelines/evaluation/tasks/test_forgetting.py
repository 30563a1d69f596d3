"""What a run of stages still knows of the classes of its earlier ones."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from clx.pipelines.config.schema import Config
from clx.pipelines.evaluation.evaluate import evaluate_run
from clx.pipelines.evaluation.results import Settings, tables
from clx.pipelines.experiments.train import train
from clx.pipelines.runs.stages import stage_folder
from clx.pipelines.system.errors import BadInput
from configs import small
from trained import Heard

QUICK = Settings(resamples=50)
NAMES = "abcdef"


def write_rows(path: Path, names: str, split: str) -> str:
    at = [(3 * np.cos(k), 3 * np.sin(k)) for k in range(len(NAMES))]
    draw = np.random.default_rng(len(names))
    lines = ["x,y,kind,split"]
    for i in range(16 * len(names)):
        (x, y), (dx, dy) = at[NAMES.index(names[i % len(names)])], draw.normal(size=2)
        lines.append(f"{x + dx:.3f},{y + dy:.3f},{names[i % len(names)]},{split}")
    path.write_text("\n".join(lines) + "\n")
    return str(path)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("kinds")
    kinds = {names: write_rows(folder / f"{names}.csv", names, "train") for names in ("ab", "cd", "ef")}
    return kinds | {"test": write_rows(folder / "test.csv", NAMES, "test")}


def trained(data: dict[str, str], out: Path, replay: dict[str, Any]) -> Path:
    table = {"columns": ["x", "y"], "width": 32, "layers": 1, "augmentation": "none"}
    config = small({"train": data["ef"], "test": data["test"], "label": "kind"}, {"table": table}, "cross-entropy")
    stages = [{"data": {"train": data[names], **(replay if names != "ab" else {})}} for names in ("ab", "cd", "ef")]
    more = {"stages": stages, "train": {"steps": 20, "batch_size": 16, "lr": 0.02}, "eval": ["forgetting"]}
    train(Config.model_validate(config | more), out, Heard())
    return out


def confusion(run: Path, test: str) -> tuple[list[str], NDArray[Any]]:
    """What the head of a run or stage says of the test rows, by its classes alone."""
    line = evaluate_run(run, ["classification"], QUICK, data=test, say=print)["classification"]["table"]
    names, counts = line["confusion"]["classes"], np.array(line["confusion"]["counts"])
    return names, counts


def share(run: Path, test: str, kinds: str) -> float:
    """Of 16 rows of each of these kinds, those that it gets right."""
    names, counts = confusion(run, test)
    return sum(int(counts[names.index(k), names.index(k)]) for k in kinds if k in names) / (16 * len(kinds))


@pytest.mark.parametrize("replay", [{}, {"replay": {"share": 0.2}}])
def test_forgetting_is_how_far_old_classes_fell(data: dict[str, str], tmp_path: Path, replay: dict[str, Any]) -> None:
    out, test = trained(data, tmp_path / "run", replay), data["test"]
    found = evaluate_run(out, ["forgetting"], QUICK, say=print)
    line = found["forgetting"]["table"]
    folders = [stage_folder(out, 0), stage_folder(out, 1), out]
    by = [[share(folder, test, kinds) for kinds in ("ab", "cd", "ef")] for folder in folders]
    assert line["by_stage"] == [[round(share, 4) for share in shares] for shares in by]
    assert line["old_top1"] == pytest.approx((by[2][0] + by[2][1]) / 2)
    assert line["new_top1"] == pytest.approx(by[2][2])
    assert line["top1"] == pytest.approx(sum(by[2]) / 3)
    fell = [max(by[0][j], by[1][j]) - by[2][j] for j in (0, 1)]
    assert line["forgetting"] == pytest.approx(sum(fell) / 2)
    assert line["forgetting_ci"][0] <= line["forgetting"] <= line["forgetting_ci"][1]
    assert (line["rows"], line["stages"]) == (96, 3)
    assert by[0][0] > 0.5
    if not replay:
        assert line["old_top1"] == 0, "its head knows two classes, which are neither"
    assert "by_stage" not in tables(found)["forgetting"][0]
    with pytest.raises(BadInput, match="needs a run of stages"):
        evaluate_run(stage_folder(out, 0), ["forgetting"], QUICK, data=test, say=print)
    with pytest.raises(BadInput, match="no row is of a class of an earlier stage"):
        evaluate_run(out, ["forgetting"], QUICK, data=data["ef"], say=print)
