"""Images: files or arrays in, `[N, C, H, W]` bytes out."""

import io
import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from clx.modalities import image_preprocessing, image_views, openclip
from clx.modalities.base import CellError, Encoder, Input, Modality, Several, register, unknown_encoder
from clx.modalities.draws import Draws
from clx.modalities.files import foreign, open_file
from clx.modalities.image_encoders import LITE0, LITE0_IN_TIMM, Cnn, ImageEncoder, Norm, lite0, timm_encoder
from clx.modalities.image_preprocessing import CentreCrop, Preprocessing
from clx.modalities.pixel_arrays import NUMPY, eight_bits, from_array, pixels_of, refuse_many_bands, refuse_stack

LARGEST = 50_000_000
"""Pixels of an image at most; files with more are refused before decoding, well below where Pillow warns."""
NARROWEST = 100
"""Longest ratio of the sides: resizing the shorter side enlarges the longer one as much."""
FORMATS = {"PNG", "JPEG", "MPO", "GIF", "WEBP", "TIFF", "BMP", "DIB", "PPM", "JPEG2000", "AVIF", "ICO", "TGA"}
"""Formats that are read. Some others of Pillow's run a program (EPS: Ghostscript) or open further files."""
SIGNATURES = {
    b"\x89PNG": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"GIF8": "GIF",
    b"RIFF": "WebP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
}


@register
@dataclass(kw_only=True)
class Image(Modality):
    """Photographs, drawings, scans: files in `FORMATS`, or arrays `[H, W]` or `[H, W, C]`.

    A sample is uint8 pixels `[C, H, W]` of the encoder's size, and a batch `x` `[N, C, H, W]` of such; the encoder
    normalises them as it was trained.
    """

    kind: ClassVar[str] = "image"
    default_encoder: ClassVar[str] = "cnn"
    takes_several: ClassVar[bool] = True
    files: ClassVar[bool] = True
    read_by: ClassVar[tuple[str, ...]] = ("encoder", "pretrained", "size", "channels", "white")
    only_for: ClassVar[dict[str, tuple[str, ...]]] = {"width": ("cnn",), "depth": ("cnn",), "norm": ("cnn",)}

    size: Annotated[int, Ge(4)] | None = None
    """Side in pixels (shorter side resized, centre cropped). The encoder's own when not given; `cnn`: 32."""
    channels: Literal[1, 3] = 3
    white: Annotated[int, Ge(1), Le(65535)] = 65535
    """Value of 16-bit pixels from which on they are white: 4095 for files that hold 12 bits."""
    flip: bool = False
    """Mirror half of the views. Not for digits, letters or anything else that reads differently in a mirror."""
    crop: tuple[Annotated[float, Gt(0), Le(1)], Annotated[float, Gt(0), Le(1)]] | None = None
    """Least and greatest share of the image that a `strong` view shows; 0.2 and 1 where not given. Small crops, 0.05 to
    0.4, are an input of their own: `small: {like: image, column: image, views: 4, crop: [0.05, 0.4]}`."""
    width: Annotated[int, Ge(4)] = 32
    """Channels of the first layer of `cnn`; its features are four times as wide."""
    depth: Annotated[int, Ge(1)] = 1
    """Residual pairs per stage of `cnn`."""
    norm: Norm = "batch"
    """Of `cnn`: `batch` takes the statistics of all rows of a batch, `group` those of an image's own channels, eight at
    a time, so that `train.chunk` is exact."""
    several: Several = "mean"
    """Of the images in a cell that is a list: the `mean` of their features, or `one` drawn for each row and epoch."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.crop is not None and (self.augmentation != "strong" or self.crop[0] > self.crop[1]):
            raise ValueError("crop is two shares, the least first, of views with augmentation: strong")

    def read(self, cell: Any) -> Tensor:
        """Path, bytes of a file, or array -> uint8 `[C, H, W]`, upright, on white where it was transparent."""
        if isinstance(cell, np.ndarray):
            picture = from_array(cell, self.white)
        elif isinstance(cell, Path | bytes):
            picture = _decode(_content(cell) if isinstance(cell, Path) else cell, self.white)
        else:
            raise CellError(f"expected an image file or its bytes, found {type(cell).__name__}")
        _check_sides(picture)
        mode = "L" if self.channels == 1 else "RGB"
        picture = self.preprocessing.fit(picture if picture.mode == mode else picture.convert(mode))
        pixels = torch.from_numpy(np.array(picture))
        return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1).contiguous()

    def augment(self, samples: list[Tensor], draws: Draws) -> list[Tensor]:
        """Views of uint8 images `[C, H, W]`; see `image_views` for what mild and strong do."""
        if self.augmentation == "none" or not samples:
            return samples
        if self.augmentation == "mild":
            return list(image_views.mild(torch.stack(samples), self.flip, draws))
        return list(image_views.strong(torch.stack(samples), self.flip, draws, self.crop or (0.2, 1.0)))

    def collate(self, samples: Sequence[Tensor]) -> Input:
        """uint8 images `[C, H, W]` -> `x` `[N, C, H, W]`, uint8."""
        return {"x": torch.stack(list(samples))}

    def build_encoder(self, load: bool = True) -> Encoder:
        """The encoder by its name; without `load` the architecture alone, for weights that come from a run."""
        preprocessing = self.preprocessing  # now, so that workers do not import the encoder's library for it
        encoder = self._encoder(min(preprocessing.size), load)
        encoder.normalise(preprocessing.mean, preprocessing.std)
        return encoder

    def _encoder(self, side: int, load: bool) -> ImageEncoder:
        family, _, name = self.encoder.partition(":")
        if family == "open_clip":
            return openclip.tower("image", name, self.weights, self.size, load)
        if family == "timm":
            return timm_encoder(name, self.weights, self.channels, self.size, load)
        if self.encoder == LITE0:
            return lite0(self.pretrained, load)
        if self.weights and load:
            raise ValueError("encoder `cnn` has no pretrained weights")
        return Cnn(self.channels, side, self.width, self.depth, self.norm)

    @cached_property
    def preprocessing(self) -> Preprocessing:
        """What the encoder's own evaluation does with an image. Raises `ValueError` for an unknown encoder."""
        family, colon, name = self.encoder.partition(":")
        if self.encoder not in ("cnn", LITE0) and not (colon and self.encoder in self.family(family)):
            raise unknown_encoder(type(self), self.encoder)
        if family in ("open_clip", LITE0) and self.channels != 3:
            raise ValueError(f"{self.encoder} wants channels: 3")
        if self.encoder == LITE0:
            return image_preprocessing.of_timm(LITE0_IN_TIMM, self.size, self.channels)
        if family == "open_clip":
            return image_preprocessing.of_open_clip(name, self.weights, self.size)
        if family == "timm":
            return image_preprocessing.of_timm(name, self.size, self.channels)
        side = self.size or 32
        return Preprocessing(CentreCrop(side), (side, side), (0.5,) * self.channels, (0.25,) * self.channels)

    @classmethod
    def encoders(cls) -> dict[str, str]:
        """Names with a description."""
        return {
            "cnn": "small residual network, trains on a CPU; `size`, `width`, `depth`, `norm`",
            LITE0: "EfficientNet-Lite0 trained on ImageNet, weights from a package; `pretrained: false` for none",
            "open_clip:NAME": "visual tower of an OpenCLIP model; `pretrained`: a tag or a checkpoint file",
            "timm:NAME": "any model of timm; `pretrained`: true or a checkpoint file",
        }

    @classmethod
    def family(cls, prefix: str) -> list[str]:
        """Full names of open_clip's or timm's models."""
        if prefix == "open_clip":
            import open_clip

            return [f"open_clip:{name}" for name in open_clip.list_models()]
        if prefix == "timm":
            import timm

            names = [*timm.list_models(), *timm.list_pretrained()]
            return [f"timm:{name}" for name in dict.fromkeys(names)]
        return []


def _check_sides(picture: Any) -> None:
    if max(picture.size) > NARROWEST * min(picture.size):
        raise CellError(f"{picture.width} x {picture.height} pixels: one side over {NARROWEST} times the other")


def _content(path: Path) -> bytes:
    with open_file(path) as file:
        try:
            return file.read()
        except OSError as error:
            raise CellError(error.strerror or "cannot be read") from error


@cache
def _pillow() -> Any:
    """Pillow's main module, its warning of a pixel bomb an error. Set once: filters are not each thread's own.

    What its reader of TIFF logs about a file is left to `CellError`.
    """
    from PIL import Image as pillow

    logging.getLogger("PIL.TiffImagePlugin").setLevel(logging.CRITICAL)
    warnings.filterwarnings("error", category=pillow.DecompressionBombWarning)
    return pillow


def _decode(content: bytes, white: int) -> Any:
    """The first frame of an image file, upright, as 8-bit greys or colours on white."""
    from PIL import ImageOps, UnidentifiedImageError

    if not content:
        raise CellError("zero bytes")
    if content.startswith(NUMPY):
        return from_array(pixels_of(content), white)
    name = next((name for start, name in SIGNATURES.items() if content.startswith(start)), "image")
    pillow = _pillow()
    try:
        picture = pillow.open(io.BytesIO(content))
        if picture.width * picture.height > LARGEST:
            raise CellError(f"larger than {LARGEST // 1_000_000} megapixels")
        if picture.format not in FORMATS:
            raise CellError(f"{picture.format} is not a format that is read")
        refuse_stack(picture)
        _check_sides(picture)  # before decoding: Pillow fills the rows of some BMP files byte by byte
        picture.load()
        if picture.info or picture.format == "TIFF":  # else there is nothing that could say which way is up
            ImageOps.exif_transpose(picture, in_place=True)
        return eight_bits(picture, white)
    except (pillow.DecompressionBombWarning, pillow.DecompressionBombError):
        raise CellError(f"larger than {LARGEST // 1_000_000} megapixels") from None
    except (CellError, MemoryError):  # what the machine lacks is not the file's fault
        raise
    except UnidentifiedImageError:
        if name == "TIFF":
            refuse_many_bands(content)
        unknown = foreign(content) or "not an image"
        raise CellError(unknown if name == "image" else f"truncated {name}") from None
    except Exception as error:  # decoders of damaged files raise anything from SyntaxError to struct.error
        truncated = "truncated" in str(error).lower() or isinstance(error, EOFError)
        raise CellError(f"{'truncated' if truncated else 'damaged'} {name}") from error
