"""The task `classification` against scikit-learn on what `clx predict` says."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from sklearn import metrics

from command import Command
from configs import small


@pytest.fixture(scope="module")
def headed(clx: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with rows of three classes by two inputs, some cells missing, and a run whose head tells them."""
    folder = tmp_path_factory.mktemp("headed")
    draw = np.random.default_rng(0)
    rows = ["x,word,kind,split"]
    for i in range(150):
        kind = ("a", "b", "c")[min(2, i % 5)]  # more rows of c
        x = "" if i % 7 == 0 else f"{'abc'.index(kind) + draw.normal() * 0.6:.3f}"
        word = "" if i % 11 == 0 else ("red", "blue", "green")["abc".index(kind) if draw.random() < 0.6 else 0]
        rows.append(f"{x},{word},{kind},{'train' if i < 90 else 'test'}")
    rows += ["0.5,red,d,test"] * 2  # training has none of these
    (folder / "m.csv").write_text("\n".join(rows) + "\n")
    table = {"columns": ["x"], "width": 32, "layers": 1, "head": "norm", "augmentation": "none", "dropout": 0.0}
    text = {"column": "word", "width": 32, "layers": 1}
    raw = small(
        {"train": str(folder / "m.csv"), "label": "kind"},
        {"table": table, "text": text},
        "cross-entropy",
        embed_dim=32,
        train={"steps": 30, "lr": 0.01},
    )
    del raw["eval"]
    (folder / "c.yaml").write_text(yaml.safe_dump(raw))
    done = clx("train", "c.yaml", "-o", "run", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_figures_are_those_of_what_predict_says(clx: Command, headed: Path) -> None:
    result = json.loads((headed / "run" / "results.json").read_text())
    assert [task for task in ("classification", "zeroshot", "probe", "retrieval") if task in result] == [
        "classification"
    ], "a head alone is what was trained"
    (line,) = result["classification"].values()
    assert [*result["classification"]] == ["table+text"]
    done = clx("predict", "run", "--probabilities", "--json", cwd=headed)
    said = [json.loads(each) for each in done.stdout.splitlines()]
    kept = [each for each in said if each["kind"] != "d" and each["predicted_kind"] is not None]
    assert (line["rows"], line["unknown_class"]) == (len(kept), 2)
    truth, answers = ([each[key] for each in kept] for key in ("kind", "predicted_kind"))
    p = np.array([[each[f"p_{c}"] for c in "abc"] for each in kept])
    p /= p.sum(1, keepdims=True)
    expected: dict[str, Any] = {
        "top1": metrics.accuracy_score(truth, answers),
        "mean_per_class": metrics.balanced_accuracy_score(truth, answers),
        "macro_F1": metrics.f1_score(truth, answers, average="macro"),
        "macro_AUC": metrics.roc_auc_score(truth, p, multi_class="ovr"),
        "log_loss": metrics.log_loss(truth, p),
    }
    assert {name: line[name] for name in expected} == pytest.approx(expected, abs=1e-4)
    assert line["confusion"] == {
        "classes": ["a", "b", "c"],
        "counts": metrics.confusion_matrix(truth, answers).tolist(),
    }
    sure, right = p.max(1), np.array(truth) == np.array(answers)
    bins = (sure * 15).astype(int).clip(max=14)
    gap = sum(abs((sure - right)[bins == b].sum()) for b in range(15)) / len(sure)
    assert line["ECE"] == pytest.approx(gap, abs=1e-4)
    assert line["top1"] > 0.5, "chance is 0.6 x 0.6 at most for who knows the largest class alone"
    for name in ("top1", "mean_per_class", "macro_F1", "macro_AUC", "log_loss"):
        low, high = line[f"{name}_ci"]
        assert low < line[name] < high


def test_a_run_without_a_head_and_classes_it_never_saw_are_refused(clx: Command, headed: Path) -> None:
    (headed / "other.csv").write_text("x,word,kind\n1,red,e\n2,blue,f\n")
    done = clx("eval", "run", "--task", "classification", "--data", "other.csv", cwd=headed)
    assert (done.returncode, done.stdout) == (2, "")
    assert "none of the classes asked about is learned: learned are 'a', 'b', 'c'; asked 'e', 'f'" in done.stderr
    done = clx("eval", "run", "--task", "regression", "--task", "classification", cwd=headed)
    assert (done.returncode, done.stdout) == (2, ""), "named by the user: no figures without it"
    assert "regression: needs data.target" in done.stderr
    done = clx("eval", "run", "--task", "all", "--resamples", "10", "--json", cwd=headed)
    assert done.returncode == 0
    assert "regression left out: needs data.target" in done.stderr
    assert json.loads(done.stdout)["classification"]["table+text"]["rows"] > 50
