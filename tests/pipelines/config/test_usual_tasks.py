"""What is evaluated where nobody says: the lists of names that it goes by are those of the losses."""

import pytest

from clx.losses.base import LOSSES
from clx.losses.cosent import CoSENT
from clx.pipelines.config.schema import Term
from clx.pipelines.config.usual_tasks import CLASS_HEADS, HEADS, PAIR_SCORING, SET_HEADS, unfit, usual_tasks

TRAINED = {name for name, loss in LOSSES.items() if loss.trains_predictions}


def test_every_loss_of_scored_pairs_is_named_and_evaluated_by_their_scores() -> None:
    assert {*PAIR_SCORING} == {name for name, loss in LOSSES.items() if issubclass(loss, CoSENT)}
    texts = {"one": {"kind": "text"}, "other": {"like": "one"}}
    for name in PAIR_SCORING:
        assert usual_tasks([Term(name=name)], texts, label=False, target=True, horizon=False) == ["sts"]


def test_scores_of_pairs_and_of_candidates_are_no_numbers_to_regress() -> None:
    texts = {"query": {"kind": "text"}, "right": {"like": "query"}, "wrong": {"like": "query"}}

    def usual(**term: object) -> list[str]:
        return [*usual_tasks([Term.model_validate(term)], texts, label=False, target=True, horizon=False)]

    assert usual(name="relation", by="score", form="sigmoid") == ["sts"]
    assert usual(name="relation", by="targets") == ["retrieval", "regression"]
    assert usual(name="distil-scores") == ["retrieval"]


def test_every_loss_that_trains_a_head_is_named() -> None:
    assert {*HEADS} == TRAINED
    without = {"mutual-information", "label-prototypes"}  # by which alone no head says a class or a label
    assert {*SET_HEADS} == {name for name in TRAINED if "label_sets" in LOSSES[name].required()} - without
    assert {*CLASS_HEADS} == {name for name in TRAINED if "labels" in LOSSES[name].required()} - without


@pytest.mark.parametrize("name", CLASS_HEADS)
def test_a_class_head_is_evaluated(name: str) -> None:
    image = {"image": {"encoder": "cnn"}}
    assert usual_tasks([Term(name=name)], image, label=True, target=False, horizon=False) == ["classification"]
    assert unfit("classification", [name], image, label=True, target=False, windows=False) is None
    said = unfit("classification", ["supcon"], image, label=True, target=False, windows=False)
    assert said == "needs a class head, which cross-entropy, core-tuning, moit train, and no data.target"
