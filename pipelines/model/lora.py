"""LoRA: a pretrained encoder learns by low-rank changes of its matrices, and is saved as these.

W' = W + (alpha / rank) B A, with A `[rank, in]` drawn and B `[out, rank]` zero in the beginning (Hu et al. 2022, arXiv
2106.09685). One form for every library: a linear layer computes the change beside its own product, and a matrix that a
module multiplies with by itself (`nn.MultiheadAttention` of open_clip) is the sum.
"""

import inspect
import math
import re
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from clx.modalities.base import Lora
from clx.pipelines.model.fingerprint import fingerprint

OURS = ("lora_a", "lora_b")
BASE = "lora_base"
"""Stands in saved weights in the place of those of the encoder itself: their digest."""


class LoraLinear(nn.Linear):
    """A linear layer with a change of low rank. An existing layer becomes one, under its own names."""

    lora_a: nn.Parameter
    lora_b: nn.Parameter
    lora_scale: float
    lora_dropout: float

    def forward(self, input: Tensor) -> Tensor:
        """`[..., in]` -> `[..., out]`."""
        low = F.linear(F.dropout(input, self.lora_dropout, self.training), self.lora_a)
        return super().forward(input) + self.lora_scale * F.linear(low, self.lora_b)


class Changed(nn.Module):
    """A matrix `[out, in]` with its change of low rank added."""

    def __init__(self, matrix: Tensor, rank: int, scale: float) -> None:
        super().__init__()
        self.lora_a, self.lora_b = factors(matrix, rank)
        self.scale = scale

    def forward(self, matrix: Tensor) -> Tensor:
        """`[out, in]` -> the same shape."""
        return matrix + self.scale * (self.lora_b @ self.lora_a)


def factors(matrix: Tensor, rank: int) -> tuple[nn.Parameter, nn.Parameter]:
    """A `[rank, in]`, drawn as torch draws linear layers, and B `[out, rank]` of zeros."""
    low = nn.init.kaiming_uniform_(matrix.new_empty(rank, matrix.shape[1]), a=math.sqrt(5))
    return nn.Parameter(low), nn.Parameter(matrix.new_zeros(matrix.shape[0], rank))


def adapt(encoder: Any, options: Lora) -> list[nn.Module]:
    """Freeze an encoder and add what learns instead of it, in place. Its saved state is then that alone.

    Gives the parts that must stay in evaluation mode: batch norms, whose statistics are the encoder's own. Raises
    `ValueError` where there is nothing to add to, and for `targets` that it does not have.
    """
    base = fingerprint(encoder)
    rank, dropout = options["rank"], options.get("dropout", 0.0)
    scale = options.get("alpha", rank) / rank
    encoder.requires_grad_(False)
    wanted = options.get("targets")
    matrices = [each for each in found(encoder) if wanted is None or each[1] in wanted]
    if missing := sorted({*(wanted or [])} - {name for _, name, _ in matrices}):
        known = ", ".join(dict.fromkeys(name for _, name, _ in found(encoder))) or "none"
        raise ValueError(f"lora.targets: the encoder has no linear layer called {missing[0]!r}; it has {known}")
    if not matrices:
        raise ValueError("lora: the encoder has no linear layers to adapt")
    if dropout and any(not beside for *_, beside in matrices):
        name = next(name for _, name, beside in matrices if not beside)
        raise ValueError(f"lora.dropout: {name} of this encoder multiplies with its weights by itself: leave it out")
    for module, name, beside in matrices:
        if beside:
            module.lora_a, module.lora_b = factors(module.weight, rank)
            module.lora_scale, module.lora_dropout = scale, dropout
            module.__class__ = LoraLinear
        else:
            weight = "weight" if isinstance(module, nn.Linear) else f"{name}_weight"
            parametrize.register_parametrization(module, weight, Changed(getattr(module, weight), rank, scale))
    encoder.lora_of = base
    encoder.register_state_dict_post_hook(_without_base)
    encoder.register_load_state_dict_pre_hook(_with_base)
    return [part for part in encoder.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]


def found(encoder: nn.Module) -> list[tuple[Any, str, bool]]:
    """Modules with a matrix to change, what the matrix is called, and whether the module's own product is all that uses
    it, so that a second product beside it does."""
    matrices: list[tuple[Any, str, bool]] = []
    for parent in encoder.modules():
        if isinstance(parent, nn.MultiheadAttention) and parent.in_proj_weight is not None:
            matrices.append((parent, "in_proj", False))
        for name, module in parent.named_children():
            if isinstance(module, nn.Linear) and all(module is not each for each, *_ in matrices):  # it may be shared
                beside = type(module) is nn.Linear and not _reads_weight(type(parent), name)
                matrices.append((module, name, beside))
    return matrices


def _reads_weight(parent: type, name: str) -> bool:
    """Whether a class multiplies with the weights of one of its layers without calling the layer."""
    try:
        return re.search(rf"\b{name}\.weight\b", inspect.getsource(parent)) is not None
    except (OSError, TypeError):  # no source: nothing is known, so its weights are changed themselves
        return True


def merge(encoder: Any) -> None:
    """Add all changes to the matrices, in place: a plain encoder that says the same, to rounding."""
    with torch.no_grad():
        for module in list(encoder.modules()):
            if isinstance(module, LoraLinear):
                module.weight += module.lora_scale * (module.lora_b @ module.lora_a)
                del module.lora_a, module.lora_b
                module.__class__ = nn.Linear  # type: ignore[assignment]
            elif parametrize.is_parametrized(module):
                for name, parts in list(module.parametrizations.items()):
                    if isinstance(parts[0], Changed):
                        parametrize.remove_parametrizations(module, name, leave_parametrized=True)
    del encoder.lora_of
    for hooks in (encoder._state_dict_hooks, encoder._load_state_dict_pre_hooks):
        for key in [key for key, hook in hooks.items() if getattr(hook, "hook", hook) in (_without_base, _with_base)]:
            del hooks[key]


def _without_base(encoder: nn.Module, state: dict[str, Any], prefix: str, about: Any) -> None:
    """Leave the encoder's own weights out of what is saved: `encoder` and `pretrained` of the config say where they
    are, and their digest whether they are those still."""
    for name in [name for name in state if name.startswith(prefix) and name.rpartition(".")[2] not in OURS]:
        del state[name]
    state[prefix + BASE] = torch.frombuffer(bytearray(bytes.fromhex(str(encoder.lora_of))), dtype=torch.uint8)


def _with_base(encoder: nn.Module, state: dict[str, Any], prefix: str, *more: Any) -> None:
    """Add the encoder's own weights, which it has already, to what is loaded."""
    errors: list[str] = more[-1]
    saved = state.pop(prefix + BASE, None)
    if saved is None or saved.cpu().numpy().tobytes().hex() != encoder.lora_of:
        errors.append("the pretrained weights found are not those that the adapters were trained on")
    own: dict[str, Any] = {}
    for path, module in encoder.named_modules(remove_duplicate=False):
        module._save_to_state_dict(own, f"{path}." if path else "", keep_vars=False)
    state |= {prefix + name: value for name, value in own.items() if name.rpartition(".")[2] not in OURS}
