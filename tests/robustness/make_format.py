"""Write the run folder that `test_run_folders.py` reads for ever: python tests/robustness/make_format.py

One folder per format version, kept as it is: a new format gets a new folder, written by the first version that has it.
"""

import json
import shutil
from pathlib import Path

import torch

from clx.pipelines.config.schema import Config
from clx.pipelines.experiments.train import train
from clx.pipelines.runs import checkpoint
from clx.pipelines.system.durable_files import FORMAT
from clx.pipelines.system.progress import Silent

CONFIG = {
    "data": {"train": "sklearn:iris", "label": "label"},
    "modalities": {"table": {"columns": ["*"], "width": 32, "layers": 1, "views": 2, "freeze": True}},
    "embed_dim": 4,
    "objective": {"name": "nt-xent", "temperature": 0.1, "learn_temperature": True},
    "train": {"steps": 2, "batch_size": 8, "save_every": 1, "keep": 1},
    "eval": [],
}


def answers(out: Path) -> list[list[float]]:
    """What the model makes of three flowers."""
    run = checkpoint.load(out, "last")
    flowers = [[5.1, 3.5, 1.4, 0.2], [6.0, 2.7, 4.5, 1.4], [6.9, 3.1, 5.8, 2.2]]
    columns = run.config.modalities["table"]["columns"]
    table = run.modalities["table"]
    with torch.no_grad():
        z = run.model.towers["table"](table.collate([table.read(dict(zip(columns, f, strict=True))) for f in flowers]))
    found: list[list[float]] = z.tolist()
    return found


if __name__ == "__main__":
    out = Path(__file__).with_name(f"format-{FORMAT}")
    shutil.rmtree(out, ignore_errors=True)
    train(Config.model_validate(CONFIG), out, Silent())
    (out / ".lock").unlink()
    (out / "answers.json").write_text(json.dumps(answers(out)))
