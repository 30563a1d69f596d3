"""`clx losses`, `clx encoders`, `clx recipes` and `clx bench`: what there is."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from clx.cli import options
from clx.cli.output import emit_json, emit_table, note


def losses(
    name: Annotated[str | None, typer.Argument(help="One loss in full.")] = None,
    json: options.Json = False,
) -> None:
    """List the objectives by the data they are for, or show one.

    One is shown with its formula, parameters, cost, and when to use it.
    """
    from clx.pipelines.config.catalogue import describe_loss, list_losses

    if name is None:
        show(list_losses(), json, "objectives")
        return
    described = describe_loss(name)
    if json or not sys.stdout.isatty():
        emit_json(described)
        return
    parameters = described.pop("parameters")
    for key, value in described.items():
        print(f"{key:>10}  {value}")
    print()
    emit_table(parameters)


def encoders(
    name: Annotated[str | None, typer.Argument(help="One encoder, or a family such as open_clip.")] = None,
    json: options.Json = False,
) -> None:
    """List the encoders of every modality: sizes and licences.

    Code and the weights that come along have their licences apart.
    """
    from clx.pipelines.config.catalogue import list_encoders

    show(list_encoders(name), json, "encoders")


def recipes(
    name: Annotated[str | None, typer.Argument(help="Print this recipe, ready to be copied.")] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of a config file.")] = False,
    json: options.Json = False,
) -> None:
    """List the built-in recipes, or print one."""
    from clx.pipelines.config import load
    from clx.pipelines.system.errors import BadInput, nearest

    texts = load.recipes()
    if schema:
        from clx.pipelines.config.objects import schema as whole

        emit_json(whole())
    elif name is None:
        about = {key: text.splitlines()[0].lstrip("# ") for key, text in sorted(texts.items())}
        show([{"recipe": key, "about": value} for key, value in about.items()], json, "recipes")
    elif name not in texts:
        raise BadInput(f"unknown recipe {name!r}{nearest(name, texts)}")
    elif json:
        emit_json(load.read_source(name))
    else:
        print(texts[name], end="")


bench = typer.Typer(no_args_is_help=True, help="Time clx on this machine against the installed peers.")


@bench.command("losses")
def bench_losses(
    names: Annotated[list[str] | None, typer.Argument(help="Losses [default: all that have a peer]")] = None,
    batch: Annotated[int | None, typer.Option(min=2, help="Rows [default: the usual size of each]")] = None,
    width: Annotated[int | None, typer.Option(min=1, help="Embedding width [default: the usual]")] = None,
    repeats: Annotated[int, typer.Option(min=3, help="Timed runs of each side.")] = 9,
    memory: Annotated[bool, typer.Option(help="Measure peak memory too (Linux).")] = True,
    keep: Annotated[bool, typer.Option(help="Keep tiles for backward, whatever they need.")] = False,
    json: options.Json = False,
) -> None:
    """Compare losses with those of other installed libraries.

    These are open_clip, lightly, pytorch-metric-learning and symile. Both sides run alternately in one process,
    forward and backward, float32, one thread; ratios above 1 mean that clx is faster or smaller. Example:

    clx bench losses clip --batch 1024 --json
    """
    from clx.pipelines.experiments import bench_losses as pipeline
    from clx.pipelines.system.errors import BadInput

    try:
        rows = pipeline.bench_losses(
            names, batch, width, repeats, memory, keep, measured=lambda row: note(f"{row['loss']} measured")
        )
    except ValueError as error:
        raise BadInput(str(error)) from None
    show(rows, json, "losses against peers")


@bench.command("exactness")
def bench_exactness(
    batch: Annotated[int, typer.Option(min=4, help="Rows.")] = 48,
    chunks: Annotated[int, typer.Option(min=2, help="Parts that one process encodes one after another.")] = 4,
    ranks: Annotated[int, typer.Option(min=1, help="Processes that share the batch out; 1 leaves them out.")] = 2,
    dropout: Annotated[float, typer.Option(min=0, max=0.9, help="Of the towers, in the second measurement.")] = 0.5,
    json: options.Json = False,
) -> None:
    """How far gradients are from those of one process.

    Of clx, and of schemes in use, against the whole batch at once. CLIP's loss in float64 on two small towers.
    error, cosine and norm are of the towers' gradients, norm and temperature the length and the temperature's
    gradient over the right ones. With dropout the right ones are those of the same parts in memory at once.
    Example:

    clx bench exactness --ranks 4
    """
    from clx.pipelines.experiments import bench_exactness as pipeline

    show(list(pipeline.bench_exactness(batch, chunks, ranks, dropout)), json, "gradients in parts and at once")


@bench.command("training")
def bench_training(
    batch: Annotated[int, typer.Option(min=2, help="Rows of a step.")] = 64,
    steps: Annotated[int, typer.Option(help="Of each turn; the first three are not counted.")] = 8,
    turns: Annotated[int, typer.Option(min=1, help="Runs of each side, one after the other.")] = 2,
    model: Annotated[str, typer.Option(help="A model of open_clip, trained from random weights.")] = "ViT-S-32-alt",
    workers: Annotated[int, typer.Option(min=0, help="Processes that read, of each side.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, mps")] = "auto",
    json: options.Json = False,
) -> None:
    """Rows per second of clx train beside open_clip's own script.

    Same model, JPEG files, captions and batch. Each runs in processes of its own, in turn. rows_per_s is by the
    median step, ratio above 1 means that clx is faster; before_first_step_s counts from the start of the process.
    On a busy machine compare processor_s, of a whole turn. Example:

    clx bench training --batch 32 --steps 6
    """
    from clx.pipelines.experiments import bench_training as pipeline

    asked = pipeline.Asked(model, batch, steps, workers, device)
    show(pipeline.bench_training(asked, turns, note), json, "training beside open_clip's script")


@bench.command("retriever")
def bench_retriever(
    source: Annotated[str, typer.Argument(help="The recipe retriever, or a config like it.")] = "retriever",
    steps: Annotated[int, typer.Option(help="Of each side; the first two are not timed.")] = 20,
    settings: options.Settings = [],  # noqa: B006
    json: options.Json = False,
) -> None:
    """Loss and time of a retriever beside sentence-transformers.

    Its recall, too. Both have the same weights, loss, rows, order and steps. A step of one follows a step of the
    other, in one process, without dropout. apart is the largest difference of the losses of a step, ratio that of
    processor time, below 1 where clx takes less. Example:

    clx bench retriever -s data.train=pairs.csv -s train.batch_size=16
    """
    from clx.pipelines.config.load import load_config
    from clx.pipelines.experiments import bench_retriever as pipeline

    found = pipeline.bench_retriever(load_config(source, settings), steps, note)
    show(found, json, "a retriever beside sentence-transformers")


@bench.command("data")
def bench_data(
    source: Annotated[str, typer.Argument(help="A recipe, a config file, or what clx init reads.")],
    rows: Annotated[int, typer.Option(min=2, help="Training rows to measure on.")] = 256,
    seconds: Annotated[float, typer.Option(min=0, help="Of each measurement, at least.")] = 1.0,
    settings: options.Settings = [],  # noqa: B006
    json: options.Json = False,
) -> None:
    """Rows per second of each stage from the files to a step.

    Stages are reading, decoding, views, caches and the model. `ratio` of a cache is to the first epoch, that of the
    last step to one on tensors in memory. The last line says what to change. Example:

    clx bench data photos/ --json
    """
    from clx.pipelines.experiments import bench_data as pipeline

    *found, last = pipeline.bench_data(pipeline.config_for(source, settings), rows, seconds, note)
    show([*found, last] if json else found, json, "rows per second")
    if not json:
        note(last["advice"])


@bench.command("series")
def bench_series(
    sets: Annotated[list[str] | None, typer.Argument(help="Sets packaged in aeon [default: seven]")] = None,
    methods: Annotated[str, typer.Option(help="Comma-separated.")] = "ts2vec,minirocket,1nn-dtw,inceptiontime",
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of each method that has randomness.")] = 3,
    steps: Annotated[int, typer.Option(min=1, help="Steps of ts2vec; inceptiontime gets twice as many.")] = 200,
    log: Annotated[Path | None, typer.Option(help="JSONL file that keeps every figure; goes on where it ends.")] = None,
    json: options.Json = False,
) -> None:
    """Test accuracy on packaged series, beside other methods.

    clx learns without labels; MiniRocket, 1-NN DTW and InceptionTime stand beside it. Examples:

    clx bench series --log series.jsonl

    clx bench series GunPoint ItalyPowerDemand --methods ts2vec,minirocket --seeds 1
    """
    from clx.pipelines.experiments import bench_series

    rows = bench_series.table(sets or bench_series.SETS, methods.split(","), seeds, steps, log, note)
    show(rows, json, "accuracy on packaged series")


@bench.command("init")
def bench_init(
    sets: Annotated[list[str] | None, typer.Argument(help="Data sets [default: fourteen]")] = None,
    data: Annotated[Path, typer.Option(help="Folder with the data sets that clx has not built in.")] = Path("data"),
    seeds: Annotated[int, typer.Option(min=2, max=5, help="Runs of every setting.")] = 3,
    sweep: Annotated[bool, typer.Option(help="Run the twelve settings around each recipe too.")] = True,
    log: Annotated[Path | None, typer.Option(help="JSONL file that keeps every error; goes on where it ends.")] = None,
    json: options.Json = False,
) -> None:
    """Test error of the recipe that clx init writes, beside others.

    These are the best of twelve settings around it, and a yardstick. The settings are learning rate x 1/3, 1, 3,
    epochs x 1/2, 2 and two objectives, chosen by val rows. Example:

    clx bench init airfoil wine --data ../data --log init.jsonl
    """
    from clx.pipelines.experiments import bench_init as pipeline

    show(pipeline.table(sets or list(pipeline.SETS), data, seeds, sweep, log, note), json, "error of clx init")


@bench.command("mine")
def bench_mine(
    experiments: Annotated[
        list[str] | None, typer.Argument(help="consistent, stsb, stamps, merged [default: all]")
    ] = None,
    data: Annotated[Path, typer.Option(help="Folder with stsb_dir and stamps.")] = Path("data"),
    seeds: Annotated[int, typer.Option(min=1, help="Runs of every setting.")] = 5,
    steps: Annotated[int, typer.Option(min=1, help="Of each training.")] = 100,
    encoder: Annotated[
        str, typer.Option(help="Of texts; one that others trained as it is, below a head that learns.")
    ] = "hf:minilm",
    pictures: Annotated[str, typer.Option(help="Encoder of the stamps' pictures, likewise.")] = "efficientnet-lite0",
    log: Annotated[Path | None, typer.Option(help="JSONL file that keeps every seed; goes on where it ends.")] = None,
    json: options.Json = False,
) -> None:
    """R@1 of short trainings with mined columns or merged weights.

    They run on pairs of STS-B and on stamps, and without either, too. consistent: a fifth of the pairs swapped,
    what is found of it, and what leaving it out is worth. stsb, stamps: negatives that a run mined, any negatives,
    and none. merged: two fine-tunings of one run, and merged. Example:

    clx bench mine stsb --data ../data --seeds 5 --log mine.jsonl
    """
    from clx.pipelines.experiments import bench_mine as pipeline

    show(pipeline.table(experiments or [], data, seeds, steps, encoder, pictures, log, note), json, "mined columns")


def show(rows: list[dict[str, Any]], json: bool, title: str) -> None:
    if json:
        emit_json(rows)
    else:
        emit_table(rows, title)
