"""`clx train` beside open_clip's own training script: the same model, images, captions, batch and kind of view."""

import importlib.util
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from clx.pipelines.runs.folder import PROFILE
from clx.pipelines.system.devices import pick_device, pick_precision
from clx.pipelines.system.errors import BadInput, Failed
from clx.pipelines.system.phases import WARM_UP

Row = dict[str, Any]
NEEDED = ("open_clip_train", "webdataset", "braceexpand", "pandas")
"""What open_clip's script imports."""
LOGGED = re.compile(r"Batch \(t\): ([0-9.]+)")
"""The seconds of a step, in its log."""


@dataclass(frozen=True)
class Asked:
    """What both are to do."""

    model: str
    """A name of `open_clip.list_models()`, whose weights are random."""
    batch: int
    steps: int
    """Of each turn; the first `WARM_UP` are not counted."""
    workers: int
    device: str
    side: int = 224


@dataclass
class Side:
    """What came of one of the two, over all turns."""

    steps: list[float] = field(default_factory=list)
    """Seconds of each that counts."""
    starts: list[float] = field(default_factory=list)
    """Seconds from the start of the process to the first step."""
    processor: list[float] = field(default_factory=list)
    """Seconds of processor time of a whole turn, with its start and end."""


def bench_training(asked: Asked, turns: int = 2, say: Callable[[str], None] = lambda line: None) -> list[Row]:
    """Train a model from scratch with each, in turn, in processes of their own.

    Returns:
        A row for each: `trainer`, `rows_per_s` by the median step, `step_s`, `before_first_step_s` from the start of
        the process (the fastest turn), `processor_s` of a turn; and of clx `ratio`, its rows per second to the other's.

    Raises:
        BadInput: where open_clip's script or something that it imports is not installed, or steps are too few.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise BadInput(
            f"open_clip's training script needs {', '.join(missing)}: pip install 'open_clip_torch[training]'"
        )
    if asked.steps <= WARM_UP:
        raise BadInput(f"--steps {asked.steps}: the first {WARM_UP} are not counted, so there have to be more")
    width_of(asked.model)
    found = {"clx": Side(), "open_clip": Side()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_rows(folder, asked)
        for turn in range(turns):
            for trainer, run in (("clx", ours), ("open_clip", theirs)):
                before = os.times()
                run(folder, asked, f"{trainer}-{turn}", found[trainer])
                after = os.times()
                used = after.children_user + after.children_system - before.children_user - before.children_system
                found[trainer].processor.append(used)
                say(f"turn {turn + 1} of {turns}: {trainer} trained")
    rows = [row_of(trainer, side, asked.batch) for trainer, side in found.items()]
    rows[0]["ratio"] = rows[0]["rows_per_s"] / rows[1]["rows_per_s"]
    return rows


def row_of(trainer: str, side: Side, batch: int) -> Row:
    """One line of the table."""
    step = statistics.median(side.steps)
    return {
        "trainer": trainer,
        "rows_per_s": batch / step,
        "step_s": step,
        "before_first_step_s": min(side.starts),
        "processor_s": min(side.processor),
    }


def write_rows(folder: Path, asked: Asked) -> None:
    """JPEG files of smooth noise, which are about as large as photographs, and a caption of its own for each."""
    from PIL import Image

    draw = np.random.default_rng(0)
    lines = ["image\ttext"]
    for i in range(asked.batch * asked.steps):
        coarse = Image.fromarray(draw.integers(0, 256, (asked.side // 4, asked.side // 4, 3), dtype=np.uint8))
        path = folder / f"{i}.jpg"
        coarse.resize((asked.side, asked.side), Image.Resampling.BICUBIC).save(path, quality=90)
        words = " ".join(f"thing {number}" for number in draw.integers(0, 1000, 4))
        lines.append(f"{path}\ta photo of {words} and {i}")
    (folder / "rows.tsv").write_text("\n".join(lines) + "\n")


def ours(folder: Path, asked: Asked, name: str, side: Side) -> None:
    """A turn of `clx train`."""
    encoder = f"open_clip:{asked.model}"
    config = {
        "data": {"train": str(folder / "rows.tsv")},
        "modalities": {
            "image": {"encoder": encoder, "head": "none", "augmentation": "mild"},
            "text": {"encoder": encoder, "head": "none", "augmentation": "none"},
        },
        "embed_dim": width_of(asked.model),
        "objective": {"name": "clip", "learn_temperature": True},
        "train": {
            "steps": asked.steps,
            "batch_size": asked.batch,
            "workers": asked.workers,
            "device": asked.device,
            "clip": None,
        },
        "eval": [],
    }
    source = folder / f"{name}.json"
    source.write_text(json.dumps(config))  # which is YAML as well
    source = source.rename(source.with_suffix(".yaml"))
    code = "from clx.cli.main import main; main()"
    start = time.time()
    for _ in output_of([code, "train", str(source), "--out", str(folder / name), "--profile"], folder):
        pass
    profile = json.loads((folder / name / PROFILE).read_text())
    side.starts.append(profile["started"] - start)
    side.steps += [one / 1000 for one in profile["each_ms"]]


def theirs(folder: Path, asked: Asked, name: str, side: Side) -> None:
    """A turn of open_clip's script, which logs the time of each step."""
    device = pick_device(asked.device)
    precision = {"float32": "fp32", "bfloat16": "amp_bf16", "float16": "amp"}
    options = {
        "train-data": folder / "rows.tsv",
        "dataset-type": "csv",
        "csv-img-key": "image",
        "csv-caption-key": "text",
        "model": asked.model,
        "batch-size": asked.batch,
        "epochs": 1,
        "workers": asked.workers,
        "device": device,
        "precision": precision[str(pick_precision("auto", device)).removeprefix("torch.")],
        "warmup": 1,
        "logs": folder,
        "name": name,
        "log-every-n-steps": 1,
    }
    code = "import sys; from open_clip_train.main import main; main(sys.argv[1:])"
    arguments = [text for key, value in options.items() for text in (f"--{key}", str(value))]
    start, steps = time.time(), list[float]()
    for line in output_of([code, *arguments], folder):
        if "Start epoch 0" in line:
            side.starts.append(time.time() - start)
        if found := LOGGED.search(line):
            steps.append(float(found[1]))
    side.steps += steps[WARM_UP:]


def width_of(model: str) -> int:
    """Of its embeddings. Raises `BadInput` for a model that open_clip does not know."""
    import open_clip

    config = open_clip.get_model_config(model)
    if config is None:
        raise BadInput(f"open_clip has no model {model!r}: `clx encoders open_clip` lists them")
    return int(config["embed_dim"])


def output_of(command: list[str], folder: Path) -> Iterator[str]:
    """The lines that a Python program says, each as soon as it is said. Raises `Failed` where it fails."""
    process = subprocess.Popen(
        [sys.executable, "-c", *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder
    )
    said = ""
    assert process.stdout is not None
    with process:
        for line in process.stdout:
            said = line.strip() or said
            yield line
    if process.returncode:
        raise Failed(f"{command[1] if command[1] == 'train' else 'open_clip_train'} failed: {said}")
