"""Layers that are computed again: the same gradients from less memory."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from clx.modalities.audio import Audio
from clx.modalities.image import Image
from clx.modalities.text import Text
from clx.pipelines.model.checkpointing import recompute
from clx.pipelines.model.towers import Tower
from small_models import bert, clip_image, clip_text, inputs, timm_of


def small_text(folder: Path, **options: Any) -> Text:
    return Text(layers=4, width=32, dropout=0.2, **options)


def small_audio(folder: Path, **options: Any) -> Audio:
    return Audio(encoder="mel-transformer", width=32, layers=4, dropout=0.2, **options)


def step(tower: Tower, value: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], int]:
    """Gradients of a training step, and the bytes that it kept for them."""
    kept: dict[int, int] = {}

    def keep(x: torch.Tensor) -> torch.Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    parameters = {p.untyped_storage().data_ptr() for p in tower.parameters()}
    tower.train()
    torch.manual_seed(3)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        z = tower(value)
    z.square().sum().backward()
    gradients = {name: p.grad for name, p in tower.named_parameters() if p.grad is not None}
    return gradients, sum(size for place, size in kept.items() if place not in parameters)


ADAPTED = [(make, {"rank": 2}) for make in (timm_of, clip_image, clip_text, bert)]


@pytest.mark.parametrize(
    ("make", "lora"),
    [*((make, None) for make in (timm_of, clip_image, clip_text, bert, small_text, small_audio)), *ADAPTED],
)
def test_the_same_gradients_from_less_memory(make: Any, lora: Any, folder: Path) -> None:
    found = []
    for checkpointing in (False, True):
        modality = make(folder, checkpointing=checkpointing, lora=lora)
        torch.manual_seed(7)
        tower = Tower(modality, 8)
        draw = torch.Generator().manual_seed(5)
        for name, parameter in tower.named_parameters():  # whose start depends on what was read from a file before
            if "head" in name or "lora" in name:
                torch.nn.init.normal_(parameter, 0, 0.1, generator=draw)
        value = {"x": torch.randn(3, 8000, generator=torch.Generator().manual_seed(1))}
        tower = copy.deepcopy(tower)  # as averages of weights do
        found.append(step(tower, value if isinstance(modality, Audio) else inputs(modality)))
    (plain, much), (again, little) = found
    assert plain.keys() == again.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(again[name], gradient, rtol=1e-6, atol=1e-7)
    assert little < 0.75 * much


def test_what_cannot_be(folder: Path) -> None:
    with pytest.raises(ValueError, match="batch norms"):
        Tower(Image(encoder="cnn", checkpointing=True), 8)
    with pytest.raises(ValueError, match="keeps nothing"):
        bert(folder, checkpointing=True, freeze=True)
    with pytest.raises(ValueError, match="no layers that can be computed again"):
        recompute(torch.nn.Linear(2, 2))
