"""Pixels of more kinds than pictures have: `.npy` arrays, and TIFF files of many bands or pages."""

import io
from typing import Any

import numpy as np

from clx.modalities.base import CellError

NUMPY = b"\x93NUMPY"
BANDS = (1, 3, 4)
SAMPLES_PER_PIXEL = 277
"""The tag of TIFF that holds the number of bands."""


def pixels_of(content: bytes) -> np.ndarray[Any, Any]:
    """The array of a `.npy` file as `[H, W]` or `[H, W, C]`; `[C, H, W]` is turned where C alone is 1, 3 or 4."""
    try:
        pixels: np.ndarray[Any, Any] = np.load(io.BytesIO(content), allow_pickle=False)
    except Exception as error:  # numpy parses the header as Python would, with as many kinds of error
        raise CellError("not a whole .npy file of numbers") from error
    if pixels.ndim == 3 and pixels.shape[2] not in BANDS and pixels.shape[0] in BANDS:
        return np.moveaxis(pixels, 0, 2)
    return pixels


def refuse_bands(pixels: np.ndarray[Any, Any]) -> None:
    """Raise `CellError` for an array that is no picture."""
    shape = list(pixels.shape)
    if pixels.ndim == 3 and pixels.size and shape[2] not in BANDS:
        raise CellError(f"an array of shape {shape}: images of 1, 3 or 4 bands, first or last, are read")
    if pixels.size == 0 or pixels.ndim not in (2, 3):
        raise CellError(f"an array of shape {shape} is not an image")


def refuse_many_bands(content: bytes) -> None:
    """Raise `CellError` for a TIFF file of more bands than Pillow reads."""
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    file = io.BytesIO(content)
    try:
        tags = ImageFileDirectory_v2(file.read(8))
        file.seek(tags.next)
        tags.load(file)
        bands = int(tags.get(SAMPLES_PER_PIXEL, 1))
    except Exception:  # damaged, which the caller says
        return
    if bands not in (*BANDS, 2):
        raise CellError(f"a TIFF of {bands} bands: images of 1, 3 or 4 bands are read")


def refuse_stack(picture: Any) -> None:
    """Raise `CellError` for a TIFF whose pages are layers of 16-bit or float pixels, of which one alone would be read.

    Pages of a scan, which are of 8 bits or of one, and previews of other sizes are no layers: the first page is read.
    """
    pages = getattr(picture, "n_frames", 1)
    if picture.format != "TIFF" or pages < 2 or not picture.mode.startswith(("I", "F")):
        return
    size, mode = picture.size, picture.mode
    picture.seek(1)
    alike = (picture.size, picture.mode) == (size, mode)
    picture.seek(0)
    if alike:
        raise CellError(f"a TIFF of {pages} pages of {mode} pixels: layers are not read, one picture a file is")


def eight_bits(picture: Any, white: int) -> Any:
    """16-bit and float pixels scaled to 8 bits, transparency laid on white."""
    from PIL import Image as pillow

    if picture.mode.startswith(("I", "F")):
        pixels = np.asarray(picture)
        whole = picture.mode != "F" and pixels.min() >= 0 and pixels.max() <= 65535
        return from_array(pixels.astype(np.uint16) if whole else pixels, white)
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        return pillow.alpha_composite(pillow.new("RGBA", picture.size, "white"), picture)
    return picture


def from_array(pixels: np.ndarray[Any, Any], white: int) -> Any:
    """uint8, bool, uint16 or floats in 0..1, `[H, W]` or `[H, W, 1 | 3 | 4]`, as a Pillow image."""
    from PIL import Image as pillow

    refuse_bands(pixels)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    if pixels.dtype == np.uint16:
        pixels = np.minimum(pixels / white, 1)
    if pixels.dtype.kind == "f":
        if not (pixels.min() >= 0 and pixels.max() <= 1):  # also refuses NaN
            raise CellError("float pixels outside 0..1")
        pixels = np.rint(pixels * 255)
    elif pixels.dtype == bool:
        pixels = pixels * 255
    elif pixels.dtype != np.uint8:
        raise CellError(f"pixels of type {pixels.dtype}: want uint8, uint16, bool or floats in 0..1")
    return eight_bits(pillow.fromarray(np.ascontiguousarray(pixels, dtype=np.uint8)), white)
