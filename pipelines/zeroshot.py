"""Zero-shot classification: items of any modality against words, by the angle in the shared space."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from clx.losses.base import Embeddings
from clx.modalities.base import CellError
from clx.modalities.openclip import open_clip_temperature, open_clip_width
from clx.modalities.text import Text
from clx.pipelines.batch import cell_of, column_of
from clx.pipelines.build import Facts, Run, build
from clx.pipelines.checkpoint import load
from clx.pipelines.config import BadInput, Config, nearest
from clx.pipelines.device import pick_device
from clx.pipelines.manifest import load_manifest
from clx.pipelines.readers import EXTENSIONS


def text_modality(run: Run) -> str:
    """Name of the modality that reads words. Raises `BadInput` when the run has none."""
    for name, modality in run.modalities.items():
        if modality.kind == "text":
            return name
    raise BadInput(f"zero-shot needs a text modality; this run has {', '.join(run.modalities)}")


def device_of(run: Run) -> torch.device:
    return next(run.model.parameters()).device


@torch.no_grad()
def embed(run: Run, name: str, samples: Sequence[Any], batch_size: int = 256) -> Tensor:
    """Embeddings `[N, D]` of read samples of one modality, float32 on the CPU."""
    modality, device = run.modalities[name], device_of(run)
    found = []
    for start in range(0, len(samples), batch_size):
        value = modality.collate(samples[start : start + batch_size])
        found.append(run.model.towers[name]({k: v.to(device) for k, v in value.items()}).float().cpu())
    return torch.cat(found)


def class_embeddings(run: Run, phrasings: Mapping[str, Sequence[str]], templates: Sequence[str] = ()) -> Tensor:
    """One unit row per class `[C, D]`: the mean of the unit embeddings of all its phrasings in all templates.

    `templates` hold `{}` where the class goes; the run's own are used when none are given.
    """
    text = text_modality(run)
    modality = run.modalities[text]
    assert isinstance(modality, Text)
    samples, owners = [], []
    for number, (name, phrases) in enumerate(phrasings.items()):
        for phrase in phrases:
            try:
                prompts = modality.prompts(phrase, templates)
            except CellError as error:
                raise BadInput(f"label {name!r}: {error}") from None
            samples += prompts
            owners += [number] * len(prompts)
    rows = F.normalize(embed(run, text, samples), dim=-1)
    sums = rows.new_zeros(len(phrasings), rows.shape[1]).index_add(0, torch.tensor(owners), rows)
    return F.normalize(sums, dim=-1)


def queries(run: Run, z: Embeddings, present: dict[str, Tensor], candidate: str) -> Tensor:
    """Rows `[B, D]` whose dot product with a unit row of the modality `candidate` is their score.

    `z` and `present` hold the modalities to ask with; the others count as absent.
    """
    first = next(iter(z.values()))
    nowhere = torch.zeros(len(first), dtype=torch.bool, device=first.device)
    others = [name for name in run.modalities if name != candidate]
    full = {name: z.get(name, torch.zeros_like(first)) for name in others}
    return run.objective.leading.fuse(full, {name: present.get(name, nowhere) for name in others}).float().cpu()


def temperature(run: Run) -> float:
    """The temperature of the run's leading loss; CLIP's starting value when it has none."""
    tau = getattr(run.objective.leading, "tau", 0.07)
    return tau.item() if isinstance(tau, Tensor) else float(tau)


@dataclass
class Result:
    """One classified item."""

    item: str
    scores: list[tuple[str, float]]
    """Labels with their probabilities, best first."""


def classify(
    run: Run,
    items: "Iterable[Item]",
    phrasings: Mapping[str, Sequence[str]],
    templates: Sequence[str] = (),
    top: int = 5,
    batch_size: int = 64,
) -> Iterator[Result | tuple[str, str]]:
    """Classify items, in order, as they come.

    Yields a `Result`, or `(name, reason)` for an item that cannot be read.
    """
    names, classes = list(phrasings), class_embeddings(run, phrasings, templates)
    group: list[tuple[str, dict[str, Any] | str]] = []
    size = 1  # the first answer comes at once; later ones in batches
    for name, given in items:
        try:
            read = given if isinstance(given, str) else {m: run.modalities[m].read(c) for m, c in given.items()}
            group.append((name, read))
        except CellError as error:
            group.append((name, str(error)))
        if len(group) >= size:
            yield from _classify(run, group, names, classes, top)
            group, size = [], batch_size
    yield from _classify(run, group, names, classes, top)


def _classify(
    run: Run, group: Sequence[tuple[str, dict[str, Any] | str]], names: list[str], classes: Tensor, top: int
) -> Iterator[Result | tuple[str, str]]:
    good = [read for _, read in group if isinstance(read, dict)]
    rows: Iterator[Tensor] = iter(())
    if good:
        z, present = embed_items(run, good)
        scores = queries(run, z, present, text_modality(run)) @ classes.T
        rows = iter((scores / temperature(run)).softmax(-1))
    for name, read in group:
        if isinstance(read, str):
            yield name, read
        else:
            best = next(rows).topk(min(top, len(names)))
            yield Result(name, [(names[k], p) for k, p in zip(best.indices, best.values.tolist(), strict=True)])


def embed_items(run: Run, items: Sequence[dict[str, Any]]) -> tuple[Embeddings, dict[str, Tensor]]:
    """Embeddings and presence of items that may have different modalities each."""
    z: Embeddings = {}
    present: dict[str, Tensor] = {}
    for name in run.modalities:
        here = torch.tensor([name in item for item in items])
        if here.any():
            rows = embed(run, name, [item[name] for item in items if name in item])
            full = rows.new_zeros(len(items), rows.shape[1])
            full[here] = rows
            z[name], present[name] = full, here
    device = device_of(run)
    return {k: v.to(device) for k, v in z.items()}, {k: v.to(device) for k, v in present.items()}


def read_labels(source: Path) -> dict[str, list[str]]:
    """Labels from a text file, one a line, or from JSON: a list, or an object of phrasings per class."""
    try:
        text = source.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(f"labels {source}: not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise BadInput(f"labels {source}: {error.strerror}") from None
    if source.suffix != ".json":
        return as_phrasings([line.strip() for line in text.splitlines() if line.strip()], str(source))
    try:
        return as_phrasings(json.loads(text), str(source))
    except json.JSONDecodeError as error:
        raise BadInput(f"labels {source}: line {error.lineno} is not JSON ({error.msg})") from None


def as_phrasings(raw: Any, where: str) -> dict[str, list[str]]:
    """Labels as `{class: phrasings}`. Raises `BadInput` for doubles, none at all, and other shapes."""
    if isinstance(raw, list):
        doubles = [label for label, times in Counter(map(str, raw)).items() if times > 1]
        if doubles:
            raise BadInput(f"labels {where}: {doubles[0]!r} stands there twice")
        raw = {str(label): [str(label)] for label in raw}
    if not isinstance(raw, dict) or not raw:
        raise BadInput(f"labels {where}: expected one label or more, or an object of phrasings per label")
    made = {}
    for name, phrases in raw.items():
        listed = [phrases] if isinstance(phrases, str) else phrases
        if not isinstance(listed, list) or not listed or not all(isinstance(p, str) and p for p in listed):
            raise BadInput(f"labels {where}: {name!r} needs a phrasing or a list of them")
        made[name] = listed
    return made


def open_clip_run(model: str, pretrained: str, device: torch.device) -> Run:
    """An OpenCLIP model as a run: both towers without heads, its own temperature."""
    name = model.removeprefix("open_clip:")
    try:
        tau, width = open_clip_temperature(name, pretrained), open_clip_width(name)
    except ValueError as error:
        raise BadInput(str(error)) from None
    tower = {"encoder": f"open_clip:{name}", "pretrained": pretrained, "head": "none", "freeze": True}
    config = Config.model_validate(
        {
            "data": {"train": ""},
            "modalities": {"image": tower, "text": tower},
            "embed_dim": width,
            "objective": {"name": "clip", "temperature": tau},
        }
    )
    run = build(config, Facts({}, [], [], []))
    run.model.eval().to(device)
    return run


KINDS: dict[str, tuple[str, ...]] = {
    **{suffix: (kind,) for kind, suffixes in EXTENSIONS.items() for suffix in suffixes},
    ".csv": ("series", "table"),
    ".tsv": ("series", "table"),
    ".json": ("table",),
    ".parquet": ("table",),
    ".txt": ("text",),
}


def kinds_of(run: Run, path: Path) -> list[str]:
    """The run's modalities that may read a file of this name."""
    kinds = KINDS.get(path.suffix.lower(), ())
    return [name for name, modality in run.modalities.items() if modality.kind in kinds]


def modality_of_file(run: Run, path: Path) -> str:
    """The run's modality that reads this file. Raises `BadInput` when none or several may."""
    names = kinds_of(run, path)
    tables = [name for name in names if run.modalities[name].kind == "table"]
    if len(names) > 1 and tables:  # a CSV with the table's columns is a table, another one a series
        with open(path, encoding="utf-8", errors="replace") as file:
            header = file.readline()
        names = [n for n in names if (n in tables) == all(c in header for c in table_columns(run, tables[0]))]
    if len(names) == 1:
        return names[0]
    if not names:
        what = f"{path.suffix} files" if path.suffix else "files without an extension"
        raise BadInput(f"{path}: this run has no modality for {what}; it has {', '.join(run.modalities)}")
    raise BadInput(f"{path}: say what it is with --as {' or --as '.join(names)}")


def table_columns(run: Run, name: str) -> list[str]:
    columns = column_of(name, run.modalities[name])
    return columns if isinstance(columns, list) else [columns]


def check_modality(run: Run, name: str) -> str:
    if name not in run.modalities:
        raise BadInput(f"unknown modality {name!r}{nearest(name, run.modalities)}")
    return name


def open_model(model: str, pretrained: str | None, checkpoint: str, device: str) -> Run:
    """A run folder, or an OpenCLIP model by name. Raises `BadInput`."""
    if Path(model).is_dir():
        if pretrained:
            raise BadInput(f"--pretrained goes with an OpenCLIP model name, and {model} is a run folder")
        return load(Path(model), checkpoint, pick_device(device))
    if not pretrained:
        raise BadInput(f"{model} is no run folder; an OpenCLIP model also needs --pretrained TAG or FILE")
    return open_clip_run(model, pretrained, pick_device(device))


Item = tuple[str, dict[str, Any] | str]
"""A name with its cells by modality, or with the reason why there are none."""


def one_item(run: Run, cells: Mapping[str, str]) -> Iterator[Item]:
    """The one thing given by several of its modalities, by kind."""
    given: dict[str, Any] = {}
    for kind, text in cells.items():
        names = [name for name, modality in run.modalities.items() if modality.kind == kind]
        if not names:
            raise BadInput(f"--{kind}: this run has no {kind} modality; it has {', '.join(run.modalities)}")
        given[names[0]] = table_row(run, names[0], Path(text)) if kind == "table" else Path(text)
    yield "+".join(cells.values()), given


def items(run: Run, names: Iterable[str], modality: str | None) -> Iterator[Item]:
    """Items of files, folders (all their files that the run can read) and, with `modality` text, of phrases."""
    if modality is not None:
        check_modality(run, modality)
    for name in names:
        path = Path(name)
        if modality is not None and run.modalities[modality].kind == "text" and not path.exists():
            yield name, {modality: name}
        elif path.is_dir():
            for file in sorted(p for p in path.rglob("*") if p.is_file()):
                if modality is not None or kinds_of(run, file):
                    yield from _items_of_file(run, file, modality)
        else:
            yield from _items_of_file(run, path, modality)


def _items_of_file(run: Run, path: Path, modality: str | None) -> Iterator[Item]:
    """The items in one file; one that cannot be used is an item with its reason, so that the others go on."""
    try:
        name = modality or modality_of_file(run, path)
        kind = run.modalities[name].kind
        if kind == "table" and path.suffix.lower() != ".json":
            yield from table_rows(run, name, path)
        elif kind == "table":
            yield str(path), {name: table_row(run, name, path)}
        elif kind == "text":
            yield str(path), {name: path.read_text(encoding="utf-8").strip()}
        else:
            yield str(path), {name: path}
    except (BadInput, OSError, UnicodeDecodeError) as error:
        yield str(path), str(error)


def table_rows(run: Run, name: str, path: Path) -> Iterator[Item]:
    """Every row of a manifest as an item of a table modality."""
    manifest, modality = load_manifest(str(path)), run.modalities[name]
    for column in table_columns(run, name):
        manifest.require(column)
    for i in range(len(manifest)):
        cell = cell_of(manifest.row(i), name, modality, manifest)
        yield manifest.where(i), "every cell of the table is empty" if cell is None else {name: cell}


def table_row(run: Run, name: str, path: Path) -> dict[str, Any]:
    """A table's cells from a JSON object; columns that it lacks are missing cells."""
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: not a JSON object ({error})") from None
    columns = table_columns(run, name)
    if not isinstance(row, dict) or not set(row) & set(columns):
        raise BadInput(f"{path}: expected a JSON object with some of the columns {', '.join(columns)}")
    return {column: row.get(column) for column in columns}
