"""`clx export`: each encoder with its head as a file of its own, and a check that it gives what the run gives."""

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clx.modalities.base import Input, Modality
from clx.pipelines.batches.columns import columns_of, has_columns
from clx.pipelines.batches.dataset import BatchDataset
from clx.pipelines.batches.loader import batches, once
from clx.pipelines.config.options import options_of
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.data.splits import choose
from clx.pipelines.model.build import Facts, Run
from clx.pipelines.model.scoring import native_scale
from clx.pipelines.runs import checkpoint
from clx.pipelines.runs import folder as folder_of_run
from clx.pipelines.system.durable_files import FORMAT, digest, seal, write_text
from clx.pipelines.system.errors import BadInput, Refused

SCHEMA = 1
Format = Literal["onnx", "safetensors"]
ROWS = 38
"""Rows that outputs are compared on: one alone, five, and the others."""
TOLERANCE = 1e-4
"""How far an exported output may be from the run's, relative to the largest output."""


class Exported(nn.Module):
    """A tower as users want it: unit rows, and predictions where the run makes them."""

    def __init__(self, run: Run, name: str) -> None:
        super().__init__()
        self.tower = run.model.towers[name]
        self.predictor = run.model.predictor if name in run.model.predict_from else None
        self.register_buffer("scale", run.model.get_buffer("target_scale"), persistent=False)
        self.register_buffer("shift", run.model.get_buffer("target_mean"), persistent=False)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, ...]:
        """A collated input of N rows -> unit embeddings `[N, D]` and, with a predictor, `[N, outputs]`."""
        z = self.tower({"x": x} if mask is None else {"x": x, "mask": mask})
        embedding = F.normalize(z, dim=-1)
        if self.predictor is None:
            return (embedding,)
        return embedding, self.predictor(z) * self.get_buffer("scale") + self.get_buffer("shift")

    @property
    def outputs(self) -> list[str]:
        return ["embedding"] if self.predictor is None else ["embedding", "prediction"]


def export(
    folder: Path, form: Format, out: Path, *, which: str = "best", data: str | None = None, split: str | None = None
) -> Iterator[dict[str, Any]]:
    """Write a run's encoders into the folder `out`, with `clx.json` on what stays outside of them.

    Yields a row per modality: its file, the largest difference `difference` of its outputs from the run's over
    real rows, or `error`, why it cannot be exported. Raises `Refused` when a file gives something else than the
    run, and `BadInput`.
    """
    if form == "onnx":
        _require_onnx()
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / "clx.json").exists())):
        raise BadInput(f"{out} exists and is no export: choose another --out")
    if out.resolve() == folder.resolve():
        raise BadInput(f"{out} is what is to be exported: choose another --out")
    run = checkpoint.load(folder, which)
    (manifest,) = choose(run.config.data, run.config.train.seed, data, split).values()
    told = about(run, folder)
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "clx.json", json.dumps(told, indent=1, ensure_ascii=False))  # the mark, whatever ends this call
    for leftover in [*out.glob("*.onnx"), *out.glob("*.safetensors"), out / "meta.json"]:
        leftover.unlink(missing_ok=True)
    again = rebuilt(run, folder, out) if form == "safetensors" else None
    for name, modality in run.modalities.items():
        row: dict[str, Any] = {"modality": name, "encoder": modality.encoder, "file": f"{name}.{form}"}
        inputs = list(samples(run, manifest, name))
        module = Exported(run, name).eval()
        try:
            if again is None:
                to_onnx(module, inputs, out / f"{name}.onnx")
                call = session(out / f"{name}.onnx")
            else:
                call = Exported(again, name).eval()
            row |= compare(module, call, inputs)
            row["bytes"] = (out / row["file"]).stat().st_size
            told["modalities"][name] = describe(modality, module, inputs[0]) | row
        except Unfit as reason:
            (out / row["file"]).unlink(missing_ok=True)
            row |= {"file": None, "error": str(reason)}
        yield row
        if (row.get("difference") or 0.0) > TOLERANCE:
            raise Refused(f"{out / row['file']} gives outputs that differ from the run's by {row['difference']:.2g}")
    write_text(out / "clx.json", json.dumps(told, indent=1, ensure_ascii=False))


class Unfit(Exception):
    """An encoder that cannot be exported."""


def _require_onnx() -> None:
    lacking = [name for name in ("onnx", "onnxruntime", "onnxscript") if find_spec(name) is None]
    if lacking:
        raise BadInput(f"--format onnx needs {', '.join(lacking)}: pip install 'clx[onnx]'")


def samples(run: Run, manifest: Manifest, name: str) -> Iterator[Input]:
    """Real rows of one modality: one alone, five together, and more; where lengths vary, five cut to half as well.

    Raises `BadInput` when there are fewer than six.
    """
    modality = run.modalities[name]
    if not has_columns(manifest, name, modality):
        raise BadInput(f"{manifest.name} lacks what {name} reads ({', '.join(columns_of({name: modality}))})")
    data = BatchDataset(manifest, {name: modality}, on_bad="skip")
    found: list[Any] = []
    for batch in batches(data, once(len(data), 1)):
        if name in batch.inputs:
            found.append(batch.sample_id)
        if len(found) == ROWS:
            break
    if len(found) < 6:
        raise BadInput(f"{manifest.name}: {len(found)} rows have {name}; at least 6 are needed to compare outputs")
    place = {int(row): i for i, row in enumerate(manifest.rows)}
    rows = np.array([place[int(row)] for row in found])
    keys = [once(1, 1)[0]._replace(rows=part) for part in (rows[:1], rows[1:6], rows[6:]) if len(part)]
    for batch in batches(data, keys):
        yield batch.inputs[name]
    five = next(batches(data, keys[1:2])).inputs[name]
    if "mask" in five and five["mask"].shape[1] > 3:
        half = -(-five["mask"].shape[1] // 2)
        yield {key: value[:, :half] for key, value in five.items()}


def fixed_length(module: Exported) -> int | None:
    """The one length that an encoder brings all rows to, if it does."""
    length = getattr(module.tower.encoder, "length", None)
    return int(length) if isinstance(length, int) else None


def fitted(value: Input, length: int | None) -> Input:
    """An input cut or padded with zeros to a length, where there is one."""
    if length is None or "mask" not in value:
        return value
    x, mask = value["x"][:, :length], value["mask"][:, :length]
    more = length - x.shape[1]
    return {"x": F.pad(x, (0, 0, 0, more) if x.ndim == 3 else (0, more)), "mask": F.pad(mask, (0, more))}


def to_onnx(module: Exported, inputs: list[Input], path: Path) -> None:
    """Write a graph whose batch, and length where it has one that varies, are free. Raises `Unfit`."""
    from torch.export import Dim

    length = fixed_length(module)
    example = fitted(inputs[1], length)
    free = {0: Dim.DYNAMIC}
    varies = "mask" in example and length is None
    shapes = tuple({**free, 1: Dim.DYNAMIC} if varies else dict(free) for _ in example)
    try:
        with quiet():
            program = torch.onnx.export(
                module,
                tuple(example.values()),
                dynamo=True,
                dynamic_shapes=shapes,
                input_names=list(example),
                output_names=module.outputs,
                verbose=False,
            )
            assert program is not None
            results = program.model.graph.outputs
            for node in program.model.graph:
                for value in node.outputs:  # the exporter names values after operations, one of which is `embedding`
                    if value.name in module.outputs and value not in results:
                        value.name += "_inner"
            program.save(path)
    except Exception as error:  # the exporter fails in as many ways as there are operations
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        said = next((line.strip() for line in str(cause).splitlines() if line.strip()), type(cause).__name__)
        raise Unfit(f"torch's exporter cannot trace it: {said[:200]}") from None


@contextmanager
def quiet() -> Iterator[None]:
    """Without the exporter's own talk."""
    with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()), torch.no_grad():
        warnings.simplefilter("ignore")
        yield


def session(path: Path) -> Any:
    """An exported graph as a function of a collated input."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        loaded = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions share no base
        raise Unfit(f"onnxruntime cannot load it: {' '.join(str(error).split())[:200]}") from None
    names = [one.name for one in loaded.get_inputs()]

    def call(**value: Tensor) -> tuple[Tensor, ...]:
        try:
            found = loaded.run(None, {name: value[name].numpy() for name in names})
        except Exception as error:
            raise Unfit(f"onnxruntime cannot run it: {' '.join(str(error).split())[:200]}") from None
        return tuple(torch.from_numpy(array) for array in found)

    return call


@torch.no_grad()
def compare(module: Exported, call: Any, inputs: list[Input]) -> dict[str, Any]:
    """The largest difference between two ways to the same outputs, relative to the largest output where that is
    above one, and on which batches it was looked for."""
    largest, seen = 0.0, []
    length = fixed_length(module)
    for value in inputs:
        ready = fitted(value, length)
        for ours, theirs in zip(module(**value), call(**ready), strict=True):
            scale = max(1.0, ours.abs().max().item())
            apart = (ours - theirs).abs().max().item() / scale
            largest = max(largest, apart) if apart == apart else float("inf")
        seen.append("x".join(map(str, value["x"].shape)))
    return {"difference": largest, "compared": ", ".join(seen)}


def rebuilt(run: Run, folder: Path, out: Path) -> Run:
    """Write weights, config and facts into `out`, and load them from there."""
    for name in run.modalities:
        if name in ("objective", "model"):
            raise BadInput(f"a modality called {name!r} cannot be exported: a file of that name is another's")
    used = next(c for c in folder_of_run.checkpoints(folder) if c.step == run.step)
    checkpoint.create(out, run)
    checkpoint.save_parts(out, checkpoint.weights(run.model, run.objective), run.modalities)
    names = [*folder_of_run.COPIED, *(path.name for path in out.glob("*.safetensors"))]
    files = {name: {"size": (out / name).stat().st_size, "digest": digest(out / name)} for name in names}
    meta = {"format": FORMAT, "step": used.step, "score": used.score, "torch": str(torch.__version__), "files": files}
    write_text(out / "meta.json", seal(meta))
    return checkpoint.load(out)


@torch.no_grad()
def about(run: Run, folder: Path) -> dict[str, Any]:
    """What holds for all files of an export."""
    facts: Facts = run.facts
    return {
        "schema": SCHEMA,
        "run": str(folder),
        "embed_dim": run.config.embed_dim,
        "embedding": "rows of length 1, as clx compares them: the dot product of two is the cosine of their angle",
        "prediction": None
        if run.model.predictor is None
        else "from this modality alone, in the target's units; clx averages the embeddings of all, before "
        "their length is made 1, and predicts from that"
        if run.config.data.target
        else "values of the next steps, standardised as the series is by `scale: global`, from this modality alone"
        if run.forecasts is not None
        else "a logit per class, from this modality alone",
        "objective": [term.name for term in run.config.objective],
        "temperature": native_scale(run).temperature,
        "classes": facts.classes,
        "target": run.config.data.target,
        "modalities": {},
    }


def describe(modality: Modality, module: Exported, example: Input) -> dict[str, Any]:
    """What has to happen before the graph: the inputs it takes and how clx makes them."""
    length = fixed_length(module)
    free = "steps" if length is None else length
    inputs = {
        key: {
            "dtype": str(value.dtype).removeprefix("torch."),
            "shape": ["batch", *([free] if "mask" in example else [value.shape[1]]), *value.shape[2:]],
        }
        for key, value in example.items()
    }
    return {
        "kind": modality.kind,
        "inputs": inputs,
        "outputs": module.outputs,
        "mask": "true where a step is real, false where it pads" if "mask" in example else None,
        "preprocessing": preprocessing(modality),
        "options": {key: value for key, value in options_of(modality).items() if value is not None},
        "fitted": modality.state(),
    }


def preprocessing(modality: Modality) -> dict[str, Any]:
    """How a cell becomes a row of the input, in words and numbers."""
    get: Any = modality  # each kind has fields of its own
    if modality.kind == "image":
        fit, size, mean, std = get.preprocessing
        steps = "shorter side to the size by bicubic resampling, centre crop" if get.encoder == "cnn" else str(fit)
        pixels = "grey" if get.channels == 1 else "RGB"
        how = f"upright by EXIF, on white where transparent, {pixels}, {' '.join(steps.split())}, / 255, - mean, / std"
        return {"how": how, "size": list(size), "mean": list(mean), "std": list(std), "layout": "channels first"}
    if modality.kind == "audio":
        how = "samples in -1..1, mean of the channels, resampled, the first max_seconds, of these the middle seconds"
        keys = ("sample_rate", "seconds", "max_seconds")
        return {"how": how, **{key: getattr(modality, key) for key in keys}}
    if modality.kind == "text":
        family, _, name = get.encoder.partition(":")
        if family == "open_clip":
            how = "the template with the text for {}, then the tokenizer"
            return {"how": how, "tokenizer": f"open_clip {name}", "template": get.templates[0]}
        if family == "hf":
            longest = min(get.max_length or 256, get.tokenizer.model_max_length)
            how = "the template with the text for {}, then the tokenizer, padded to the longest of the batch"
            return {
                "how": how,
                "tokenizer": f"transformers {name}",
                "max_length": longest,
                "template": get.templates[0],
            }
        how = "the template with the text for {}; each UTF-8 byte plus 1, 0 where padded, cut at whole characters"
        return {"how": how, "tokenizer": "bytes", "max_length": get.max_length or 128, "template": get.templates[0]}
    if modality.kind == "series":
        scaled = {"global": "- mean, / deviation of each channel (`fitted`)", "none": "not scaled"}
        how = "gaps bridged by straight lines, " + scaled.get(get.scale, "each channel to mean 0, deviation 1")
        more = ", then a channel each that is 1 where a value was measured" if get.gaps == "indicate" else ""
        return {"how": how + more, "scale": get.scale, "gaps": get.gaps, "max_steps": get.max_steps}
    how = "numbers scaled (`fitted`), 0 where missing; as many flags, 1 where missing; the numbers of the categories"
    return {"how": how, "columns": get.columns, "scale": get.scale}
