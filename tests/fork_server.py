"""A stand-in for the `clx` executable that has its imports behind it.

`fork_server.py SOCKET PROCESS` imports what `clx` imports and forks one child per command that arrives at the Unix
socket, as long as PROCESS runs; the command beside it sends its arguments, folder, environment and its own stdin,
stdout and stderr. A command is so a process of its own, in pipes and all, without the 4 to 6 s that importing torch
costs. Signals to the command reach it, but for SIGKILL and what goes to a whole process group. `install` writes the
command, and `python-once FILE`, which runs a program likewise; `begin` is the command without a process beside it.
"""

import atexit
import doctest
import gc
import importlib
import json
import os
import pkgutil
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path


def begin(
    line: socket.socket, address: str, args: Sequence[str], folder: str, environment: dict[str, str], fds: Sequence[int]
) -> int:
    """Have a command started; its process. When it has ended, `line` gives a byte: its exit code."""
    line.connect(address)
    said = json.dumps([args, folder, environment]).encode()
    socket.send_fds(line, [len(said).to_bytes(4, "big")], fds)
    line.sendall(said)
    return int.from_bytes(line.recv(4), "big")


SHIM = """#!{python} -S
import json, os, signal, socket, sys
with socket.socket(socket.AF_UNIX) as line:
    line.connect({address!r})
    said = json.dumps([sys.argv, os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(line, [len(said).to_bytes(4, "big")], [0, 1, 2])
    line.sendall(said)
    for stream in (0, 1, 2):
        os.close(stream)
    child = int.from_bytes(line.recv(4), "big")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, lambda number, frame: os.kill(child, number))
    code = line.recv(1)
os._exit(code[0] if code else 137)
"""


def install(folder: Path, address: str) -> None:
    """Write the executables `clx` and `python-once` into `folder`, for a server that listens at `address`."""
    for command in (folder / "clx", folder / "python-once"):
        command.write_text(SHIM.format(python=sys.executable, address=address))
        command.chmod(0o755)


def runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def serve(address: str, tests: int) -> None:
    """Fork commands as long as the process `tests` runs; then end with those that are left.

    Commands that hang would outlive the tests, so the last thing it does is to kill its process group, in which it and
    its children are. command.py starts it in a session, and so a group, of its own: no other process is in that.
    """
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(address)
        door.listen()
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the children
        gc.freeze()  # they share these pages as long as no collection visits them
        gc.set_threshold(20_000)  # of small commands there is little to collect
        print("ready", flush=True)
        door.settimeout(1)
        while runs(tests):
            try:
                line, _ = door.accept()
            except TimeoutError:
                continue
            if not os.fork():
                door.close()
                run(line)
            line.close()
    os.killpg(0, signal.SIGKILL)


def run(line: socket.socket) -> None:
    """Be what a shell would have started, to the end."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    size, streams, _, _ = socket.recv_fds(line, 4, 3)
    said = bytearray()
    while len(said) < int.from_bytes(size, "big"):
        said += line.recv(1 << 16)
    line.sendall(os.getpid().to_bytes(4, "big"))
    (called, *args), folder, environment = json.loads(said)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [Path(called).name, *args]
    code: object = 0
    try:
        if sys.argv[0] == "clx":
            main()
        else:
            program(Path(args[0]))
    except SystemExit as end:
        code = end.code
    atexit._run_exitfuncs()
    sys.stdout.flush()
    with suppress(OSError):  # as Python, which ends so too where nobody reads what is left
        sys.stderr.flush()
    line.sendall(bytes([code if isinstance(code, int) else 1]))
    os._exit(0)  # Python takes two seconds to dismantle torch


def program(file: Path) -> None:
    """Run a program of Python as Python does, or a session with `>>>`, which must answer what is written there."""
    sys.argv = sys.argv[1:]
    sys.path[:0] = [str(file.resolve().parent), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    source = file.read_text()
    if not source.startswith(">>>"):
        exec(compile(source, file, "exec"), {"__name__": "__main__", "__file__": str(file)})
    elif doctest.testfile(str(file), module_relative=False).failed:
        sys.exit(1)


OTHERS = (
    "jinja2",
    "pyarrow.csv",
    "pyarrow.dataset",
    "pyarrow.parquet",
    "rtdl_num_embeddings",
    "sklearn.manifold",
    "soundfile",
    "torch._dynamo",  # an optimiser imports it when it is made
    "torchaudio",
    "torchvision",
    "typer.main",
)
"""What most commands import, of others."""


def get_ready() -> None:
    """Import what commands import, and build what they build before they begin."""
    for name in OTHERS:
        importlib.import_module(name)
    import PIL.Image
    import typer.main

    import clx.cli
    import clx.pipelines
    from clx.cli import main
    from clx.pipelines.data.builtin import load_builtin

    for room in (clx.cli, clx.pipelines):
        for module in pkgutil.walk_packages(room.__path__, f"{room.__name__}."):
            importlib.import_module(module.name)
    PIL.Image.init()
    main.app = typer.main.get_command(main.app)
    load_builtin("digits")  # the data of most commands here


if __name__ == "__main__":
    get_ready()
    from clx.cli.main import main

    serve(sys.argv[1], int(sys.argv[2]))
