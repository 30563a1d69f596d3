"""What an interval of retrieval is drawn over."""

from pathlib import Path
from typing import Any

import pytest

from clx.pipelines.config.schema import Config
from clx.pipelines.evaluation.evaluate import evaluate_run
from clx.pipelines.evaluation.results import Settings
from clx.pipelines.experiments.train import train
from configs import small
from own_data import picture


def test_rows_that_share_their_image_make_no_interval_narrower(tmp_path: Path, silent: Any) -> None:
    rows = [f"{i}.png,caption {i}" for i in range(20)]
    for i in range(20):
        (tmp_path / f"{i}.png").write_bytes(picture(i))
    (tmp_path / "m.csv").write_text("\n".join(["image,text", *rows]) + "\n")
    (tmp_path / "often.csv").write_text("\n".join(["image,text", *(row for row in rows for _ in range(5))]) + "\n")
    modalities = {
        "image": {"encoder": "cnn", "width": 4, "size": 8},
        "text": {"width": 32, "layers": 1},
    }
    config = small({"train": str(tmp_path / "m.csv")}, modalities, "clip", train={"steps": 1})
    train(Config.model_validate(config), tmp_path / "run", silent)
    once, often = (
        evaluate_run(tmp_path / "run", ["retrieval"], Settings(), data=str(tmp_path / name), say=str)["retrieval"]
        for name in ("m.csv", "often.csv")
    )
    for way in ("image->text", "text->image"):
        assert (once[way]["queries"], often[way]["queries"]) == (20, 100)
        for figure in ("R@5", "mAP", "median_rank", "AUC", "NDCG@10"):
            for key in (figure, f"{figure}_ci"):
                assert often[way][key] == pytest.approx(once[way][key]), key
        low, high = once[way]["mAP_ci"]
        assert low < high
