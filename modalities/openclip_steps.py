"""Patches and tokens of open_clip's towers: what their last norm gives, projected as the pooled features are."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

Side = Literal["image", "text"]


def last_norm(tower: Any, side: Side) -> nn.Module | None:
    """The norm whose outputs are those of single steps, pooled by choice of a step or by their mean; None of a tower
    that is built otherwise: convolutions, pooling by attention, CoCa's text tower, towers of other libraries."""
    if side == "image":
        plain = hasattr(tower, "ln_post") and getattr(tower, "attn_pool", None) is None
        return tower.ln_post if plain and not tower.final_ln_after_pool and tower.pool_type in ("tok", "avg") else None
    inner = getattr(tower, "text", tower)
    way = getattr(inner, "text_pool_type", getattr(inner, "pool_type", None))
    plain = hasattr(inner, "ln_final") and getattr(inner, "cls_emb", None) is None
    return inner.ln_final if plain and way == "argmax" else None


def states(tower: Any, side: Side, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Features `[N, width]`, those of each patch or token `[N, T, width]`, and the mask `[N, T]`.

    Tokens go from the text's first to its last, with the marks at both ends. The class token of an image is no patch.
    """
    norm = last_norm(tower, side)
    assert norm is not None
    seen: list[Tensor] = []
    hook = norm.register_forward_hook(lambda module, given, made: seen.append(made))
    try:
        pooled: Tensor = tower.encode_text(x) if side == "text" else tower(x)
    finally:
        hook.remove()
    pooled = pooled[0] if isinstance(pooled, tuple) else pooled
    (h,) = seen
    if side == "image":
        each, mask = h[:, 1:], torch.ones(h.shape[0], h.shape[1] - 1, dtype=torch.bool, device=h.device)
        projection = tower.proj
    else:
        each, mask = h, torch.arange(h.shape[1], device=h.device) <= x.argmax(1, keepdim=True)
        projection = getattr(tower, "text", tower).text_projection
    if projection is not None:
        each = projection(each) if isinstance(projection, nn.Module) else each @ projection
    return pooled, torch.where(mask[..., None], each, 0), mask
