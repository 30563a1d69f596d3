"""What an encoder wants its images to be: their size, and how pixels become numbers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from clx.modalities import openclip


class Preprocessing(NamedTuple):
    """How an encoder wants its images: their size in pixels, and the mean and deviation of each channel, 0 to 1."""

    fit: Callable[[Any], Any]
    """A Pillow image brought to the encoder's size."""
    size: tuple[int, int]
    """Height and width."""
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class CentreCrop:
    """Shorter side to `side` pixels by bicubic resampling, then the square in the middle."""

    side: int

    def __call__(self, picture: Any) -> Any:
        """A Pillow image -> one of `side` x `side`."""
        from PIL import Image as pillow

        width, height = picture.size
        short = min(width, height)
        if (width, height) == (self.side, self.side):
            return picture
        left, top = (width - short) // 2, (height - short) // 2
        box = (left, top, left + short, top + short)
        return picture.resize((self.side, self.side), pillow.Resampling.BICUBIC, box=box)


def of_open_clip(name: str, pretrained: str | None, size: int | None) -> Preprocessing:
    from open_clip import transform
    from torchvision.transforms import Compose

    config = openclip.preprocessing(name, pretrained, size)
    steps = transform.image_transform_v2(config, is_train=False).transforms
    return Preprocessing(Compose(steps[:-3]), config.input_size[1:], tuple(config.mean), tuple(config.std))


def of_timm(name: str, size: int | None, channels: int) -> Preprocessing:
    import timm
    from timm.data import create_transform, resolve_data_config
    from torchvision.transforms import Compose

    tag = timm.get_pretrained_cfg(name)
    config = resolve_data_config({"img_size": size} if size else {}, pretrained_cfg=tag.to_dict() if tag else {})
    steps = create_transform(**config).transforms
    mean, std = tuple(config["mean"]), tuple(config["std"])
    if channels == 1:
        mean, std = (sum(mean) / 3,), (sum(std) / 3,)
    return Preprocessing(Compose(steps[:-2]), tuple(config["input_size"][1:]), mean, std)
