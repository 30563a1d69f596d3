"""What makes an evaluation another one."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image
from torch import nn

from clx.modalities.series import Series
from clx.pipelines.config.schema import Config
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.evaluation import result_key
from clx.pipelines.evaluation.evaluate import evaluate_run
from clx.pipelines.evaluation.evaluated_rows import Source
from clx.pipelines.evaluation.results import Settings
from configs import small

QUICK = Settings(resamples=20, episodes=20)


def test_a_changed_file_is_evaluated_again(copy: Path, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    for k in range(4):
        Image.fromarray(draw.integers(0, 255, (8, 8), dtype=np.uint8)).save(tmp_path / f"{k}.png")
    (tmp_path / "m.csv").write_text("image,label\n" + "\n".join(f"{k}.png,{k % 2}" for k in range(4)))

    def key() -> str:
        found: str = evaluate_run(copy, ["zeroshot"], QUICK, data=str(tmp_path / "m.csv"), say=str)["key"]
        return found

    first = key()
    assert key() == first
    os.utime(tmp_path / "2.png", (1, 1))
    touched = key()
    (tmp_path / "m.csv").write_text("image,label\n" + "\n".join(f"{k}.png,0" for k in range(4)))
    assert len({first, touched, key()}) == 3


def test_the_key_follows_names_categories_and_files_of_pieces(tmp_path: Path) -> None:
    config = Config.model_validate(small({"train": "m"}, {"s": {"kind": "series", "views": 2}}, "nt-xent"))
    run: Any = SimpleNamespace(config=config, model=nn.Identity(), objective=nn.Identity(), modalities={"s": Series()})

    def key(**columns: Any) -> str:
        table = pa.table(columns)
        rows = Manifest("m", tmp_path, table, np.arange(len(table)))
        return result_key.key(run, Source("test", rows), ["geometry"], QUICK, "fail")

    x, y = pa.array([1, 2]), pa.array([3, 4])
    assert key(a=x, b=y) == key(a=x, b=y)
    assert key(a=x, b=y) != key(b=x, a=y)
    cats = pa.array(["cat", "dog"]).dictionary_encode()
    assert key(a=cats) != key(a=pa.array(["dog", "cat"]).dictionary_encode())
    np.save(tmp_path / "r.npy", np.zeros(20))
    pieces = pa.array(["r.npy#0:10", "r.npy#10:20"])
    before = key(s=pieces)
    os.utime(tmp_path / "r.npy", (1, 1))
    assert key(s=pieces) != before
