"""Models of the open_clip library, cut into the tower that each modality asks for."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from clx.modalities import openclip_steps as inner_states
from clx.modalities.image_encoders import ImageEncoder
from clx.modalities.pretrained import cut_at, first_line, in_hub_cache, local_file, quiet, require_hub

Side = Literal["image", "text"]


@dataclass(frozen=True)
class Source:
    """Which weights a model has: two equal sources are the same weights, which are then read once."""

    name: str
    size: int | None
    file: Path
    changed: int
    """When the file was written, so that a checkpoint saved anew is read anew."""


_loaded: dict[Source, "dict[Side, Tower]"] = {}
"""The towers of the last model read that are not in use yet; each is given out once, never shared."""
_scales: dict[Source, tuple[float, float | None]] = {}


class Tower(ImageEncoder):
    """One half of an open_clip model: its projected features `[N, width]`, not normalised."""

    def __init__(self, model: nn.Module, side: Side, width: int) -> None:
        super().__init__()
        self.side = side
        self.width = width
        self.tower: Any = model.visual if side == "image" else _text_half(model)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """`x` `[N, 3, H, W]` pixels or `[N, T]` token numbers -> `[N, width]`."""
        if self.side == "text" and torch.compiler.is_exporting():
            whole: Tensor = self.tower.encode_text(x)
            return whole
        if self.side == "text":
            rows, which = x.unique(dim=0, return_inverse=True)  # labels come many times over
            encoded: Tensor = self.tower.encode_text(rows)
            return encoded[which]
        features: Any = self.tower(self.floats(x))
        pooled: Tensor = features[0] if isinstance(features, tuple) else features  # CoCa gives its tokens too
        return pooled

    @property
    def embedding(self) -> nn.Module:
        """The layer that embeds tokens, `[N, T]` -> `[N, T, C]`."""
        inner = getattr(self.tower, "text", self.tower)
        own = hasattr(inner, "token_embedding")
        found: nn.Module = inner.token_embedding if own else inner.transformer.get_input_embeddings()
        return found

    @property
    def stepped(self) -> bool:  # type: ignore[override]
        return inner_states.last_norm(self.tower, self.side) is not None

    def states(self, x: Tensor, mask: Tensor | None = None, **more: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.floats(x) if self.side == "image" else x
        return inner_states.states(self.tower, self.side, x)

    def blocks(self) -> list[nn.Module]:
        """Embedding, each layer (each stage of a convolutional tower), then the last norm and projection."""
        layers = "resblocks|blocks|layer|layers|stages|block"
        ends = "ln_post|ln_final|proj|text_projection|head|attnpool|attn_pool(?:_contrastive)?|norm|fc_norm"
        return cut_at(self.tower, layers, rf"(?:trunk\.|text\.)?(?:{ends})")


def _text_half(model: nn.Module) -> nn.Module:
    """The model without what its text side does not use. The parts of the text tower are attributes of the model."""
    for part in ("visual", "logit_scale", "logit_bias", "text_decoder"):
        if hasattr(model, part):
            delattr(model, part)
    return model


def tower(side: Side, name: str, pretrained: str | None, size: int | None = None, load: bool = True) -> Tower:
    """One half of a model. When both modalities ask for the same weights, they are read once.

    Args:
        name: a name of `open_clip.list_models()`.
        pretrained: tag or checkpoint file; None for random weights.
        size: side of the image in pixels where it is not the model's own.
        load: without it the architecture alone, for a caller who has weights of its own.
    """
    if not (pretrained and load):
        return Tower(_create(name, pretrained, size, None), side, open_clip_width(name))
    source = find(name, pretrained, size)
    if side not in _loaded.get(source, {}):
        _load(source, pretrained)
    return _loaded[source].pop(side)


def open_clip_scale(name: str, pretrained: str) -> tuple[float, float | None]:
    """The temperature that divides a pretrained model's similarities (0.01 for most CLIPs), and the bias that is
    then added where the model has one (SigLIP)."""
    source = find(name, pretrained, None)
    if source not in _scales:
        _load(source, pretrained)
    return _scales[source]


def find(name: str, pretrained: str, size: int | None) -> Source:
    """The file of a tag or path, fetched if it must and can be; otherwise a `ValueError` of one line."""
    file = local_file(pretrained) or _tag_file(name, pretrained)
    return Source(name, size, file, file.stat().st_mtime_ns)


def _tag_file(name: str, tag: str) -> Path:
    import open_clip

    config = open_clip.get_pretrained_cfg(name, tag)
    if not config:
        known = ", ".join(open_clip.list_pretrained_tags_by_model(name))
        said = f"its tags are {known}" if known else "it has no tags"
        raise ValueError(f"open_clip:{name} has no weights {tag!r} and there is no such file; {said}")
    repository, _, filename = config.get("hf_hub", "").rpartition("/")
    if repository:
        names = [filename] if filename else ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]
        file = in_hub_cache(repository, *(str(Path(n).with_suffix(".safetensors")) for n in names), *names)
    else:
        file = Path.home() / ".cache" / "clip" / Path(config["url"]).name
    if file is not None and file.is_file():
        return file
    require_hub(f"open_clip:{name} {tag!r}")
    with quiet():
        try:
            return Path(open_clip.download_pretrained(config))
        except (OSError, RuntimeError) as error:
            raise ValueError(f"open_clip:{name} {tag!r} cannot be fetched: {first_line(error)}") from error


def _load(source: Source, pretrained: str) -> None:
    model = _create(source.name, pretrained, source.size, source.file)
    scale: Any = model.logit_scale
    bias: Any = getattr(model, "logit_bias", None)
    _scales[source] = float(torch.exp(-scale.detach().float())), None if bias is None else float(bias.detach())
    _loaded.clear()
    width = open_clip_width(source.name)
    _loaded[source] = {"image": Tower(model, "image", width), "text": Tower(model, "text", width)}


def open_clip_width(name: str) -> int:
    """Width of the shared space of a model."""
    import open_clip

    return int(open_clip.get_model_config(name)["embed_dim"])


def _create(name: str, pretrained: str | None, size: int | None, file: Path | None) -> nn.Module:
    import open_clip

    tag = open_clip.get_pretrained_cfg(name, pretrained) if pretrained else {}
    text = open_clip.get_model_config(name)["text_cfg"].get("hf_model_name")
    if text and not in_hub_cache(text, "config.json"):
        require_hub(f"the text tower {text} of open_clip:{name}")
    with quiet():
        try:
            model: nn.Module = open_clip.create_model(
                name,
                pretrained=str(file) if file else None,
                force_quick_gelu=bool(tag.get("quick_gelu")),
                force_image_size=size,
                pretrained_text=False,
                device=torch.get_default_device(),
            )
        except Exception as error:  # damaged and foreign checkpoints fail in many ways
            if file is None:
                raise ValueError(f"open_clip:{name} cannot be built: {first_line(error)}") from error
            raise ValueError(f"{file} does not hold weights of open_clip:{name}") from error
    return model


def preprocessing(name: str, pretrained: str | None, size: int | None) -> Any:
    """open_clip's `PreprocessCfg` for a model, without building it."""
    import open_clip
    from open_clip import transform

    tag = open_clip.get_pretrained_cfg(name, pretrained) if pretrained else {}
    own = open_clip.get_model_config(name)["vision_cfg"].get("image_size", 224)
    return transform.PreprocessCfg(**transform.merge_preprocess_dict({}, {**tag, "size": size or own}))


def tokens_in(tokenizer: Any, text: str) -> int:
    """How many tokens a text has, with those at its ends, when none are cut."""
    row = tokenizer([text], context_length=len(text.encode("utf-8", "replace")) + 3)[0]  # none is less than a byte
    return int((row != row[-1]).nonzero().max()) + 1


def tokenizer(name: str) -> Any:
    """The model's own tokenizer, `list[str] -> [N, T]`; `ValueError` where it needs a network and has none."""
    import open_clip

    config = open_clip.get_model_config(name)["text_cfg"]
    source = config.get("hf_tokenizer_name")
    if source and not in_hub_cache(source, "tokenizer.json", "tokenizer_config.json"):
        require_hub(f"the tokenizer {source} of open_clip:{name}")
    with quiet():
        try:
            return open_clip.get_tokenizer(name)
        except (OSError, ImportError) as error:
            raise ValueError(f"the tokenizer of open_clip:{name}: {first_line(error)}") from error
