"""Classes by name."""

from clx.pipelines.data.classes import class_of, index_of


def test_classes_of_earlier_runs_are_found_by_what_they_say() -> None:
    index = index_of(["0.0", "1.0", "TRUE", "None", "cat"])
    assert index == {"0": 0, "1": 1, "True": 2, "None": 3, "cat": 4}
    assert [index.get(class_of(cell) or "") for cell in (0, "1", True, " cat", None, 1.0)] == [0, 1, 2, 4, None, 1]
