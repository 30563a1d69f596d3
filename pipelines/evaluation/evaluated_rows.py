"""Which rows an evaluation asks about, and which it learns from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from clx.pipelines.config.data_schema import Data
from clx.pipelines.config.task_names import Task
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.data.splits import choose, is_same, load_splits, split_in, splits_of
from clx.pipelines.evaluation.results import Settings
from clx.pipelines.evaluation.tasks.forecast import HORIZONS
from clx.pipelines.system.errors import BadInput
from clx.pipelines.system.remote import shown

OnBad = Literal["fail", "skip"]


@dataclass(frozen=True)
class Source:
    """The rows of an evaluation."""

    split: str
    """Name of the split to evaluate; `all` where there are none."""
    rows: Manifest
    train: Manifest | None = None
    """What probe, knn, svm, fewshot, regression and forecast learn from."""
    val: Manifest | None = None
    drawn: bool = False
    """Whether `train` and the rows to ask must be drawn from `rows`, which have no splits."""


def evaluated_rows(
    data: Data,
    seed: int,
    source: str | None,
    split: str | None,
    train: str | None,
    names: Mapping[str, str] | None = None,
) -> Source:
    """The rows to evaluate and those to learn from.

    Evaluated are those of `split`, else of test, val or train, the first that there is; of a `source` without a
    split column, all. Learned from is `train`, else the training split of the same source, else of the run's own
    data, else (for a model without data, and for the file that the run's own rows come from) a part of the rows.
    Rows are never learned from, nor choose a penalty, to be asked themselves. `names` are columns of `source` and of
    `train` by the names that the run knows. Raises `BadInput`.
    """
    if names and source is None:
        raise BadInput("--column, --label and --target are about the columns of other data: name it with --data")
    if names and data.long is not None:
        raise BadInput("--column, --label and --target do not go with data.long, which names the columns itself")
    splits = _called(choose(data, seed, source, otherwise="every"), names)
    name = split or next(each for each in ("all", "test", "val", "train") if each in splits)
    rows = split_in(splits, name, shown(source) if source else data.named)
    if train is not None:
        several = isinstance(data.train, list) and any(is_same(train, one) for one in data.sources)
        if source is None and several:
            raise BadInput(
                f"--train {shown(train)}: one of the sources of the run, of which rows to evaluate may be drawn; leave "
                "it out to learn from the training rows of all"
            )
        known = load_splits(data, seed) if is_same(train, data.train) else _called(splits_of(train, data), names)
        learned = "train" if "train" in known else "all"
        same = is_same(train, source or data.train)
        if same and name in (learned, "all"):
            raise BadInput(f"--train {shown(train)}: these are the rows to evaluate; leave it out, or name others")
        return Source(name, rows, known.get(learned), None if same and name == "val" else known.get("val"))
    if "train" not in splits and data.train and not any(is_same(source, one) for one in data.sources):
        own = load_splits(data, seed)
        if is_same(source, data.val):
            del own["val"]
        splits = {**own, name: rows}
    return source_in(splits, name)


def _called(splits: dict[str, Manifest], names: Mapping[str, str] | None) -> dict[str, Manifest]:
    return {split: rows.called(names) for split, rows in splits.items()} if names else splits


def with_longest_horizon(data: Data, tasks: Sequence[Task], settings: Settings) -> Data:
    """`data` whose windows have the longest horizon that `forecast` is asked for as their horizon."""
    if "forecast" not in tasks or data.windows is None:
        return data
    own = data.windows.horizon
    most = max(*settings.horizons, own or 0) if settings.horizons else own or max(HORIZONS)
    return data.model_copy(update={"windows": data.windows.model_copy(update={"horizon": most})})


def source_in(splits: dict[str, Manifest], name: str) -> Source:
    """The rows of one split, to be learned from those of `train` and `val`, unless these are asked themselves."""
    if name == "train":
        return Source(name, splits[name])
    val = splits.get("val") if name != "val" else None
    return Source(name, splits[name], splits.get("train"), val, drawn="train" not in splits)
