"""What a run's log and config say: steps that were not finite, leaps of the loss, temperature, length, bad rows."""

import math
import statistics
from collections.abc import Iterator

from clx.losses.base import Tempered
from clx.pipelines.experiments.doctor.opened import Opened
from clx.pipelines.system.doctor import Row, row

MANY_BAD = 0.05
"""Share of the training rows that cannot be read."""
SPIKES = 3
FEWEST = 5
"""Logged losses from which on their course is looked at."""
RISEN = 1.05
"""Of the first losses, from which on the last ones are worse."""
SPREAD = 2.0
"""Similarities of unit rows are at most this far apart."""
ABLE = 0.6
"""Share of ln B below which a temperature must let the loss come."""


def log_rows(opened: Opened) -> Iterator[Row]:
    """Findings from the log."""
    out, config = opened.out, opened.config
    skipped = [line["step"] for line in opened.lines if line.get("skipped") == "non-finite"]
    if skipped:
        said = f"{len(skipped)} steps had a loss or gradient that is not finite, the first step {skipped[0]}"
        yield row("finite steps", said, "problem", f"clx doctor {out} --replay names the first tensor that is not")
    else:
        yield row("finite steps", "all that are logged")
    share = opened.bad_rows / max(1, len(opened.train))
    said = f"{opened.bad_rows} of {len(opened.train)} training rows could not be read"
    if share > MANY_BAD:
        yield row("bad rows", said, "problem", f"see {out}/bad_rows.jsonl; clx data check --config {out}/config.yaml")
    elif opened.bad_rows:
        yield row("bad rows", said)
    yield from course(opened)
    if config.train.warmup > 0.5:
        said = f"it rises for {config.train.warmup:.0%} of the steps, and is not itself before"
        yield row("warm-up", said, "problem", "-s train.warmup=0.05")
    yield from temperatures(opened)


def course(opened: Opened) -> Iterator[Row]:
    """Whether the loss fell, and whether it leapt."""
    losses = [value for _, value in opened.series("loss")]
    if len(losses) < FEWEST or any(term.begin > 0 or term.until < 1 for term in opened.config.objective):
        return
    part = max(1, len(losses) // 5)
    first, last = losses[0], statistics.median(losses[-part:])
    lowest = min(losses)
    spikes = sum(str(line.get("warning", "")).startswith("loss spike") for line in opened.lines)
    lower = f"-s train.lr={opened.config.train.lr / 10:g}, or clx doctor {opened.out} --lr-range"
    said = f"{first:.4g} at first, {last:.4g} at the end, {lowest:.4g} at its lowest"
    if last > first + (RISEN - 1) * max(abs(first), 1e-3):
        yield row("loss", f"it rose: {said}; the rate is {opened.config.train.lr:g}", "problem", lower)
    elif spikes >= SPIKES:
        yield row("loss", f"it leapt {spikes} times: {said}; the rate is {opened.config.train.lr:g}", "problem", lower)
    else:
        yield row("loss", said)


def temperatures(opened: Opened) -> Iterator[Row]:
    """Temperatures at a limit, and fixed ones with which a loss over the batch can hardly fall."""
    size = opened.config.train.batch_size
    for k, (term, loss) in enumerate(zip(opened.config.objective, opened.run.objective.losses, strict=True)):
        if not isinstance(loss, Tempered):
            continue
        value, key = loss.temperature, "objective" if len(opened.config.objective) == 1 else f"objective.{k}"
        if loss.learn_temperature:
            now, low, high = loss.scale()[0], loss.min_temperature, loss.max_temperature
            limit = low if now <= low * 1.001 else high if now >= high / 1.001 else None
            said = f"{term.name} has learned {now:.4g}, of {low:g} to {high:g}"
            if limit is None:
                yield row("temperature", said)
                continue
            advice = f"-s {key}.learn_temperature=false -s {key}.temperature={0.1 if limit == high else 0.05:g}"
            more = ": all similarities are alike to it" if limit == high else ": nothing holds it; labels may be wrong"
            yield row("temperature", f"{said}, so at its limit{more}", "problem", advice)
            continue
        if "pairs" not in loss.fits and "labels" not in loss.fits and "one modality" not in loss.fits:
            continue
        able = math.log1p((size - 1) * math.exp(-SPREAD / value))
        if able > ABLE * math.log(size):
            said = f"{value:g}: with {size} rows the loss can only fall from {math.log(size):.3g} to {able:.3g}"
            yield row("temperature", said, "problem", f"-s {key}.temperature=0.1")
        else:
            yield row("temperature", f"{term.name} has {value:g}")
