"""The command in a child of this process, with something broken in it."""

import os
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest


class Done(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


Forked = Callable[..., Done]


@pytest.fixture
def forked(tmp_path_factory: pytest.TempPathFactory) -> Forked:
    """`forked(["train", "digits"], prepare)`: `prepare` is called in the child, and may break what it likes."""
    folder = tmp_path_factory.mktemp("streams")

    def run(args: list[Any], prepare: Callable[[], None] = lambda: None) -> Done:
        streams = {1: folder / "out", 2: folder / "err"}
        child = os.fork()
        if not child:
            code: object = 99
            try:
                from clx.cli import main

                for stream, path in streams.items():
                    os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
                sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
                sys.argv = ["clx", *map(str, args)]
                prepare()
                main.main()
            except SystemExit as end:
                code = end.code or 0
            finally:
                sys.stdout.flush(), sys.stderr.flush()
                os._exit(code if isinstance(code, int) else 1)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        return Done(code, *(path.read_text() for path in streams.values()))

    return run
