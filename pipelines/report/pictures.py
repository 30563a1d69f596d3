"""What a run makes of some rows, as JSON values for a page to draw: its space, its answers, its mistakes.

Coordinates and similarities are whole thousandths, items (previews) and rows are numbers into lists of their own, so
that a thousand points with their thumbnails stay below a megabyte or two.
"""

from typing import Any

import torch

from clx.pipelines.data.manifest import Manifest
from clx.pipelines.report.mistakes import answers, regression
from clx.pipelines.report.sample_views import over_time, views
from clx.pipelines.report.snapshot import Snapshot
from clx.pipelines.report.space_map import neighbours, paired, similarity, space


@torch.no_grad()
def pictures(snapshot: Snapshot, points: int, train: Manifest | None) -> dict[str, Any]:
    """Everything there is to see. `train` are the training rows, for the density of their targets, where at hand."""
    run = snapshot.run
    found: dict[str, Any] = {}
    found["classes"] = snapshot.embedded.classes
    found["modalities"] = [{"name": name, "kind": run.modalities[name].kind} for name in snapshot.names]
    found["target"] = snapshot.embedded.target[0] if snapshot.targets.isfinite().any() else None
    found["map"] = space(snapshot, points)
    found["similarity"] = similarity(snapshot)
    found["pairs"] = paired(snapshot)
    found["neighbours"] = neighbours(snapshot)
    found["answers"] = answers(snapshot)
    if found["target"] and (answer := regression(snapshot, train)):
        found["regression"] = answer
    found["views"] = views(snapshot)
    found["steps"] = over_time(snapshot)
    return found | {"items": snapshot.items, "rows": snapshot.rows}
