"""Columns that embeddings give to the rows of a file: what `clx mine` calls, and a program."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from clx.pipelines.config.data_schema import Data
from clx.pipelines.data.builtin import is_builtin
from clx.pipelines.data.label_columns import without_made
from clx.pipelines.data.writers import check_name, refuse_input
from clx.pipelines.system.devices import pick_device
from clx.pipelines.system.errors import BadInput
from clx.pipelines.use.embedding_files import EmbeddingFile
from clx.pipelines.use.mine_wanted import Wanted
from clx.pipelines.use.mined import Mined, values_of
from clx.pipelines.use.mined_columns import check_table, write
from clx.pipelines.use.mined_sides import Model, Side, Source, opened, sides, source_of


def mine(
    name: str,
    out: Path,
    model: Model,
    wanted: Wanted,
    guide: Model | None = None,
    *,
    by: str | None = None,
    among: str | None = None,
    split: str | None = None,
    allow_outside: bool = False,
    overwrite: bool = False,
    step: Callable[[int], None] = lambda rows: None,
    compared: Callable[[int], None] = lambda rows: None,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Write the rows of a source with what embeddings tell of them.

        mine("pairs.csv", Path("mined.csv"), Model("runs/x"), Wanted(negatives=5, consistent=20))

    Exact: every row is compared with every candidate, a tile at a time. The rows of a split are mined among themselves.
    Cells equal to a row's partner, to a partner of an equal cell or to what it asks with are never its negatives.

    Args:
        name: a manifest or folder.
        out: a .csv, .tsv, .jsonl or .parquet file.
        model: what makes the vectors, or holds them.
        guide: another one, which says what is no negative.
        by: what asks: MODALITY, or MODALITY=COLUMN for another column than its own.
        among: what it is asked of, likewise; columns with negatives hold cells of this one.
        split: the rows of this one alone.
        step: is told how many rows each batch of embeddings added.
        compared: is told how many rows each tile compared with all candidates.
        say: hears of rows that cannot be read, and what is good to know.

    Gives counts: `rows`, `written`, and for each thing that was wanted what there is of it. Raises `BadInput`.
    """
    _check(name, out, model, wanted, guide, overwrite)
    run = opened(model)
    source = source_of(name, run.config.data if run else Data(train=name), split, allow_outside)
    manifest = source.manifest
    check_table(manifest, out, wanted.columns, wanted.replaced)
    same = [
        *([run.config.data.label_column] if run and run.config.data.label_column in manifest.columns else []),
        *wanted.same,
    ]
    for column in [*same, *([wanted.within] if wanted.within else [])]:
        manifest.require(column)
    device = pick_device(model.device)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", suffix=".tmp", dir=out.parent) as folder:
        mined = Mined(
            source, sides(model, run, source, Path(folder), by, among, step, say), wanted, device, step=compared
        )
        if guide is not None:
            own = Path(folder, "guide")
            own.mkdir()
            columns = [None if side.column is None else side.column for side in mined.sides]
            mined.guide = guide_of(guide, source, own, columns, step, say)
        found = mined.found(tuple(dict.fromkeys(str(each) for each in same)))
        column = mined.sides[1].column or ""
        cells = {f"negative_{k + 1}": (column, rows) for k, rows in enumerate(found.negatives.T)}
        cells |= {f"nearest_{k + 1}": (column, rows) for k, rows in enumerate(found.nearest.T)}
        kept = np.flatnonzero(found.kept)
        if not len(kept):
            raise BadInput(f"{manifest.name}: no row is consistent, so there is nothing to write")
        read = [str(manifest.file)] if manifest.file else []
        rows = without_made(manifest, run.config.data) if run else manifest
        write(out, rows, kept, cells, values_of(found, wanted, manifest), read=read, overwrite=overwrite)
    if isinstance(manifest.root, Path) and manifest.root.resolve() != out.parent.resolve():
        say(f"paths in {out} count from {manifest.root}: -s data.root={manifest.root} says so where it is trained on")
    return {"out": str(out), "rows": len(manifest), "written": len(kept), **found.told}


def _check(name: str, out: Path, model: Model, wanted: Wanted, guide: Model | None, overwrite: bool) -> None:
    """Raise `BadInput` for what cannot be, before anything is opened."""
    if not wanted.columns and wanted.consistent is None and wanted.least is None:
        raise BadInput("say what to mine: --negatives, --consistent, --least, --nearest, --clusters or --communities")
    if (model.run is None) == (model.embeddings is None):
        raise BadInput("say what makes the vectors: either --run, or --embeddings, a file of them")
    if is_builtin(name):
        raise BadInput(f"{name} is built in: clx data make {name} FOLDER writes it as files, which can be mined")
    for option, given in (("--ranks", wanted.ranks), ("--margin", wanted.margin), ("--relative", wanted.relative)):
        if given is not None and not (wanted.negatives or wanted.communities):
            raise BadInput(f"{option} is about --negatives and --communities, neither of which is given")
    if guide is not None and not (wanted.negatives or wanted.communities):
        raise BadInput("--guide is about --negatives and --communities, neither of which is given")
    if wanted.quantile is not None and guide is None:
        raise BadInput("--quantile is of the cosines of another model: name it with --guide")
    if wanted.draw == "random" and not wanted.negatives:
        raise BadInput("--draw is about --negatives, which is not given")
    if wanted.centres > 1 and wanted.centres > wanted.clusters:
        raise BadInput(f"--centres {wanted.centres}: of --clusters {wanted.clusters}")
    if wanted.within is not None and not wanted.clusters:
        raise BadInput("--within is about --clusters, which is not given")
    first, last = wanted.range
    if not 1 <= first <= last or last - first + 1 < wanted.negatives:
        raise BadInput(f"--ranks {first},{last}: expected two ranks from 1 on, of at least --negatives rows")
    check_name(out, overwrite)
    refuse_input(out, name)


def guide_of(
    guide: Model,
    source: Source,
    folder: Path,
    columns: list[str | None],
    step: Callable[[int], None],
    say: Callable[[str], None],
) -> tuple[Side, Side]:
    """The same columns by another model: by the modalities that read them there, else by its only one."""
    if None in columns:
        raise BadInput("--guide is asked with single columns, and what is mined reads several as a table")
    run = opened(guide)
    if run is None:
        return _of_guides_file(guide, source, folder, list(map(str, columns)), step, say)
    known = {str(m.column or name): name for name, m in run.scored().items()}
    readers = list(run.scored())
    asked = []
    for column in map(str, columns):
        if column not in known and len(readers) > 1:
            raise BadInput(f"--guide {guide.named}: none of its inputs {', '.join(known)} reads the column {column!r}")
        asked.append(known.get(column) or f"{readers[0]}={column}")
    return sides(guide, run, source, folder, asked[0], asked[1], step, say)


def _of_guides_file(
    guide: Model,
    source: Source,
    folder: Path,
    columns: list[str],
    step: Callable[[int], None],
    say: Callable[[str], None],
) -> tuple[Side, Side]:
    """The same columns by vectors in a file; a plain array is of one column."""
    assert guide.embeddings is not None
    meta = EmbeddingFile.open(guide.embeddings).meta
    if meta is None:
        if columns[0] != columns[1]:
            raise BadInput(
                f"--guide {guide.embeddings} is a plain array, of one column, not of {' and '.join(columns)}"
            )
        return sides(guide, None, source, folder, None, columns[0], step, say)
    names = {str(column): name for name, column in (meta.get("columns") or {}).items()}
    for column in columns:
        if column not in names:
            raise BadInput(f"--guide {guide.embeddings}: none of its vectors was made of the column {column!r}")
    return sides(guide, None, source, folder, names[columns[0]], names[columns[1]], step, say)
