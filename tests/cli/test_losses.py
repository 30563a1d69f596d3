"""A loss trains through the command, by its name alone: one of each kind, and, slowly, every one."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from clx.losses.base import LOSSES
from command import Command
from configs import tiny
from loss_inputs import of_each_kind

SERIES = {"encoder": "dilated", "width": 16, "layers": 1, "views": 2, "augmentation": {"crops": 0, "time_mask": 0.5}}


def config(name: str, files: Path) -> dict[str, Any]:
    """A small run of a loss: with targets, time steps, labels or sets of them where it asks for them."""
    needs = LOSSES[name]().requires()
    data = {"train": str(files / "few.csv"), "cache": "memory"}
    more: dict[str, Any] = {"data": {**data, "target": "seg_a"} if "targets" in needs else {**data, "label": "label"}}
    if "label_sets" in needs:
        more["data"]["several"] = "|"
    if needs & {"steps", "states"}:  # places and bytes
        tall = {"width": 32, "layers": 1}
        more["modalities"] = {"image": {"encoder": "cnn", "width": 4, "size": 8, "views": 2}, "text": tall}
    if needs & {"attention", "key_layers"} or name in ("masked-token", "replaced-token"):
        more["modalities"] = {"text": {"width": 32, "layers": 2, "head": "none"}}
        more["embed_dim"] = 32
    if "attention" in needs:
        more["modalities"]["text"] |= {"views": 2, "dropout": 0.1, "augmentation": "none"}
    if LOSSES[name].compares_times:
        more["modalities"] = {"series": SERIES}
    elif "modalities" not in more:
        more["modalities__table__columns"] = ["seg_b"]  # one: most of the time goes into reading columns
    second = {"momentum": 0.99} if needs & {"keys", "key_layers"} else None
    of_image = needs & {"head", "originals"} and name != "replaced-token"
    objective = {"name": name, "inputs": ["image"]} if of_image else {"name": name}
    objective |= {"prototypes_per_label": 2} if name == "label-prototypes" else {}
    return tiny(objective=objective, train={"steps": 3, "batch_size": 32, "second": second}, **more)


QUICK = of_each_kind()  # that every one gets its gradient is known by test_chunks.py


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in LOSSES])
def test_a_loss_trains_three_steps(name: str, clx: Command, files: Path, tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(config(name, files)))
    done = clx("train", "small.yaml", "-o", "run", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == 3
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == [1, 3]
    assert all(line["grad_norm"] > 0 for line in steps)
    assert not any("skipped" in line for line in lines)
