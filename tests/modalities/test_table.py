"""Types, scales and gaps of tables, their augmentation, and the encoders of them."""

import json
import math
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
import torch

from clx.modalities.base import CellError
from clx.modalities.draws import Draws
from clx.modalities.table import Table

ROWS: list[dict[str, Any]] = [
    {"size": str(i), "weight": None if i % 5 == 0 else i * 0.5, "colour": ["red", "green", ""][i % 3]}
    for i in range(50)
]
COLUMNS = ["size", "weight", "colour"]


def fitted(rows: list[dict[str, Any]] = ROWS, **config: Any) -> Table:
    modality = Table(columns=COLUMNS, **config)
    modality.fit(rows)
    return modality


def test_a_row_is_numbers_flags_and_categories() -> None:
    modality = fitted(scale="none")
    assert modality.read({"size": "7", "weight": 2.5, "colour": "red"}).tolist() == [7, 2.5, 0, 0, 2]
    assert modality.read({"size": 7, "weight": "NA", "colour": "green"}).tolist() == [7, 0, 0, 1, 3]
    assert modality.read({"size": None, "weight": math.nan, "colour": " "}).tolist() == [0, 0, 1, 1, 0]


def test_an_unknown_category_has_a_place_of_its_own() -> None:
    modality = fitted()
    assert modality.read({"size": 1, "weight": 1, "colour": "mauve"})[-1] == 1
    rare = fitted(max_categories=1)
    assert rare.read({"size": 1, "weight": 1, "colour": "green"})[-1] == 1
    net = modality.build_encoder()
    assert net.cells.categories.weight[:2].abs().sum() == 0, "untrained, it says nothing"  # type: ignore[union-attr, index, operator]


@pytest.mark.parametrize(("value", "reason"), [("1,5", "column 'size': '1,5' is not a number"), ("inf", "is infinite")])
def test_a_cell_that_is_no_number_names_its_column(value: str, reason: str) -> None:
    with pytest.raises(CellError, match=reason):
        fitted().read({"size": value, "weight": 1, "colour": "red"})


def test_types_follow_from_most_cells_or_from_the_config() -> None:
    few_typos = [row | {"size": "x" if i < 5 else row["size"]} for i, row in enumerate(ROWS)]
    assert list(fitted(few_typos).state()["numbers"]) == ["size", "weight"]
    told = fitted(categorical=["size"])
    assert list(told.state()["categories"]) == ["size"]
    assert list(told.state()["numbers"]) == ["weight", "colour"], "a list is the whole list"
    with pytest.raises(ValueError, match="'sise' is not among the columns"):
        fitted(categorical=["sise"])


def test_a_category_is_the_same_as_text_and_as_number() -> None:
    modality = Table(columns=["code"], categorical=["code"])
    modality.fit([{"code": 3}, {"code": "4"}])
    assert modality.read({"code": "3"}) == modality.read({"code": 3.0}) == 2


def test_statistics_are_those_of_the_training_cells() -> None:
    modality = fitted()
    state = json.loads(json.dumps(modality.state()))
    modality.read({"size": 1e6, "weight": 1e6, "colour": "blue"})
    assert modality.state() == fitted().state()
    x = torch.stack([modality.read(row) for row in ROWS])
    assert x[:, 0].mean().abs() < 1e-6
    assert x[:, 0].std(correction=0) == pytest.approx(1)
    other = Table(columns=COLUMNS)
    other.load_state(state)
    assert torch.equal(x, torch.stack([other.read(row) for row in ROWS]))
    torch.manual_seed(0)
    first = modality.build_encoder().eval()
    torch.manual_seed(0)
    assert torch.equal(first(x), other.build_encoder().eval()(x))


def test_quantile_scaling_is_normal_whatever_the_distribution() -> None:
    rows = [{"a": math.exp(i / 40)} for i in range(400)]
    modality = Table(columns=["a"], scale="quantile")
    modality.fit(rows)
    x = torch.stack([modality.read(row) for row in rows])[:, 0]
    assert x.mean().abs() < 0.01
    assert x.std() == pytest.approx(1, abs=0.02)
    assert (x.diff() >= 0).all()
    assert -3.2 < modality.read({"a": -1e9})[0] < -3 < 3 < modality.read({"a": 1e9})[0] < 3.2
    ties = Table(columns=["a"], scale="quantile")
    ties.fit([{"a": float(i > 5)} for i in range(10)])
    assert ties.read({"a": 0.0})[0] < 0 < ties.read({"a": 1.0})[0]


@pytest.mark.parametrize("scale", ["standard", "quantile", "none"])
@pytest.mark.parametrize("numeric", ["piecewise", "periodic", "linear"])
@pytest.mark.parametrize("encoder", ["mlp", "ft-transformer"])
def test_encoders(scale: Any, numeric: Any, encoder: str) -> None:
    constant = [row | {"empty": None, "same": 3.0} for row in ROWS]
    modality = Table(columns=[*COLUMNS, "empty", "same"], scale=scale, numeric=numeric, encoder=encoder, width=32)
    modality.fit(constant)
    net = modality.build_encoder()
    features = net(**modality.collate(modality.augment([modality.read(row) for row in constant], Draws.seeded(0, 50))))
    assert features.shape == (50, 32)
    assert features.isfinite().all()
    features.square().sum().backward()
    assert all(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize("columns", [["size"], ["colour"]])
def test_tables_of_one_type(columns: list[str]) -> None:
    modality = Table(columns=columns, width=32)
    modality.fit(ROWS)
    assert modality.build_encoder()(**modality.collate([modality.read(row) for row in ROWS])).shape == (50, 32)


def test_views_take_cells_from_other_rows_with_their_flags() -> None:
    modality = fitted(scale="none", augmentation="strong")
    rows = [modality.read(row) for row in ROWS * 20]
    before, after = torch.stack(rows), torch.stack(modality.augment(rows, Draws.seeded(0, len(rows))))
    missing = after[:, 3] == 1
    assert (after[missing, 1] == 0).all()
    assert (after[~missing, 1] != 0).all()
    changed = (before[:, 4] != after[:, 4]).float().mean()
    assert 0.15 < changed < 0.25, "three in ten, a third of which get what they had"
    mild = torch.stack(fitted().augment([fitted().read(row) for row in ROWS], Draws.seeded(0, 50)))
    same = torch.stack([fitted().read(row) for row in ROWS])
    assert ((mild - same).abs().amax(1) < 0.3).float().mean() > 0.7


def test_patterns_or_nothing_may_stand_for_columns() -> None:
    modality = Table()
    modality.fit(ROWS)
    assert list(modality.state()["numbers"]) == ["size", "weight"]
    with pytest.raises(ValueError, match="the nearest is 'mlp'"):
        Table(encoder="mlpp").build_encoder()
    with pytest.raises(ValueError, match="no pretrained"):
        Table(pretrained="x").build_encoder()


def test_tables_are_no_pairs() -> None:
    with pytest.raises(ValueError, match="one column"):
        Table(pair="x")


def test_text_as_people_write_numbers() -> None:
    modality = Table(columns=["price", "share"], scale="none")
    modality.fit([{"price": f"1.{k:03},50 EUR", "share": f"{k} %"} for k in range(100)])
    again = Table(columns=["price", "share"], scale="none")
    again.load_state(json.loads(json.dumps(modality.state())))
    for one in (modality, again):
        assert one.read({"price": "2.000,25 EUR", "share": "7%"}).tolist() == [2000.25, 7, 0, 0]
        assert one.read({"price": 3.5, "share": None}).tolist() == [3.5, 0, 0, 1]
        with pytest.raises(CellError, match="column 'share': '7' is not a number in %"):
            one.read({"price": "1 EUR", "share": "7"})


DAYS = ["2024-01-01 06:00", "2024-07-01 12:00", "2025-03-05 18:30", "NA"]


def test_dates_are_numbers_and_points_on_circles() -> None:
    as_text, as_dates = Table(columns=["x", "when"], scale="none"), Table(columns=["x", "when"], scale="none")
    as_text.fit([{"x": 1, "when": day} for day in DAYS])
    as_dates.fit([{"x": 1, "when": None if day == "NA" else datetime.fromisoformat(day)} for day in DAYS])
    assert as_text.state() == as_dates.state()
    names = ["year", *(f"{name} {wave}" for name in ("season", "weekday", "hour") for wave in ("sin", "cos"))]
    assert list(as_text.state()["numbers"]) == ["x", *(f"when ({name})" for name in names)]
    monday_at_six = as_text.read({"x": 2, "when": "01 January 2024 6:00 AM"}).tolist()
    wanted = [2, 2024, 0, 1, math.sin(0), math.cos(0), 1, 0]
    assert monday_at_six[:8] == pytest.approx(wanted, abs=0.01)
    assert as_dates.read({"x": 2, "when": datetime(2024, 1, 1, 6)}).tolist() == monday_at_six
    assert as_text.read({"x": 2, "when": "NA"}).tolist() == [2, *[0] * 7, 0, *[1] * 7]
    again = Table(columns=["x", "when"], scale="none")
    again.load_state(json.loads(json.dumps(as_text.state())))
    assert again.read({"x": 2, "when": "2024-01-01T06:00"}).tolist() == monday_at_six
    with pytest.raises(CellError, match="column 'when': 'soon' is neither a number nor a date"):
        again.read({"x": 2, "when": "soon"})


def test_of_dates_only_what_differs_counts() -> None:
    modality = Table(columns=["when"])
    modality.fit([{"when": date(2024, 5, day)} for day in range(1, 20)])
    assert [name for name in modality.state()["numbers"] if "hour" in name] == []


def test_the_order_of_day_and_month_is_that_of_the_column() -> None:
    modality = Table(columns=["when"], scale="none")
    modality.fit([{"when": "13/02/2024"}, {"when": "05/03/2024"}])
    assert modality.state()["dates"]["when"][0] is True
    assert modality.read({"when": "01/07/2024"})[0] == pytest.approx(2024.5, abs=0.01)
    with pytest.raises(ValueError, match="data.numbers.day_first"):
        Table(columns=["when"]).fit([{"when": "01/02/2024"}, {"when": "05/03/2024"}])


def test_numbers_of_every_type() -> None:
    modality = Table(columns=["a", "b", "c"], scale="none")
    modality.fit([{"a": Decimal(k), "b": np.float32(k), "c": k % 2 == 0} for k in range(9)])
    assert modality.read({"a": Decimal("1.5"), "b": np.int64(2), "c": True}).tolist() == [1.5, 2, 1, 0, 0, 0]


def test_a_dash_is_a_category_and_no_number() -> None:
    rows = [{"sign": sign, "x": x} for sign, x in (("+", 1), ("-", "-"), ("+", 3), ("-", 5))]
    modality = Table(columns=["sign", "x"])
    modality.fit(rows)
    assert modality.state()["categories"] == {"sign": ["+", "-"]}
    assert modality.state()["numbers"]["x"][0] == 3.0
    assert [modality.read(row)[1:].tolist() for row in rows[:2]] == [[0, 2], [1, 3]]


def test_categories_of_older_runs_are_found_as_they_were_written() -> None:
    modality = Table(columns=["code"])
    modality.load_state({"numbers": {}, "categories": {"code": ["True", "TRUE", "-", "1.0", "2"]}})
    read = [int(modality.read({"code": cell})[0]) for cell in ("True", "TRUE", "-", "1.0", "2.0", 2.0, "3", "NA")]
    assert read == [2, 3, 4, 5, 6, 6, 1, 0]
