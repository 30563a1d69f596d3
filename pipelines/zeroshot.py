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
from clx.modalities.base import CellError, Modality
from clx.modalities.openclip import open_clip_temperature, open_clip_width
from clx.modalities.text import Text
from clx.pipelines.batch import cell_of, column_of, columns_of, has_columns
from clx.pipelines.build import Facts, Run, build
from clx.pipelines.checkpoint import load
from clx.pipelines.config import BadInput, Config, nearest
from clx.pipelines.device import pick_device
from clx.pipelines.manifest import Manifest, load_manifest
from clx.pipelines.readers import EXTENSIONS


def text_modality(run: Run, asked: str | None = None) -> str:
    """The modality that reads the labels: the one asked for, else the first that reads text. Raises `BadInput`."""
    names = [name for name, modality in run.modalities.items() if modality.kind == "text"]
    if not names:
        raise BadInput(f"zero-shot needs a text modality; this run has {', '.join(run.modalities)}")
    if asked is not None and asked not in names:
        raise BadInput(f"labels cannot be read as {asked!r}; the run's text modalities are {', '.join(names)}")
    return asked or names[0]


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


def class_embeddings(
    run: Run, phrasings: Mapping[str, Sequence[str]], templates: Sequence[str] = (), text: str | None = None
) -> Tensor:
    """One unit row per class `[C, D]`: the mean of the unit embeddings of all its phrasings in all templates.

    `templates` hold `{}` where the class goes; the run's own are used when none are given.
    """
    text = text_modality(run, text)
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

    `z` and `present` hold the modalities to ask with; the others count as absent. Asked with the candidate's own
    modality alone, a row is its unit embedding.
    """
    if set(z) == {candidate}:
        return F.normalize(z[candidate].float(), dim=-1).cpu()
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
    modalities: list[str]
    """What it was classified by."""
    scores: list[tuple[str, float]]
    """Labels with their probabilities, best first."""


Item = tuple[str, dict[str, Any] | str]
"""A name with its cells by modality, or with the reason why there are none."""


def classify(
    run: Run,
    items: Iterable[Item],
    phrasings: Mapping[str, Sequence[str]],
    templates: Sequence[str] = (),
    top: int = 5,
    batch_size: int = 64,
    text: str | None = None,
) -> Iterator[Result | tuple[str, str]]:
    """Classify items, in order, as they come. `text` names the modality that reads the labels.

    Yields a `Result`, or `(name, reason)` for an item that cannot be read.
    """
    labels_as = text_modality(run, text)
    names, classes = list(phrasings), class_embeddings(run, phrasings, templates, labels_as)
    group: list[Item] = []
    size = 1  # the first answer comes at once; later ones in batches
    for name, given in items:
        try:
            read = given if isinstance(given, str) else {m: run.modalities[m].read(c) for m, c in given.items()}
            group.append((name, read))
        except CellError as error:
            group.append((name, str(error)))
        if len(group) >= size:
            yield from _classify(run, group, names, classes, top, labels_as)
            group, size = [], batch_size
    yield from _classify(run, group, names, classes, top, labels_as)


def _classify(
    run: Run, group: Sequence[Item], names: list[str], classes: Tensor, top: int, text: str
) -> Iterator[Result | tuple[str, str]]:
    good = [read for _, read in group if isinstance(read, dict)]
    own = [read for read in good if set(read) == {text}]  # items of the labels' own modality
    rows: dict[int, Tensor] = {}
    for some in (own, [read for read in good if set(read) != {text}]):
        if some:
            z, present = embed_items(run, some)
            scores = queries(run, z, present, text) @ classes.T
            rows |= dict(zip(map(id, some), (scores / temperature(run)).softmax(-1), strict=True))
    for name, read in group:
        if isinstance(read, str):
            yield name, read
        else:
            best = rows[id(read)].topk(min(top, len(names)))
            ranked = [(names[k], p) for k, p in zip(best.indices, best.values.tolist(), strict=True)]
            yield Result(name, list(read), ranked)


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
        return as_phrasings([line.strip() for line in text.splitlines() if line.strip()], f"labels {source}")
    try:
        return as_phrasings(json.loads(text), f"labels {source}")
    except json.JSONDecodeError as error:
        raise BadInput(f"labels {source}: line {error.lineno} is not JSON ({error.msg})") from None


def as_phrasings(raw: Any, where: str) -> dict[str, list[str]]:
    """Labels as `{class: phrasings}`. Raises `BadInput` for doubles, none at all, and other shapes."""
    if isinstance(raw, list):
        doubles = [label for label, times in Counter(map(str, raw)).items() if times > 1]
        if doubles:
            raise BadInput(f"{where}: {doubles[0]!r} stands there twice")
        raw = {str(label): [str(label)] for label in raw}
    if not isinstance(raw, dict) or not raw:
        raise BadInput(f"{where}: expected one label or more, or an object of phrasings per label")
    made = {}
    for name, phrases in raw.items():
        listed = [phrases] if isinstance(phrases, str) else phrases
        if not isinstance(listed, list) or not listed or not all(isinstance(p, str) and p for p in listed):
            raise BadInput(f"{where}: {name!r} needs a phrasing or a list of them")
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


KINDS: dict[str, str] = {
    **{suffix: kind for kind, suffixes in EXTENSIONS.items() for suffix in suffixes},
    ".json": "table",
    ".txt": "text",
}
MANIFESTS = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")


def modality_of_file(run: Run, path: Path) -> str:
    """The run's modality that reads a file of this name. Raises `BadInput` when none or several may."""
    names = [name for name, m in run.modalities.items() if m.kind == KINDS.get(path.suffix.lower())]
    if len(names) == 1:
        return names[0]
    if not names:
        what = f"{path.suffix} files" if path.suffix else "files without an extension"
        raise BadInput(f"this run has no modality for {what}; it has {', '.join(run.modalities)}")
    raise BadInput(f"say what it is with --as {' or --as '.join(names)}")


def check_modality(run: Run, name: str) -> str:
    """The kind of a run's modality. Raises `BadInput` when it has none of that name."""
    if name not in run.modalities:
        raise BadInput(f"unknown modality {name!r}{nearest(name, run.modalities)}")
    return run.modalities[name].kind


def open_model(model: str, pretrained: str | None, checkpoint: str, device: str) -> Run:
    """A run folder, or an OpenCLIP model by name. Raises `BadInput`."""
    if Path(model).is_dir():
        if pretrained:
            raise BadInput(f"--pretrained goes with an OpenCLIP model name, and {model} is a run folder")
        return load(Path(model), checkpoint, pick_device(device))
    if not pretrained:
        raise BadInput(f"{model} is no run folder; an OpenCLIP model also needs --pretrained TAG or FILE")
    return open_clip_run(model, pretrained, pick_device(device))


def one_item(run: Run, cells: Mapping[str, str]) -> Iterator[Item]:
    """The one thing given by several of its modalities, by kind."""
    given: dict[str, Any] = {}
    for kind, text in cells.items():
        names = [name for name, modality in run.modalities.items() if modality.kind == kind]
        if not names:
            raise BadInput(f"--{kind}: this run has no {kind} modality; it has {', '.join(run.modalities)}")
        given[names[0]] = table_row(run, names[0], Path(text)) if kind == "table" else Path(text)
    yield "+".join(cells.values()), given


def items(run: Run, names: Iterable[str], modality: str | None, text: str | None = None) -> Iterator[Item]:
    """Items of files, of folders, of a manifest's rows and, with `modality` a text one, of phrases.

    `text` is the modality that reads the labels: a manifest's rows are not asked with it unless `modality` says so.
    """
    if modality is not None:
        check_modality(run, modality)
    labels_as = text_modality(run, text)
    for name in names:
        path = Path(name)
        if modality is not None and run.modalities[modality].kind == "text" and not path.exists():
            yield name, {modality: name}
        elif path.is_dir():
            for file in sorted(p for p in path.rglob("*") if p.is_file() and p.suffix.lower() in KINDS):
                yield from _items_of_file(run, file, modality, labels_as)
        else:
            yield from _items_of_file(run, path, modality, labels_as)


def _items_of_file(run: Run, path: Path, modality: str | None, labels_as: str) -> Iterator[Item]:
    """The items in one file; one that cannot be used is an item with its reason, so that the others go on."""
    try:
        if path.suffix.lower() in MANIFESTS:
            manifest = load_manifest(str(path))
            asked = [modality] if modality else [name for name in run.modalities if name != labels_as]
            found = {n: run.modalities[n] for n in asked if has_columns(manifest, n, run.modalities[n])}
            if found:
                yield from _rows(manifest, found)
                return
        name = modality or modality_of_file(run, path)
        kind = run.modalities[name].kind
        if kind == "table":
            yield str(path), {name: table_row(run, name, path)}
        elif kind == "text":
            yield str(path), {name: path.read_text(encoding="utf-8").strip()}
        else:
            yield str(path), {name: path}
    except (BadInput, OSError, UnicodeDecodeError) as error:
        yield str(path), str(error)


def _rows(manifest: Manifest, modalities: Mapping[str, Modality]) -> Iterator[Item]:
    """Every row of a manifest as an item, given by all the modalities that it has."""
    columns = columns_of(dict(modalities))
    for i in range(len(manifest)):
        try:
            row = manifest.row(i, columns)
            given = {n: cell_of(row, n, m, manifest) for n, m in modalities.items()}
            present = {n: cell for n, cell in given.items() if cell is not None}
            yield manifest.where(i), present or "every cell is empty"
        except BadInput as error:
            yield manifest.where(i), str(error)


def table_columns(run: Run, name: str) -> list[str]:
    """The columns that a table modality reads."""
    columns = column_of(name, run.modalities[name])
    return columns if isinstance(columns, list) else [columns]


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
