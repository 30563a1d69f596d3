"""Features of frozen encoders on files: made once for all runs of a process, while the files stay as they are."""

from pathlib import Path

import numpy as np
import torch

from clx.pipelines.config.schema import Config
from clx.pipelines.data.splits import load_splits
from clx.pipelines.model.build import prepare
from clx.pipelines.model.frozen_features import features
from configs import small


def test_files_are_encoded_once_whatever_the_table_is_called(tmp_path: Path) -> None:
    for k in range(6):
        np.save(tmp_path / f"{k}.npy", np.sin(np.arange(20) * (k + 1)))
    (tmp_path / "a.csv").write_text("series\n" + "".join(f"{k}.npy\n" for k in range(6)) + "none.npy\n")
    (tmp_path / "b.csv").write_text("series\nother.npy\n" + "".join(f"{k}.npy\n" for k in range(6)) + "none.npy\n")
    series = {"encoder": "tcn", "width": 8, "freeze": True, "augmentation": "none", "head_dropout": 0.1, "views": 2}
    raw = small({"train": str(tmp_path / "a.csv"), "val": None}, {"series": series}, "infonce")
    config = Config.model_validate(raw)
    first = load_splits(config.data, 0)["train"]
    run = prepare(config, {"train": first})
    run.model.eval()
    calls: list[int] = []
    run.model.tower("series").encoder.register_forward_hook(lambda module, given, out: calls.append(len(out)))

    found = features(run, "series", first)
    assert sorted(found) == [0, 1, 2, 3, 4, 5]
    assert calls == [6]
    later = load_splits(config.data.model_copy(update={"train": str(tmp_path / "b.csv")}), 0)["train"]
    again = features(run, "series", later.take(np.arange(1, 8)))
    assert sorted(again) == [1, 2, 3, 4, 5, 6]  # by their numbers in the other table
    assert calls == [6]
    for row, value in found.items():
        torch.testing.assert_close(again[row + 1], value, rtol=0, atol=0)
    np.save(tmp_path / "3.npy", np.zeros(21) + np.arange(21))
    assert not torch.allclose(features(run, "series", first)[3], found[3])
    assert calls == [6, 6]
