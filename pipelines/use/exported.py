"""A tower as an export has it, and what it takes and gives."""

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clx.modalities.base import Input
from clx.pipelines.model.build import Run
from clx.pipelines.system.errors import BadInput


class Exported(nn.Module):
    """A tower as users want it: unit rows, and predictions where the run makes them."""

    def __init__(self, run: Run, name: str) -> None:
        super().__init__()
        self.tower = run.model.tower(name)
        self.prompts = run.model.prompts_of(name) if name in run.model.prompt_of else None
        sharing = {other for other in run.modalities if run.model.tower(other) is self.tower}
        asked = [each for each in [name, *sorted(sharing)] if each in run.model.predict_from]
        self.predictor = run.model.alone(asked[0]) if asked else None
        self.register_buffer("scale", run.model.get_buffer("target_scale"), persistent=False)
        self.register_buffer("shift", run.model.get_buffer("target_mean"), persistent=False)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, ...]:
        """A collated input of N rows -> unit embeddings `[N, D]` and, with a predictor, `[N, outputs]`."""
        contexts = [] if self.prompts is None else self.prompts.contexts()
        z = self.tower({"x": x} if mask is None else {"x": x, "mask": mask}, contexts)
        embedding = F.normalize(z, dim=-1)
        if self.predictor is None:
            return (embedding,)
        return embedding, self.predictor(z) * self.get_buffer("scale") + self.get_buffer("shift")

    @property
    def outputs(self) -> list[str]:
        return ["embedding"] if self.predictor is None else ["embedding", "prediction"]


def refuse_own_prompts(run: Run, form: str) -> None:
    """Raise `BadInput` for a format that reads every text alike, of a run whose labels have prompts of their own."""
    for name in run.model.prompt_of:
        if run.model.prompts_of(name).labels is not None and form != "safetensors":
            raise BadInput(
                f"modalities.{name}.prompt.per_label reads each label otherwise, which {form} cannot: use --format "
                "safetensors"
            )


def fixed_length(module: Exported) -> int | None:
    """The one length that an encoder brings all rows to, if it does."""
    length = getattr(module.tower.encoder, "length", None)
    return int(length) if isinstance(length, int) else None


def fitted(value: Input, length: int | None) -> Input:
    """An input cut or padded with zeros to a length, where there is one."""
    if length is None or "mask" not in value:
        return value
    x, mask = value["x"][:, :length], value["mask"][:, :length]
    more = length - x.shape[1]
    return {"x": F.pad(x, (0, 0, 0, more) if x.ndim == 3 else (0, more)), "mask": F.pad(mask, (0, more))}


@torch.no_grad()
def agreement(module: Exported, call: Any, inputs: Iterable[Input]) -> dict[str, float]:
    """How near embeddings of rows come to those of the run: `cosine` to them on average, and `same_nearest`, the share
    of rows whose nearest other row stays the same."""
    length = fixed_length(module)
    ours, theirs = [], []
    for value in inputs:
        ours.append(module(**value)[0])
        theirs.append(F.normalize(call(**fitted(value, length))[0], dim=-1))
    one, other = torch.cat(ours), torch.cat(theirs)
    nearest = [(z @ z.T).fill_diagonal_(-2).argmax(1) for z in (one, other)]
    return {
        "cosine": (one * other).sum(1).mean().item(),
        "same_nearest": (nearest[0] == nearest[1]).float().mean().item(),
    }


@torch.no_grad()
def compare(module: Exported, call: Any, inputs: list[Input]) -> dict[str, Any]:
    """The largest difference between two ways to the same outputs, relative to the largest output where that is
    above one, and on which batches it was looked for."""
    largest, shapes = 0.0, []
    length = fixed_length(module)
    for value in inputs:
        ready = fitted(value, length)
        for ours, theirs in zip(module(**value), call(**ready), strict=True):
            scale = max(1.0, ours.abs().max().item())
            apart = (ours - theirs).abs().max().item() / scale
            largest = max(largest, apart) if apart == apart else float("inf")
        shapes.append("x".join(map(str, value["x"].shape)))
    return {"difference": largest, "compared": ", ".join(shapes)}
