"""Every task that a config may name has a function, and no other."""

from clx.pipelines.config.task_names import TASKS
from clx.pipelines.evaluation import tasks
from clx.pipelines.evaluation.task_context import LEARNING, RUNS


def test_every_name_is_a_registered_task() -> None:
    assert tasks.__doc__
    assert set(RUNS) == set(TASKS)
    assert set(TASKS) > LEARNING
