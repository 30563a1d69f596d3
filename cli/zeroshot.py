"""`clx zeroshot`."""

import glob
import os
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clx.cli.output import Rate, emit_json, emit_table, note

if TYPE_CHECKING:
    from clx.pipelines.model.build import Run
    from clx.pipelines.use.inputs import Item
    from clx.pipelines.use.zeroshot import Question, Result


def zeroshot(
    model: Annotated[str, typer.Argument(metavar="RUN|MODEL", help="Run folder, or OpenCLIP model name.")],
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="INPUT...", help="Files, folders, patterns, manifests, JSON objects; - reads such names from stdin."
        ),
    ] = None,
    labels: Annotated[str | None, typer.Option(help="Labels, separated by commas.")] = None,
    labels_file: Annotated[
        Path | None, typer.Option(help="Labels one a line, or JSON: a list, or {label: [phrasings]}.")
    ] = None,
    template: Annotated[
        list[str],
        typer.Option(
            help="Prompt with {} for the label, a file of such lines, openai-imagenet or simple-imagenet; "
            "several are averaged [default: the run's own]."
        ),
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
    column: Annotated[
        list[str], typer.Option(help="MODALITY=COLUMN: another column of a manifest than the model's own.")
    ] = [],  # noqa: B006
    split: Annotated[str | None, typer.Option(help="Of manifests: only the train, val or test rows.")] = None,
    allow_outside: Annotated[bool, typer.Option(help="Accept paths that lead out of a manifest's folder.")] = False,
    pretrained: Annotated[str | None, typer.Option(help="Tag or checkpoint file of an OpenCLIP model.")] = None,
    checkpoint: Annotated[str, typer.Option(help="Of a run: best, last, or a step.")] = "best",
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
    batch_size: Annotated[int, typer.Option(min=1)] = 64,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Threads that read and embed [default: one per core, at most 8].")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps")] = "auto",
    strict: Annotated[bool, typer.Option(help="Stop at the first input that cannot be read.")] = False,
    json: Annotated[bool, typer.Option("--json", help="JSON lines, also on a terminal.")] = False,
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

    one = {k: v for k, v in {"image": image, "audio": audio, "series": series, "table": table}.items() if v}
    if calibrate and (inputs or one or temperature):
        raise BadInput("--calibrate fits the temperature and stops: it takes no inputs and no --temperature")
    if labels is not None and labels_file is not None or (labels is None and labels_file is None and not calibrate):
        raise BadInput("give either --labels or --labels-file")
    if not calibrate and bool(one) == bool(inputs):
        raise BadInput("give either INPUT files, or --image, --audio, --series, --table of one thing")
    if threshold is not None and not multi_label:
        raise BadInput("--threshold goes with --multi-label")
    if label is not None and not calibrate:
        raise BadInput("--label goes with --calibrate")
    if temperature is not None and temperature <= 0:
        raise BadInput(f"--temperature {temperature}: must be above 0")
    absent = missing([*(inputs or []), *one.values()])
    if absent and modality is None:  # with --as an input may be words
        raise BadInput(f"no such file: {absent[0]}")
    from clx.pipelines.model import scoring
    from clx.pipelines.runs import open
    from clx.pipelines.use import zeroshot as pipeline
    from clx.pipelines.use.inputs import Inputs, check_modality, one_item, set_columns
    from clx.pipelines.use.labels import as_phrasings, read_labels, read_templates

    phrasings = {}
    if labels_file:
        phrasings = read_labels(labels_file)
    elif labels is not None:
        phrasings = as_phrasings([each.strip() for each in labels.split(",") if each.strip()], "--labels")
    templates = read_templates(template)
    run = open.open_model(model, pretrained, checkpoint, device)
    set_columns(run, column)
    if absent and modality is not None and check_modality(run, modality) != "text":
        raise BadInput(f"no such file: {absent[0]}")
    if labels_as is None and modality is not None:  # a question is asked among answers
        texts = [name for name, m in run.modalities.items() if m.kind == "text" and name != modality]
        labels_as = texts[0] if texts else None
    chosen = Inputs(run, modality, scoring.text_modality(run, labels_as), split, allow_outside)
    folder = None if pretrained else Path(model)
    if calibrate:
        from clx.pipelines.model.fingerprint import fingerprint
        from clx.pipelines.use.calibrate import calibrate_on

        found = calibrate_on(
            chosen, calibrate, phrasings, templates, label=label, multi_label=multi_label, workers=workers, say=note
        )
        show_fits(found, folder, fingerprint(run.model))
        return
    question = pipeline.ask(
        run, phrasings, templates, chosen.text, multi_label=multi_label, threshold=threshold, temperature=temperature,
        folder=folder, say=note,
    )  # fmt: skip
    items = one_item(run, one) if one else chosen.items(names(inputs or []))
    if stream(run, items, question, top, batch_size, workers, strict, json or not sys.stdout.isatty()):
        raise typer.Exit(1)


def stream(
    run: "Run",
    items: "Iterator[Item]",
    question: "Question",
    top: int,
    batch_size: int,
    workers: int | None,
    strict: bool,
    json: bool,
) -> int:
    """Print every result as it comes, or a table of all; the number of items that could not be read."""
    from clx.pipelines.system.errors import BadInput
    from clx.pipelines.use.zeroshot import Result, classify

    rate, bad = Rate("classified"), 0
    rows: list[dict[str, Any]] = []
    with closing(classify(run, items, question, top, batch_size, workers)) as results:
        for result in results:
            if not isinstance(result, Result):
                name, reason = result
                if strict:
                    raise BadInput(f"{name}: {reason}")
                note(f"skipped {name}: {reason}")
                bad += 1
                continue
            rate.count()
            if json:
                emit_json(as_json(result))
            else:
                rows.append(as_row(result))
    if rows:
        emit_table(rows)
    rate.end(f", {bad} skipped" if bad else "")
    return bad


def as_json(result: "Result") -> dict[str, Any]:
    best = [{"label": label, "probability": round(p, 6)} for label, p in result.scores]
    applies = {} if result.applies is None else {"labels": result.applies}
    return {"item": result.item, "by": "+".join(result.modalities), **best[0], **applies, "top": best}


def as_row(result: "Result") -> dict[str, Any]:
    ranked = {f"#{k + 1}": f"{label} {p:.3f}" for k, (label, p) in enumerate(result.scores)}
    applies = {} if result.applies is None else {"applies": ", ".join(result.applies)}
    return {"item": result.item, "by": "+".join(result.modalities), **applies, **ranked}


def show_fits(found: dict[str, Any], folder: Path | None, weights: str) -> None:
    """The fitted scales on stdout; kept with a run, which uses them from now on."""
    from dataclasses import asdict

    from clx.pipelines.use.temperature_fit import save_fits

    emit_table(
        [
            {
                "input": name,
                **{key: value for key, value in asdict(one).items() if key not in ("nll", "ece")},
                **{f"{key}_{when}": value for key in ("nll", "ece")
                   for when, value in zip(("before", "after"), getattr(one, key), strict=True)},
            }
            for name, one in found.items()
        ]
    )  # fmt: skip
    if folder is None:
        note("an OpenCLIP model has no folder to keep this in: give it with --temperature")
    else:
        note(f"kept in {save_fits(folder, weights, found)}; --temperature overrides it")


def missing(inputs: list[str]) -> list[str]:
    """Inputs that are no file, no JSON, no stdin, and no pattern that some file matches."""
    return [
        name
        for name in inputs
        if name != "-"
        and not name.lstrip().startswith("{")
        and not (name.lstrip().startswith("[") and name.rstrip().endswith("]"))
        and not Path(name).exists()
        and not (glob.has_magic(name) and any(True for _ in glob.iglob(name, recursive=True)))
    ]


def names(inputs: list[str]) -> Iterator[str]:
    """The inputs, with the lines of stdin in the place of `-`."""
    for name in inputs:
        if name == "-":
            yield from lines()
        else:
            yield name


def lines() -> Iterator[str]:
    """Lines of stdin that are not blank, as file names: any bytes.

    Read without Python's buffer, whose lock a thread that waits for a pipe would hold when the process ends.
    """
    rest, number = b"", sys.stdin.fileno()
    while block := os.read(number, 1 << 16):
        *whole, rest = (rest + block).split(b"\n")
        yield from (os.fsdecode(line.removesuffix(b"\r")) for line in whole if line.strip())
    if rest.strip():
        yield os.fsdecode(rest.removesuffix(b"\r"))
