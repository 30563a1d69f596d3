"""The learned view of series: what it hides and amplifies, at random, and how it begins and ends."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from clx.modalities.base import LearnedView
from clx.modalities.series import Series


def made(cells: list[Any], **options: Any) -> tuple[LearnedView, dict[str, Tensor]]:
    modality = Series(augmentation="autotcl", views=2, scale="none", **options)
    modality.fit(cells)
    torch.manual_seed(0)
    view = modality.build_view()
    assert view is not None
    return view, modality.collate([modality.read(cell) for cell in cells])


def cells(count: int = 3, channels: int = 2) -> list[Any]:
    draw = np.random.default_rng(0)
    return [draw.normal(2, 1, (length, channels)) for length in range(40, 40 + count)]


def test_a_view_is_the_series_times_a_mask_and_a_gain_of_each_step() -> None:
    view, batch = made(cells())
    x = batch["x"]
    with torch.no_grad():
        before, kept = view(**batch)
        again, _ = view(**batch)
    assert not torch.equal(before["x"], again["x"])  # random
    assert torch.equal(before["mask"], batch["mask"])
    factor = (before["x"] / x)[batch["mask"]]
    torch.testing.assert_close(factor[:, 0], factor[:, 1])  # of a step, not of a channel
    assert factor.min() == 0  # the gain begins at 1
    assert factor.max() == 1
    assert (before["x"][~batch["mask"]] == 0).all()
    share = torch.stack([(view(**batch)[0]["x"] != 0)[..., 0][batch["mask"]].float().mean() for _ in range(60)]).mean()
    assert share.item() == pytest.approx(kept[batch["mask"]].mean().item(), abs=0.02)  # the probability says it


def test_what_tells_of_gaps_is_hidden_but_not_amplified() -> None:
    some = cells()
    some[0][3:6] = np.nan
    view, batch = made(some, gaps="indicate")
    with torch.no_grad():
        view.get_parameter("out.bias")[1] = 10.0
        found, _ = view(**batch)
    values, told = found["x"].chunk(2, -1)
    assert told.max() == 1
    gain = (values / batch["x"][..., :2] / told)[told > 0]
    torch.testing.assert_close(gain, torch.full_like(gain, torch.e), rtol=1e-4, atol=0)


@pytest.mark.parametrize(("bias", "least", "most"), [(-1e4, 0.2, 0.4), (1e4, 0.95, 0.999)])
def test_a_mask_is_never_certain(bias: float, least: float, most: float) -> None:
    view, batch = made(cells())
    with torch.no_grad():
        view.get_parameter("out.bias")[0] = bias
        _, kept = view(**batch)
    assert least < kept.min()
    assert kept.max() < most


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"views": 1}, "views: 2"),
        ({"encoder": "minirocket"}, "no gradient"),
        ({"augmentation": {"autotcl": 11}}, "0 to 10"),
    ],
)
def test_what_cannot_learn_is_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Series(**{"augmentation": "autotcl", "views": 2, **options})


def test_a_view_by_fixed_changes_has_no_network() -> None:
    assert Series(views=2).build_view() is None
