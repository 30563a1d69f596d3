"""The table of what losses remember of the training rows."""

import csv
import math
from pathlib import Path

import torch

from clx.losses.base import LOSSES
from clx.pipelines.config.schema import Term
from clx.pipelines.data.splits import load_manifest
from clx.pipelines.model.objective import Objective
from clx.pipelines.training.remembered import write_remembered


def test_each_training_row_has_a_line_with_what_losses_tell_of_it(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("x,label\n" + "".join(f"{k},{'ab'[k % 2]}\n" for k in range(5)))
    rows = load_manifest(str(tmp_path / "rows.csv")).take([0, 2, 3])
    moit, warm, plain = LOSSES["moit"](), LOSSES["isogclr"](), LOSSES["nt-xent"]()
    moit.setup(["image/0"], 2, ("a", "b"), 5)
    moit.memory[[0, 2], :2] = torch.tensor([[0.0, 0], [1, 1]])  # labels, whether they are doubted; row 3 was not seen
    warm.setup(["image/0", "image/1"], 2, (), 3)  # its memory is shorter than the table
    warm.memory[2] = torch.tensor([-1.0, 0.25, 0, -math.inf, 0.5, 0])  # no negatives from the second view to the first
    named = [Term(name="moit"), Term(name="isogclr"), Term(name="nt-xent")]
    assert write_remembered(tmp_path, Objective(named, [moit, warm, plain]), rows, "label")
    with (tmp_path / "remembered.csv").open() as file:
        found = list(csv.DictReader(file))
    assert [line["row"] for line in found] == ["1", "3", "4"]
    own = {"moit.doubted": "1", "isogclr.temperature": "0.25"}
    assert found[1] == {"row": "3", "where": f"{tmp_path / 'rows.csv'} row 3", "label": "a", **own}
    assert [(line["moit.doubted"], line["isogclr.temperature"]) for line in found] == [
        ("0", ""),
        ("1", "0.25"),
        ("", ""),
    ]


def test_nothing_is_written_where_nothing_is_remembered(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("x\n1\n")
    rows = load_manifest(str(tmp_path / "rows.csv"))
    assert not write_remembered(tmp_path, Objective([Term(name="nt-xent")], [LOSSES["nt-xent"]()]), rows, None)
    assert not (tmp_path / "remembered.csv").exists()
