"""Words for the classes of an evaluation."""

import pytest
import torch

from clx.pipelines.evaluation.tasks.zeroshot import among, phrasings_for
from clx.pipelines.system.errors import BadInput


def test_words_for_classes() -> None:
    assert phrasings_for(["cat", "dog"], {}) == {"cat": ["cat"], "dog": ["dog"]}
    assert phrasings_for(["b"], {"a": ["x"], "b": ["y", "z"]}) == {"b": ["y", "z"]}
    assert phrasings_for(["0", "1"], {"cat": ["cat"], "dog": ["dog"]}) == {"0": ["cat"], "1": ["dog"]}
    with pytest.raises(BadInput, match="'dgo'.*'dog'"):
        phrasings_for(["cat", "dgo"], {"cat": ["cat"], "dog": ["dog"]})


def test_rows_are_asked_among_the_classes_that_have_words() -> None:
    classes, labels = ["cat", "dog", "owl", "elk"], torch.tensor([2, -1, 3, 2])
    words, asked = among(classes, labels, {"owl": ["an owl"], "elk": ["an elk"]})
    assert (words, asked.tolist()) == (["owl", "elk"], [0, -1, 1, 0])
    assert among(classes, labels, {"owl": ["an owl"]})[0] == ["owl", "elk"], "a row's class without words is refused"
    assert among(classes, labels, {})[0] == classes
