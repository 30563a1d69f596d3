"""`clx zeroshot`."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from clx.cli.output import emit_json, emit_table, note


def zeroshot(
    model: Annotated[str, typer.Argument(metavar="RUN|MODEL", help="Run folder, or OpenCLIP model name.")],
    inputs: Annotated[
        list[str] | None,
        typer.Argument(metavar="INPUT...", help="Files or folders; - reads names from stdin."),
    ] = None,
    labels: Annotated[str | None, typer.Option(help="Labels, separated by commas.")] = None,
    labels_file: Annotated[
        Path | None, typer.Option(help="Labels one a line, or JSON: a list, or {label: [phrasings]}.")
    ] = None,
    template: Annotated[
        list[str],
        typer.Option(help="Prompt with {} for the label; several are averaged [default: the run's own]."),
    ] = [],  # noqa: B006 (Typer wants the literal)
    image: Annotated[str | None, typer.Option(help="Image of the one thing to classify.")] = None,
    audio: Annotated[str | None, typer.Option(help="Its sound.")] = None,
    series: Annotated[str | None, typer.Option(help="Its time series.")] = None,
    table: Annotated[str | None, typer.Option(help="Its table row, a JSON file with an object.")] = None,
    modality: Annotated[
        str | None, typer.Option("--as", help="Modality of the inputs, where the file name does not tell.")
    ] = None,
    labels_as: Annotated[
        str | None, typer.Option(help="Text modality that reads the labels [default: the run's first other than --as].")
    ] = None,
    pretrained: Annotated[str | None, typer.Option(help="Tag or checkpoint file of an OpenCLIP model.")] = None,
    checkpoint: Annotated[str, typer.Option(help="Of a run: best, last, or a step.")] = "best",
    top: Annotated[int, typer.Option(min=1, help="How many labels to print.")] = 3,
    batch_size: Annotated[int, typer.Option(min=1)] = 64,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps")] = "auto",
    strict: Annotated[bool, typer.Option(help="Stop at the first input that cannot be read.")] = False,
    json: Annotated[bool, typer.Option("--json", help="JSON lines, also on a terminal.")] = False,
) -> None:
    """Classify files of any modality by words.

    Examples:

    clx zeroshot runs/digits a.png b.wav --labels zero,one,two

    clx zeroshot runs/digits --image a.png --audio a.wav --labels-file labels.txt

    clx zeroshot ViT-B-32 photos/ --pretrained laion2b_s34b_b79k --labels cat,dog
    """
    from clx.pipelines.config import BadInput

    if (labels is None) == (labels_file is None):
        raise BadInput("give either --labels or --labels-file")
    one = {k: v for k, v in {"image": image, "audio": audio, "series": series, "table": table}.items() if v}
    if bool(one) == bool(inputs):
        raise BadInput("give either INPUT files, or --image, --audio, --series, --table of one thing")
    for prompt in template:
        if "{}" not in prompt:
            raise BadInput(f"template {prompt!r} has no {{}} for the label")
    named = [name for name in [*(inputs or []), *one.values()] if name != "-"]
    absent = [name for name in named if not Path(name).exists()]
    if absent and modality is None:  # with --as an input may be words
        raise BadInput(f"no such file: {absent[0]}")
    from clx.pipelines import zeroshot as pipeline

    if labels_file:
        phrasings = pipeline.read_labels(labels_file)
    else:
        listed = [label.strip() for label in (labels or "").split(",") if label.strip()]
        phrasings = pipeline.as_phrasings(listed, "--labels")
    run = pipeline.open_model(model, pretrained, checkpoint, device)
    if absent and modality is not None and pipeline.check_modality(run, modality) != "text":
        raise BadInput(f"no such file: {absent[0]}")
    if labels_as is None and modality is not None:  # a question is asked among answers
        texts = [name for name, m in run.modalities.items() if m.kind == "text" and name != modality]
        labels_as = texts[0] if texts else None
    items = pipeline.one_item(run, one) if one else pipeline.items(run, _names(inputs or []), modality, labels_as)
    start, done, bad = time.monotonic(), 0, 0
    rows: list[dict[str, Any]] = []
    streaming = json or not sys.stdout.isatty()
    for result in pipeline.classify(run, items, phrasings, template, top, batch_size, labels_as):
        if not isinstance(result, pipeline.Result):
            name, reason = result
            if strict:
                raise BadInput(f"{name}: {reason}")
            note(f"skipped {name}: {reason}")
            bad += 1
            continue
        done += 1
        if streaming:
            best = [{"label": label, "probability": round(p, 6)} for label, p in result.scores]
            emit_json({"item": result.item, "by": "+".join(result.modalities), **best[0], "top": best})
        else:
            ranked = {f"#{k + 1}": f"{label} {p:.3f}" for k, (label, p) in enumerate(result.scores)}
            rows.append({"item": result.item, "by": "+".join(result.modalities), **ranked})
    if rows:
        emit_table(rows)
    seconds = time.monotonic() - start
    note(f"{done} classified in {seconds:.1f} s" + (f", {bad} skipped" if bad else ""))
    if bad:
        raise typer.Exit(1)


def _names(inputs: list[str]) -> Iterator[str]:
    for name in inputs:
        if name == "-":
            yield from (line.rstrip("\n") for line in sys.stdin if line.strip())
        else:
            yield name
