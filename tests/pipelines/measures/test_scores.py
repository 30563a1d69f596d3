"""Histograms of the scores of partners and of others."""

import torch

from clx.pipelines.measures.scores import BINS, PAIRS, histograms


def counted(scores: list[float]) -> list[int]:
    """By hand."""
    bins = [0] * BINS
    for score in scores:
        bins[min(BINS - 1, int((score + 1) * BINS / 2))] += 1
    return bins


def test_partners_are_cells_of_one_row_and_rows_that_share_a_cell_or_a_label_count_for_neither() -> None:
    draw = torch.Generator().manual_seed(0)
    x, y = (torch.randn(6, 4, generator=draw, dtype=torch.float64) for _ in range(2))
    x[4] = torch.nan  # no image there
    alike = torch.tensor([0, 1, 2, 0, 4, 5])
    labels = torch.tensor([5, 6, 6, -1, -1, -1])
    cosine = torch.nn.functional.cosine_similarity(x[:, None].float(), y[None].float(), dim=2).tolist()
    here = [0, 1, 2, 3, 5]
    found = histograms({"image": x, "text": y}, labels, alike)["image+text"]
    assert found["partners"] == counted([cosine[i][i] for i in here])
    others = [cosine[i][j] for i in here for j in here if alike[i] != alike[j] and {i, j} != {1, 2} and i != j]
    assert found["others"] == counted(others)
    assert len(others) == 16


def test_of_one_input_rows_of_a_label_are_partners() -> None:
    z = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([0, 1, 0, -1, 1])
    cosine = torch.nn.functional.cosine_similarity(z[:, None], z[None], dim=2).tolist()
    found = histograms({"table": z}, labels)["table"]
    assert found["partners"] == counted([cosine[i][j] for i, j in ((0, 2), (2, 0), (1, 4), (4, 1))])
    assert sum(found["others"]) == 8
    assert histograms({"table": z}, torch.full((5,), -1)) == {}


def test_pairs_of_inputs_are_bounded() -> None:
    z = {str(k): torch.eye(4) for k in range(9)}
    assert len(histograms(z)) == PAIRS
