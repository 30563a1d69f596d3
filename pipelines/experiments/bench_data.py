"""Where the time goes on the way from rows to a step: each stage alone, beside the bare decoder and the encoders."""

import io
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clx.modalities.base import CellError, Modality
from clx.modalities.draws import Draws
from clx.pipelines.batches.batch import Batch, Key
from clx.pipelines.batches.cells import cell_at, collate, read_cell, vary
from clx.pipelines.batches.columns import columns_of
from clx.pipelines.batches.dataset import BatchDataset
from clx.pipelines.config.load import load_config, read_yaml, recipes
from clx.pipelines.config.options import parse
from clx.pipelines.config.schema import Config
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.data.shared_content import inputs_of
from clx.pipelines.data.splits import load_splits
from clx.pipelines.data.write_recipe import recipe_for
from clx.pipelines.model.build import Run, prepare
from clx.pipelines.system.cores import usable_cores
from clx.pipelines.system.devices import pick_device
from clx.pipelines.system.errors import BadInput

Row = dict[str, Any]


@dataclass(frozen=True)
class Clock:
    """Times what is to be done, for at least so many seconds and twice. The fastest counts: what else the machine does
    makes things slower, never faster."""

    seconds: float

    def row(self, stage: str, name: str | None, call: Callable[[], Any], rows: int) -> Row:
        """The rate of a call that does so many rows."""
        times: list[float] = []
        while len(times) < 2 or sum(times) < self.seconds:
            times.append(taken(call))
        return {"stage": stage, "input": name, "rows_per_s": rows / min(times)}

    def alternately(
        self, one: Callable[[int], None], other: Callable[[int], None], keys: list[Key]
    ) -> tuple[float, float]:
        """Rows per second of two things to do with every key, in turn: a machine that is busy for a while is so for
        both."""
        best = np.full((2, len(keys)), np.inf)
        turns, start = 0, time.perf_counter()
        while turns < 2 or time.perf_counter() - start < 4 * self.seconds:
            for k in range(len(keys)):
                for which, call in enumerate((one, other)):
                    best[which, k] = min(best[which, k], taken(partial(call, k)))
            turns += 1
        rows = sum(len(key.rows) for key in keys)
        return rows / float(best[0].sum()), rows / float(best[1].sum())


def taken(call: Callable[[], Any]) -> float:
    """Seconds of a call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def config_for(source: str, settings: list[str]) -> Config:
    """A recipe or a config file, or else what `clx init` writes for a source of rows."""
    if source in recipes() or Path(source).suffix in (".yaml", ".yml", ".toml"):
        return load_config(source, settings)
    if settings:
        raise BadInput(f"-s changes a config: write one with `clx init {source} --out x.yaml`, and name it")
    return parse(Config, read_yaml(recipe_for(source)), source)


def bench_data(
    config: Config, rows: int = 256, seconds: float = 1.0, say: Callable[[str], None] = lambda line: None
) -> Iterator[Row]:
    """Rows per second of each stage, in one process, on up to `rows` training rows; the last row is advice.

    Rows are `stage`, `input` (None for all together) and `rows_per_s`; `first epoch` and `cache: ...` are reading and
    collating without views, a cache's `ratio` being to the first epoch; that of the last step is its time to one
    on tensors in memory. `bare decoder` is Pillow or libsndfile on the same bytes, without resizing. `model step` is
    all towers, forward and backward, without loss and optimiser.
    """
    clock = Clock(seconds)
    splits = load_splits(config.data, config.train.seed, inputs=inputs_of(config))
    run, manifest = prepare(config, splits), splits["train"]
    order = np.random.default_rng(config.train.seed).permutation(len(manifest))[:rows]
    manifest = manifest.take(np.sort(order))
    wanted = columns_of(run.modalities)
    count = len(manifest)
    yield clock.row("rows of the table", None, lambda: [manifest.row(i, wanted) for i in range(count)], count)
    for name, modality in run.modalities.items():
        if not isinstance(modality.column, list):
            yield from of_input(clock, name, modality, manifest)
            say(f"{name} measured")
    yield from together(clock, run, manifest)


def of_input(clock: Clock, name: str, modality: Modality, manifest: Manifest) -> Iterator[Row]:
    """The stages of one input."""
    found = (cell_at(manifest, i, name, modality) for i in range(len(manifest)))
    cells = [cell for cell in found if cell is not None]
    files = [one for cell in cells for one in (cell if isinstance(cell, (list, tuple)) else [cell])]
    if files and all(isinstance(one, Path) for one in files) and modality.kind in ("image", "audio"):
        yield clock.row("files", name, lambda: [one.read_bytes() for one in files], len(cells))
        cells = [[p.read_bytes() for p in c] if isinstance(c, list) else c.read_bytes() for c in cells]
        files = [one for cell in cells for one in (cell if isinstance(cell, list) else [cell])]
    if files and all(isinstance(one, bytes) for one in files) and modality.kind in BARE:
        yield clock.row("bare decoder", name, lambda: [BARE[modality.kind](one) for one in files], len(cells))
    samples: list[Any] = []
    for cell in cells:
        try:
            samples.append(read_cell(modality, cell))
        except CellError:
            samples.append(None)
    readable = [cell for cell, sample in zip(cells, samples, strict=True) if sample is not None]
    samples = [sample for sample in samples if sample is not None]
    if not samples:
        return
    stage = "decode and resize" if modality.files else "read"
    yield clock.row(stage, name, lambda: [read_cell(modality, cell) for cell in readable], len(samples))
    if modality.augmentation != "none":
        draws = [Draws.seeded(0, len(samples))]
        yield clock.row("views", name, lambda: vary(modality, [samples], draws), len(samples))
    yield clock.row("collate", name, lambda: collate(modality, samples), len(samples))


def together(clock: Clock, run: Run, manifest: Manifest) -> Iterator[Row]:
    """All inputs: from rows to a batch, from each cache, and the step that waits for it."""
    device = pick_device(run.config.train.device)
    model = run.model.to(device).train()
    size = min(run.config.train.batch_size, len(manifest))
    keys = [Key(0, k, part) for k, part in enumerate(np.array_split(np.arange(len(manifest)), len(manifest) // size))]

    def loaded(**options: Any) -> BatchDataset:
        return BatchDataset(manifest, run.modalities, on_bad="skip", seed=run.config.train.seed, **options)

    def step(batch: Batch) -> None:
        moved = batch.to(device)
        z = model(moved.inputs, moved.present)
        torch.stack([one.float().square().mean() for one in z.values()]).sum().backward()
        model.zero_grad()
        _wait(device)

    def measured(stage: str, data: BatchDataset) -> Row:
        return clock.row(stage, None, lambda: [data[key] for key in keys], len(manifest))

    yield (first := measured("first epoch", loaded()))
    for where, workers in (("memory", 0), ("memory", 1), ("disk", 0)):
        cached = loaded(cache=where)
        cached.known.share(workers)
        if cached.known.trouble is not None:  # a warning said so
            continue
        for key in keys:
            cached[key]
        row = measured(f"cache: {where}" + (" shared by workers" if workers else ""), cached)
        yield row | {"ratio": row["rows_per_s"] / first["rows_per_s"]}
    yield (whole := measured("first epoch with views", loaded(augment=True)))
    kept = loaded(augment=True, cache="memory")
    made = [kept[key] for key in keys]
    if device.type != "cpu":
        pinned = [batch.pin_memory() for batch in made]
        yield clock.row("to the device", None, lambda: _sent(pinned, device), len(manifest))
    made = [batch.to(device) for batch in made]
    alone, through = clock.alternately(lambda k: step(made[k]), lambda k: step(kept[keys[k]]), keys)
    yield {"stage": "model step", "input": None, "rows_per_s": alone}
    yield {"stage": "step from the memory cache", "input": None, "rows_per_s": through, "ratio": alone / through}
    yield {"stage": "advice", "input": None, "rows_per_s": None, "advice": advice(whole["rows_per_s"], alone, through)}


def advice(whole: float, step: float, cached: float) -> str:
    """What to change, by the rows a second that one process makes with views, that the model takes, and that the model
    gets through from memory."""
    cores, needed = usable_cores(), int(np.ceil(step / whole * 1.2))
    cache = f"from the second epoch on a step is {step / cached:.2f} times one on tensors in memory"
    if whole >= 4 * step:
        return "data are no bottleneck: one process makes four times what the model takes; leave train.workers at 0"
    if needed < cores:
        return f"train.workers: {needed} keep the model busy; with data.cache: memory, {cache}"
    return (
        f"the model takes what {needed} processes make, and there are {cores} cores: with data.cache: memory, {cache}"
    )


def _image(content: bytes) -> Any:
    from PIL import Image

    with Image.open(io.BytesIO(content)) as picture:
        return picture.convert("RGB")


def _sound(content: bytes) -> Any:
    import soundfile

    return soundfile.read(io.BytesIO(content), dtype="float32")


BARE: dict[str, Callable[[bytes], Any]] = {"image": _image, "audio": _sound}
"""The library's own call for a file's bytes, by kind."""


def _sent(made: list[Batch], device: torch.device) -> None:
    for batch in made:
        batch.to(device)
    _wait(device)


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
