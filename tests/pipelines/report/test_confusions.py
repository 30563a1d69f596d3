"""Confusion matrices of the page."""

from clx.pipelines.report import confusions


def test_a_thousand_classes_are_cut_to_those_with_most_mistakes() -> None:
    classes = [str(k) for k in range(1000)]
    cells = [[k, k, 5] for k in range(1000)] + [[k, 0, 3] for k in range(900, 1000)]
    made = confusions.answer("t", "n.", classes, cells)
    assert made["classes"] == classes[900:]
    assert made["totals"] == [8] * 100
    assert "100 of 1000 classes" in made["note"]
