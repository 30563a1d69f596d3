"""Towers: an encoder, its head, and two columns through one of them."""

import torch

from clx.modalities.text import Text
from clx.pipelines.batches.cells import collate, read_cell
from clx.pipelines.model.towers import Tower

ROWS = [("a cat", "a cat", 5), ("a cat", "the sun", 0), ("sun", "", 2), ("ü", "u and v", 1), ("one two", "two one", 4)]


def test_the_head_gets_both_their_difference_and_product() -> None:
    text = Text(width=32, layers=1, pair="second", head="none")
    torch.manual_seed(0)
    tower = Tower(text, 128).eval()
    samples = [read_cell(text, (a, b)) for a, b, _ in ROWS if b]
    z = tower(collate(text, samples))
    u, v = (tower.encoder(**text.collate([s[side] for s in samples])) for side in (0, 1))
    torch.testing.assert_close(z, torch.cat([u, v, (u - v).abs(), u * v], 1))
    torch.testing.assert_close(z[0, 64:96], torch.zeros(32))  # equal sentences
