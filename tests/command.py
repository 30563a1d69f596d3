"""The `clx` command in tests, in every way that a test needs to run it.

the fixture `clx`   what a user does: arguments in, exit code and output back. Forked from a server that has the
                    imports behind it (fork_server.py), so that it starts at once
`CLX`               the installed executable: for what a start costs, for process groups, for SIGKILL
`forked`            the command in a child of the test, in which something is broken first
`child`             such a child that does something else
`inside`            the command in the test's own process: for many that are small, or for what they leave behind in it
"""

import contextlib
import functools
import io
import os
import signal
import socket
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import fork_server

CLX = str(Path(sys.executable).with_name("clx"))

Command = Callable[..., subprocess.CompletedProcess[str]]
"""`clx("eval", run, "--json", cwd=folder, stdin="...", env={...}, timeout=120)`: the fixture."""


def started_at_once(clx: Path) -> Command:
    """The command at `clx`, which `start_server` wrote."""
    address = str(clx.parent.with_name("clx.socket"))

    def run(
        *args: object,
        cwd: Path | None = None,
        stdin: str = "",
        env: dict[str, str] | None = None,
        timeout: float = 120,
    ) -> subprocess.CompletedProcess[str]:
        call = [str(clx), *map(str, args)]
        with contextlib.ExitStack() as stack:
            line = stack.enter_context(socket.socket(socket.AF_UNIX))
            streams = [stack.enter_context(tempfile.TemporaryFile("w+")) for _ in range(3)]
            streams[0].write(stdin)
            streams[0].seek(0)
            merged = {**os.environ, **(env or {})}
            process = fork_server.begin(
                line, address, call, str(cwd or os.getcwd()), merged, [s.fileno() for s in streams]
            )
            line.settimeout(timeout)
            try:
                code = line.recv(1)
            except TimeoutError:
                os.kill(process, signal.SIGKILL)
                raise subprocess.TimeoutExpired(call, timeout) from None
            for stream in streams:
                stream.seek(0)
            return subprocess.CompletedProcess(call, code[0] if code else 137, *(s.read() for s in streams[1:]))

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


@functools.cache
def prepared() -> Any:
    """The app with its commands built, which takes as long as a small command does."""
    import typer.main

    from clx.cli.main import app

    return typer.main.get_command(app)


def inside(*args: str, cwd: Path | None = None) -> Done:
    """The command in this process, with the handlers, warnings, environment and folder of a process of its own."""
    from clx.cli import main

    out, err = io.StringIO(), io.StringIO()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        contextlib.chdir(cwd or "."),
        mock.patch.dict(os.environ),
        mock.patch.object(sys, "argv", ["clx", *args]),
        mock.patch.object(main, "app", prepared()),
        warnings.catch_warnings(),
    ):
        warnings.resetwarnings()
        try:
            main.watch()
            code = main.run()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    return Done(code, out.getvalue(), err.getvalue())
