"""How far a reader travels: the files that a command's code goes through, and how often it comes back to one.

    python tests/flows.py             a table for each of the commands below
    python tests/flows.py --list eval every stay of one of them: a file, and the functions first called in it

Each function counts at its first call, so that loops count once; calls while modules are imported, and lambdas and
comprehensions, do not count. Calls in a row within one file are a stay; a stay in
a file that was left before is a return. Fewer returns are a shorter way from the shell to the formula.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
from itertools import groupby
from pathlib import Path
from types import FrameType
from typing import Any

FOLDERS = ("cli", "losses", "modalities", "pipelines")
CONFIG = """
data: {train: digits, label: label}
modalities:
  image: {encoder: cnn, width: 4, size: 8}
  table: {columns: ["seg_*", display], encoder: mlp}
  text: {encoder: transformer, layers: 1, width: 32}
embed_dim: 16
objective: {name: clip, temperature: 0.1, learn_temperature: true}
train: {steps: 4, batch_size: 32, validate_every: 2}
eval: [zeroshot]
"""
FLOWS = {
    "train": ["train", "small.yaml", "-o", "new"],
    "eval": ["eval", "run", "--task", "probe"],
    "zeroshot": ["zeroshot", "run", "one.png", "--labels", "zero,one,two"],
    "embed": ["embed", "run", "--split", "val", "-o", "val.npy"],
    "report": ["report", "run", "-o", "page.html"],
}
Call = tuple[str, str]
"""A file and the name of a function in it."""


def importing(frame: FrameType | None) -> bool:
    """Whether a call is made while a module is imported, as decorators that register something are."""
    while frame is not None:
        if frame.f_code.co_name == "<module>" and frame.f_globals.get("__name__", "").startswith("clx."):
            return True
        frame = frame.f_back
    return False


def traced(arguments: list[str]) -> list[Call]:
    """First calls of the package's functions while a command runs in this process, in order."""
    import clx.cli.main

    root = Path(clx.cli.main.__file__).parent.parent
    seen: set[Any] = set()
    calls: list[Call] = []

    def called(frame: FrameType, event: str, argument: object) -> None:
        code = frame.f_code
        if event != "call" or code in seen:
            return
        seen.add(code)
        path = Path(code.co_filename)
        ours = path.is_relative_to(root) and path.relative_to(root).parts[0] in FOLDERS
        if ours and code.co_name[0] != "<" and not importing(frame):
            calls.append((str(path.relative_to(root)), code.co_name))

    sys.argv = ["clx", *arguments]
    threading.setprofile(called)
    sys.setprofile(called)
    try:
        clx.cli.main.main()
    except SystemExit as end:
        if end.code:
            raise
    finally:
        sys.setprofile(None)
    return calls


def stays(calls: list[Call]) -> list[tuple[str, list[str]]]:
    """Calls in a row within one file: the file, and its functions."""
    return [(file, [name for _, name in part]) for file, part in groupby(calls, key=lambda call: call[0])]


def measure(name: str, folder: Path) -> list[tuple[str, list[str]]]:
    """The stays of one flow, in a process of its own."""
    command = [sys.executable, __file__, "--trace", *FLOWS[name]]
    log = folder / "calls.json"
    environment = {**os.environ, "CLX_CACHE": "", "CLX_FLOWS": str(log), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr}")
    return stays([(file, function) for file, function in json.loads(log.read_text())])


def main() -> None:
    if sys.argv[1:2] == ["--trace"]:
        Path(os.environ["CLX_FLOWS"]).write_text(json.dumps(traced(sys.argv[2:])))
        return
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--list", choices=FLOWS)
    options.add_argument("--json", action="store_true")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        (folder / "small.yaml").write_text(CONFIG)
        clx = str(Path(sys.executable).with_name("clx"))
        subprocess.run([clx, "train", "small.yaml", "-o", "run"], cwd=folder, check=True, capture_output=True)
        subprocess.run([clx, "data", "make", "digits", "digits"], cwd=folder, check=True, capture_output=True)
        next((folder / "digits").rglob("*.png")).rename(folder / "one.png")
        found = {name: measure(name, folder) for name in FLOWS if chosen.list in (None, name)}
    if chosen.list:
        for file, functions in found[chosen.list]:
            print(f"{file:45} {', '.join(functions)}")
        return
    rows = {name: {"files": len({file for file, _ in each}), "stays": len(each)} for name, each in found.items()}
    table = {name: row | {"returns": row["stays"] - row["files"]} for name, row in rows.items()}
    if chosen.json:
        print(json.dumps(table))
    else:
        for name, row in table.items():
            print(f"{name:10}" + "".join(f"{key} {value:5}   " for key, value in row.items()))


if __name__ == "__main__":
    main()
