"""What an interval of retrieval is drawn over."""

from pathlib import Path
from typing import Any

import pytest
import torch

from clx.pipelines.config.schema import Config
from clx.pipelines.evaluation.evaluate import evaluate_run
from clx.pipelines.evaluation.results import Settings
from clx.pipelines.evaluation.tasks.retrieval import units_of
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


def test_intervals_draw_pictures_and_not_their_captions() -> None:
    """Ten images of three captions have the interval of ten images, and captions of many images that of rows."""

    class Told:
        def __init__(self, **numbers: list[int]) -> None:
            self.run = self
            self.modalities = {n: type("M", (), {"kind": n})() for n in numbers}
            self.numbers = {n: torch.tensor(v) for n, v in numbers.items()}

        def contents(self, name: str) -> torch.Tensor:
            return self.numbers[name]

    rows, ten = torch.arange(30), [i // 3 for i in range(30)]
    several: Any = Told(image=ten, text=list(range(30)))
    assert units_of(several, rows, ["image", "text"]).tolist() == ten  # type: ignore[union-attr]
    assert units_of(several, rows, ["text", "image"]).tolist() == ten  # type: ignore[union-attr]
    classes: Any = Told(image=list(range(30)), text=ten)
    assert units_of(classes, rows, ["image", "text"]) is None
