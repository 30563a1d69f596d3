"""A table with one row per time step, as a file and as the section `data` of a config."""

from pathlib import Path
from typing import Any

import numpy as np

from clx.pipelines.config.data_schema import Data

RNG = np.random.default_rng(0)


def long_csv(folder: Path, **changes: Any) -> Path:
    """Two people, 5 and 3 steps, mixed up; y is 10 x. Ann's step at t = 3 is missing."""
    lines = ["who,t,x,y,note,split,label"]
    steps = [("ann", t) for t in (0, 1, 2, 4, 5)] + [("bob", t) for t in (10, 11, 13)]
    for k in RNG.permutation(len(steps)):
        who, t = steps[k]
        split = "test" if who == "bob" else "train"
        lines.append(f"{who},{t},{t},{'' if t == 1 else 10 * t},n{k},{split},{who}")
    for line, text in changes.get("at", {}).items():
        lines.insert(line, text)
    (folder / "long.csv").write_text("\n".join(lines) + "\n")
    return folder / "long.csv"


def data(path: Path, **more: Any) -> Data:
    long = {"id": "who", "time": "t", "channels": ["x", "y"], "holes": False, **more.pop("long", {})}
    return Data.model_validate({"train": str(path), "label": "label", "long": long, **more})
