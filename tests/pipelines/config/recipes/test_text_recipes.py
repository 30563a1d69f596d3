"""The recipes of published text methods: each takes steps on a few rows of the columns that it names."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clx.pipelines.config.load import load_config
from clx.pipelines.experiments.train import train

NAMES = (
    "simcse",
    "consert",
    "clear",
    "compcse",
    "declutr",
    "diffcse",
    "contriever",
    "supcl-seq",
    "clip-plain",
    "clip-strong",
)
SENTENCE = "the small cat and two large dogs sleep under an old table while it rains all day"
WORDS = SENTENCE.split()


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty-four rows with every column that the recipes read."""
    folder = tmp_path_factory.mktemp("rows")
    lines = ["image,sentence1,sentence2,text,text_en,label,score"]
    for i in range(24):
        shade = np.full((8, 8, 3), 10 * i, dtype=np.uint8)
        Image.fromarray(shade).save(folder / f"{i}.png")
        words = [" ".join(WORDS[k % 5 : k % 5 + 3 + k % 9]) for k in range(i, i + 4)]
        lines.append(",".join([f"{i}.png", *words, "ab"[i % 2], str(i % 5)]))
    (folder / "rows.csv").write_text("\n".join(lines) + "\n")
    return folder / "rows.csv"


@pytest.mark.parametrize("name", NAMES)
def test_it_takes_steps(name: str, rows: Path, tmp_path: Path, silent: Any) -> None:
    small = [f"data.train={rows}", "train.steps=2", "train.batch_size=12", "train.validate_every=2"]
    found = load_config(name, [*small, "data.val=null", "data.test=null", "modalities.text.layers=1"])
    result = train(found, tmp_path / "run", silent)["evaluation"]
    assert result["step"] == 2
    assert {*result, *result.get("skipped", {})} >= {*found.eval}, "probe has no rows to be asked about here"
