"""What a page draws of saved figures."""

from pathlib import Path
from typing import Any

from clx.pipelines.measures.scores import BINS
from clx.pipelines.report.curves import LINES
from clx.pipelines.report.figures import SHOWN, evaluation_charts, score_charts
from clx.pipelines.runs.folder import read_config
from pages import evaluation, shown


def retrieval(first: float, **more: Any) -> dict[str, Any]:
    line = {"R@1": first, "R@1_ci": [first - 0.1, first + 0.1], "AUC_pooled": 0.9, "roc": [[0, 0], [0.2, 0.8], [1, 1]]}
    names = ("image", "text_en", "text_ru")
    ways = {f"{a}->{b}": line for a in names for b in names if a != b} | {"image+text_en->text_ru": line}
    result = {key: value for key, value in evaluation("stamps", 0.5).items() if key != "zeroshot"}
    return result | {"retrieval": ways, "dim": 64} | more


def test_scores_over_training_are_thinned_and_damaged_lines_left_out(digits_run: Path) -> None:
    config = read_config(digits_run)
    good = {"partners": [0] * (BINS - 1) + [3], "others": [4] + [0] * (BINS - 1)}
    lines: list[dict[str, Any]] = [{"step": k, "scores": {"image+text": good}} for k in range(100)]
    lines[99] = {"step": 99, "scores": {"image+text": good, "image+audio": {"partners": "x"}}}
    (chart,) = score_charts([shown(config, metrics=[{"step": 0, "loss": 1.0}, *lines])])
    assert chart["title"] == "image+text"
    assert len(chart["steps"]) == len(chart["others"]) == SHOWN
    assert (chart["steps"][0], chart["steps"][-1]) == (0, 99)
    two = score_charts([shown(config, name=name, metrics=lines) for name in "ab"])
    assert [(one["run"], one["title"]) for one in two] == [(0, "a: image+text"), (1, "b: image+text")]


def test_a_run_is_asked_from_input_to_input_and_by_width(digits_run: Path) -> None:
    config = read_config(digits_run)
    narrow = {"8": {"retrieval": retrieval(0.3)["retrieval"]}, "16": {"retrieval": retrieval(0.5)["retrieval"]}}
    one = shown(config, evaluations=[retrieval(0.6, dims=narrow)])
    charts = evaluation_charts([one])
    assert [chart["kind"] for chart in charts] == ["inputs", "roc", "widths"]
    matrix, roc, widths = charts
    assert len(roc["lines"]) == 7 <= LINES
    assert roc["lines"][0] == {"run": 0, "name": "image->text_en", "x": [0, 0.2, 1], "y": [0, 0.8, 1], "area": 0.9}
    assert matrix["names"] == ["image", "text_en", "text_ru"]
    assert matrix["values"] == [[None, 0.6, 0.6], [0.6, None, 0.6], [0.6, 0.6, None]]
    assert widths["title"] == "R@1 by width, retrieval on stamps, test"
    assert widths["lines"][0] == {"run": 0, "name": "image->text_en", "x": [8, 16, 64], "y": [0.3, 0.5, 0.6]}
    both = evaluation_charts([one, shown(config, name="b", evaluations=[retrieval(0.4)])])
    first = next(chart for chart in both if chart["kind"] == "roc")
    assert [(line["run"], line["name"]) for line in first["lines"]] == [(0, "a"), (1, "b")]
    assert first["title"].endswith("image->text_en")
