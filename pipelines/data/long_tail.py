"""A long tail made from a manifest: training rows thinned by their target, balanced rows to validate and test on."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clx.pipelines.data.imbalance import bin_of, targets_of
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.data.splits import load_manifest
from clx.pipelines.system.durable_files import replacing
from clx.pipelines.system.errors import BadInput


def thin(source: str, out: Path, target: str, *, ratio: float, bins: int, held_out: float, seed: int) -> dict[str, int]:
    """Write the rows of `source` that are kept, with a column `split`, and return how many each split has.

    Raises `BadInput` when the target is no number or there are too few rows to balance.
    """
    if out.suffix not in (".csv", ".tsv", ".parquet"):
        raise BadInput(f"{out}: the name should end in .csv, .tsv or .parquet")
    if out.exists():
        raise BadInput(f"{out}: exists already; name another file")
    manifest = load_manifest(source)
    values = targets_of(manifest, target)
    splits = long_tail(values, ratio=ratio, bins=bins, held_out=held_out, draw=np.random.default_rng(seed))
    if not all((splits == split).any() for split in ("train", "val", "test")):
        raise BadInput(f"{source}: {len(manifest)} rows in {bins} bins of {target} are too few to balance: fewer bins")
    write(manifest, splits, out)
    return {split: int((splits == split).sum()) for split in ("train", "val", "test")}


def long_tail(
    values: NDArray[np.float64], *, ratio: float, bins: int, held_out: float, draw: np.random.Generator
) -> NDArray[np.str_]:
    """The split of each value, empty for those left out.

    Val and test take the same number of rows from each bin, as many as a typical (median) bin can spare, or
    `held_out` of a bin that has fewer. Of the rest the k-th densest of K bins keeps at most `n ratio^(-k / (K - 1))`
    rows, k from 0, with n those of the densest.
    """
    splits, known = np.full(len(values), "", dtype="<U5"), np.isfinite(values)
    if not known.any():
        return splits
    low, high = values[known].min(), values[known].max()
    place = np.clip(bin_of(values[known] - low, (high - low) / bins or 1.0), 0, bins - 1)
    order = np.argsort(place, kind="stable")
    binned = np.split(np.flatnonzero(known)[order], np.flatnonzero(np.diff(place[order])) + 1)
    rows = sorted((draw.permutation(each) for each in binned), key=len, reverse=True)
    spare = [int(held_out * len(each)) for each in rows]
    share = max(1, int(np.median(spare)))
    left = []
    for each, most in zip(rows, spare, strict=True):
        taken = min(share, most)
        splits[each[:taken]], splits[each[taken : 2 * taken]] = "val", "test"
        left.append(each[2 * taken :])
    left.sort(key=len, reverse=True)
    for k, each in enumerate(left):
        most = len(left[0]) * ratio ** (-k / max(1, len(left) - 1))
        splits[each[: max(1, round(most))]] = "train"
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
