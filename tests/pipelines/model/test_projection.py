"""Heads that see a part of the features in training."""

import torch

from clx.modalities.image import Image
from clx.modalities.text import Text
from clx.pipelines.model.projection import projection


def test_a_head_sees_the_features_that_are_left_and_in_evaluation_all_of_them() -> None:
    torch.manual_seed(0)
    head = projection(Text(head_dropout=0.25, head="none"), 4000, 4000)
    features = torch.ones(3, 4000)
    found = head.train()(features)
    assert set(found.unique().tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    assert abs((found == 0).float().mean().item() - 0.25) < 0.02
    assert not torch.equal(found[0], found[1]), "each row loses others"
    assert torch.equal(head.eval()(features), features)


def test_weights_have_the_names_of_any_head() -> None:
    plain, dropped = (projection(Image(head="mlp", head_dropout=rate), 8, 4) for rate in (0.0, 0.5))
    assert plain.state_dict().keys() == dropped.state_dict().keys()
    dropped.load_state_dict(plain.state_dict())
    x = torch.randn(6, 8)
    torch.testing.assert_close(plain.eval()(x), dropped.eval()(x))


def test_views_of_equal_features_differ_by_it() -> None:
    assert Image(views=2, augmentation="none", head_dropout=0.5).views == 2
