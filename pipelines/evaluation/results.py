"""What an evaluation is: one JSON object, the same on stdout, in a run folder and at the end of `clx train`.

    schema      2; raised when a reader of older results would go wrong
    clx         version that made it
    key         digest of all that decides the figures: weights, rows and files, tasks, settings, version
    model       run folder as it was named, or the OpenCLIP model's name
    pretrained  tag or file of an OpenCLIP model, else null
    step        training step of the checkpoint, null for an OpenCLIP model
    data        manifest, folder or built-in data
    split       train, val or test; all for a source without splits
    rows        rows that could be read
    rows_key    digest of these rows and all their cells, whatever the model
    settings    every option of the evaluation, by name (`Settings`)
    dim         width of the embeddings that were looked at
    dims        width -> task -> lines as below, of the first so many columns, for widths that the objective trains;
                probe, knn and their like then look at the embeddings (`features` head); absent when there are none
    corrupted   corruption of `settings.corrupt` -> task -> lines as below, of the same rows, damaged; absent without
    skipped     task -> why it was left out; absent when none was

and under the name of each task (`TASKS`) one line per input:

    zeroshot    "image", "image+table"      top1 top5 mean_per_class confusion rows
    classification  of the run's class head "image+table":  top1 top5 mean_per_class macro_F1 macro_AUC log_loss ECE
                                            confusion rows unknown_class
    forgetting  of that head in runs of stages      top1 old_top1 new_top1 forgetting by_stage stages rows
    sts         "text+passage->score"       spearman pearson rows, macro_AUC of a flag
    retrieval   "image->text", "a+b->c"     R@1 R@5 R@10 median_rank mAP NDCG@10 AUC AUC_pooled label@1
                                            graded_by queries candidates roc
    probe       "image", "image+table"      top1 top5 mean_per_class mean_top1 confusion l2 path features rows
                                            train_rows
    knn         same                        top1 mean_per_class confusion k weights features rows train_rows
    svm         same                        top1 mean_per_class confusion C path features rows train_rows
    recall      same                        R@1 R@5 R@10 R-precision MAP@R queries candidates classes
    fewshot     same                        1-shot 5-shot (one figure per `settings.shots`) ways episodes features ...;
                                            with `align` 1-shot_aligned 1-shot_aligned_uneven
    multilabel  "image", "image->text"      mAP AUC P@1 P@3 P@5 R@1 R@3 R@5 labels rows unknown unseen_labels; of the
                                             trained head, "image", micro_F1 macro_F1, too; "image->text" is by the
                                             words of the labels, with these F1, too, where there are words for that
                                             one does not apply; by_label
    regression  "table->price"              mae mse rmse gm r2 pearson spearman groups regressor penalty path rows
    forecast    "series->24"                mse mae penalty path features horizon rows train_rows; of the same windows
                "trained-predictor->24"     mse mae horizon rows, where the run's own objective is to forecast
                "ridge-on-lags->24"         mse mae penalty path horizon rows train_rows
                "seasonal-naive->24"        mse mae season horizon rows
    geometry    "image", "image->text"      uniformity effective_rank hubness, tolerance of labelled rows; alignment
                                            modality_gap hubness; temperature and hardest_tenth where the objective has
                                            a temperature
    analogies   "text", "image"             top1 top5 offset_cosine questions skipped unknown_words candidates
    similarity  "text", "image", "image+text"       spearman pearson pairs things unknown_words

`a+b` are several inputs of one item together, `a->b` is asked with a and answered by b. A figure that cannot be
had is absent; one that is not finite is null. Beside a headline figure `top1` stands `top1_ci`, the limits
`[low, high]` of its bootstrap interval over rows, or what rows share (`units.py`), at `settings.confidence`; in
`fewshot` over episodes. Shares are 0 to 1, ranks count from 1, errors are in the target's own units; those of
forecasts are of values by the mean and deviation of the training series, over all channels and all steps up to
`horizon`, and their intervals are over blocks of windows whose futures overlap. `MEANING` of `meaning.py` says
what each figure is. Nested:

    confusion   {"classes": [C names], "counts": [C][C]}, rows the true class, columns the answer; absent past
                1000 classes
    path        [{"l2" or "penalty": .., "val_top1", "val_mae" or "val_mse": ..}, ..], what the sweep on validation
                rows saw, of equals the smallest penalty is taken; of svm [{"C": .., "cv_top1": ..}, ..], accuracies of
                cross-validation
    roc         [[share of wrong pairs, share of right pairs], ..] above falling thresholds, at most 52 points
    by_label    {label: {"AP": .., "AUC": ..}, ..}; absent past 1000 labels
    by_stage    [[accuracy of stage k's head on the classes that stage j brought, ..], ..]
    groups      {"many", "median", "few": {"rows", "mae", "mse", "gm", "pearson" (of three rows or more) ...}}, by how
                many training rows have a target like the row's; empty groups are absent

In a run folder `results.json` is the evaluation that ended training, and `evaluations/SPLIT-STEP-KEY.json` are those
of `clx eval`, of any data, split, tasks and checkpoint. `saved` gives them all. `results.npz` has the figures of
`results.json` in each resample of their intervals, by their path; `clx runs compare` pairs them.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge, Gt, Lt

from clx.pipelines.config.task_names import TASKS
from clx.pipelines.runs.folder import DRAWN, FOLDER, LAST, is_number
from clx.pipelines.runs.listing import read_evaluation
from clx.pipelines.system.durable_files import replacing, write_text
from clx.pipelines.system.errors import BadInput
from clx.pipelines.system.text import finite

SCHEMA = 2
NESTED = ("confusion", "path", "groups", "roc", "by_stage", "by_label")
MOST_CLASSES = 1000  # of a confusion matrix


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Options of an evaluation. They stand in its result."""

    features: Literal["encoder", "head"] = "encoder"
    """What probe, knn, svm, fewshot, regression and forecast look at: the encoder's output, or the head's, in the
    shared space."""
    dim: Annotated[int, Ge(1)] | None = None
    """How many of the embeddings' columns are looked at, the first so many; all when None. Then `features` is head."""
    k: Annotated[int, Ge(1)] | None = None
    """Neighbours of knn; half the rows of a small class, at most 20, when None (see `usual_k`)."""
    weights: Literal["uniform", "distance"] = "uniform"
    """Votes of knn's neighbours: one each, or 1 / cosine distance."""
    ways: Annotated[int, Ge(2)] = 5
    """Classes in an episode of fewshot; all where there are fewer."""
    shots: tuple[Annotated[int, Ge(1)], ...] = (1, 5)
    """Examples per class in an episode."""
    episodes: Annotated[int, Ge(2)] = 600
    align: Literal["none", "transport"] = "none"
    """Whether fewshot also moves classes by optimal transport to all queries of an episode together."""
    regressor: Literal["ridge", "l1"] = "ridge"
    """Linear regressor on frozen features, where the model has no trained predictor: squared or absolute error."""
    horizons: tuple[Annotated[int, Ge(1)], ...] = ()
    """Steps to forecast; `data.windows.horizon` when empty, else 24, 48 and 168, as far as the data reach."""
    bin_width: Annotated[float, Gt(0)] | None = None
    """Width of the bins that sort targets into many, median and few; a fiftieth of the training range if None."""
    many: Annotated[int, Ge(1)] = 100
    """A bin with more training rows than this has many."""
    few: Annotated[int, Ge(0)] = 20
    """A bin with fewer training rows than this has few."""
    analogies: str | None = None
    """File of the task `analogies`."""
    matrix: str | None = None
    """File of the task `similarity`."""
    corrupt: tuple[str, ...] = ()
    """Damage of the rows that are asked about, `[INPUT.]NAME[:SEVERITY]`, each beside the rows as they are."""
    resamples: Annotated[int, Ge(0)] = 1000
    """Bootstrap samples of an interval; 0 leaves intervals out."""
    confidence: Annotated[float, Gt(0), Lt(1)] = 0.95
    seed: Annotated[int, Ge(0)] = 0
    templates: tuple[str, ...] = ()
    """Prompts with `{}` for the class; the run's own when empty."""
    phrasings: dict[str, list[str]] = field(default_factory=dict)
    """Words for a class by its name in the data; the name itself where a class is absent."""
    absent: dict[str, list[str]] = field(default_factory=dict)
    """Words for that a class does not apply, of the task `multilabel`: a class scores by how much nearer a row is to
    its own words than to these (arXiv 2309.01740)."""

    def __post_init__(self) -> None:
        if self.few > self.many + 1:
            raise ValueError(f"few = {self.few} is above many = {self.many}: a bin would have both few rows and many")
        if self.dim is not None and self.features == "encoder":
            raise ValueError("dim is of the embeddings in the shared space, so features is head, not encoder")


DEFAULT = Settings()


def tables(result: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """An evaluation as flat rows by task, one per input, without what is nested; groups are rows of their own, and so
    are the widths that `dims` trains and corruptions, which columns `dim` and `corrupt` tell apart."""
    found: dict[str, list[dict[str, Any]]] = {}
    widths, damaged = result.get("dims", {}), result.get("corrupted", {})
    whole = {"dim": result.get("dim")} if widths else {}
    parts = [(result, whole | ({"corrupt": "none"} if damaged else {}))]
    parts += [
        (lines, {"dim": int(width)} | ({"corrupt": "none"} if damaged else {})) for width, lines in widths.items()
    ]
    parts += [(lines, whole | {"corrupt": spec}) for spec, lines in damaged.items()]
    for task in TASKS:
        for part, of in parts:
            for name, line in part.get(task, {}).items():
                flat = {key: value for key, value in line.items() if key not in NESTED}
                head = {"task": task, "input": name, **of}
                found.setdefault(task, []).append({**head, **flat})
                for group, figures in line.get("groups", {}).items():
                    found[task].append({**head, "group": group, **figures})
    return found


def saved(folder: Path) -> Iterator[dict[str, Any]]:
    """All evaluations of a run that this version reads, oldest first, each once."""
    found: dict[str, tuple[int, dict[str, Any]]] = {}
    for path in _paths(folder):
        with suppress(FileNotFoundError, BadInput):  # gone, or not ours
            result = read_evaluation(path)
            if _is_ours(result):
                found[result["key"]] = (path.stat().st_mtime_ns, result)
    yield from (result for _, result in sorted(found.values(), key=lambda each: each[0]))


def _is_ours(result: dict[str, Any]) -> bool:
    """Whether an evaluation is of this schema in all its parts, so that what reads it need not ask again."""
    if result.get("schema") != SCHEMA:
        return False
    named = all(isinstance(result.get(key), str) for key in ("key", "data", "split"))
    widths, damaged = result.get("dims", {}), result.get("corrupted", {})
    if not all(
        isinstance(parts, dict) and all(isinstance(p, dict) for p in parts.values()) for parts in (widths, damaged)
    ):
        return False
    if not all(width.isdecimal() for width in widths):
        return False
    inputs = [part[task] for part in (result, *widths.values(), *damaged.values()) for task in TASKS if task in part]
    return (
        named
        and isinstance(result.get("step"), int | None)
        and isinstance(result.get("settings", {}), dict)
        and all(_is_line(line) for lines in inputs for line in lines.values())
    )


def _is_line(line: Any) -> bool:
    if not isinstance(line, dict) or not all(_is_line(each) for each in _part(line, "groups").values()):
        return False
    matrix = _part(line, "confusion")
    names, counts = matrix.get("classes", []), matrix.get("counts", [])
    square = isinstance(names, list) and isinstance(counts, list) and len(names) == len(counts)
    return (
        square
        and set(matrix) in ({"classes", "counts"}, set())
        and all(isinstance(name, str) for name in names)
        and all(isinstance(row, list) and len(row) == len(names) for row in counts)
        and all(isinstance(n, int) and 0 <= n < 2**53 for row in counts for n in row)
        and all(
            isinstance(value, list) and len(value) == 2 and all(v is None or is_number(v) for v in value)
            for key, value in line.items()
            if key.endswith("_ci")
        )
        and all(is_number(value) for value in line.values() if isinstance(value, int | float))
    )


def _part(line: dict[str, Any], key: str) -> dict[str, Any]:
    """What is nested in a line; something that is no line where it should be a dictionary and is not."""
    part = line.get(key, {})
    return part if isinstance(part, dict) else {"": None}


def _paths(folder: Path) -> list[Path]:
    return [path for path in (folder / LAST, *(folder / FOLDER).glob("*.json")) if path.is_file()]


def save(folder: Path, result: dict[str, Any], draws: Mapping[str, Any] | None = None, *, ended: bool = False) -> None:
    """Keep an evaluation in its run's folder, as the one that ended training or as one more; beside the former the
    `draws` of its figures, `[resamples]` by their path.

    Its file is the newest, whatever the clock says. Raises `Failed`.
    """
    path = folder / LAST
    if not ended:
        (folder / FOLDER).mkdir(exist_ok=True)
        path = folder / FOLDER / f"{result['split']}-{result['step']}-{result['key'][:12]}.json"
    if ended and draws:
        with replacing(folder / DRAWN) as beside, beside.open("wb") as file:
            np.savez_compressed(file, key=np.array(result["key"]), **draws)
    write_text(path, dumps(result))
    newest = max((each.stat().st_mtime_ns for each in _paths(folder) if each != path), default=0)
    if path.stat().st_mtime_ns <= newest:
        os.utime(path, ns=(newest + 10**9,) * 2)


def dumps(result: dict[str, Any]) -> str:
    """An evaluation as JSON text, one line per key and input."""
    lines = []
    for key, value in result.items():
        if key in TASKS:
            inner = [f"  {json.dumps(name)}: {json.dumps(finite(line))}" for name, line in value.items()]
            lines.append(f" {json.dumps(key)}: {{\n" + ",\n".join(inner) + "\n }")
        else:
            lines.append(f" {json.dumps(key)}: {json.dumps(finite(value))}")
    return "{\n" + ",\n".join(lines) + "\n}\n"
