"""CoSENT beyond the contract: order, ties, missing scores, long batches."""

import math

import pytest
import torch

from clx.losses.base import LOSSES
from clx.losses.cosent import cosent, ordered_loss


def loops(logits: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    apart = logits[:, None] - logits
    return torch.cat([logits.new_zeros(1), apart[scores[:, None] < scores]]).logsumexp(0)


@pytest.mark.parametrize("scores", ["real", "stars", "flags", "all but one", "equal"])
@pytest.mark.parametrize("scale", [1.0, 400.0])
def test_equals_all_ordered_pairs_also_with_ties(scores: str, scale: float) -> None:
    g = torch.Generator().manual_seed(1)
    drawn = torch.rand(257, generator=g, dtype=torch.float64)
    s = {
        "real": drawn,
        "stars": (5 * drawn).round(),
        "flags": (drawn > 0.7).double(),
        "all but one": (torch.arange(257) == 9).double(),
        "equal": torch.ones(257),
    }[scores]
    logits = (scale * torch.randn(257, generator=g, dtype=torch.float64)).requires_grad_()
    value, expected = ordered_loss(logits, s), loops(logits, s)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    (got,), (wanted,) = (torch.autograd.grad(v, [logits]) for v in (value, expected))
    torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-13)


def test_of_a_million_pairs_no_matrix_is_made() -> None:
    n = 1_000_000
    logits = torch.linspace(-1, 1, n, requires_grad=True)
    value = ordered_loss(logits, torch.arange(n).flip(0))
    value.backward()
    # every two are the wrong way round: n^2 / 4 times the integral of exp(a - b) over -1 < b < a < 1, which is e^2 - 3
    assert value.item() == pytest.approx(math.log(n * n / 4 * (math.e**2 - 3)), abs=1e-5)
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert logits.grad[-1] > 0 > logits.grad[0]


def test_pairs_without_a_score_or_without_one_input_are_left_out() -> None:
    g = torch.Generator().manual_seed(2)
    z = {"a": torch.randn(6, 4, generator=g), "b": torch.randn(6, 4, generator=g)}
    scores = torch.tensor([[0.0], [1], [2], [3], [4], [5]])
    present = {"a": torch.tensor([True] * 5 + [False]), "b": torch.tensor([False] + [True] * 5)}
    loss = LOSSES["cosent"]()
    holes = scores.clone()
    holes[3] = torch.nan
    value = loss(z, targets=holes, present=present)
    assert loss.log == {"dropped_targets": 1}
    kept = torch.tensor([1, 2, 4])
    x, y = (torch.nn.functional.normalize(z[n][kept], dim=1) for n in "ab")
    torch.testing.assert_close(value, cosent(x, y, scores[kept, 0], 0.05))


def test_scores_are_one_column_and_only_their_order_counts() -> None:
    z = {"a": torch.randn(3, 2), "b": torch.randn(3, 2)}
    loss = LOSSES["cosent"]()
    first, second = (loss(z, targets=torch.tensor(s)[:, None]) for s in ([0.0, 1.0, 2.0], [-7.0, 0.1, 900.0]))
    assert torch.equal(first, second)
    assert loss(z, targets=torch.ones(3, 1)) == 0
    with pytest.raises(ValueError, match="one score for each pair"):
        loss(z, targets=torch.ones(3, 2))
    with pytest.raises(ValueError, match="two inputs"):
        loss({"a": z["a"]}, targets=torch.ones(3, 1))
