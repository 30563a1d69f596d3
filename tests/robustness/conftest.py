"""What robustness tests share: the command with something broken in it."""

from functools import partial

import pytest

import command


@pytest.fixture
def forked(tmp_path_factory: pytest.TempPathFactory) -> command.Forked:
    """`forked(["train", "digits"], prepare)`: `prepare` is called in the child, and may break what it likes."""
    return partial(command.forked, tmp_path_factory.mktemp("streams"))
