"""Towers as other libraries open them: text towers by sentence-transformers, pairs of OpenCLIP towers by open_clip."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from clx.modalities.openclip import preprocessing
from clx.pipelines.model.build import Run
from clx.pipelines.model.scoring import native_scale
from clx.pipelines.system.durable_files import write_text
from clx.pipelines.system.errors import BadInput
from clx.pipelines.use.export_onnx import Unfit, quiet

Call = Callable[..., tuple[Tensor, ...]]
"""A collated input to unit embeddings, as `Exported.forward`."""


def to_sentence_transformers(run: Run, name: str, out: Path) -> Call:
    """Write a text tower into the folder `out`, for `SentenceTransformer(out)`. Raises `Unfit`, `BadInput`."""
    modality: Any = run.modalities[name]
    if modality.kind != "text" or not modality.encoder.startswith("hf:"):
        raise Unfit("sentence-transformers opens text towers of Hugging Face models, hf:NAME, alone")
    try:
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer
    except ImportError:
        raise BadInput(
            "--format sentence-transformers needs it, 6 or newer: pip install 'sentence-transformers>=6'"
        ) from None
    tower: Any = run.model.tower(name)
    if name in run.model.prompt_of:
        raise Unfit("its prompt is learned, and sentence-transformers knows prompts of words alone")
    if modality.step_encoder is not None:
        raise Unfit("it has a step_encoder, and sentence-transformers pools tokens as they are")
    if modality.pair is not None:
        raise Unfit("it reads pairs of texts, and sentence-transformers one text")
    if not modality.templates[0].endswith("{}"):
        raise Unfit(f"its template {modality.templates[0]!r} goes on behind the text, which a prompt cannot")
    if modality.head not in ("none", "linear"):
        raise Unfit(f"its head is {modality.head}, and sentence-transformers has linear ones")
    with quiet():
        tower.encoder.model.save_pretrained(out)
        modality.tokenizer.save_pretrained(out)
        transformer = Transformer(str(out), max_seq_length=modality.longest)
        pooling = Pooling(tower.encoder.width, pooling_mode=modality.pooling)
        parts = [transformer, pooling]
        if modality.head == "linear":
            head = Dense(tower.encoder.width, run.config.embed_dim, bias=False, activation_function=torch.nn.Identity())
            head.linear.load_state_dict(linear_of(tower.head).state_dict())
            parts.append(head)
        prompt = modality.templates[0].removesuffix("{}")
        prompts = {"prompts": {"text": prompt}, "default_prompt_name": "text"} if prompt else {}
        SentenceTransformer(modules=[*parts, Normalize()], device="cpu", **prompts).save(str(out))
        opened = SentenceTransformer(str(out), device="cpu").eval()

    def call(x: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad():
            return (opened({"input_ids": x, "attention_mask": mask.long()})["sentence_embedding"],)

    return call


def linear_of(head: Any) -> torch.nn.Linear:
    """A linear head, also under the noise that training adds."""
    found: torch.nn.Linear = getattr(head, "head", head)
    return found


def to_open_clip(run: Run, names: list[str], out: Path) -> dict[str, Call]:
    """Write an image and a text tower of one OpenCLIP model into the folder `out`, for
    `open_clip.create_model_and_transforms("local-dir:" + out)`. Raises `Unfit`."""
    kinds = {run.modalities[name].kind: name for name in names}
    encoders = {run.modalities[name].encoder for name in names}
    if len(names) != 2 or set(kinds) != {"image", "text"} or len(encoders) != 1 or "open_clip:" not in min(encoders):
        raise Unfit("open_clip opens runs of one image and one text modality with towers of one model, open_clip:NAME")
    import open_clip
    from safetensors.torch import save_file

    if kinds["text"] in run.model.prompt_of:
        raise Unfit("its prompt is learned, and open_clip knows prompts of words alone")
    image, text = (run.modalities[kinds[kind]] for kind in ("image", "text"))
    if wrong := {modality.head for modality in (image, text)} - {"none", "linear"}:
        raise Unfit(f"a head is {min(wrong)}, and open_clip has linear ones")
    if image.step_encoder is not None or text.step_encoder is not None:
        raise Unfit("a tower has a step_encoder, which open_clip has not")
    model = image.encoder.removeprefix("open_clip:")
    scale = native_scale(run)
    size = getattr(image, "size", None)
    config = open_clip.get_model_config(model) | {"embed_dim": run.config.embed_dim}
    config["init_logit_scale"] = -math.log(scale.temperature)
    if scale.bias is not None:
        config["init_logit_bias"] = float(scale.bias)
    tag = open_clip.get_pretrained_cfg(model, image.pretrained) if isinstance(image.pretrained, str) else {}
    if tag.get("quick_gelu"):
        config["quick_gelu"] = True
    if size:
        config["vision_cfg"] = config["vision_cfg"] | {"image_size": size}
    config["text_cfg"] = config["text_cfg"] | {"hf_model_pretrained": False}
    towers: dict[str, Any] = {kind: run.model.tower(name) for kind, name in kinds.items()}
    state = {f"visual.{key}": t for key, t in towers["image"].encoder.tower.state_dict().items()}
    state |= towers["text"].encoder.tower.state_dict()
    for kind, ends in (("image", VISUAL), ("text", TEXTUAL)):
        if run.modalities[kinds[kind]].head == "linear":
            fold(state, linear_of(towers[kind].head).weight.detach(), ends)
    state["logit_scale"] = torch.tensor(config["init_logit_scale"])
    if scale.bias is not None:
        state["logit_bias"] = torch.tensor(config["init_logit_bias"])
    shown = asdict(preprocessing(model, image.pretrained if isinstance(image.pretrained, str) else None, size))
    seen = {key: shown[key] for key in ("mean", "std", "interpolation", "resize_mode")}
    description = {"model_cfg": config, "preprocess_cfg": seen}
    write_text(out / "open_clip_config.json", json.dumps(description, indent=1))
    save_file({key: t.contiguous().clone() for key, t in state.items()}, out / "open_clip_model.safetensors")
    with quiet():
        opened: Any = open_clip.create_model(f"local-dir:{out}", device="cpu").eval()
    return {
        kinds["image"]: lambda x: (F.normalize(opened.encode_image(x), dim=-1),),
        kinds["text"]: lambda x: (F.normalize(opened.encode_text(x), dim=-1),),
    }


VISUAL = ("visual.proj", "visual.attnpool.c_proj.weight", "visual.head.proj.weight")
TEXTUAL = ("text_projection", "text.text_projection", "text_projection.weight", "text.text_projection.weight")
"""Where the last projections of OpenCLIP's towers stand: `[W, E]`, those of layers, `weight`, `[E, W]`."""


def fold(state: dict[str, Tensor], head: Tensor, ends: tuple[str, ...]) -> None:
    """Put a linear head `[D, E]` into the projection before it, in place. Raises `Unfit` where there is none."""
    end = next((key for key in ends if key in state), None)
    if end is None:
        raise Unfit("its tower ends without a projection that the head could be put into: head: none trains without")
    if not end.endswith(".weight"):
        state[end] = state[end] @ head.T
        return
    state[end] = head @ state[end]
    if (bias := end.removesuffix("weight") + "bias") in state:
        state[bias] = head @ state[bias]
