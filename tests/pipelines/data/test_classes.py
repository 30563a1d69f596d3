"""Classes by name."""

import pytest

from clx.pipelines.data.classes import class_of, index_of, warn_of_lost
from clx.pipelines.system.errors import ClxWarning


def test_classes_of_earlier_runs_are_found_by_what_they_say() -> None:
    index = index_of(["0.0", "1.0", "TRUE", "None", "cat"])
    assert index == {"0": 0, "1": 1, "True": 2, "None": 3, "cat": 4}
    assert [index.get(class_of(cell) or "") for cell in (0, "1", True, " cat", None, 1.0)] == [0, 1, 2, 4, None, 1]


def test_a_class_of_an_earlier_run_that_is_none_now_is_told_of() -> None:
    warn_of_lost(["1", "cat", "-"])
    with pytest.warns(ClxWarning, match="'None', 'NA': learned as a class, and a missing label now"):
        warn_of_lost(["None", "cat", "NA"])
