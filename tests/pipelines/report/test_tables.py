"""Tables of the page: which keys of configs differ, and figures side by side."""

from typing import Any

from clx.pipelines.report import tables
from configs import Make
from pages import evaluation, shown


def test_config_difference_names_the_keys_that_differ_alone(make_config: Make) -> None:
    a, b = make_config(), make_config(train__lr=0.5, objective={"name": "dcl", "temperature": 0.1})
    table = tables.difference([shown(a), shown(b, name="b")])
    assert table
    found = {row[0].text: [cell.text for cell in row[1:]] for row in table.rows}
    assert found["train.lr"] == ["0.001", "0.5"]
    assert found["objective.name"] == ['"clip"', '"dcl"']
    assert found["objective.learn_temperature"] == ["true", "absent"]
    assert set(found) == {"train.lr", "objective.name", "objective.learn_temperature"}
    assert tables.difference([shown(a), shown(a)]) is None
    less = a.model_copy(update={"modalities": {"image": a.modalities["image"]}})
    table = tables.difference([shown(a), shown(less)])
    assert table
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["modalities.table", '"mlp"', "absent"],
        ["modalities.text", '"transformer"', "absent"],
    ]


def test_figures_side_by_side(make_config: Make) -> None:
    config = make_config()
    old, new, other = evaluation("x", 0.4), evaluation("x", 0.6, key="new"), evaluation("x", 0.5)
    runs = [shown(config, evaluations=[old, new]), shown(config, name="b", evaluations=[other])]
    (table,) = tables.evaluation_tables(runs)
    rows = {row[0].text: row[1:] for row in table.rows}
    assert [cell.text for cell in rows["x: top1"]] == ["0.600", "0.500"]  # the newest counts
    assert [cell.best for cell in rows["x: top1"]] == [True, False]
    assert rows["x: top1"][0].interval == "0.500 to 0.700"
    assert not any(cell.best for cell in rows["x: median_rank"])  # a tie has no best
    assert "x: rows" not in rows  # a count in which they agree
    options = {"k": 5, "confidence": 0.9, "phrasings": {"a": ["b"], "c": ["d"]}}  # k is not one of zeroshot
    fewer = evaluation("y", 0.9, key="newest") | {"data": "x", "settings": options}
    (table,) = tables.evaluation_tables([shown(config, evaluations=[old, new, fewer])])
    assert [row[0].text for row in table.rows] == ["y"]  # nothing of an evaluation with other options
    assert table.caption == "checkpoint of step 3, confidence 0.9, 2 phrasings"
    (alone,) = tables.evaluation_tables(runs[1:])
    assert [head for head in alone.heads] == ["input", "top1", "rows", "median_rank"]


def test_nothing_is_best_among_figures_of_other_rows(make_config: Make) -> None:
    def asked(high: float, candidates: int) -> dict[str, Any]:
        result = {key: value for key, value in evaluation("x", 0.5).items() if key != "zeroshot"}
        return result | {"retrieval": {"a->b": {"R@1": high, "queries": 9, "candidates": candidates}}}

    for candidates, best in ((9, [False, True]), (4, [False, False])):
        given = {"a": asked(0.4, 9), "b": asked(0.6, candidates)}
        runs = [shown(make_config(), name=name, evaluations=[result]) for name, result in given.items()]
        (table,) = tables.evaluation_tables(runs)
        assert [cell.best for cell in table.rows[0][1:]] == best
        assert ("where candidates differ no figure is marked as the best" in table.caption) == (candidates == 4)


def test_many_directions_have_short_names_and_are_folded(make_config: Make) -> None:
    names = [f"text_{k}" for k in range(6)]
    ways = [f"{a}->{b}" for a in names for b in names if a != b]
    ways += ["+".join(a for a in names if a != b) + f"->{b}" for b in names]
    result = {key: value for key, value in evaluation("x", 0.5).items() if key != "zeroshot"}
    one = shown(make_config(), evaluations=[result | {"retrieval": {way: {"R@1": 0.5} for way in ways}}])
    (table,) = tables.evaluation_tables([one])
    assert table.long
    assert [row[0].text for row in table.rows[-2:]] == ["all others->text_4", "all others->text_5"]
    assert tables.called("a+b->c") == "a+b->c"
    assert tables.called("a+b+c") == "a+b+c"
