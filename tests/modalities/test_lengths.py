"""Lengths of rows, which stay known on the host when their mask moves to a GPU."""

import gc

import torch

from clx.modalities import lengths
from clx.modalities.lengths import lengths_of, remember
from pretend_cuda import pretending


def test_lengths_reach_to_the_last_step_that_counts() -> None:
    mask = torch.tensor([[1, 1, 0], [0, 0, 1], [0, 0, 0]], dtype=torch.bool)
    assert lengths_of(mask).tolist() == [2, 3, 0]


def test_a_moved_mask_is_not_looked_at() -> None:
    mask = torch.tensor([[True, False], [True, True]])
    with pretending() as pretence:
        moved, other = mask.to("cuda"), mask.to("cuda")
        remember(moved, mask)
        pretence.reads.clear()
        assert lengths_of(moved).tolist() == [1, 2]
        assert pretence.waits == 0
        assert lengths_of(other).tolist() == [1, 2]
        assert pretence.waits == 1
        del moved
        gc.collect()
        assert not len(lengths._KNOWN)
