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
def pictures(seen: Snapshot, points: int, train: Manifest | None) -> dict[str, Any]:
    """Everything there is to see. `train` are the training rows, for the density of their targets, where at hand."""
    run = seen.run
    found: dict[str, Any] = {}
    found["classes"] = seen.embedded.classes
    found["modalities"] = [{"name": name, "kind": run.modalities[name].kind} for name in seen.names]
    found["target"] = seen.embedded.target[0] if seen.targets.isfinite().any() else None
    found["map"] = space(seen, points)
    found["similarity"] = similarity(seen)
    found["pairs"] = paired(seen)
    found["neighbours"] = neighbours(seen)
    found["answers"] = answers(seen)
    if found["target"]:
        found["regression"] = regression(seen, train)
    found["views"] = views(seen)
    found["steps"] = over_time(seen)
    return found | {"items": seen.items, "rows": seen.rows}
