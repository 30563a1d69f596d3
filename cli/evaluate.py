"""`clx eval`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clx.cli import options
from clx.cli.evaluation_tables import show_evaluation, tell_skipped
from clx.cli.inputs import pairs, whole_numbers
from clx.cli.output import emit_json, emit_table, note
from clx.cli.ranks import ANEW, is_first, quiet, together, unheard
from clx.pipelines.config.task_names import TASKS

if TYPE_CHECKING:
    from clx.pipelines.evaluation.results import Settings


def evaluate(
    model: Annotated[
        str | None, typer.Argument(metavar="RUN|MODEL", help="Run folder, or OpenCLIP model name.")
    ] = None,
    task: Annotated[
        list[str],
        typer.Option(help=f"{', '.join(TASKS)} or all; repeatable [default: those of the config's eval]"),
    ] = [],  # noqa: B006
    data: options.Data = None,
    split: options.EvaluatedSplit = None,
    train: Annotated[
        str | None,
        typer.Option(
            help="Rows that probe, knn, svm, fewshot, regression and forecast learn from [default: the train split]"
        ),
    ] = None,
    pretrained: options.Pretrained = None,
    label: Annotated[str | None, typer.Option(help="Column of --data with the class.")] = None,
    target: Annotated[list[str], typer.Option(help="Column of --data with a number to predict; repeatable.")] = [],  # noqa: B006
    column: options.Column = [],  # noqa: B006
    labels_file: options.LabelsFile = None,
    template: options.Template = [],  # noqa: B006
    features: Annotated[
        str | None,
        typer.Option(
            help="What probe, knn, svm, fewshot, regression and forecast look at: encoder (before the head) or head "
            "[default: encoder, with --dim head]"
        ),
    ] = None,
    dim: options.Dim = None,
    k: Annotated[
        int | None, typer.Option(help="Neighbours of knn [default: half the rows of a small class, at most 20].")
    ] = None,
    weights: Annotated[str, typer.Option(help="Votes of neighbours: uniform, or distance (1 / distance).")] = "uniform",
    ways: Annotated[int, typer.Option(help="Classes in an episode of fewshot.")] = 5,
    shots: Annotated[list[int], typer.Option(help="Examples per class in an episode; repeatable.")] = [1, 5],  # noqa: B006
    episodes: Annotated[int, typer.Option(help="Episodes of fewshot.")] = 600,
    align: Annotated[
        str,
        typer.Option(
            help="none, or transport: fewshot with classes moved to all queries of an episode too, evenly many a class"
        ),
    ] = "none",
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
    analogies: Annotated[
        str | None, typer.Option(metavar="FILE", help="Of the task analogies: lines a:b::c:d, words or classes.")
    ] = None,
    matrix: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Of the task similarity: how alike people call things, a square table or lines a,b,score.",
        ),
    ] = None,
    corrupt: Annotated[
        list[str],
        typer.Option(
            metavar="[INPUT.]NAME[:1-5]",
            help="Ask about damaged rows too; repeatable. Images: noise, blur, darken, contrast, shift, occlude; "
            "sound: noise, quiet, shift, occlude; series: noise, shift, missing, occlude, warp; texts: typos, "
            "delete, reorder; tables: noise, missing",
        ),
    ] = [],  # noqa: B006
    resamples: Annotated[int, typer.Option(help="Bootstrap samples of an interval; 0 for no intervals.")] = 1000,
    confidence: Annotated[float, typer.Option(help="Of an interval.")] = 0.95,
    seed: Annotated[int, typer.Option(help="Of resamples, episodes and drawn rows.")] = 0,
    checkpoint: options.Checkpoint = "best",
    device: options.Device = "auto",
    processes: options.Processes = None,
    skip_bad_rows: Annotated[bool, typer.Option(help="Leave bad rows out, naming them, and go on.")] = False,
    force: Annotated[bool, typer.Option(help="Evaluate again what was evaluated before.")] = False,
    explain: Annotated[bool, typer.Option(help="Print what each figure means, and stop.")] = False,
    json: options.Json = False,
) -> None:
    """Evaluate a run or an OpenCLIP model on a split or other data.

    Without --data it is the run's test split; --data takes any manifest or class folder. Each figure comes with its
    bootstrap interval. Results are kept in the run's folder, and not computed again while the weights, the data and
    the options are the same. Examples:

    clx eval runs/digits

    clx eval runs/digits --task zeroshot --data more.csv --json

    clx eval runs/digits --task probe --task knn --k 5 --features head

    clx eval runs/words --dim 64

    clx eval runs/words --analogies capitals.txt --matrix human.csv

    clx eval runs/photos --corrupt noise:1 --corrupt noise:5 --corrupt blur

    clx eval runs/photos --processes 4

    clx eval runs/load --task forecast --horizons 24,48,168

    clx eval ViT-B-32 --pretrained laion2b_s34b_b79k --data photos/ --task zeroshot --template 'a photo of a {}'
    """
    from clx.pipelines.system.errors import BadInput

    if explain:
        explain_figures()
        return
    if model is None:
        raise BadInput("say what to evaluate: a run folder, or an OpenCLIP model with --pretrained and --data")
    settings = settings_of(
        {
            "features": features or ("encoder" if dim is None else "head"),
            "dim": dim,
            "k": k,
            "weights": weights,
            "ways": ways,
            "shots": list(dict.fromkeys(shots)),
            "episodes": episodes,
            "align": align,
            "regressor": regressor,
            "horizons": whole_numbers(horizons),
            "bin_width": bin_width,
            "many": many,
            "few": few,
            "analogies": analogies,
            "matrix": matrix,
            "corrupt": list(dict.fromkeys(corrupt)),
            "resamples": resamples,
            "confidence": confidence,
            "seed": seed,
        },
        labels_file,
        template,
    )
    columns = pairs("--column", column)
    with together(processes, ANEW) as group:
        from clx.pipelines.evaluation.evaluate import evaluate_run

        with quiet(group):
            result = evaluate_run(
                model, task, settings, pretrained=pretrained, data=data, split=split, train=train, label=label,
                target=target, columns=columns, checkpoint=checkpoint, device=device, skip_bad=skip_bad_rows,
                force=force, say=note if is_first(group) else unheard, group=group,
            )  # fmt: skip
    if not is_first(group):
        return
    tell_skipped(result)
    if json:
        emit_json(result)
    else:
        show_evaluation(result)


def explain_figures() -> None:
    """What each figure means."""
    from clx.pipelines.evaluation.meaning import MEANING

    emit_table([{"figure": name, "meaning": meaning} for name, meaning in MEANING.items()])


def settings_of(values: dict[str, Any], labels_file: Path | None, template: list[str]) -> "Settings":
    """The options of an evaluation, checked before anything heavy is imported or opened. Raises `BadInput`."""
    from clx.pipelines.config.options import construct
    from clx.pipelines.evaluation.results import Settings
    from clx.pipelines.use.labels import read_templates, read_yes_and_no

    phrasings, absent = read_yes_and_no(labels_file) if labels_file else ({}, {})
    told = {"templates": read_templates(template), "phrasings": phrasings, "absent": absent}
    return construct(Settings, values | told, "options")
