"""Packages that encoders lack are named at once."""

import pytest

from clx.pipelines.config import packages
from clx.pipelines.config.schema import Config
from clx.pipelines.system.errors import BadInput

BASE = {"data": {"train": "none.csv"}, "objective": "clip"}


def test_all_lacking_packages_are_named_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "find_spec", lambda module: None)
    inputs = {"image": {"encoder": "efficientnet-lite0"}, "text": {"encoder": "hf:minilm"}}
    with pytest.raises(BadInput) as raised:
        packages.check_packages(Config.model_validate({**BASE, "modalities": inputs}))
    assert "efficientnet-lite0 wants" in str(raised.value)
    assert "hf:minilm wants" in str(raised.value)
    assert sorted(str(raised.value).partition(".[")[2].partition("]'")[0].split(",")) == ["efficientnet", "minilm"]
    random = {name: options | {"pretrained": False} for name, options in inputs.items()}
    packages.check_packages(Config.model_validate({**BASE, "modalities": random}))
