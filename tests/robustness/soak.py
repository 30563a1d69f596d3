"""Does anything leak? Trains and evaluates `digits` over and over in one process and watches memory and file handles.

PYTHONPATH=tests python tests/robustness/soak.py --minutes 120 --log soak.jsonl

A JSON line a round. The last line compares resident memory after the settling time (`--settle`, 10 minutes) with the
end, and ends with exit code 1 when it grew by 2 % or more, or when any file handle or child process was left behind.
Linux only: it reads /proc.
"""

import argparse
import json
import os
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from command import inside

LIMIT = 0.02  # growth of resident memory that is no leak
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def handles() -> int:
    return len(os.listdir("/proc/self/fd"))


def children() -> int:
    return sum(len(Path(f"/proc/self/task/{t}/children").read_text().split()) for t in os.listdir("/proc/self/task"))


def well(*args: str) -> None:
    """The command in this process, where it must do well."""
    done = inside(*args, "--json")
    assert not done.code, done.err


def one_round(run: Path, number: int, settings: list[str]) -> None:
    """Train from the beginning, every third time with worker processes, and evaluate twice."""
    workers = 2 if number % 3 == 2 else 0
    settings = [*settings, f"train.workers={workers}", f"train.seed={number}"]
    well("train", "digits", "--out", str(run), "--overwrite", *(f"--set={s}" for s in settings))
    well("eval", str(run), "--force")
    well("eval", str(run), "--split", "val", "--force")


def soak(minutes: float, settle: float, settings: list[str], log: Any) -> dict[str, Any]:
    """Rounds until the time is over; what grew."""
    start, rounds = time.monotonic(), []
    with tempfile.TemporaryDirectory() as folder:
        while (spent := (time.monotonic() - start) / 60) < minutes or len(rounds) < 4:
            one_round(Path(folder) / "run", len(rounds), settings)
            line = {
                "round": len(rounds),
                "minute": round((time.monotonic() - start) / 60, 2),
                "rss": resident(),
                "handles": handles(),
                "children": children(),
            }
            rounds.append(line)
            print(json.dumps(line), file=log, flush=True)
    return verdict([r for r in rounds if r["minute"] >= min(settle, spent / 2)], settle)


def verdict(settled: list[dict[str, Any]], settle: float) -> dict[str, Any]:
    """Growth from the first fifth of the settled rounds to their last fifth, by medians: rounds differ a little."""
    fifth = max(1, len(settled) // 5)
    before = statistics.median(r["rss"] for r in settled[:fifth])
    after = statistics.median(r["rss"] for r in settled[-fifth:])
    growth = {key: settled[-1][key] - settled[0][key] for key in ("handles", "children")}
    return {
        "rounds_after_settling": len(settled),
        "minutes": round(settled[-1]["minute"] - settled[0]["minute"], 1),
        "rss_before": before,
        "rss_after": after,
        "rss_growth": round(after / before - 1, 5),
        "rss_most": max(r["rss"] for r in settled),
        "handles_growth": growth["handles"],
        "children_growth": growth["children"],
        "ok": after / before - 1 < LIMIT and growth["handles"] <= 0 and growth["children"] <= 0,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=120)
    parser.add_argument("--settle", type=float, default=10, help="minutes before memory is first looked at")
    parser.add_argument("--log", type=argparse.FileType("w"), default=sys.stdout, help="file for the JSON lines")
    parser.add_argument("-s", "--set", action="append", default=[], help="config settings, as of clx train")
    args = parser.parse_args()
    found = soak(args.minutes, args.settle, args.set, args.log)
    print(json.dumps(found), file=args.log, flush=True)
    return 0 if found["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
