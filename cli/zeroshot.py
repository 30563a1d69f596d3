"""`clx zeroshot`."""

import os
import re
import sys
from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clx.cli import options
from clx.cli.inputs import comma_separated, given, missing, names, pairs
from clx.cli.output import Rate, emit_json, emit_table, note

if TYPE_CHECKING:
    from clx.pipelines.use.inputs import Skipped
    from clx.pipelines.use.question import Result
    from clx.pipelines.use.temperature_fit import Fit


def zeroshot(
    model: options.Model,
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="INPUT...", help="Files, folders, patterns, manifests, JSON objects; - reads such names from stdin."
        ),
    ] = None,
    labels: Annotated[str | None, typer.Option(help="Labels, separated by commas.")] = None,
    labels_file: options.LabelsFile = None,
    dim: options.Dim = None,
    template: options.Template = [],  # noqa: B006 (Typer wants the literal)
    image: options.Image = None,
    audio: options.Audio = None,
    series: options.Series = None,
    table: options.Table = None,
    modality: options.As = None,
    labels_as: Annotated[
        str | None, typer.Option(help="Text modality that reads the labels [default: the run's first other than --as].")
    ] = None,
    column: options.Column = [],  # noqa: B006
    split: options.Split = None,
    allow_outside: options.AllowOutside = False,
    pretrained: options.Pretrained = None,
    checkpoint: options.Checkpoint = "best",
    top: Annotated[int, typer.Option(min=1, help="How many labels to print.")] = 3,
    multi_label: Annotated[bool, typer.Option(help="Each label applies or not, whatever the others do.")] = False,
    threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="Of --multi-label: least probability that applies [default: 0.5]")
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(help="Divides the scores before the softmax or sigmoid [default: calibrated, else the model's]."),
    ] = None,
    calibrate: Annotated[
        str | None,
        typer.Option(metavar="MANIFEST", help="Fit the temperature on labelled rows, and keep it with the run."),
    ] = None,
    label: Annotated[
        str | None, typer.Option(help="Of --calibrate: column with the class [default: the run's, else label].")
    ] = None,
    batch_size: options.BatchSize = 64,
    workers: options.Workers = None,
    device: options.Device = "auto",
    strict: options.Strict = False,
    json: options.Json = False,
) -> None:
    """Classify files of any modality by words.

    Probabilities are a softmax over the labels; for models with a bias (SigLIP) a sigmoid of each. With
    --multi-label, models without a bias weigh each label against the mean of the others. --calibrate MANIFEST fits
    the temperature (and a bias, for sigmoids) on labelled rows that the model was not trained on. Examples:

    clx zeroshot runs/digits a.png b.wav --labels zero,one,two

    clx zeroshot runs/digits --image a.png --audio a.wav --labels-file labels.txt

    find . -name '*.wav' | clx zeroshot runs/digits - --labels-file labels.txt --json

    clx zeroshot ViT-B-32 'photos/**/*.jpg' --pretrained laion2b_s34b_b79k --labels cat,dog --template openai-imagenet
    """
    from clx.pipelines.system.errors import BadInput

    one = given(image=image, audio=audio, series=series, table=table)
    if calibrate and (inputs or one or temperature):
        raise BadInput("--calibrate fits the temperature and stops: it takes no inputs and no --temperature")
    if labels is not None and labels_file is not None or (labels is None and labels_file is None and not calibrate):
        raise BadInput("give either --labels or --labels-file")
    if not calibrate and bool(one) == bool(inputs):
        raise BadInput("give either INPUT files, or --image, --audio, --series, --table of one thing")
    if label is not None and not calibrate:
        raise BadInput("--label goes with --calibrate")
    absent = missing([*(inputs or []), *one.values()])
    named = modality is None and any(map(looks_like_file, absent))
    if absent and modality is None and (named or not has_one_input(model)):  # with --as an input may be words
        words = "" if looks_like_file(absent[0]) else " (words are asked about with --as and the modality of texts)"
        raise BadInput(f"no such file: {absent[0]}{words}")
    from clx.pipelines.use.zeroshot import Classifier

    classifier = Classifier(
        model, labels_file or (None if labels is None else comma_separated(labels)), templates=template,
        multi_label=multi_label, threshold=threshold, temperature=temperature, modality=modality, labels_as=labels_as,
        columns=pairs("--column", column), split=split, allow_outside=allow_outside, pretrained=pretrained,
        checkpoint=checkpoint, device=device, dim=dim, say=note,
    )  # fmt: skip
    if absent and not classifier.inputs.takes_words:
        raise BadInput(f"no such file: {absent[0]}")
    if calibrate:
        show_fits(classifier.calibrate(calibrate, label, workers=workers))
        return
    answers = classifier.classify(
        [one] if one else names(inputs or []), top=top, batch_size=batch_size, workers=workers, strict=strict
    )
    if show_answers(answers, json or not sys.stdout.isatty()):
        raise typer.Exit(1)


def looks_like_file(word: str) -> bool:
    """Whether it is called like a file, with an ending or a folder, and is no sentence."""
    parts = any(sign in word for sign in (os.sep, os.altsep) if sign)
    return (parts or bool(re.search(r"\.[^\W_]+$", word))) and not any(map(str.isspace, word))


def has_one_input(model: str) -> bool:
    """Whether it is a run of one input, which is then what it is asked about."""
    from clx.pipelines.runs.folder import CONFIG, read_config

    if not Path(model, CONFIG).is_file():
        return False
    config = read_config(Path(model))
    return len(config.modalities.keys() - config.only_negatives) == 1


def show_answers(answers: "Generator[Result | Skipped, None, None]", json: bool) -> int:
    """Print every answer as it comes, or a table of all; the number of items that could not be read."""
    from clx.pipelines.use.inputs import Skipped

    rate, skipped = Rate("classified"), 0
    rows: list[dict[str, Any]] = []
    with closing(answers):
        for answer in answers:
            if isinstance(answer, Skipped):
                note(f"skipped {answer.name}: {answer.reason}")
                skipped += 1
                continue
            rate.count()
            if json:
                emit_json(answer.as_json())
            else:
                rows.append(table_row(answer))
    if rows:
        by = {row["by"] for row in rows}
        same = f"by {by.pop()}" if len(by) == 1 else None  # then it need not stand in every row
        emit_table(rows, title=same, hidden="by" if same else None, unbroken="#")
    rate.end(f", {skipped} skipped" if skipped else "")
    return skipped


def table_row(result: "Result") -> dict[str, Any]:
    ranked = {f"#{k + 1}": f"{label} {p:.3f}" for k, (label, p) in enumerate(result.scores)}
    applies = {} if result.applies is None else {"applies": ", ".join(result.applies)}
    return {"item": result.item, "by": "+".join(result.modalities), **applies, **ranked}


def show_fits(fits: "dict[str, Fit]") -> None:
    """The fitted scales, a row for each input."""
    emit_table(
        [
            {"input": name, "kind": fit.kind, "temperature": fit.temperature, "bias": fit.bias}
            | {"rows": fit.rows, "labels": fit.labels}
            | {"nll_before": fit.nll[0], "nll_after": fit.nll[1], "ece_before": fit.ece[0], "ece_after": fit.ece[1]}
            for name, fit in fits.items()
        ]
    )
