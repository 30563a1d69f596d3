"""Terms that draw learned prompts, and the router over them, to the words that they began with (MoCoOp)."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

RAISED = 10.0
"""What is added to the similarities with the written prompts that a router should choose: the others hardly count."""


def prompts_as_written(learned: Tensor, written: Tensor) -> Tensor:
    """Cross-entropy `[]` of each label's row by a learned prompt among all labels' by the words that it began with.

    -mean_ck log softmax_c'(u_ck.v_c'k)_c, without a temperature

    Args:
        learned: `[C, P, D]`, unit rows u of C labels by P prompts.
        written: `[C, P, D]`, the same as written, v.

    Reference:
        Du et al. 2024, arXiv 2409.12011 (MoCoOp), whose written rows are means of a group of templates.
    """
    cosines = torch.einsum("ckd,ekd->cek", learned, written)
    own = torch.arange(len(learned), device=learned.device)[:, None].expand(-1, learned.shape[1])
    return cross_entropy(cosines, own)


def gate_as_written(gates: Tensor, near: Tensor, top: int) -> Tensor:
    """Cross-entropy `[]` of the softmax of a router's scores with that of `near`, whose `top` highest are raised.

    Args:
        gates: `[B, P]`, what the router gives each prompt.
        near: `[B, P]`, cosines of a row with its own label as each prompt is written; without gradient.
        top: how many prompts score a row.

    Reference:
        Du et al. 2024, arXiv 2409.12011 (MoCoOp).
    """
    highest = near.topk(top, dim=1).indices
    return cross_entropy(gates, near.scatter_add(1, highest, near.new_full(highest.shape, RAISED)).softmax(1))
