"""What a modality may be called."""

import pytest
from torch import nn

from clx.pipelines.config.modality_names import TAKEN, check_name
from clx.pipelines.system.errors import BadInput


def test_names_of_which_torch_has_need_are_refused() -> None:
    assert {name for name in dir(nn.ModuleDict()) if not name.startswith("_")} <= TAKEN
    for name in ("keys", "a b", ""):
        with pytest.raises(BadInput, match=f"modalities.{name}: "):
            check_name(name)
    check_name("Ähnlicher_Satz")
