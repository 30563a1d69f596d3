"""Rows of a class among all rows, against loops; classes of one row; ties; blocks."""

import pytest
import torch
from torch import Tensor

from clx.pipelines.measures import same_class as file
from clx.pipelines.measures.same_class import same_class


def loops(x: Tensor, labels: list[int]) -> tuple[list[int], dict[str, list[float]]]:
    u = torch.nn.functional.normalize(x, dim=1)
    asking: list[int] = []
    found: dict[str, list[float]] = {name: [] for name in ("R@1", "R@5", "R@10", "R-precision", "MAP@R")}
    for i, label in enumerate(labels):
        others = [j for j in range(len(labels)) if j != i]
        right = [labels[j] == label for j in sorted(others, key=lambda j: -float(u[i] @ u[j]))]
        if not any(right):
            continue
        asking.append(i)
        total = sum(right)
        for k in (1, 5, 10):
            found[f"R@{k}"].append(float(any(right[:k])))
        found["R-precision"].append(sum(right[:total]) / total)
        found["MAP@R"].append(sum(sum(right[: k + 1]) / (k + 1) for k in range(total) if right[k]) / total)
    return asking, found


@pytest.mark.parametrize("block", [file.BLOCK, 1])
def test_is_that_of_loops(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file, "BLOCK", block)
    g = torch.Generator().manual_seed(0)
    x = torch.randn(40, 6, generator=g)
    labels = torch.cat([torch.randint(5, (38,), generator=g), torch.tensor([7, 9])])  # two classes of one row
    asking, found = same_class(x, labels)
    expected_asking, expected = loops(x, labels.tolist())
    assert asking.tolist() == expected_asking
    assert {name: value.tolist() for name, value in found.items()} == {
        name: pytest.approx(value) for name, value in expected.items()
    }
    assert 0 < found["MAP@R"].mean() < found["R-precision"].mean() < 1


def test_of_equal_rows_and_of_no_two_of_a_class() -> None:
    asking, found = same_class(torch.ones(4, 2), torch.tensor([0, 1, 1, 0]))
    assert asking.tolist() == [0, 1, 2, 3]
    assert found["R@1"].tolist() == [0, 0, 0, 1], "of equal scores the first row"
    assert same_class(torch.randn(3, 2), torch.arange(3)) == (pytest.approx(torch.empty(0)), {})
