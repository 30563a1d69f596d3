"""One page about some runs: what they are, their curves and figures side by side, and what they make of their data."""

import hashlib
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from clx.pipelines.config.load import dump
from clx.pipelines.config.secrets import without_secrets
from clx.pipelines.data.splits import choose, split_in
from clx.pipelines.evaluation import results
from clx.pipelines.evaluation.meaning import MEANING
from clx.pipelines.model.build import Run
from clx.pipelines.report.confusions import answers
from clx.pipelines.report.curves import curves
from clx.pipelines.report.figures import evaluation_charts, score_charts
from clx.pipelines.report.pictures import pictures
from clx.pipelines.report.rendered import render_page
from clx.pipelines.report.run_facts import ReportedRun, facts, read_metrics, short_names
from clx.pipelines.report.snapshot import look
from clx.pipelines.report.tables import difference, evaluation_tables
from clx.pipelines.runs.folder import read_config
from clx.pipelines.runs.open import open_model
from clx.pipelines.system.durable_files import write_text
from clx.pipelines.system.errors import BadInput
from clx.pipelines.system.remote import shown

GENERATOR = '<meta name="generator" content="clx report'
OF = '<meta name="clx-runs" content="{}">'


def report(
    folders: list[Path],
    out: Path,
    *,
    data: str | None = None,
    split: str | None = None,
    checkpoint: str = "best",
    device: str = "auto",
    rows: int = 1000,
    points: int = 800,
    overwrite: bool = False,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Write the page about `folders` to `out`; what was written, and what was left out of it and why.

    Args:
        rows: rows of each run's data to look at with its model; 0 leaves out all that needs model and data.
        points: points of each run's map, over all modalities.
        overwrite: whether a page of other runs is replaced.

    Raises `BadInput` for a folder that is no run, and for a file at `out` that is no report, or one of other runs.
    """
    start = time.monotonic()
    refuse_other(out, work_of(folders), overwrite)
    configs = [without_secrets(read_config(folder)) for folder in folders]
    shown = [
        ReportedRun(name, folder, config, read_metrics(folder), list(results.saved(folder)))
        for name, folder, config in zip(short_names(folders), folders, configs, strict=True)
    ]
    for one in shown:
        if rows:
            say(f"looking at {one.folder}")
        look_at(one, data, split, checkpoint, device, rows, points)
        for note in one.notes:
            say(f"{one.name}: {note}")
    page = render(shown)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, page)
    return {
        "report": str(out),
        "bytes": len(page.encode()),
        "seconds": round(time.monotonic() - start, 1),
        "runs": [
            {
                "run": str(one.folder),
                "logged": len(one.metrics),
                "evaluations": len(one.evaluations),
                "items": len((one.panel or {}).get("items", [])),
                "left_out": one.notes,
            }
            for one in shown
        ],
    }


def work_of(folders: Iterable[Path]) -> str:
    """What a page says of the folders that it is of, whatever their order, and tells nobody where they lie."""
    return hashlib.sha256("\n".join(sorted(str(folder.resolve()) for folder in folders)).encode()).hexdigest()[:32]


def refuse_other(out: Path, of: str, overwrite: bool) -> None:
    """A file that no report wrote is left alone, and a page of other runs unless it is to be replaced."""
    if out.is_dir():
        raise BadInput(f"{out} is a folder: name a file with --out")
    try:
        with out.open(encoding="utf-8", errors="replace") as file:
            head = file.read(2000)
    except FileNotFoundError:
        return
    if GENERATOR not in head:
        raise BadInput(f"{out} exists and is no report of clx: choose another name with --out")
    if OF.format(of) not in head and not overwrite:
        raise BadInput(
            f"{out} exists and is a report of other runs, or of an earlier version: choose another name with --out, or "
            "replace it with --overwrite"
        )


def look_at(
    one: ReportedRun, data: str | None, split: str | None, which: str, device: str, rows: int, points: int
) -> None:
    """Fill in a run's facts and, as far as its model and its data are at hand, its pictures."""
    run: Run | None = None
    if rows:
        try:
            run = open_model(one.folder, checkpoint=which, device=device, only_run=True)
        except (BadInput, OSError, ImportError) as error:
            if which not in ("best", "last"):
                raise  # the user's own wish, not what time did to the run
            one.notes.append(f"no pictures, the model cannot be loaded: {error}")
    else:
        one.notes.append("no pictures were asked for")
    one.facts = facts(one, run)
    found: dict[str, Any] = {}
    if run is not None:
        try:
            splits = choose(run.config.data, run.config.train.seed, data, otherwise="every")
            name = split or next(each for each in ("all", "test", "val", "train") if each in splits)
            manifest = split_in(splits, name, shown(data) if data else run.config.data.named)
            bad: list[str] = []
            snapshot = look(run, manifest, rows, bad.append)
            found = pictures(snapshot, points, splits["train"] if data is None else None)
            of = f"{len(snapshot):,} of {len(manifest):,}" if len(snapshot) < len(manifest) else f"{len(snapshot):,}"
            found |= {"step": run.step, "data": manifest.name, "split": name}
            found["source"] = f"{of} {name} rows of {manifest.name}, step {run.step}"
            if name == "train" and data is None:
                found["source"] += ": rows that the run was trained on"
            one.notes += [f"{len(bad)} rows could not be read; the first: {bad[0]}"] if bad else []
        except (BadInput, OSError) as error:
            if data or split:
                raise
            one.notes.append(f"no pictures, the data cannot be read: {error}")
    answered = answers(one, found)
    if found or answered:
        one.panel = {"source": "From saved evaluations.", "rows": {}, "items": [], **found, "answers": answered}


def render(shown: list[ReportedRun]) -> str:
    """The page as text."""
    panels = [{"run": k, "name": one.name, **one.panel} for k, one in enumerate(shown) if one.panel]
    drawn, scores, charts = curves(shown), score_charts(shown), evaluation_charts(shown)
    names = ", ".join(one.name for one in shown)
    sections = [("runs", "Runs" if len(shown) > 1 else "Run")]
    sections += [("training", "Training")] if drawn else []
    sections += [("evaluation", "Evaluation"), ("config", "Config")]
    sections += [("pictures", "Pictures")] if panels else []
    return render_page(
        "page.html",
        title=names if len(names) <= 80 else f"{len(shown)} runs",
        version=version("clx"),
        of=work_of(one.folder for one in shown),
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        sections=sections,
        runs=[
            {"name": one.name, "folder": str(one.folder), "facts": one.facts, "notes": one.notes}
            | {"config": dump(one.config)}
            for one in shown
        ],
        curves=drawn,
        scores=scores,
        charts=charts,
        evaluations=evaluation_tables(shown),
        difference=difference(shown),
        meaning=MEANING | {f"R@{k}": MEANING["R@1"] for k in (5, 10)},
        pictures=panels,
        footer=f"clx report {' '.join(str(one.folder) for one in shown)}",
        data={"curves": drawn, "scores": scores, "charts": charts, "panels": panels},
    )
