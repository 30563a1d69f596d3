"""Each encoder with its head as a file of its own, and a check that it gives what the run gives.

`clx export` calls `export`, and a program.
"""

import json
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from clx.modalities.base import Input
from clx.pipelines.batches.columns import columns_of, has_columns
from clx.pipelines.batches.dataset import BatchDataset
from clx.pipelines.batches.loader import batches, once
from clx.pipelines.config.secrets import without_secrets
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.data.splits import choose
from clx.pipelines.model.build import Run
from clx.pipelines.runs.card import card
from clx.pipelines.runs.checkpoint import load, save_weights
from clx.pipelines.runs.folder import CARD, META, checkpoints
from clx.pipelines.runs.open import open_model
from clx.pipelines.system.durable_files import write_text
from clx.pipelines.system.errors import BadInput, Refused
from clx.pipelines.use.export_description import about, describe
from clx.pipelines.use.export_onnx import Unfit, require_onnx, session, to_int8, to_onnx
from clx.pipelines.use.export_peers import to_open_clip, to_sentence_transformers
from clx.pipelines.use.exported import Exported, agreement, compare, refuse_own_prompts

Format = Literal["onnx", "safetensors", "sentence-transformers", "open_clip"]
FORMATS = ("onnx", "safetensors", "sentence-transformers", "open_clip")
ROWS = 38
"""Rows that outputs are compared on: one alone, five, and the others."""
TOLERANCE = 1e-4
"""How far an exported output may be from the run's, relative to the largest output."""
MANY = 1000
"""Rows that int8 is judged by, at most."""
Way = Callable[[str, Exported, list[Input]], tuple[str, Any]]
"""Writes a modality, and gives its file and how to ask it."""


def export(
    folder: Path,
    form: Format,
    out: Path,
    *,
    checkpoint: str = "best",
    data: str | None = None,
    split: str | None = None,
    int8: bool = False,
) -> Iterator[dict[str, Any]]:
    """Write a run's encoders into the folder `out`, with `clx.json` on what stays outside of them.

        for row in export(Path("runs/digits"), "onnx", Path("digits-onnx")):
            print(row["file"], row.get("difference"))

    Args:
        folder: a run folder.
        form: `onnx`, a graph per modality; `safetensors`, weights per modality in what any command takes as a run;
            `sentence-transformers` or `open_clip`, a folder that this library opens.
        out: a new folder, or one of an earlier export.
        checkpoint: `best`, `last`, or a step.
        data: rows to compare outputs on, at least six of each modality; the run's own when None.
        split: of these; test, else val, when None.
        int8: whether an `onnx` graph multiplies in 8 bits. Its row then has what this costs: see `agreement`.

    Yields a row per modality: its file, which those of one tower share, the largest difference `difference` of its
    outputs from the run's over real rows, or `error`, why it cannot be exported. Raises `Refused` when a file gives
    something else than the run, unless `int8`, and `BadInput`.
    """
    if form == "onnx":
        require_onnx()
    elif int8:
        raise BadInput(f"--int8 is of --format onnx, and this is {form}")
    refuse_other(out, folder)
    run = open_model(folder, checkpoint=checkpoint, device="cpu", only_run=True).merged()
    refuse_own_prompts(run, form)
    (manifest,) = choose(run.config.data, run.config.train.seed, data, split).values()
    description = about(run, folder)
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(description, indent=1, ensure_ascii=False)
    write_text(out / "clx.json", text)  # the mark, whatever ends this call
    for leftover in [*out.glob("*.onnx"), *out.glob("*.safetensors"), out / META]:
        leftover.unlink(missing_ok=True)
    way = way_of(form, run, folder, out, int8)
    scored = run.scored()
    graph = {name: graph_of(run, name, scored) for name in scored}
    for name in (name for name in scored if graph[name] == name):
        modality = run.modalities[name]
        row: dict[str, Any] = {"modality": name, "encoder": modality.encoder}
        inputs = list(samples(run, manifest, name))
        module = Exported(run, name).eval()
        if form in ("sentence-transformers", "open_clip"):
            module.predictor = None
        try:
            row["file"], call = way(name, module, inputs)
            row |= compare(module, call, inputs)
            if int8:
                row |= agreement(module, call, samples(run, manifest, name, MANY, halves=False))
            row["bytes"] = (out / row["file"]).stat().st_size
            description["modalities"][name] = describe(modality, module, inputs[0]) | row
        except Unfit as reason:
            (out / f"{name}.onnx").unlink(missing_ok=True)
            row |= {"file": None, "error": str(reason)}
        yield row
        if not int8 and (row.get("difference") or 0.0) > TOLERANCE:
            raise Refused(f"{out / row['file']} gives outputs that differ from the run's by {row['difference']:.2g}")
        for other in (other for other in scored if graph[other] == name != other):  # the same file
            description["modalities"][other] = description["modalities"].get(name, {}) | {"modality": other}
            yield row | {"modality": other}
    write_text(out / "clx.json", json.dumps(description, indent=1, ensure_ascii=False))
    write_text(out / CARD, card(folder))


def graph_of(run: Run, name: str, scored: Collection[str]) -> str:
    """The column whose file one has: of the same tower, and of the same learned prompt or none. Its own where no other
    is so."""
    prompts = run.model.prompt_of
    others = [other for other in (run.modalities[name].like, prompts.get(name)) if other in scored]
    return next((other for other in others if other is not None and prompts.get(other) == prompts.get(name)), name)


def way_of(form: Format, run: Run, folder: Path, out: Path, int8: bool) -> Way:
    """How a modality is written in a format."""
    if form == "onnx":

        def graph(name: str, module: Exported, inputs: list[Input]) -> tuple[str, Any]:
            path = out / f"{name}.onnx"
            to_onnx(module, inputs, path)
            if int8:
                to_int8(path)
            return path.name, session(path)

        return graph
    if form == "safetensors":
        again = rebuilt(run, folder, out)
        file = {name: f"{modality.like or name}.safetensors" for name, modality in run.modalities.items()}
        return lambda name, module, inputs: (file[name], Exported(again, name).eval())
    towers = [name for name in run.model.towers if name in run.scored()]
    if form == "open_clip":
        pair = cache(lambda: to_open_clip(run, towers, out))
        return lambda name, module, inputs: ("open_clip_model.safetensors", pair()[name])
    texts = [name for name in towers if run.modalities[name].kind == "text"]

    def library(name: str, module: Exported, inputs: list[Input]) -> tuple[str, Any]:
        place = "" if len(texts) == 1 else f"{name}/"
        return f"{place}model.safetensors", to_sentence_transformers(run, name, out / place)

    return library


def refuse_other(out: Path, folder: Path) -> None:
    """Raise `BadInput` where `out` holds something that is no export, or is the run itself."""
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / "clx.json").exists())):
        raise BadInput(f"{out} exists and is no export: choose another --out")
    if out.resolve() == folder.resolve():
        raise BadInput(f"{out} is what is to be exported: choose another --out")


def samples(run: Run, manifest: Manifest, name: str, most: int = ROWS, halves: bool = True) -> Iterator[Input]:
    """Real rows of one modality: one alone, five together, and more, `most` in all; where lengths vary, with
    `halves` five cut to half as well.

    Raises `BadInput` when there are fewer than six.
    """
    modality = run.modalities[name]
    if not has_columns(manifest, name, modality):
        raise BadInput(f"{manifest.name} lacks what {name} reads ({', '.join(columns_of({name: modality}))})")
    data = BatchDataset(manifest, {name: modality}, on_bad="skip")
    row_numbers: list[Any] = []
    for batch in batches(data, once(len(data), 1)):
        if name in batch.inputs:
            row_numbers.append(batch.sample_id)
        if len(row_numbers) == most:
            break
    if len(row_numbers) < 6:
        raise BadInput(
            f"{manifest.name}: {len(row_numbers)} rows have {name}; at least 6 are needed to compare outputs"
        )
    place = {int(row): i for i, row in enumerate(manifest.rows)}
    rows = np.array([place[int(row)] for row in row_numbers])
    keys = [once(1, 1)[0]._replace(rows=part) for part in (rows[:1], rows[1:6], rows[6:]) if len(part)]
    floats = run.model.tower(name).encoder.floats  # whoever runs the file gives it images that are normalised
    for batch in batches(data, keys):
        value = first_of_each(batch.inputs[name])
        yield value | {"x": floats(value["x"])}
    five = first_of_each(next(batches(data, keys[1:2])).inputs[name])
    if halves and "mask" in five and five["mask"].shape[1] > 3:
        half = -(-five["mask"].shape[1] // 2)
        yield {key: value[:, :half] for key, value in five.items()}


def first_of_each(value: Input) -> Input:
    """Of rows with several samples the first: whoever runs the file takes the mean of what it gives for each."""
    if "of" not in value:
        return value
    first = value["of"].diff(prepend=value["of"].new_full((1,), -1)).bool()
    return {key: part[first] for key, part in value.items() if key != "of"}


def rebuilt(run: Run, folder: Path, out: Path) -> Run:
    """Write weights, config and facts into `out`, and load them from there."""
    used = next(c for c in checkpoints(folder) if c.step == run.step)
    given_away = replace(run, config=without_secrets(run.config))
    save_weights(out, given_away, used.step, used.score)
    return load(out)
