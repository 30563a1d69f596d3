"""Words for the classes of an evaluation."""

import pytest

from clx.pipelines.evaluation.tasks.zeroshot import phrasings_for
from clx.pipelines.system.errors import BadInput


def test_words_for_classes() -> None:
    assert phrasings_for(["cat", "dog"], {}) == {"cat": ["cat"], "dog": ["dog"]}
    assert phrasings_for(["b"], {"a": ["x"], "b": ["y", "z"]}) == {"b": ["y", "z"]}
    assert phrasings_for(["0", "1"], {"cat": ["cat"], "dog": ["dog"]}) == {"0": ["cat"], "1": ["dog"]}
    with pytest.raises(BadInput, match="'dgo'.*'dog'"):
        phrasings_for(["cat", "dgo"], {"cat": ["cat"], "dog": ["dog"]})
