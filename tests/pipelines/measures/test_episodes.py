"""Few-shot classes that are moved to their queries, against the authors' numbers and on queries that are uneven."""

import json
from pathlib import Path

import pytest
import torch

from clx.pipelines.measures.episodes import aligned_episodes, drawn, episodes
from clx.pipelines.measures.transport import plan, transported

GOLDEN = json.loads((Path(__file__).parent / "golden" / "opta.json").read_text())


@pytest.mark.parametrize("case", GOLDEN)
def test_prototypes_move_as_the_authors_do(case: str) -> None:
    """Two at once, of which one is another problem: each stops by itself."""
    told = GOLDEN[case]
    prototypes, queries = torch.tensor(told["prototypes"]), torch.tensor(told["queries"])
    both = transported(torch.stack([prototypes, queries[: len(prototypes)]]), queries.expand(2, -1, -1), told["passes"])
    torch.testing.assert_close(both[0], torch.tensor(told["expected"]), rtol=1e-4, atol=1e-5)


def test_a_plan_is_even_and_follows_the_cost() -> None:
    cost = torch.tensor([[[0.0, 0, 1, 1], [1, 1, 0, 0]]])
    found = plan(cost)
    torch.testing.assert_close(found.sum(2), torch.full((1, 2), 0.5), rtol=0, atol=1e-4)
    torch.testing.assert_close(found.sum(1), torch.full((1, 4), 0.25), rtol=0, atol=1e-4)
    assert found[0, 0, :2].sum() > 0.49


def test_transport_helps_even_queries_and_harms_uneven_ones() -> None:
    """Five classes of Gaussians, as in the reference: nearest prototype .88, even .99, uneven far below."""
    draw = torch.Generator().manual_seed(0)
    centres = 1.1 * torch.randn(5, 16, generator=draw)
    labels = torch.arange(5).repeat(60)
    x = centres[labels] + torch.randn(300, 16, generator=draw)
    about = (x[:100], labels[:100], x[100:], labels[100:])
    plain = episodes(*about, ways=5, shots=1, count=20, seed=0, even=True)
    found = aligned_episodes(*about, ways=5, shots=1, count=20, seed=0)
    assert plain is not None
    assert found is not None
    even, uneven = (each.mean() for each in found)
    assert even > plain.mean() + 0.03
    assert uneven < plain.mean() - 0.05
    assert aligned_episodes(*about, ways=5, shots=30, count=4, seed=0) is None


def test_an_episode_has_as_many_queries_of_each_class_where_it_should() -> None:
    labels = torch.tensor([0] * 9 + [1] * 9)
    asked = torch.tensor([0] * 20 + [1] * 3)
    for even, sizes in ((False, {3, 15}), (True, {3})):
        for episode in drawn(labels, asked, 2, 2, 5, 0, 15, even):
            assert {len(each) for each in episode.queries} == sizes
