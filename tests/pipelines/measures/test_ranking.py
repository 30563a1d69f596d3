"""Ranking against brute force and scikit-learn."""

import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, ndcg_score, roc_auc_score
from torch import Tensor

from clx.pipelines.measures.bootstrap import figures
from clx.pipelines.measures.pooled import pooled_by
from clx.pipelines.measures.ranking import (
    Relevant,
    discounted,
    gains_by_label,
    gains_by_score,
    gains_by_target,
    rank,
    retrieved,
)


def made(queries: int = 70, candidates: int = 40, width: int = 5) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    return torch.randn(queries, width, generator=draw), torch.randn(candidates, width, generator=draw)


def pairs(answers: list[list[int]]) -> Relevant:
    query = torch.tensor([k for k, numbers in enumerate(answers) for _ in numbers])
    return Relevant.of(query, torch.tensor([n for numbers in answers for n in numbers]), len(answers))


@pytest.mark.parametrize("most", [1, 3, 30])  # 30 goes by sorting, 1 and 3 by counting
def test_ranking_equals_sorting_and_scikit_learn(most: int) -> None:
    queries, candidates = made()
    draw = np.random.default_rng(0)
    answers = [sorted(draw.choice(40, draw.integers(1, most + 1), replace=False).tolist()) for _ in range(70)]
    found = rank(queries, candidates, pairs(answers), cells=16 * 40)
    for number, (query, right) in enumerate(zip(queries, answers, strict=True)):
        scores = candidates @ query
        order = scores.argsort(descending=True).tolist()
        truth = np.isin(np.arange(40), right)
        assert found.first[number] == min(order.index(each) for each in right)
        assert found.top[number].tolist() == order[:10]
        assert found.precision[number] == pytest.approx(average_precision_score(truth, scores), abs=1e-6)
        assert found.auc[number] == pytest.approx(roc_auc_score(truth, scores), abs=1e-6)


@pytest.mark.parametrize("right", [1, 20])
def test_a_collapsed_space_finds_nothing(right: int) -> None:
    ones = torch.ones(40, 4)
    answers = pairs([[(k + j) % 40 for j in range(right)] for k in range(40)])
    found = rank(ones, ones, answers)
    line = figures(40, retrieved(found.first, found.precision, found.auc), resamples=0)
    assert (line["R@1"], line["R@5"], line["AUC"]) == (0.0, 0.0, 0.5)
    assert line["median_rank"] == 41 - right


def test_recall_and_median_count_places() -> None:
    first = torch.tensor([0, 1, 4, 9])
    line = figures(4, retrieved(first, torch.ones(4), torch.full((4,), float("nan"))), resamples=0)
    assert line == {"R@1": 0.25, "R@5": 0.75, "R@10": 1.0, "median_rank": 3.5, "mAP": 1.0}


def test_every_candidate_right_leaves_no_auc() -> None:
    queries, candidates = made(5, 3)
    found = rank(queries, candidates, pairs([[0, 1, 2]] * 5))
    assert found.auc.isnan().all()
    assert found.precision.tolist() == [1.0] * 5


def test_gain_by_label_equals_scikit_learn() -> None:
    queries, candidates = made(30, 40)
    draw = np.random.default_rng(1)
    answers = [sorted(draw.choice(40, draw.integers(1, 4), replace=False).tolist()) for _ in range(30)]
    labels, kinds = torch.from_numpy(draw.integers(-1, 4, 90)), torch.from_numpy(draw.integers(-1, 4, 40))
    query = torch.arange(30).repeat(3)  # each asked by three rows, of different labels
    relevant = pairs(answers)
    top = rank(queries, candidates, relevant).top
    found = discounted(*gains_by_label(top, query, labels, kinds, relevant))
    for row, value in enumerate(found.tolist()):
        asked = int(query[row])
        truth = ((kinds == labels[row]) & (labels[row] >= 0)).int().numpy()
        truth[answers[asked]] = 2
        scores = (candidates @ queries[asked]).numpy()
        assert value == pytest.approx(ndcg_score([truth], [scores], k=10), abs=1e-9)


@pytest.mark.parametrize("columns", [1, 2])
def test_gain_by_target_equals_scikit_learn(columns: int) -> None:
    queries, candidates = made(30, 40)
    _, there = made(1, 40, columns)
    asked = there[:30] * 3 + 1
    top = rank(queries, candidates, pairs([[k] for k in range(30)])).top
    found = discounted(*gains_by_target(top, torch.arange(30), asked, there))
    spread = there.double().std(0)
    for row, value in enumerate(found.tolist()):
        distance = (((there.double() - asked[row].double()) / spread) ** 2).mean(1).sqrt()
        scores = (candidates @ queries[row]).numpy()
        assert value == pytest.approx(ndcg_score([torch.exp(-distance).numpy()], [scores], k=10), abs=1e-9)


@pytest.mark.parametrize("least", [0.0, -3.0])
def test_gain_by_score_equals_scikit_learn(least: float) -> None:
    queries, candidates = made(30, 40)
    draw = np.random.default_rng(2)
    query, thing = np.arange(30).repeat(3), draw.integers(0, 40, 90)  # a pair may come twice
    scores = np.append(draw.random(89) * 5 + least, least)
    top = rank(queries, candidates, pairs([[k] for k in range(30)])).top
    found = discounted(*gains_by_score(top, *map(torch.from_numpy, (query, thing, scores)), 40))
    for asked, value in enumerate(found.tolist()):
        truth = np.zeros(40)
        for k in set(thing[query == asked].tolist()):
            truth[k] = scores[(query == asked) & (thing == k)].mean() - least
        assert value == pytest.approx(ndcg_score([truth], [(candidates @ queries[asked]).numpy()], k=10), abs=1e-9)


def test_gain_by_target_of_one_candidate() -> None:
    there = torch.tensor([[5.0]])
    gains, best = gains_by_target(torch.zeros(3, 1, dtype=torch.long), torch.arange(3), there.expand(3, 1), there)
    assert discounted(gains, best).tolist() == [1.0] * 3


def test_gain_far_from_every_candidate() -> None:
    """exp(-d) of all of them is zero as a float; their shares of the nearest one's are not."""
    there = torch.tensor([[0.0], [1.0], [2.0]])
    asked = torch.tensor([[1e4], [-1e4]])
    top = torch.tensor([[2, 1, 0]])
    found = discounted(*gains_by_target(top, torch.zeros(2, dtype=torch.long), asked, there))
    shares = np.exp(-np.arange(3.0))  # one standard deviation apart, the nearest first
    scores = np.array([[3.0, 2.0, 1.0]])
    expected = [ndcg_score([shares], scores), ndcg_score([shares[::-1]], scores)]
    assert found.tolist() == pytest.approx(expected, rel=1e-6)


BIG = """
import sys, torch
from clx.pipelines.measures.ranking import Relevant, rank
torch.set_num_threads(2)
draw = torch.Generator().manual_seed(0)
x = torch.nn.functional.normalize(torch.randn(100_000, 256, generator=draw), dim=1)
y = torch.nn.functional.normalize(x + 0.2 * torch.randn(100_000, 256, generator=draw), dim=1)
every = torch.arange(100_000)
found = rank(x, y, Relevant.of(every, every, 100_000))
some = torch.arange(0, 100_000, 997)
scores = x[some] @ y.T
expected = (scores >= scores.gather(1, some[:, None])).sum(1) - 1
assert found.first[some].tolist() == expected.tolist()
"""


@pytest.mark.slow
def test_a_hundred_thousand_by_as_many_in_two_gigabytes() -> None:
    subprocess.run([sys.executable, "-c", BIG], check=True, cwd=Path(__file__).parent, timeout=3600)
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 2 * 2**20  # KiB


def test_pooled_auc_is_scikit_learns_over_all_pairs() -> None:
    draw = torch.Generator().manual_seed(0)
    queries, candidates = torch.randn(30, 4, generator=draw), torch.randn(25, 4, generator=draw)
    right = torch.randint(25, (45,), generator=draw), torch.cat([torch.arange(30), torch.arange(15)])
    relevant = Relevant.of(right[1], right[0], 30)
    truth = torch.zeros(30, 25)
    truth[relevant.queries, relevant.numbers] = 1
    area, curve = pooled_by(lambda rows: queries[rows] @ candidates.T, len(candidates), relevant)
    expected = roc_auc_score(truth.flatten().numpy(), (queries @ candidates.T).flatten().numpy())
    assert area == pytest.approx(expected, abs=1e-4)
    false, true = zip(*curve, strict=True)
    assert (list(false), list(true)) == (sorted(false), sorted(true))
    assert np.trapezoid(true, false) == pytest.approx(expected, abs=0.02)
    equal = Relevant.of(torch.arange(2), torch.arange(2), 2)
    assert pooled_by(lambda rows: torch.zeros(len(rows), 25), 25, equal)[0] == 0.5
