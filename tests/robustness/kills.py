"""Kill `clx train digits` with SIGKILL over and over, resume each time, and compare the end with an unbroken run.

PYTHONPATH=tests python tests/robustness/kills.py --kills 100 --workers 2

Each attempt runs in a process group of its own, forked from this one, which has torch loaded; so a resume costs what it
costs without the imports. Half of the kills come at a random moment (steps, validation, the start), half at a random
operation on the disk during a save. With `--ranks 2` the run is one of several processes, of which a random one is
killed at a random moment: the others have to end within 10 s, and the last line has to name it. With `--stream` the
rows are two texts of two mapped tables, Parquet and JSON lines, with shares, in an order that is computed and not held;
the tables are converted anew at every third start. Weights, optimiser state and metrics.jsonl must be equal bit for
bit. Prints a JSON object per run; exit code 1 when anything differs.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sklearn.linear_model  # noqa: F401 (loaded before forking)
import torch
import torchvision  # noqa: F401
from safetensors.torch import load_file

import clx.pipelines.evaluation.evaluate  # noqa: F401
from clx.pipelines.batches import mixture
from clx.pipelines.data import draw, manifest, mapped, shared_content, splits
from clx.pipelines.runs import checkpoint
from clx.pipelines.system import durable_files
from clx.pipelines.training import logs
from command import ended, start

CONFIG: dict[str, Any] = {
    "modalities": {
        "image": {"encoder": "cnn", "width": 4, "size": 8, "augmentation": "strong"},
        "table": {"columns": ["seg_*", "display"], "dropout": 0.1},
        "text": {"layers": 1, "width": 32, "dropout": 0.1},
    },
    "embed_dim": 16,
    "objective": {"name": "clip", "temperature": 0.1, "learn_temperature": True},
    "data": {"train": "digits", "label": "label", "missing": 0.2},
    "eval": [],
}
TRAIN = {"batch_size": 16, "chunk": 4, "chunk_statistics": "chunk", "ema": 0.9, "save_every": 2, "lr": 3e-3}


STREAM = CONFIG | {
    "modalities": {
        "text": {"layers": 1, "width": 32, "dropout": 0.1},
        "caption": {"like": "text", "column": "caption"},
    },
}


def settings(steps: int, workers: int, tables: list[Path], digits: str = "digits") -> list[str]:
    train = TRAIN | {"steps": steps, "workers": workers, "validate_every": max(2, steps // 3)}
    config = CONFIG | {"data": CONFIG["data"] | {"train": digits}}
    if tables:
        parts = [{"source": str(table), "share": share} for table, share in zip(tables, (0.7, 0.3), strict=True)]
        config = STREAM | {"data": {"train": parts, "val": {"fraction": 0.02}, "missing": 0.2}}
    given = [f"{key}={json.dumps(value)}" for key, value in config.items()]
    return [part for one in [*given, f"train={json.dumps(train)}"] for part in ("-s", one)]


def stream(folder: Path, rows: int = 3000) -> list[Path]:
    """Two tables of texts; they are mapped and their order is computed, as of very many rows."""
    import pyarrow as pa
    from pyarrow import parquet

    texts = [{"text": f"number {k} of them", "caption": f"what is said of {k}"} for k in range(rows)]
    parquet.write_table(pa.Table.from_pylist(texts), folder / "rows.parquet", row_group_size=256)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts[: rows // 3]))
    mapped.LARGE = 1
    for module in (mixture, draw, shared_content, manifest):
        setattr(module, "HELD" if module is mixture else "LARGE", 100)
    os.environ["CLX_CACHE"] = str(folder / "cache")
    return [folder / "rows.parquet", folder / "rows.jsonl"]


def begin(args: list[str], log: Path, prepare: Callable[[], None] = lambda: None) -> int:
    """The command in a process group of its own."""
    return start(args, log, log, prepare, group=True)


def recipe(folder: Path) -> Path:
    """A config of which `settings` say all: `clx train` takes none without a file."""
    path = folder / "stream.yaml"
    path.write_text(json.dumps({key: STREAM[key] for key in ("modalities", "objective")} | {"data": {"train": "none"}}))
    return path


def die_in_save(operation: int) -> Callable[[], None]:
    """Make this process kill its group at the so-manieth disk operation of its saves, before or in the middle of it."""

    def prepare() -> None:
        left = [operation]

        def counted(real: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                left[0] -= 1
                if left[0] == 0:
                    os.killpg(0, signal.SIGKILL)
                return real(*args, **kwargs)

            return call

        def half_then_die(real: Callable[..., Any]) -> Callable[..., Any]:
            def call(content: Any, file: Any) -> Any:
                left[0] -= 1
                result = real(content, file)
                if left[0] == 0:
                    with open(file if isinstance(file, Path) else file.name, "r+b") as cut:
                        cut.truncate(os.path.getsize(cut.name) // 2)
                    os.killpg(0, signal.SIGKILL)
                return result

            return call

        for name in ("fsync", "rename", "replace"):
            setattr(os, name, counted(getattr(os, name)))
        checkpoint.save_file = half_then_die(checkpoint.save_file)
        torch.save = half_then_die(torch.save)
        append = durable_files.append

        def half_a_line(path: Path, line: dict[str, Any]) -> None:
            left[0] -= 1
            if left[0] == 0:
                with open(path, "ab") as file:
                    file.write(json.dumps(line).encode()[:9])
                    file.flush()
                    os.killpg(0, signal.SIGKILL)
            append(path, line)

        logs.append = half_a_line

    return prepare


def wait_for(child: int, log: Path, seconds: float) -> int | None:
    """The exit code, or None when `seconds` have passed since the first step could begin."""
    until = None
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if until is None and log.exists() and b" steps" in log.read_bytes():
            until = time.monotonic() + seconds
        if until is not None and time.monotonic() > until:
            return None
        time.sleep(0.002)


def kill_one(launcher: int, rank: int, log: Path) -> int:
    """Kill one rank of those that this process has started; -SIGKILL when all have ended as they should."""
    for place in Path("/proc").glob("[0-9]*"):
        try:
            parent = int(place.joinpath("stat").read_text().rpartition(")")[2].split()[1])
            if parent == launcher and f"\0RANK={rank}\0".encode() in place.joinpath("environ").read_bytes():
                os.kill(int(place.name), signal.SIGKILL)
        except OSError:
            continue
    until = time.monotonic() + 10
    while time.monotonic() < until:
        done, status = os.waitpid(launcher, os.WNOHANG)
        if done:
            code, last = os.waitstatus_to_exitcode(status), log.read_text().splitlines()[-1]
            named = f"rank {rank} of " in last and "killed by SIGKILL" in last
            return -signal.SIGKILL if code == 1 and named else code
        time.sleep(0.01)
    os.killpg(launcher, signal.SIGKILL)
    return ended(launcher) and 99


def state(out: Path) -> dict[str, Any]:
    """Everything that a run ends with, by name."""
    newest = checkpoint.last(out)
    trainer = checkpoint.load_trainer(newest)
    found: dict[str, Any] = {
        f"weights {name}": value for name, value in load_file(newest.path / "model.safetensors").items()
    }
    found |= {f"trained {name}": value for name, value in trainer.pop("trained").items()}
    for number, moments in trainer.pop("optimizer")["state"].items():
        found |= {f"optimizer {number} {name}": value for name, value in moments.items()}
    randomness = trainer.pop("random")
    found["torch random"] = randomness.pop("torch")
    found |= {f"random {name}": value for name, value in randomness.items()}
    kept = [(c.step, c.score) for c in checkpoint.checkpoints(out)]
    return found | trainer | {"metrics": (out / "metrics.jsonl").read_bytes(), "kept": kept}


def differences(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    def same(x: Any, y: Any) -> bool:
        return torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y

    return sorted({*a} ^ {*b}) + [name for name in a if name in b and not same(a[name], b[name])]


def kill(
    kills: int, workers: int, seed: int, folder: Path, steps: int, ranks: int, streamed: bool, digits: str = "digits"
) -> dict[str, Any]:
    """Kill a run so many times; what came of it. `digits` may be a table of some of them."""
    dice = random.Random(seed)
    tables = stream(folder) if streamed else []
    given = settings(steps, workers, tables, digits)
    source = [str(recipe(folder))] if tables else ["digits"]
    several = ["--processes", str(ranks)] if ranks > 1 else []
    whole, out = folder / "whole", folder / "killed"
    began = time.monotonic()
    child = begin(["train", *source, "-o", str(whole), *given, *several], folder / "whole.log")
    assert wait_for(child, folder / "whole.log", 600) == 0, (folder / "whole.log").read_text()
    per_step = (time.monotonic() - began) / steps
    done, at, codes, again = {"moment": 0, "save": 0}, [], [], 0
    while True:
        log = folder / f"{len(codes)}.log"
        resumable = bool(checkpoint.checkpoints(out))
        args = ["train", "--resume", str(out)] if resumable else ["train", *source, "-o", str(out), *given]
        step = checkpoint.last(out).step if resumable else 0
        if tables and len(codes) % 3 == 0:
            shutil.rmtree(folder / "cache", ignore_errors=True)
        args += several
        left = kills - len(at)
        reach = max(1.0, 2 * (steps - 1 - step) / max(1, left))
        if not left:
            child, way = begin(args, log), "end"
        elif len(at) % 2 and ranks == 1:
            child, way = begin(args, log, die_in_save(dice.randint(1, 12))), "save"
        else:
            child, way = begin(args, log), "moment"
        code = wait_for(child, log, dice.uniform(0, reach * per_step) if way == "moment" else 600)
        if code is None and ranks > 1:
            code = kill_one(child, dice.randrange(ranks), log)
        elif code is None:
            os.killpg(child, signal.SIGKILL)
            code = ended(child)
        if code == 2 and "is finished" in log.read_text():  # it had been killed on its way out
            code = 0
        codes.append(code)
        if code == 0 and left and again < 5 and not differences(state(whole), state(out)):
            again += 1  # it ended before its next kill: once more from the start, with earlier ones
            shutil.rmtree(out)
            done, at, per_step = {"moment": 0, "save": 0}, [], per_step / 2
            continue
        if code != -signal.SIGKILL:
            break
        done[way] += 1
        at.append(step)
    wrong = differences(state(whole), state(out)) if code == 0 else [f"exit {code}: {log.read_text()[-300:]}"]
    return {
        "kills": len(at),
        "workers": workers,
        "ranks": ranks,
        "stream": streamed,
        "seed": seed,
        **done,
        "resumed_from": at,
        "seconds": round(time.monotonic() - began, 1),
        "different": wrong,
        "ok": not wrong and len(at) == kills,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--workers", type=int, nargs="+", default=[0], help="one run for each")
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--stream", action="store_true", help="rows of mapped tables")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="of the run [default: 3 per kill, at least 12]")
    args = parser.parse_args()
    splits.load_builtin("digits")  # kept: half of what a resume of so small a run takes
    found = []
    for workers in args.workers:
        with tempfile.TemporaryDirectory() as folder:
            steps = args.steps or max(12, 3 * args.kills)
            found.append(kill(args.kills, workers, args.seed, Path(folder), steps, args.ranks, args.stream))
        print(json.dumps(found[-1]), flush=True)
    return 0 if all(one["ok"] for one in found) else 1


if __name__ == "__main__":
    sys.exit(main())
