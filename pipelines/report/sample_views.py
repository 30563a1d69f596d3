"""What becomes of single samples: random views of them, and what an encoder makes of them over time."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from clx.modalities.base import CellError, Input, LearnedView, StepEncoder
from clx.modalities.draws import Draws
from clx.pipelines.batches.cells import collate, vary
from clx.pipelines.report.previews import KINDS, STEPS, preview
from clx.pipelines.report.snapshot import Snapshot
from clx.pipelines.system.errors import BadInput

VIEWS = 4
SAMPLES = 6
COMPONENTS, FEATURES = 3, 16


@torch.no_grad()
def views(snapshot: Snapshot) -> list[dict[str, Any]]:
    """Samples beside random views of them, as training makes them."""
    found = []
    for name in snapshot.names:
        modality = snapshot.run.modalities[name]
        if not modality.varies or modality.kind not in KINDS:
            continue
        there = torch.nonzero(snapshot.embedded.present[name])[:, 0].tolist()
        lines = []
        for i in there[:: max(1, len(there) // 3)][:3]:
            try:
                _, sample = snapshot.read(i, name)
            except (CellError, BadInput):
                continue
            draws = [Draws.by(v, [i]) for v in range(VIEWS)]
            each = modality.views if isinstance(modality.augmentation, list) else VIEWS
            made = [view for (view,) in vary(modality, [[sample]] * each, draws[:each])]
            if (maker := snapshot.run.model.tower(name).view) is not None:
                learned = _learned(maker, collate(modality, made[1:]), i, snapshot.run.device)
                half = len(learned) // 2
                made[1:] = learned if modality.pair is None else zip(learned[:half], learned[half:], strict=True)
            lines.append({"sample": preview(modality, sample), "views": [preview(modality, view) for view in made]})
        how = modality.augmentation
        said = "; ".join(map(_said, how)) if isinstance(how, list) else _said(how)
        found.append({"modality": name, "augmentation": said, "lines": lines})
    return found


def _said(how: str | Mapping[str, float]) -> str:
    """A preset, or changes with their strengths."""
    return how if isinstance(how, str) else ", ".join(f"{change} {strength:g}" for change, strength in how.items())


def _learned(maker: LearnedView, value: Input, seed: int, device: torch.device) -> list[Tensor]:
    """Series `[T, C]` that a network makes of collated ones, with rows of NaN where there is no step."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        varied, _ = maker(**{key: part.to(device) for key, part in value.items()})
    x, mask = varied["x"].float().cpu(), varied["mask"].cpu()
    return list(x.masked_fill(~mask[..., None], torch.nan))


@torch.no_grad()
def over_time(snapshot: Snapshot) -> list[dict[str, Any]]:
    """What an encoder with features per time step makes of a few samples: their first principal components, and the
    features that vary most, as a map of features by time; of a pair those of its first series.

    Both are those of all steps of all samples together, and so have one meaning and one scale, -99 to 99: that of a
    component is its own, that of the features one for all.
    """
    found = []
    for name in snapshot.names:
        modality = snapshot.run.modalities[name]
        encoder = snapshot.run.model.tower(name).encoder
        if not isinstance(encoder, StepEncoder) or not encoder.timed:
            continue
        there = torch.nonzero(snapshot.embedded.present[name])[:, 0].tolist()
        rows = there[:: max(1, len(there) // SAMPLES)][:SAMPLES]
        read = [snapshot.read(i, name)[1] for i in rows]
        samples = [each[0] if isinstance(each, list) else each for each in read]  # of several the first
        value = modality.collate(samples if modality.pair is None else [first for first, _ in samples])
        features, mask = encoder.steps(**{key: part.to(snapshot.run.device) for key, part in value.items()})
        features, mask = features.double().cpu(), mask.cpu()
        x = features[mask]
        if len(x) <= COMPONENTS:
            continue
        features = features - x.mean(0)
        _, s, axes = torch.linalg.svd(features[mask], full_matrices=False)
        share = s.square() / s.square().sum().clamp(min=1e-12)
        parts = features @ axes[:COMPONENTS].T  # [N, T, COMPONENTS]
        parts = parts / parts[mask].abs().amax(0).clamp(min=1e-12) * 99
        most = x.var(0).argsort(descending=True, stable=True)[:FEATURES]
        shown = features[..., most] / features[mask][:, most].abs().max().clamp(min=1e-12) * 99
        lines = [
            {"item": snapshot.item(i, name), "parts": _rows(part, real), "features": _rows(each, real)}
            for i, part, each, real in zip(rows, parts, shown, mask, strict=True)
        ]
        found.append({"modality": name, "share": share[:COMPONENTS].tolist(), "width": x.shape[1], "lines": lines})
    return found


def _rows(values: Tensor, real: Tensor) -> list[list[int | None]]:
    """`[T, K]` as K rows of at most `STEPS` whole numbers up to the last of the steps that are `real`, None between."""
    end = int(real.nonzero()[-1]) + 1
    at = torch.linspace(0, end - 1, min(STEPS, end)).round().long().tolist()
    kept = values.round().int().tolist()
    return [[kept[t][k] if real[t] else None for t in at] for k in range(values.shape[1])]
