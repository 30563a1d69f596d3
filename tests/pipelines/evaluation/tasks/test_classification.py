"""Tasks that learn classes."""

import pytest

from clx.pipelines.evaluation.task_context import Unfit, need_known_classes


def test_rows_none_of_whose_classes_is_learned_are_refused_with_both_lists() -> None:
    with pytest.raises(Unfit, match="learned are 'cat', 'dog'; asked 'Cats'"):
        need_known_classes(["dog", "cat"], {"Cats"})
    need_known_classes({"cat", "dog"}, {"dog", "Cats"})
    need_known_classes({"cat", "dog"}, set())
