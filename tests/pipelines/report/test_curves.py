"""Curves of a run, thinned."""

import math

from clx.pipelines.report import curves
from configs import Make
from pages import shown


def test_thinned_curves_keep_every_spike() -> None:
    values = [math.sin(k / 50) for k in range(20_000)]
    values[777], values[13_131], values[5] = 40.0, -40.0, float("nan")
    x, y = curves.thinned(list(enumerate(values)))
    assert len(x) <= curves.POINTS
    assert x == sorted(set(x))
    assert (x[0], x[-1]) == (0, 19_999)
    assert dict(zip(x, y, strict=True))[777] == 40.0
    assert dict(zip(x, y, strict=True))[13_131] == -40.0
    x, y = curves.thinned([(1, 1.0), (2, float("inf")), (3, 2.0)])
    assert (x, y) == ([1, 2, 3], [1.0, None, 2.0])


def test_inputs_of_one_run_share_a_chart_and_several_runs_each_figure(make_config: Make) -> None:
    names = [f"text_{k}" for k in range(12)]
    config = make_config(modalities={name: {"kind": "text"} for name in names})
    lines = [{"step": k, "loss": 1.0, "clip.scale": 2.0} | {f"{n}.spread": 0.5 for n in names} for k in (1, 2)]
    lines.append({"step": 2, "val_loss": 1.5})
    charts = {chart["name"]: chart["lines"] for chart in curves.curves([shown(config, metrics=lines)])}
    titles = ["loss, training and validation", "clip.scale", "spread of the inputs, 1", "spread of the inputs, 2"]
    assert list(charts) == titles
    assert [(one["run"], one["name"], one["held"]) for one in charts[titles[0]]] == [
        (0, "training", False),
        (0, "validation", True),
    ]
    assert [(one["run"], one["name"]) for one in charts[titles[2]]] == list(enumerate(names[: curves.LINES]))
    two = {chart["name"]: chart["lines"] for chart in curves.curves([shown(config, metrics=lines)] * 2)}
    assert [one["run"] for one in two["text_0.spread"]] == [0, 1]
    assert [one["name"] for one in two[titles[0]]] == ["a", "a validation"] * 2


def test_losses_of_different_objectives_have_charts_of_their_own(make_config: Make) -> None:
    lines = [{"step": k, "loss": 1.0, "grad_norm": 2.0} for k in (1, 2)] + [{"step": 2, "val_loss": 1.5}]
    other = make_config(objective={"name": "dcl", "temperature": 0.1})
    runs = [shown(config, metrics=lines, name=n) for n, config in (("a", make_config()), ("b", other), ("c", other))]
    charts = {chart["name"]: [line["run"] for line in chart["lines"]] for chart in curves.curves(runs)}
    assert charts == {
        "loss of a, training and validation": [0, 0],
        "loss of b, c, training and validation": [1, 1, 2, 2],
        "grad_norm": [0, 1, 2],
    }
