"""A temperature is fitted on rows that the model was not trained on, or it is said."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from clx.pipelines.config.schema import Config
from clx.pipelines.use.calibration_rows import calibration_rows
from configs import small


def test_of_the_runs_own_file_the_val_rows_are_taken_and_of_others_training_rows_are_told(tmp_path: Path) -> None:
    own, other, new = (str(tmp_path / name) for name in ("own.csv", "other.csv", "new.csv"))
    Path(own).write_text("image,label\n" + "".join(f"{k // 2}.png,{'ab'[k % 2]}\n" for k in range(40)))
    Path(new).write_text("image,label\nx.png,a\ny.png,b\n")
    shutil.copy(own, other)
    modalities = {"image": {"encoder": "cnn", "width": 4, "size": 8}}
    part = {"train": own, "label": "label", "val": {"fraction": 0.2, "by": "image"}}
    run: Any = SimpleNamespace(config=Config.model_validate(small(part, modalities, "supcon")))
    said: list[str] = []

    def rows(source: str, split: str | None = None) -> int:
        return len(calibration_rows(run, run.config.data, source, split, said.append))

    assert (rows(own), said.pop()) == (8, f"{own}: its 8 val rows are taken, which the run was not trained on")
    assert rows(other) == 40
    assert said.pop().startswith("32 of 40 calibration rows have the image of a training row: other.csv row ")
    assert (rows(new), rows(own, "val")) == (2, 8)
    assert rows(own, "train") == 32
    assert said.pop().startswith("32 of 32 calibration rows")
    assert not said
    part["val"] = new
    run.config = Config.model_validate(small(part, modalities, "supcon"))
    assert (rows(own), bool(said.pop())) == (40, True), "its val rows are of another file"
