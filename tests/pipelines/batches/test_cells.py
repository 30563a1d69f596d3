"""Cells of a row become samples and their views."""

from pathlib import Path

import numpy as np
import pytest

from clx.modalities.draws import Draws
from clx.modalities.series import Series
from clx.modalities.text import Text
from clx.pipelines.batches.cells import cell_of, read_cell, vary
from clx.pipelines.config.data_schema import Data
from clx.pipelines.data.splits import load_splits
from clx.pipelines.system.errors import BadInput


def test_views_vary_both_sides_and_keep_them_apart() -> None:
    text = Text(pair="second", augmentation="strong", templates=["{}", "say {}"])
    samples = [read_cell(text, ("one two three four five six seven", "EIGHT NINE TEN ELEVEN TWELVE"))] * 20
    [varied] = vary(text, [samples], [Draws.seeded(0, 20)])
    assert {v[0].template for v in varied} == {"{}", "say {}"}
    assert len({v[0].text for v in varied}) > 5
    assert all(v[0].text.islower() and v[1].text.isupper() for v in varied)


def test_a_piece_cannot_lead_out_of_the_folder(tmp_path: Path) -> None:
    inside = tmp_path / "in"
    inside.mkdir()
    np.save(tmp_path / "secret.npy", np.arange(9.0))
    (inside / "link.npy").symlink_to(tmp_path / "secret.npy")
    (inside / "list.csv").write_text("series\nlink.npy#0:5\n")
    rows = load_splits(Data(train=str(inside / "list.csv")), 0)["train"]
    with pytest.raises(BadInput, match="leaves"):
        cell_of(rows.row(0), "series", Series(), rows)
