"""What a modality may be called."""

import pytest
from torch import nn

from clx.pipelines.config.modality_names import TAKEN, check_name
from clx.pipelines.system.errors import BadInput


def test_names_of_which_torch_has_need_are_refused() -> None:
    """Torch's own: what other packages give to its modules depends on which were loaded before."""
    names = [name for name in dir(nn.ModuleDict()) if not name.startswith("_")]
    made_by = {name: getattr(getattr(nn.ModuleDict, name, None), "__module__", "torch") for name in names}
    of_torch = {name for name, module in made_by.items() if module.split(".")[0] == "torch"}
    assert "requires_grad_" in of_torch
    assert of_torch <= TAKEN
    for name in ("keys", "smart_apply", "a b", ""):
        with pytest.raises(BadInput, match=f"modalities.{name}: "):
            check_name(name)
    check_name("Ähnlicher_Satz")
