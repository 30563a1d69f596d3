"""Evaluation of a run or a model on a manifest: embeddings once, then every task on them."""

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from clx.pipelines.batches.batch import BadRow
from clx.pipelines.batches.columns import other_names
from clx.pipelines.batches.corrupted import damage_of
from clx.pipelines.config.task_names import TASKS, Task
from clx.pipelines.data.splits import splits_of
from clx.pipelines.evaluation import results
from clx.pipelines.evaluation import tasks as _  # noqa: F401  (registers them)
from clx.pipelines.evaluation.corrupted import by_corruption, check_corruptions
from clx.pipelines.evaluation.embeddings import ROWS, Embedded, Report, embed_on, ignore_bad_rows
from clx.pipelines.evaluation.evaluated_rows import OnBad, Source, evaluated_rows, with_longest_horizon
from clx.pipelines.evaluation.named_things import check_files
from clx.pipelines.evaluation.parted import parted, tell_of_parts
from clx.pipelines.evaluation.result_key import key, rows_key
from clx.pipelines.evaluation.results import SCHEMA, Settings
from clx.pipelines.evaluation.task_context import LEARNING, RUNS, Learning, Lines, TaskContext, Unfit
from clx.pipelines.measures.bootstrap import without_draws
from clx.pipelines.model.build import Run
from clx.pipelines.runs.open import open_model
from clx.pipelines.system.errors import BadInput, Failed, explain_out_of_memory, nearest
from clx.pipelines.system.process_group import Group

FILES: dict[Task, str] = {"analogies": "analogies", "similarity": "matrix"}
"""Tasks that need a file, by the setting that names it; `all` does not mean them."""
WHOLE_WIDTH: tuple[Task, ...] = ("classification", "forgetting", "forecast")
"""Tasks on what is learned from time steps, or predicted from whole embeddings: they have no figures by width."""


def evaluate(
    run: Run,
    source: Source,
    tasks: Sequence[Task],
    settings: Settings = results.DEFAULT,
    *,
    model: str = "",
    pretrained: str | None = None,
    strict: bool = True,
    named: Collection[Task] = (),
    on_bad: OnBad = "fail",
    report: Report = ignore_bad_rows,
    say: Callable[[str], None] = lambda text: None,
    group: Group | None = None,
    draws: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Every task of `tasks` that the data allow, as one JSON object (see `clx.pipelines.evaluation.results`).

    With `group`, rows are embedded by all ranks; rank 0 has the figures, the others nothing. `say` hears what begins:
    rows being embedded, and each task. `draws`, where given, gets the resamples of each figure by its path. Raises
    `BadInput` when `strict` and none is possible, and when one of `named`, which somebody asked for by name, is not.
    """
    run.model.eval()
    run.objective.eval()
    run = run.narrowed(settings.dim)
    learns = bool(set(tasks) & set(LEARNING))
    wanted = learns and settings.features == "encoder"

    check_corruptions(run, source.rows, settings.corrupt, tasks)
    check_files(settings, tasks, named)

    def work(which: str, classes: list[str] | None, corrupt: str | None) -> Embedded | None:
        damage = None if corrupt is None else damage_of(corrupt, run.scored())
        rows = getattr(source, which)
        return embed_on(group, run, rows, on_bad, report, classes, wanted, damage, settings.seed)

    if group is not None and group.rank:
        while (asked := group.told(None)) is not None:
            work(*asked)
        return {}

    def embed(which: str, classes: list[str] | None = None, corrupt: str | None = None) -> Embedded:
        rows = getattr(source, which)
        say(f"embedding {len(rows)} rows of {rows.name}" + (f" with {corrupt}" if corrupt else ""))
        if group is not None:
            group.told((which, classes, corrupt))
        found = work(which, classes, corrupt)
        assert found is not None
        return found

    embedded = embed("rows")
    result = about(run, source, tasks, settings, on_bad, embedded) | {"model": model, "pretrained": pretrained}

    @cache
    def learn() -> Learning:
        if source.train is None:
            raise Unfit("needs training rows to learn from, other than those it is asked about")
        train = embed("train", embedded.classes)
        return Learning(train, None if source.val is None else embed("val", train.classes))

    whole = TaskContext(run, embedded, learn, settings, source.train, source.val, on_bad, report)
    apart = parted(whole, settings.seed) if source.drawn and learns else whole
    skipped: dict[Task, str] = {}
    for task in tasks:
        say(task)
        try:
            result[task] = RUNS[task](apart if task in LEARNING else whole)
        except Unfit as reason:
            skipped[task] = str(reason)
    done = [task for task in tasks if task not in skipped]
    result |= by_width(whole, apart, done, say)
    result |= by_corruption(whole, apart, done, lambda spec: embed("rows", corrupt=spec), say)
    if group is not None:
        group.told(None)
    refuse_skipped(source, skipped, {*tasks} if strict and len(skipped) == len(tasks) else {*named})
    return parted_from(result | ({"skipped": skipped} if skipped else {}), draws)


def about(
    run: Run, source: Source, tasks: Sequence[Task], settings: Settings, on_bad: OnBad, embedded: Embedded
) -> dict[str, Any]:
    """What a result says of itself before its figures."""
    return {
        "schema": SCHEMA,
        "clx": version("clx"),
        "key": key(run, source, tasks, settings, on_bad),
        "step": run.step,
        "data": source.rows.name,
        "split": source.split,
        "rows": len(embedded),
        "rows_key": rows_key(source.rows, embedded.rows),
        "settings": asdict(settings),
        "dim": run.config.embed_dim,
    }


def parted_from(result: dict[str, Any], draws: dict[str, Any] | None) -> dict[str, Any]:
    """A result without the resamples of its figures, which go into `draws` where that is given."""
    kept, drawn = without_draws(result)
    if draws is not None:
        draws |= drawn
    return dict(kept)


def by_width(
    whole: TaskContext, apart: TaskContext, tasks: Sequence[Task], say: Callable[[str], None]
) -> dict[str, Any]:
    """The key `dims` of a result: the tasks' lines at every width that the objective trains below the embeddings' own,
    but for tasks that only ask what the run's head predicts from all columns."""
    found: dict[str, dict[str, Lines]] = {}
    for width in whole.run.config.dims:
        narrow, learning = whole.narrowed(width), apart.narrowed(width)
        for task in tasks:
            if task not in WHOLE_WIDTH:
                say(f"{task}, of {width} columns")
                with suppress(Unfit):
                    lines = RUNS[task](learning if task in LEARNING else narrow)
                    found.setdefault(str(width), {})[task] = lines
    return {"dims": found} if found else {}


def refuse_skipped(source: Source, skipped: dict[Task, str], named: Collection[Task]) -> None:
    """Raise `BadInput`, with every reason, when one of `named` was left out."""
    if {*named} & {*skipped}:
        raise BadInput(f"{source.rows.name}: {'; '.join(f'{t}: {r}' for t, r in skipped.items())}")


def describe(run: Run, source: str, label: str | None, target: Sequence[str], columns: dict[str, str]) -> None:
    """Tell an OpenCLIP model what the columns of a source are: those named, else as `clx init` would guess."""
    from clx.pipelines.data.guess_columns import infer_modalities

    manifest = next(iter(splits_of(source, run.config.data).values()))
    guessed = infer_modalities(manifest)
    for name in columns:
        if name not in run.modalities:
            raise BadInput(f"--column {name}=...: the model has {' and '.join(run.modalities)}")
    for name, modality in run.modalities.items():
        like = [n for n, options in guessed.modalities.items() if options.get("kind", n) == modality.kind]
        found = guessed.modalities[like[0]].get("column", like[0]) if like else None
        modality.column = columns.get(name) or (name if name in manifest.columns else found)
        if modality.column is not None and name in columns:
            manifest.require(modality.column)
    for column in [*([label] if label else []), *target]:
        manifest.require(column)
    data = run.config.data.model_copy(
        update={"label": label or guessed.label, "target": list(target) or guessed.target}
    )
    run.config = run.config.model_copy(update={"data": data})


def evaluate_run(
    model: Path | str,
    tasks: Sequence[str] = (),
    settings: Settings = results.DEFAULT,
    *,
    pretrained: str | None = None,
    data: str | None = None,
    split: str | None = None,
    train: str | None = None,
    label: str | None = None,
    target: Sequence[str] = (),
    columns: dict[str, str] | None = None,
    checkpoint: str = "best",
    device: str = "auto",
    skip_bad: bool = False,
    force: bool = False,
    say: Callable[[str], None],
    group: Group | None = None,
) -> dict[str, Any]:
    """Evaluate a run on a split of its own data or of another source, or an OpenCLIP model on a source.

    `columns` by modality, `label` and `target` are columns of `data`, and of `train` where that is another source,
    that are called otherwise than the run's own. The result is kept in the run's folder, and taken from there when
    nothing that decides it has changed, unless with `force`.
    """
    for name in tasks:
        if name not in (*TASKS, "all"):
            raise BadInput(f"unknown task {name!r}{nearest(name, [*TASKS, 'all'])}")
    own_device = device if group is None else group.device(device)
    run = open_model(str(model), pretrained, checkpoint, own_device).narrowed(settings.dim)
    own, names = pretrained is None, {}
    if not own:
        if data is None:
            raise BadInput(f"say with --data what to evaluate {model} on")
        describe(run, data, label, target, columns or {})
    else:
        names = other_names(run.config, run.modalities, columns or {}, label, target)
    tasks, every = [*tasks, *of_files(settings)], [task for task in TASKS if task not in FILES]
    chosen: list[Task] = [t for t in TASKS if t in tasks or (t in every and "all" in tasks)]
    chosen = chosen or list(run.config.eval or every)
    source = evaluated_rows(
        with_longest_horizon(run.config.data, chosen, settings), run.config.train.seed, data, split, train, names
    )
    on_bad: OnBad = "skip" if skip_bad or run.config.data.on_bad_row == "skip" else "fail"
    if own and data is None and source.split == "train":
        say("these are the rows that the run was trained on")
    if set(chosen) & set(LEARNING):
        tell_of_parts(run, source, data is not None or train is not None, say)
    named = chosen if tasks and "all" not in tasks else []
    if own and not force:
        wanted = key(run, source, chosen, settings, on_bad)
        kept = next((each for each in results.saved(Path(model)) if each["key"] == wanted), None)
        if group is not None:
            kept = group.told(kept)  # as rank 0 finds it
        if kept is not None:
            refuse_skipped(source, kept.get("skipped", {}), named)
            say("evaluated before, and nothing has changed (--force does it again)")
            return kept | {"model": str(model), "data": source.rows.name}  # as they are named now
    cpu = "" if run.device.type == "cpu" else ", or --device cpu"
    with explain_out_of_memory(lambda: f"while {model} was evaluated, {ROWS} rows at a time: free some{cpu}"):
        result = evaluate(
            run,
            source,
            chosen,
            settings,
            model=str(model),
            pretrained=pretrained,
            named=named,
            on_bad=on_bad,
            report=partial(tell_of_bad_rows, say) if on_bad == "skip" else ignore_bad_rows,
            say=say,
            group=group,
        )
    if own and (group is None or group.rank == 0):
        keep(Path(model), result, say)
    return result


def of_files(settings: Settings) -> list[Task]:
    """The tasks that a file is given for, which asks for them."""
    return [task for task, option in FILES.items() if getattr(settings, option) is not None]


def tell_of_bad_rows(say: Callable[[str], None], bad: list[BadRow]) -> None:
    """Say which rows are left out of an evaluation, and why."""
    for row in bad:
        say(f"left out {row.where}, column {row.column}: {row.reason}")


def keep(run: Path, result: dict[str, Any], say: Callable[[str], None]) -> None:
    """Keep a result in the run's folder; where that is somebody else's, the figures are worth more than their copy."""
    try:
        results.save(run, result)
    except (OSError, Failed) as error:
        say(f"the result is not kept in {run}: {getattr(error, 'strerror', None) or error}")
