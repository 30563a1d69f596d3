"""Options checked against a dataclass's fields."""

from dataclasses import dataclass
from importlib import resources
from typing import Annotated, Literal

import pytest
from annotated_types import Gt

from clx.losses.base import LOSSES
from clx.pipelines.config.catalogue import describe_loss, list_losses
from clx.pipelines.config.load import load_config
from clx.pipelines.config.options import construct
from clx.pipelines.evaluation.results import Settings
from clx.pipelines.system.errors import BadInput


@dataclass
class Thing:
    name: str
    share: Annotated[float, Gt(0)] = 1.0
    mode: Literal["a", "b"] = "a"


def test_parameters_tell_type_and_range_of_what_may_be_none() -> None:
    told = {row["parameter"]: row for row in describe_loss("conr")["parameters"]}
    assert told["window"] == {"parameter": "window", "type": "float", "default": "None", "range": "> 0"}
    told = {row["parameter"]: row for row in describe_loss("ts2vec")["parameters"]}
    assert told["alpha"]["range"] == ">= 0, <= 1"
    assert (describe_loss("clip")["host_reads"], describe_loss("supremix")["host_reads"]) == (0, 2)


def test_a_loss_says_what_was_measured_of_it_and_asks_in_words_of_a_config() -> None:
    moit = describe_loss("moit")
    assert "wrong ones it doubts" in moit["measured"]
    assert moit["measured"].endswith("(clx sweep mislabelled)")
    assert moit["needs"].startswith("a head, which it trains, data.label (also uses")
    assert "measured" not in describe_loss("angle")
    assert {row["needs"] for row in list_losses() if row["loss"] == "byol"} == {"train.second"}


def test_few_and_many_leave_room_between_them() -> None:
    assert construct(Settings, {"few": 11, "many": 10}, "options").few == 11
    with pytest.raises(BadInput, match="few = 30 is above many = 10"):
        construct(Settings, {"few": 30, "many": 10}, "options")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("chunk=foo", "train.chunk = 'foo': should be a whole number, or 'auto'"),
        (
            "accumulate=4",
            "-s train.accumulate=4: train.accumulate = 4: accumulate is gone: a step contrasts batch_size rows, "
            "and chunk: N encodes them N at a time with the exact gradient",
        ),
        ("workers=-1", "train.workers = -1: should be greater than or equal to 0, or 'auto'"),
    ],
)
def test_what_a_setting_should_be_is_said(given: str, said: str) -> None:
    with pytest.raises(BadInput) as caught:
        load_config("digits", [f"train.{given}"])
    assert str(caught.value).endswith(said)


def test_construct_checks_a_dataclass() -> None:
    assert construct(Thing, {"name": "x", "mode": "b"}, "here") == Thing("x", 1.0, "b")
    for options, word in (
        ({}, "required"),
        ({"name": "x", "share": 0}, "greater than 0"),
        ({"name": "x", "mod": "a"}, "did you mean 'mode'"),
        ({"name": "x", "mode": "c"}, "'a' or 'b'"),
    ):
        with pytest.raises(BadInput, match=word):
            construct(Thing, options, "here")


def test_losses_that_take_negatives_say_so_and_stand_in_the_guide() -> None:
    guide = resources.files("clx.losses").joinpath("README.md").read_text(encoding="utf-8")
    row = next(line for line in guide.splitlines() if line.startswith("| anchors, positives, and columns of hard neg"))
    takers = {name for name, cls in LOSSES.items() if "negatives" in cls.needs()}
    assert {name for name in LOSSES if f"`{name}`" in row} == takers
    assert {name for name in LOSSES if "negatives: [MODALITY]" in describe_loss(name)["needs"]} == takers
