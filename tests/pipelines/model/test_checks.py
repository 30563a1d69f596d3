"""What cannot work together is refused before anything is trained."""

from pathlib import Path
from typing import Any

import pytest

from clx.pipelines.config.schema import Config
from clx.pipelines.experiments.train import train
from clx.pipelines.system.errors import BadInput
from clx.pipelines.system.progress import Progress
from configs import TIME_KEPT, series_config


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"augmentation": "mild"}, "do not keep their time"),
        ({"augmentation": {"crops": 0, "permutation": 3}}, "do not keep their time"),
        ({"views": 1, "augmentation": TIME_KEPT}, "two"),
        ({"encoder": "tsai:FCN", "augmentation": TIME_KEPT}, "tcn or dilated"),
        ({"augmentation": {"jiter": 1}}, "'jitter'"),
        ({"augmentation": {"crop": 2}}, "0 to 0.95"),
        ({"augmentation": "wild"}, "wild"),
        ({"views": 1, "augmentation": "autotcl"}, "views: 2"),
    ],
)
def test_what_cannot_work_is_refused_before_training(
    tmp_path: Path, silent: Progress, options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(BadInput, match=reason):
        train(Config.model_validate(series_config(**options)), tmp_path / "run", silent)
    assert not (tmp_path / "run").exists()
