"""`clx eval`."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from clx.cli.output import cell, emit_json, emit_table, note


def evaluate(
    model: Annotated[
        str | None, typer.Argument(metavar="RUN|MODEL", help="Run folder, or OpenCLIP model name.")
    ] = None,
    task: Annotated[
        list[str],
        typer.Option(
            help="zeroshot, retrieval, probe, knn, svm, fewshot, regression, forecast, geometry or all; repeatable "
            "[default: those of the config's eval]"
        ),
    ] = [],  # noqa: B006
    data: Annotated[
        str | None, typer.Option(help="Manifest, class folder or built-in data [default: the run's own]")
    ] = None,
    split: Annotated[str | None, typer.Option(help="train, val or test [default: test, else val]")] = None,
    train: Annotated[
        str | None,
        typer.Option(
            help="Rows that probe, knn, svm, fewshot, regression and forecast learn from [default: the train split]"
        ),
    ] = None,
    pretrained: Annotated[str | None, typer.Option(help="Tag or checkpoint file of an OpenCLIP model.")] = None,
    label: Annotated[str | None, typer.Option(help="Column with the class, for an OpenCLIP model.")] = None,
    target: Annotated[list[str], typer.Option(help="Column with a number, for an OpenCLIP model; repeatable.")] = [],  # noqa: B006
    column: Annotated[
        list[str], typer.Option(metavar="MODALITY=COLUMN", help="As image=photo, for an OpenCLIP model; repeatable.")
    ] = [],  # noqa: B006
    labels_file: Annotated[
        Path | None, typer.Option(help="Words for the classes: JSON {class: [phrasings]}, or one a line.")
    ] = None,
    template: Annotated[
        list[str], typer.Option(help="As in clx zeroshot; several are averaged [default: the run's own]")
    ] = [],  # noqa: B006
    features: Annotated[
        str,
        typer.Option(
            help="What probe, knn, svm, fewshot, regression and forecast look at: encoder (before the head) or head."
        ),
    ] = "encoder",
    k: Annotated[int, typer.Option(help="Neighbours of knn.")] = 20,
    weights: Annotated[str, typer.Option(help="Votes of neighbours: uniform, or distance (1 / distance).")] = "uniform",
    ways: Annotated[int, typer.Option(help="Classes in an episode of fewshot.")] = 5,
    shots: Annotated[list[int], typer.Option(help="Examples per class in an episode; repeatable.")] = [1, 5],  # noqa: B006
    episodes: Annotated[int, typer.Option(help="Episodes of fewshot.")] = 600,
    regressor: Annotated[
        str, typer.Option(help="ridge or l1: linear regression for a model without a trained predictor.")
    ] = "ridge",
    horizons: Annotated[
        str | None,
        typer.Option(
            metavar="N,...", help="Steps to forecast [default: data.windows.horizon, else 24,48,168 where possible]"
        ),
    ] = None,
    bin_width: Annotated[
        float | None,
        typer.Option(help="Of the bins that tell many from few training rows [default: a 50th of the target's range]"),
    ] = None,
    many: Annotated[int, typer.Option(help="A bin of more training rows has many.")] = 100,
    few: Annotated[int, typer.Option(help="A bin of fewer training rows has few.")] = 20,
    resamples: Annotated[int, typer.Option(help="Bootstrap samples of an interval; 0 for no intervals.")] = 1000,
    confidence: Annotated[float, typer.Option(help="Of an interval.")] = 0.95,
    seed: Annotated[int, typer.Option(help="Of resamples, episodes and drawn rows.")] = 0,
    checkpoint: Annotated[str, typer.Option(help="Of a run: best, last, or a step.")] = "best",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps")] = "auto",
    skip_bad_rows: Annotated[bool, typer.Option(help="Leave bad rows out, naming them, and go on.")] = False,
    force: Annotated[bool, typer.Option(help="Evaluate again what was evaluated before.")] = False,
    explain: Annotated[bool, typer.Option(help="Print what each figure means, and stop.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,
) -> None:
    """Evaluate a run, or an OpenCLIP model, on its test split or on any other manifest or class folder.

    Each figure comes with its bootstrap interval. Results are kept in the run's folder, and not computed again
    while the weights, the data and the options are the same. Examples:

    clx eval runs/digits

    clx eval runs/digits --task zeroshot --data more.csv --json

    clx eval runs/digits --task probe --task knn --k 5 --features head

    clx eval runs/load --task forecast --horizons 24,48,168

    clx eval ViT-B-32 --pretrained laion2b_s34b_b79k --data photos/ --task zeroshot --template 'a photo of a {}'
    """
    from clx.pipelines.config.options import construct
    from clx.pipelines.evaluation.results import MEANING, Settings
    from clx.pipelines.system.errors import BadInput

    if explain:
        emit_table([{"figure": name, "meaning": said} for name, said in MEANING.items()])
        return
    if model is None:
        raise BadInput("say what to evaluate: a run folder, or an OpenCLIP model with --pretrained and --data")
    from clx.pipelines.use.labels import read_labels, read_templates

    options: dict[str, Any] = {
        "features": features,
        "k": k,
        "weights": weights,
        "ways": ways,
        "shots": list(dict.fromkeys(shots)),
        "episodes": episodes,
        "regressor": regressor,
        "horizons": numbers_in(horizons),
        "bin_width": bin_width,
        "many": many,
        "few": few,
        "resamples": resamples,
        "confidence": confidence,
        "seed": seed,
        "templates": read_templates(template),
    }
    construct(Settings, options, "options")  # before anything heavy is imported
    columns = {}
    for pair in column:
        name, equals, where = pair.partition("=")
        if not equals:
            raise BadInput(f"--column {pair}: expected MODALITY=COLUMN, as image=photo")
        columns[name] = where
    from clx.pipelines.evaluation.evaluate import evaluate_run

    result = evaluate_run(
        model,
        task,
        construct(Settings, options | {"phrasings": read_labels(labels_file) if labels_file else {}}, "options"),
        pretrained=pretrained,
        data=data,
        split=split,
        train=train,
        label=label,
        target=target,
        columns=columns,
        checkpoint=checkpoint,
        device=device,
        skip_bad=skip_bad_rows,
        force=force,
        say=note,
    )
    if json:
        emit_json(result)
    else:
        show_evaluation(result)


def numbers_in(text: str | None) -> list[Any]:
    """Whole numbers of a list such as `24,48`; what is none stays as it is, to be refused with its name."""
    parts = [part.strip() for part in (text or "").split(",") if part.strip()]
    return list(dict.fromkeys(int(part) if part.isdecimal() else part for part in parts))


def show_evaluation(result: dict[str, Any]) -> None:
    """A table per task, and on stderr why tasks were left out."""
    from clx.pipelines.evaluation.results import tables

    for name, reason in result.get("skipped", {}).items():
        note(f"{name} skipped: {reason}")
    data, split = result["data"], result["split"]
    source = data if data.endswith(split) or split == "all" else f"{data}, {split} rows"
    drawn = sys.stdout.isatty()
    for task, rows in tables(result).items():
        title = f"{task} on {source}"
        if drawn:
            rows, shared = compact(rows)
            title += "".join(f", {name} {cell(value)}" for name, value in shared.items())
        emit_table(rows, title=title, hidden="task", heads=("input", "group"))


def compact(rows: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The same with each interval in its figure's cell, and apart what all rows have in common that is no figure."""
    figures = {key.removesuffix("_ci") for row in rows for key in row if key.endswith("_ci")}
    shared = {
        key: value
        for key, value in rows[0].items()
        if key not in figures | {"task", "input"}
        and not key.endswith("_ci")
        and all(row.get(key) == value for row in rows)
        and (len(rows) > 1 or not isinstance(value, float))  # the one row's own figures stay in it
    }
    shown = []
    for row in rows:
        kept = {key: value for key, value in row.items() if not key.endswith("_ci") and key not in shared}
        for key in figures & row.keys():
            if limits := row.get(f"{key}_ci"):
                kept[key] = f"{cell(row[key])} ({cell(limits[0])}-{cell(limits[1])})"
        shown.append(kept)
    return shown, shared
