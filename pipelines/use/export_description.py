"""What clx.json says of an export: what holds for all files, and what has to happen before each graph."""

from pathlib import Path
from typing import Any

import torch

from clx.modalities.base import Input, Modality
from clx.pipelines.config.options import options_of
from clx.pipelines.model.build import Facts, Run
from clx.pipelines.model.scoring import native_scale
from clx.pipelines.use.exported import Exported, fixed_length

SCHEMA = 1


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
        else "from this modality alone, in the target's units; of several inputs clx makes one prediction as "
        "`fuse` of the objective says, from embeddings before their length is made 1"
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
        return {"how": how, "sample_rate": get.sample_rate, "seconds": get.seconds, "max_seconds": get.longest}
    if modality.kind == "text":
        family, _, name = get.encoder.partition(":")
        if family == "open_clip":
            how = "the template with the text for {}, then the tokenizer"
            shorter = {} if get.learned is None else {"max_length": get.room}
            return {"how": how, "tokenizer": f"open_clip {name}", "template": get.prompted[0], **shorter}
        if family == "hf":
            longest = get.room
            how = "the template with the text for {}, then the tokenizer, padded to the longest of the batch"
            return {
                "how": how,
                "tokenizer": f"transformers {name}",
                "max_length": longest,
                "template": get.prompted[0],
            }
        how = "the template with the text for {}; each UTF-8 byte plus 1, 0 where padded, cut at whole characters"
        return {"how": how, "tokenizer": "bytes", "max_length": get.room, "template": get.prompted[0]}
    if modality.kind == "series":
        scaled = {"global": "- mean, / deviation of each channel (`fitted`)", "none": "not scaled"}
        how = "gaps bridged by straight lines, " + scaled.get(get.scale, "each channel to mean 0, deviation 1")
        more = ", then a channel each that is 1 where a value was measured" if get.gaps == "indicate" else ""
        return {"how": how + more, "scale": get.scale, "gaps": get.gaps, "max_steps": get.max_steps}
    how = "numbers scaled (`fitted`), 0 where missing; as many flags, 1 where missing; the numbers of the categories"
    return {"how": how, "columns": get.columns, "scale": get.scale}
