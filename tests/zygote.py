"""A process that has imported what `clx` imports, and forks one child per command.

A command costs 4 to 6 s of imports from cold and nothing from here, yet runs `main()` in a process of its own, with
its own files as stdin, stdout and stderr. One JSON request a line on stdin, one exit code a line on stdout.
"""

import atexit
import gc
import json
import os
import signal
import sys
import time

import sklearn.linear_model  # noqa: F401
import torch  # noqa: F401
import torchaudio  # noqa: F401
import torchvision  # noqa: F401

import clx.pipelines.evaluate
import clx.pipelines.train  # noqa: F401
from clx.cli.main import main


def serve() -> None:
    gc.freeze()  # children share these pages as long as no collection visits them
    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if not child:
            become(request)
            run_and_leave()
        print(wait(child, request["timeout"]), flush=True)


def become(request: dict) -> None:
    """Make this process what a shell would have started."""
    for number, (path, flags) in enumerate(zip(request["files"], (os.O_RDONLY, os.O_WRONLY, os.O_WRONLY), strict=True)):
        handle = os.open(path, flags)
        os.dup2(handle, number)
        os.close(handle)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.argv = ["clx", *request["args"]]


def run_and_leave() -> None:
    """The command to its end, without the two seconds that Python takes to dismantle torch."""
    try:
        main()
    except SystemExit as end:
        code = end.code
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 0)


def wait(child: int, seconds: float) -> int:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return 124


if __name__ == "__main__":
    serve()
