"""A long tail made from a manifest: training rows thinned by their target or class, balanced rows to validate and test
on."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clx.pipelines.data.imbalance import bin_of, targets_of
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.data.splits import load_manifest
from clx.pipelines.system.durable_files import replacing
from clx.pipelines.system.errors import BadInput

BINS = 20
"""Of a target's range, where nothing is said."""


def thin(
    source: str,
    out: Path,
    target: str | None = None,
    label: str | None = None,
    *,
    ratio: float,
    bins: int | None = None,
    most: int | None = None,
    held_out: float,
    seed: int,
) -> dict[str, int]:
    """Write the rows of `source` that are kept, with a column `split`, and return how many each split has.

    Either by the bins of a numeric `target` or by the classes of a `label`, with `most` training rows of the commonest
    at most. Raises `BadInput` when the target is no number or there are too few rows to balance.
    """
    if (target is None) == (label is None):
        raise BadInput("--target thins by the bins of a number, --label by classes: name one column with one of them")
    if label is not None and bins is not None:
        raise BadInput("--bins is about --target: each class of --label is a bin")
    if out.suffix not in (".csv", ".tsv", ".parquet"):
        raise BadInput(f"{out}: the name should end in .csv, .tsv or .parquet")
    if out.exists():
        raise BadInput(f"{out}: exists already; name another file")
    manifest = load_manifest(source)
    if target is not None:
        bins = BINS if bins is None else bins
        place, of, hint = bins_of(targets_of(manifest, target), bins), f"{bins} bins of {target}", "fewer bins"
    else:
        place, classes = places_of(manifest, str(label))
        of, hint = f"{classes} classes of {label}", "a larger --held-out"
    splits = long_tail(place, ratio=ratio, most=most, held_out=held_out, draw=np.random.default_rng(seed))
    if not all((splits == split).any() for split in ("train", "val", "test")):
        raise BadInput(f"{source}: {len(manifest)} rows in {of} are too few to balance: {hint}")
    write(manifest, splits, out)
    return {split: int((splits == split).sum()) for split in ("train", "val", "test")}


def bins_of(values: NDArray[np.float64], bins: int) -> NDArray[np.int64]:
    """The bin of each value `[N]`, of so many of equal width over their range; -1 of what is not finite."""
    place, known = np.full(len(values), -1), np.isfinite(values)
    if known.any():
        low, high = values[known].min(), values[known].max()
        place[known] = np.clip(bin_of(values[known] - low, (high - low) / bins or 1.0), 0, bins - 1)
    return place


def places_of(manifest: Manifest, label: str) -> tuple[NDArray[np.int64], int]:
    """The number of each row's class `[N]`, -1 of a row without one, and how many classes there are."""
    cells = manifest.column(label)
    classes = {name: k for k, name in enumerate(sorted({str(cell) for cell in cells if cell is not None}))}
    return np.array([-1 if cell is None else classes[str(cell)] for cell in cells], np.int64), len(classes)


def long_tail(
    place: NDArray[np.int64],
    *,
    ratio: float,
    most: int | None = None,
    held_out: float,
    draw: np.random.Generator,
) -> NDArray[np.str_]:
    """The split of each row, by the number of its bin or class `[N]`; empty for those left out, as those of -1.

    Val and test take the same number of rows from each bin, as many as a typical (median) bin can spare, or
    `held_out` of a bin that has fewer. Of the rest the k-th densest of K bins keeps at most `n ratio^(-k / (K - 1))`
    rows, k from 0, with n those of the densest, or `most` where they are fewer.
    """
    splits, known = np.full(len(place), "", dtype="<U5"), np.flatnonzero(place >= 0)
    if not len(known):
        return splits
    order = known[np.argsort(place[known], kind="stable")]
    binned = np.split(order, np.flatnonzero(np.diff(place[order])) + 1)
    rows = sorted((draw.permutation(each) for each in binned), key=len, reverse=True)
    spare = [int(held_out * len(each)) for each in rows]
    share = max(1, int(np.median(spare)))
    left = []
    for each, can in zip(rows, spare, strict=True):
        taken = min(share, can)
        splits[each[:taken]], splits[each[taken : 2 * taken]] = "val", "test"
        left.append(each[2 * taken :])
    left.sort(key=len, reverse=True)
    densest = min(len(left[0]), most or len(left[0]))
    for k, each in enumerate(left):
        kept = densest * ratio ** (-k / max(1, len(left) - 1))
        splits[each[: max(1, round(kept))]] = "train"
    return splits


def write(manifest: Manifest, splits: NDArray[np.str_], out: Path) -> None:
    """The rows that have a split, with all their columns, in the order of the file."""
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    kept = np.flatnonzero(splits != "")
    table = manifest.table.take(manifest.rows[kept])
    if "split" in table.column_names:
        table = table.drop_columns("split")
    table = table.append_column("split", pa.array(splits[kept].tolist()))
    try:
        with replacing(out) as beside:
            if out.suffix == ".parquet":
                pyarrow.parquet.write_table(table, beside)
            else:
                form = pyarrow.csv.WriteOptions(delimiter="\t" if out.suffix == ".tsv" else ",", quoting_style="needed")
                pyarrow.csv.write_csv(table, beside, form)
    except pa.ArrowInvalid as error:
        raise BadInput(f"{out}: {' '.join(str(error).split())}; write a .parquet file") from None
