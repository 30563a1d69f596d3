"""Figures of damaged rows beside those of the rows as they are."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from clx.pipelines.batches.corrupted import damage_of
from clx.pipelines.evaluation.embeddings import embed_manifest, embed_on, ignore_bad_rows
from clx.pipelines.evaluation.evaluate import evaluate_run
from clx.pipelines.evaluation.evaluated_rows import evaluated_rows
from clx.pipelines.evaluation.results import Settings, saved, tables
from clx.pipelines.runs.checkpoint import load
from clx.pipelines.system.errors import BadInput


def quiet(text: str) -> None:
    pass


def test_figures_fall_with_severity_and_are_the_same_again(copy: Path) -> None:
    asked = ("noise:1", "image.noise:5", "text.typos")
    settings = Settings(resamples=0, corrupt=asked)
    result = evaluate_run(copy, ["zeroshot", "knn"], settings, say=quiet)
    clean = evaluate_run(copy, ["zeroshot", "knn"], Settings(resamples=0), say=quiet)
    assert tuple(result["corrupted"]) == asked
    assert result["zeroshot"] == clean["zeroshot"]
    assert result["knn"] == clean["knn"]
    name = next(name for name in clean["zeroshot"] if name == "image")
    top1 = [part["zeroshot"][name]["top1"] for part in (result, *result["corrupted"].values())]
    assert top1[2] < top1[1] <= top1[0] + 0.01
    assert top1[3] == top1[0], "words are no query of zeroshot"
    assert result["corrupted"]["image.noise:5"]["knn"]["image"]["train_rows"] == clean["knn"]["image"]["train_rows"]
    again = evaluate_run(copy, ["zeroshot", "knn"], settings, say=quiet, force=True)
    assert json.dumps(again["corrupted"]) == json.dumps(result["corrupted"])
    rows = [row for row in tables(result)["zeroshot"] if row["input"] == name]
    assert [row["corrupt"] for row in rows] == ["none", *asked]
    assert "corrupt" not in tables(clean)["zeroshot"][0]
    assert any(each.get("corrupted") for each in saved(copy)), "and it is read again"


def test_only_the_named_input_of_a_row_is_damaged_whatever_its_batch(copy: Path) -> None:
    run = load(copy)
    run.model.eval()
    rows = evaluated_rows(run.config.data, 0, None, None, None).rows.take([*range(40)])
    clean = embed_manifest(run, rows)

    def damaged(spec: str, some: Any = rows, seed: int = 0) -> Any:
        damage = damage_of(spec, run.scored())
        return embed_on(None, run, some, "fail", ignore_bad_rows, None, False, damage, seed)

    noisy = damaged("image.noise:4")
    assert torch.equal(noisy.z["table"], clean.z["table"])
    assert not torch.allclose(noisy.z["image"], clean.z["image"], atol=1e-3)
    alone = damaged("image.noise:4", rows.take([*range(7, 19)]))
    assert torch.allclose(alone.z["image"], noisy.z["image"][7:19], atol=1e-5)
    assert not torch.allclose(damaged("image.noise:4", seed=1).z["image"], noisy.z["image"], atol=1e-3)
    assert not torch.allclose(damaged("noise").z["table"], clean.z["table"], atol=1e-3)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("fog", r"no input has a fog \(image has noise, blur, darken"),
        ("noise:6", "severity is 1 to 5, not 6"),
        ("imag.noise", "no input 'imag'"),
        ("table.blur", r"no input has a blur \(table has noise, missing\)"),
    ],
)
def test_what_no_input_has_is_refused(copy: Path, spec: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        evaluate_run(copy, ["zeroshot"], Settings(resamples=0, corrupt=(spec,)), say=quiet)
