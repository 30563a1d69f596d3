"""Measures against brute force."""

import torch

from clx.pipelines.metrics import accuracies, first_answers, ranks, recall_at


def test_ranks_equal_sorting() -> None:
    draw = torch.Generator().manual_seed(0)
    queries = torch.randn(70, 5, generator=draw)
    candidates = torch.randn(40, 5, generator=draw)
    relevant = [[k % 40, (k * 7 + 1) % 40] for k in range(70)]
    found = ranks(queries, candidates, relevant, chunk=16).tolist()
    for query, numbers, rank in zip(queries, relevant, found, strict=True):
        order = sorted(range(40), key=lambda c: -float(query @ candidates[c]))
        assert rank == min(order.index(number) for number in numbers)
    assert first_answers(queries, candidates, chunk=16).tolist() == (queries @ candidates.T).argmax(1).tolist()


def test_a_collapsed_space_scores_nothing() -> None:
    ones = torch.ones(10, 4)
    assert recall_at(ranks(ones, ones, [[k] for k in range(10)]), (1, 5)) == {"R@1": 0.0, "R@5": 0.0}


def test_recall_at_counts_places() -> None:
    assert recall_at(torch.tensor([0, 1, 4, 9]), (1, 5, 10)) == {"R@1": 0.25, "R@5": 0.75, "R@10": 1.0}


def test_accuracies() -> None:
    scores = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])
    found = accuracies(scores, torch.tensor([0, 0, 1, 1]))
    assert found == {"top1": 0.75, "mean_per_class": 0.75}
    assert accuracies(torch.eye(7), torch.arange(7))["top5"] == 1.0
    assert accuracies(scores[:3], torch.tensor([0, 0, 1]))["mean_per_class"] == 1.0
