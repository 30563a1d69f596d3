"""Merged weights, by hand and against golden numbers."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from clx.pipelines.measures.merged_weights import average, by_delta, slerp

GOLDEN = sorted((Path(__file__).parent / "golden").glob("fusionsent_slerp_*.npz"))


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_slerp_is_that_of_fusionsent(path: Path) -> None:
    known = np.load(path)
    t = json.loads(known["hyper"].item())["t"]
    found, straight = slerp(torch.from_numpy(known["in_w0"]), torch.from_numpy(known["in_w1"]), t)
    torch.testing.assert_close(found.double(), torch.from_numpy(known["expected"]).double(), rtol=1e-5, atol=1e-6)
    assert straight == ("colinear" in path.stem)


def test_a_tensor_of_zeros_has_no_direction() -> None:
    assert slerp(torch.zeros(3), torch.ones(3), 0.25) == (pytest.approx([0.25] * 3), True)
    assert slerp(torch.tensor(2.0), torch.tensor(4.0), 0.5) == (torch.tensor(3.0), True)


def test_average_and_delta_by_hand() -> None:
    base, a, b = torch.tensor([1.0, 1, 1, 1]), torch.tensor([2.0, 1, 4, 1]), torch.tensor([1.0, 1, 0, 3])
    assert average([a, b], [0.25, 0.75]).tolist() == [1.25, 1.0, 1.0, 2.5]
    # moved by (1, 0, 3, 0) and (0, 0, -1, 2)
    assert by_delta(base, [a, b], [0.5, 0.5]).tolist() == [2.0, 1.0, 1 + (9 - 1) / 4, 3.0]
    assert by_delta(base, [a, b], [0.75, 0.25]).tolist() == pytest.approx([2.0, 1.0, 1 + (27 - 1) / 10, 3.0])
    assert by_delta(base, [a, b], [1.0, 0.0]).tolist() == [2.0, 1.0, 4.0, 1.0]
