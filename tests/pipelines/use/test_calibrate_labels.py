"""What the cells of a label are divided at to calibrate on them."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from clx.pipelines.data.manifest import Manifest
from clx.pipelines.use.calibrate import _labels

TEXTS = ["a|b", "c;d", None, "a"]


@pytest.mark.parametrize(
    ("several", "multi_label", "found", "told"),
    [
        (None, True, [["a", "b"], ["c;d"], None, ["a"]], 1),  # as ever, but it is said
        (None, False, [["a|b"], ["c;d"], None, ["a"]], 0),
        ("|", False, [["a", "b"], ["c;d"], None, ["a"]], 0),
        (";", True, [["a|b"], ["c", "d"], None, ["a"]], 0),
        (False, True, [["a|b"], ["c;d"], None, ["a"]], 0),
    ],
)
def test_labels_are_divided_as_the_run_says(several: Any, multi_label: bool, found: Any, told: int) -> None:
    manifest = Manifest("t", Path("."), pa.table({"tags": TEXTS}), np.arange(4))
    said: list[str] = []
    assert _labels(manifest, "tags", several, multi_label, said.append) == found
    assert said == ["column 'tags': 1 cells are divided at '|' into several labels"] * told


def test_lists_are_sets_whatever_divides_texts() -> None:
    manifest = Manifest("t", Path("."), pa.table({"tags": [["a|b", "c"], [], None]}), np.arange(3))
    assert _labels(manifest, "tags", "|", True, print) == [["a|b", "c"], [], None]
