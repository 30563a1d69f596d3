"""The `clx` command in tests, in every way that a test needs to run it.

the fixture `clx`   what a user does: arguments in, exit code and output back. Forked from a server that has the
                    imports behind it (fork_server.py), so that it starts at once
`CLX`               the installed executable: for what a start costs, for process groups, for SIGKILL
`forked`            the command in a child of the test, in which something is broken first
`child`             such a child that does something else
`inside`            the command in the test's own process: for what it leaves behind in it
"""

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import fork_server

CLX = str(Path(sys.executable).with_name("clx"))

Command = Callable[..., subprocess.CompletedProcess[str]]
"""`clx("eval", run, "--json", cwd=folder, stdin="...", env={...}, timeout=120)`: the fixture."""


def started_at_once(clx: Path) -> Command:
    """The command at `clx`, which `start_server` wrote."""

    def run(
        *args: object,
        cwd: Path | None = None,
        stdin: str = "",
        env: dict[str, str] | None = None,
        timeout: float = 120,
    ) -> subprocess.CompletedProcess[str]:
        call = [str(clx), *map(str, args)]
        merged = {**os.environ, **(env or {})}
        return subprocess.run(call, cwd=cwd, input=stdin, env=merged, capture_output=True, text=True, timeout=timeout)

    return run


def start_server(folder: Path, process: int) -> None:
    """Make `folder`, for PATH, with a `clx` that starts at once as long as `process` runs."""
    folder.mkdir()
    address = str(folder.with_name("clx.socket"))
    Path(address).unlink(missing_ok=True)
    fork_server.install(folder, address)
    command = [sys.executable, fork_server.__file__, address, str(process)]
    # A process group of its own: the server ends by killing its group.
    started = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert started.stdout is not None
    assert started.stdout.readline() == "ready\n"
    started.stdout.close()
    started.returncode = 0  # it outlives this process, which need not be warned of that


def child(do: Callable[[], object], group: bool = False) -> int:
    """Fork a process that does this and ends with the exit code that it returns or raises, in a `group` of its own."""
    sys.stdout.flush()
    process = os.fork()
    if not process:
        code: object = 99
        try:
            if group:
                os.setsid()
            code = do()
        except SystemExit as end:
            code = end.code or 0
        finally:
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(code if isinstance(code, int) else 1)
    return process


def ended(process: int) -> int:
    """The exit code of a child, waited for; of a signal that killed it, less than 0."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def start(
    args: list[Any], out: Path, err: Path, prepare: Callable[[], None] = lambda: None, group: bool = False
) -> int:
    """Begin the command in a child with its output in files; `prepare` may break there what it likes."""

    from clx.cli import main

    def do() -> object:
        for stream, path in ((1, out), (2, err)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
        sys.argv = ["clx", *map(str, args)]
        prepare()
        return main.main()

    return child(do, group)


class Done(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


Forked = Callable[..., Done]
"""`forked(["train", "digits"], prepare)`: the fixture."""


def forked(folder: Path, args: list[Any], prepare: Callable[[], None] = lambda: None) -> Done:
    """`start`, and wait for the end; `folder` is for the files."""
    streams = [folder / "out", folder / "err"]
    for path in streams:
        path.write_text("")
    code = ended(start(args, *streams, prepare))
    return Done(code, *(path.read_text() for path in streams))


def inside(*args: str) -> Any:
    """The command in this process: what its JSON says. It must do well."""
    from clx.cli.main import app

    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        code = app(list(args), standalone_mode=False)
    assert not code, err.getvalue()
    return json.loads(out.getvalue())
