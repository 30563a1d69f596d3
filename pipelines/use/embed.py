"""Rows of data as a file of embeddings, from options to the file: what `clx embed` calls, and a program."""

import hashlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from clx.pipelines.batches.columns import column_of
from clx.pipelines.data.builtin import is_builtin
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.data.splits import Otherwise, choose
from clx.pipelines.data.writers import refuse_input
from clx.pipelines.model.build import Run
from clx.pipelines.model.fingerprint import fingerprint
from clx.pipelines.model.token_scores import TokenScores
from clx.pipelines.runs.open import open_model
from clx.pipelines.system.durable_files import locked
from clx.pipelines.system.errors import BadInput, Stopped, explain_out_of_memory
from clx.pipelines.system.process_group import Group
from clx.pipelines.system.read_ahead import default_workers
from clx.pipelines.system.remote import Url
from clx.pipelines.system.shard import Shard
from clx.pipelines.system.signals import Signals
from clx.pipelines.use.embedding_files import files_of
from clx.pipelines.use.embedding_meta import FORMAT, read_meta
from clx.pipelines.use.embedding_parts import Parts, read_plan, write_whole
from clx.pipelines.use.embedding_shards import Block, blocks, join
from clx.pipelines.use.embedding_tables import EmbeddingOptions, EmbeddingTables, usable
from clx.pipelines.use.inputs import set_columns


def embed(
    model: str | Path | Run,
    out: Path | str,
    data: str | None = None,
    options: EmbeddingOptions = EmbeddingOptions(),  # noqa: B008 (it is frozen)
    *,
    shard: Shard | None = None,
    group: Group | None = None,
    columns: Mapping[str, str] | None = None,
    allow_outside: bool = False,
    pretrained: str | None = None,
    checkpoint: str = "best",
    device: str = "auto",
    workers: int | None = None,
    strict: bool = False,
    overwrite: bool = False,
    step: Callable[[int], None] = lambda rows: None,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Embed every row of data into a file; a second call with the same arguments goes on where one was killed.

        embed("runs/digits", Path("more.parquet"), "more.csv", EmbeddingOptions(split="test", normalize=True))

    Args:
        model: a run folder, or an OpenCLIP model by name with `pretrained`, its tag or checkpoint file; or one that is
            open.
        out: FILE.parquet, or FILE.npy with FILE.ids.parquet; with a shard the folder that all shards write to.
        data: manifest, class folder or built-in data; the run's own when None.
        shard: the share of the rows that is embedded, into one part of the folder `out`; all rows when None. The parts
            of all shards hold the rows, bit for bit, that one call makes.
        group: the processes that embed them together, all called alike, into one file; rank 0 alone has what is given.
        columns: other columns of the data than the model's own, by modality.
        allow_outside: whether paths may lead out of the data's folder.
        checkpoint: of a run: `best`, `last`, or a step.
        device: `auto`, `cpu`, `cuda`, `cuda:1` or `mps`.
        workers: threads that read and embed; one a core and at most 8 when None.
        strict: whether a row that cannot be read raises `BadInput` instead of being left out.
        overwrite: whether what is there is replaced, unfinished parts too.
        step: is told how many rows each batch added.
        say: hears of rows left out, and what is good to know.

    Gives `out`, its `files`, `rows`, how many were `skipped`, `modalities` and the `format`. Raises `BadInput`, also
    when `out` is of another model or other data, and `Stopped` after a signal.
    """
    out = Path(out)
    if not out.parent.is_dir():
        raise BadInput(f"--out {out}: no folder {out.parent}")
    run = open_model(model, pretrained, checkpoint, device if group is None else group.device(device))
    if data is None and identity(run).get("run") is None:
        raise BadInput("an OpenCLIP model has no data of its own: say which with --data")
    set_columns(run, columns or {})
    named, rows = identity(run), sources(run, data, options.split, allow_outside)
    run = run.narrowed(options.dim)
    return embed_rows(
        run, named, rows, out, options,
        shard=shard, group=group, workers=workers, strict=strict, overwrite=overwrite, step=step, say=say,
    )  # fmt: skip


def identity(run: Run) -> dict[str, Any]:
    """Which weights: enough to find them again, and to know them."""
    assert run.opened is not None
    model, pretrained = run.opened
    if pretrained is None:
        named: dict[str, Any] = {"run": str(Path(model).resolve()), "step": run.step}
    else:
        file = Path(pretrained)
        named = {"model": model, "pretrained": str(file.resolve()) if file.is_file() else pretrained}
    return {**named, "weights": fingerprint(run.model)}


def sources(run: Run, source: str | None, split: str | None, allow_outside: bool) -> list[tuple[str | None, Manifest]]:
    """The rows to embed with the name of their split; None where a column, or nothing, says it."""
    data = run.config.data
    if source is not None:
        data = data.model_copy(update={"allow_outside": allow_outside})
    otherwise: Otherwise = "every" if source is None or is_builtin(source) else "file"
    splits = choose(data, run.config.train.seed, source, split, otherwise=otherwise)
    return [(None if name == "all" else name, manifest) for name, manifest in splits.items()]


def embed_rows(
    run: Run,
    model: dict[str, Any],
    rows: list[tuple[str | None, Manifest]],
    out: Path,
    options: EmbeddingOptions,
    *,
    shard: Shard | None = None,
    group: Group | None = None,
    workers: int | None = None,
    strict: bool = False,
    overwrite: bool = False,
    step: Callable[[int], None],
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Embed rows into `out`, going on where an earlier call with the same arguments was ended.

    `model` is what `identity` gave; `step` is told how many rows each batch added, `say` of rows left out (which end
    the work when `strict`). The file is equal, byte for byte, to that of an unbroken call. Raises `BadInput`, also
    when `out` exists and is another's, and `Stopped` after a signal.
    """
    if shard is None and out.suffix not in (".parquet", ".npy"):
        raise BadInput(f"--out {out}: expected a name that ends in .parquet or .npy")
    names = usable(run, [manifest for _, manifest in rows], options.modalities)
    meta = {
        "format": FORMAT,
        **model,
        "data": [describe(manifest) for _, manifest in rows],
        "embed_dim": run.config.embed_dim,
        "modalities": {name: run.modalities[name].kind for name in names},
        "columns": {name: column_of(name, run.modalities[name]) for name in names},
        "allow_outside": any(manifest.allow_outside for _, manifest in rows),
        "contents": True,
        **{key: getattr(options, key) for key in ("split", "id", "keep", "dtype", "normalize", "batch_size")},
    }
    if (by_steps := TokenScores.of_run(run)) is not None:
        meta["late"] = by_steps.as_json()
        if out.suffix == ".npy":
            raise BadInput(f"--out {out}: this run compares rows step by step, and their steps go to a .parquet file")
    work = blocks([len(manifest) for _, manifest in rows], options.batch_size, shard)
    hidden = ""
    if shard is not None:
        out, hidden = join(out, meta, shard), "_"
        meta |= {"shard": shard.number, "shards": shard.count}
    files = files_of(out, meta)
    whole, folder = files[-1], out.with_name(f"{hidden}{out.name}.parts")
    for file in files:
        refuse_input(file, *(str(manifest.file) for _, manifest in rows if manifest.file))
    existing = sorted(file for file in files if file.exists())
    if existing and not overwrite and read_plan(folder) != meta:
        if not whole.exists() or read_meta(whole) != meta:
            raise BadInput(
                f"{existing[0]} exists and is not of this model and data: choose another --out, or --overwrite"
            )
        if len(existing) == len(files):
            say(f"{out} is whole already")
            return _summary(out, meta, rows, work)
    maker = EmbeddingTables(
        run, rows, names, options, strict
    )  # refuses what it cannot make, before anything is written
    threads = workers or default_workers()
    if group is not None and group.rank:
        group.wait()  # until there is a folder of parts
        make_some(group, maker, work, Parts(folder, meta, False), threads, step, say)
        return {}
    with locked(folder, "written"):
        parts = Parts(folder, meta, overwrite)
        if group is None:
            make(maker, work, parts, threads, step, say)
        else:
            group.wait()
            make_some(group, maker, work, parts, threads, step, say)
        write_whole(out, whole, parts, len(work), meta)
        parts.remove()
    return _summary(out, meta, rows, work)


def make_some(
    group: Group,
    maker: EmbeddingTables,
    work: list[Block],
    parts: Parts,
    workers: int,
    step: Callable[[int], None],
    say: Callable[[str], None],
) -> None:
    """Make the parts that are not there yet together, each rank some that are neighbours, until all are there.

    Rank 0 says what any has to say.
    """
    missing = group.told([number for number in range(len(work)) if not parts.has(number)])
    heard = list[str]()
    make(
        maker, work, parts, workers, step, heard.append if group.rank else say, set(missing[group.share(len(missing))])
    )
    for line in (line for lines in group.collected(heard) for line in lines):
        say(line)
    group.wait()


def make(
    maker: EmbeddingTables,
    work: list[Block],
    parts: Parts,
    workers: int,
    step: Callable[[int], None],
    say: Callable[[str], None],
    mine: set[int] | None = None,
) -> None:
    """Make the parts that are not there yet, one a block; of several processes those that are `mine`."""
    if mine is None:
        mine = {number for number in range(len(work)) if not parts.has(number)}
    if finished := sum(parts.has(number) for number in range(len(work))):
        say(f"{finished} of {len(work)} parts are there already")
    short = partial(short_of_memory, maker.options.batch_size, parts, len(work))
    with Signals().watched() as signals, explain_out_of_memory(short):
        for number, tables in maker.parts(work, lambda number: number not in mine, workers):
            tables_of_part = []
            for table, bad in tables:
                for line in bad:
                    if maker.strict:
                        raise BadInput(line)
                    say(f"skipped {line}")
                tables_of_part.append(table)
                step(len(table))
                if signals.stop is not None:
                    again = f"the same command goes on after part {parts.count()} of {len(work)}"
                    raise Stopped(f"stopped; {again}", 128 + signals.stop)
            parts.save(number, tables_of_part)
    for line in maker.new.lines():
        say(line)


def short_of_memory(batch_size: int, made: Parts, work: int) -> str:
    """Where memory ran out, and what to do."""
    parts = made.count()
    advice = f"with batches of {batch_size} rows, after part {parts} of {work}: --workers 1 makes one batch at a time"
    return f"{advice} and goes on, --batch-size smaller ones" + (" anew (with --overwrite)" if parts else "")


def _summary(
    out: Path, meta: dict[str, Any], rows: list[tuple[str | None, Manifest]], work: list[Block]
) -> dict[str, Any]:
    """What was made of the blocks."""
    from pyarrow import parquet

    files = files_of(out, meta)
    written = parquet.read_metadata(files[-1]).num_rows
    size = meta["batch_size"]
    asked = sum(min(size, len(rows[source][1]) - number * size) for block in work for source, number in block)
    return {
        "format": FORMAT,
        "out": str(out),
        "files": list(map(str, files)),
        "rows": written,
        "skipped": asked - written,
        "modalities": list(meta["modalities"]),
        **({"shard": meta["shard"], "shards": meta["shards"]} if "shard" in meta else {}),
    }


def describe(manifest: Manifest) -> dict[str, Any]:
    """A manifest by its name and a digest that another, or a changed one, does not have."""
    digest = hashlib.blake2b(manifest.rows.tobytes(), digest_size=16)
    digest.update(str(manifest.table.schema).encode())
    for part in manifest.parts or (manifest,):
        if part.version or isinstance(part.root, Url):  # a table elsewhere, or files there that one here names
            digest.update(f"{part.version} {part.root}".encode())
        own = part.file or Path(str(part.root), Path(part.name).name)
        files = [] if part.version else [Path(name) for name, _ in part.files] or [own]
        if part.path_column:
            names = manifest.column(part.path_column)
            digest.update("\n".join(map(str, names)).encode("utf-8", "surrogateescape"))
        for file in [] if part.path_column else filter(Path.is_file, files):
            stat = file.stat()
            digest.update(f"{stat.st_size} {stat.st_mtime_ns}".encode())
    return {"name": manifest.name, "rows": len(manifest), "digest": digest.hexdigest()}
