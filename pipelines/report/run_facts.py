"""What a report says of each run: where it is, what it is of, how it stands."""

import json
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from clx.pipelines.config.data_schema import Data
from clx.pipelines.config.schema import Config
from clx.pipelines.config.stage_configs import trained_before
from clx.pipelines.model.build import Run
from clx.pipelines.runs import state
from clx.pipelines.runs.card import encoder_of
from clx.pipelines.runs.folder import METRICS, best, checkpoints
from clx.pipelines.runs.listing import lines
from clx.pipelines.runs.stages import stage_folder
from clx.pipelines.system.errors import BadInput


@dataclass
class ReportedRun:
    """One run as the page shows it."""

    name: str
    folder: Path
    config: Config
    metrics: list[dict[str, Any]]
    evaluations: list[dict[str, Any]]
    facts: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    panel: dict[str, Any] | None = None


def short_names(folders: list[Path]) -> list[str]:
    """The last part of each path; as many parts as it takes for all to differ. Raises `BadInput` for doubles."""
    whole = [folder.absolute().parts for folder in folders]
    for k, parts in enumerate(whole):
        if parts in whole[:k]:
            raise BadInput(f"{folders[k]} is given twice")
    for count in range(1, max(map(len, whole)) + 1):
        names = ["/".join(parts[-count:]) for parts in whole]
        if len(set(names)) == len(names):
            break
    return names


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl that have a step."""
    return [line for line in lines(folder / METRICS) if isinstance(line.get("step"), int)]


def shares_of(data: Data) -> str:
    """The shares of several sources, in words; nothing where they have none."""
    return f" in shares of {' to '.join(f'{share:g}' for share in data.shares)}" if data.shares else ""


def facts(one: ReportedRun, run: Run | None) -> list[tuple[str, str]]:
    """What a run is, as words."""
    config = one.config
    found = [("folder", str(one.folder)), ("data", config.data.named + shares_of(config.data))]
    if config.data.label_named:
        found.append(("label", config.data.label_named))
    if config.data.target:
        found.append(("target", ", ".join(config.data.target)))
    for name, options in config.modalities.items():
        kind = "" if options.get("kind", name) == name else f" ({options['kind']})"
        frozen = ", frozen" if options.get("freeze") else ""
        found.append((name + kind, encoder_of(options) + frozen))
    for term in config.objective:
        weight = f"{term.weight:g} x " if term.weight not in (None, 1) else ""
        own = ", ".join(f"{key} {json.dumps(value)}" for key, value in term.options.items() if value is not None)
        found.append(("objective", f"{weight}{term.name}" + (f" ({own})" if own else "")))
    if run is not None:
        learned = sum(p.numel() for p in run.model.parameters() if p.requires_grad)
        frozen_count = sum(p.numel() for p in run.model.parameters() if not p.requires_grad)
        also = f" and {frozen_count:,} frozen" if frozen_count else ""
        found.append(("parameters", f"{learned:,} learned{also}"))
    found.append(("embedding", f"{config.embed_dim} dimensions"))
    for k, stage in trained_before(config).items():
        terms = " + ".join(term.name for term in stage.objective)
        last = checkpoints(stage_folder(one.folder, k))
        found.append((f"stage {k + 1}", f"{terms} on {stage.data.named}, {last[-1].step if last else 0:,} steps"))
    if one.metrics:
        found.append(("steps", f"{one.metrics[-1]['step']:,}, batches of {config.train.batch_size:,}"))
    found.append(("state", state.state_of(one.folder)))
    if took := duration(one.folder):
        found.append(("from start to end", took))
    if found_checkpoints := checkpoints(one.folder):
        chosen = best(found_checkpoints)
        score = "not validated" if chosen.score is None else f"validation loss {chosen.score:.4g}"
        found.append(("best checkpoint", f"step {chosen.step:,}, {score}"))
    else:
        found.append(("best checkpoint", "none"))
    if skipped := sum("skipped" in line for line in one.metrics):
        found.append(("skipped steps", f"{skipped} with a loss or gradient that was not finite"))
    return found


def duration(folder: Path) -> str | None:
    """From the first start to the end, in days, hours, minutes and seconds, where state.json tells.

    None where the clock was set back in between.
    """
    told = state.read(folder)
    try:
        took = datetime.fromisoformat(told["ended"]) - datetime.fromisoformat(told["started"])
        return str(took) if took >= timedelta() else None
    except (ValueError, KeyError, TypeError):
        return None


def file_name(data: str) -> str:
    """The last part of a path; the page says elsewhere where data lie."""
    return Path(data).name or data
