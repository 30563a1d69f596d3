"""Images: what is read and refused, the views, and agreement with open_clip's and timm's own code."""

import io
import json
import struct
import subprocess
import sys
import time
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as pillow

from clx.modalities import image_views, openclip
from clx.modalities.base import CellError
from clx.modalities.draws import Draws
from clx.modalities.image import Image
from clx.modalities.image_encoders import ImageEncoder
from clx.modalities.text import Text


def picture(height: int = 37, width: int = 61, mode: str = "RGB") -> Any:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return pillow.fromarray(pixels).convert(mode)


def encoded(image: Any, form: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A PNG whose header promises more pixels than anybody should unpack."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    sealed = (struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(sealed)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (encoded(picture())[:900], "truncated PNG"),
        (encoded(picture())[:20], "truncated PNG"),
        (encoded(picture(), "JPEG")[:900], "truncated JPEG"),
        (b"", "zero bytes"),
        (b"these are words, not pixels\n" * 40, "not an image"),
        (bomb(9000, 9000), "larger than 50 megapixels"),
        (bomb(12000, 12000), "larger than 50 megapixels"),  # Pillow warns
        (bomb(60000, 60000), "larger than 50 megapixels"),  # Pillow raises
        (encoded(picture(1, 900)), "900 x 1 pixels: one side over 100 times the other"),
    ],
)
def test_a_bad_file_says_why(tmp_path: Path, content: bytes, reason: str) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(content)
    for cell in (file, content):
        with pytest.raises(CellError, match=f"^{reason}$"):
            Image().read(cell)


def test_a_missing_file_and_a_folder_say_so(tmp_path: Path) -> None:
    with pytest.raises(CellError, match="no such file"):
        Image().read(tmp_path / "a.png")
    with pytest.raises(CellError, match="a folder"):
        Image().read(tmp_path)


def test_transparency_lies_on_white() -> None:
    clear = pillow.new("RGBA", (32, 32), (0, 0, 0, 0))
    assert Image().read(encoded(clear)).eq(255).all()
    palette = pillow.new("P", (32, 32), 0)
    palette.putpalette([10, 20, 30])
    assert Image().read(encoded(palette, transparency=0)).eq(255).all()
    assert Image().read(encoded(palette))[:, 0, 0].tolist() == [10, 20, 30]


def test_white_of_sixteen_bits(tmp_path: Path) -> None:
    for value, seen in ((0, 0), (2048, 128), (4095, 255), (9000, 255)):
        pixels = np.full((32, 32), value, np.uint16)
        pillow.fromarray(pixels).save(tmp_path / "deep.png")
        np.save(tmp_path / "deep.npy", pixels)
        for cell in (tmp_path / "deep.png", tmp_path / "deep.npy", pixels):
            assert Image(white=4095).read(cell).unique().tolist() == [seen]


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    deep = pillow.fromarray(np.full((32, 32), 32896, dtype=np.uint16))
    assert Image().read(encoded(deep)).eq(128).all()
    assert Image().read(encoded(deep, "TIFF")).eq(128).all()


def test_orientation_is_honoured() -> None:
    wide = picture(32, 32)
    tag = pillow.Exif()
    tag[0x0112] = 6  # the camera was held on its side
    turned = Image().read(encoded(wide, exif=tag))
    assert torch.equal(turned, Image().read(encoded(wide)).rot90(-1, (1, 2)))


def test_other_kinds_of_file_are_read() -> None:
    frames = [pillow.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
    animated = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert Image().read(animated)[:, 0, 0].tolist() == [255, 0, 0]
    assert Image().read(encoded(picture(mode="CMYK"), "JPEG")).shape == (3, 32, 32)
    assert Image().read(encoded(picture(mode="1"))).shape == (3, 32, 32)
    grey = Image(channels=1).read(encoded(picture()))
    assert grey.shape == (1, 32, 32)


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        (np.full((8, 8), 100, np.uint8), 100),
        (np.full((8, 8, 1), 100, np.uint8), 100),
        (np.full((8, 8), 0.5, np.float32), 128),
        (np.ones((8, 8), bool), 255),
        (np.full((8, 8, 3), 65535, np.uint16), 255),
        (np.zeros((8, 8, 4), np.uint8), 255),
    ],
)
def test_arrays_are_read(pixels: Any, expected: int) -> None:
    assert Image(size=8).read(pixels).eq(expected).all()


@pytest.mark.parametrize(
    "pixels",
    [
        np.full((8, 8), np.nan),
        np.full((8, 8), 16.0),
        np.zeros((8, 8), np.int64),
        np.zeros((8, 8, 2), np.uint8),
        np.zeros((0, 8), np.uint8),
        np.zeros(8, np.uint8),
    ],
)
def test_arrays_that_are_not_images_are_refused(pixels: Any) -> None:
    with pytest.raises(CellError):
        Image(size=8).read(pixels)


def gradient(side: int) -> torch.Tensor:
    return (torch.arange(side) * (255 // side)).byte().expand(64, 3, side, side).contiguous()


@pytest.mark.parametrize("side", [32, 96])
@pytest.mark.parametrize("view", [image_views.mild, image_views.strong])
def test_only_flip_mirrors(view: Any, side: int) -> None:
    def falling(flip: bool) -> float:
        x = view(gradient(side), flip, Draws.seeded(0, 64)).float().mean(1)
        return float((x[..., side // 4] > x[..., 3 * side // 4]).float().mean())

    assert falling(flip=False) == 0
    assert 0.3 < falling(flip=True) < 0.7


def test_a_crop_shows_the_share_that_is_asked_for() -> None:
    def shown(crop: tuple[float, float] | None) -> float:
        views = Image(size=96, augmentation="strong", crop=crop).augment([*gradient(96)], Draws.seeded(0, 64))
        spread = torch.stack(views).float().mean(1).amax(1)
        return float((spread.amax(1) - spread.amin(1)).median())

    small, usual = shown((0.05, 0.1)), shown(None)
    assert 0 < small < usual / 2
    for given in ({"crop": (0.4, 0.1), "augmentation": "strong"}, {"crop": (0.1, 0.4)}):
        with pytest.raises(ValueError, match="crop is two shares"):
            Image(**given)


def test_a_shift_moves_pixels_and_keeps_most() -> None:
    x = torch.randint(0, 256, (32, 3, 16, 16), dtype=torch.uint8)
    moved = image_views.shift(x, False, Draws.seeded(0, 32))
    offsets = set()
    for before, after in zip(x, moved, strict=True):
        found = [
            (dy, dx)
            for dy in range(-2, 3)
            for dx in range(-2, 3)
            if torch.equal(after[:, 2:-2, 2:-2], before.roll((-dy, -dx), (1, 2))[:, 2:-2, 2:-2])
        ]
        offsets.add(*found)
    assert len(offsets) > 10


def test_jitter_keeps_grey_grey_and_varies_the_rest() -> None:
    grey = torch.full((64, 3, 8, 8), 100.0)
    out = image_views.jitter(grey, Draws.seeded(0, 64))
    torch.testing.assert_close(out, out[:, :1].expand_as(out), rtol=1e-4, atol=1e-3)
    assert out.mean((1, 2, 3)).std() > 5
    one = image_views.jitter(grey[:, :1] * torch.rand(64, 1, 8, 8), Draws.seeded(0, 64))
    assert one.isfinite().all()


TINY = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 48, "layers": 2, "width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any, dict[str, str]]:
    """The name of a small open_clip model, the model with random weights, and its checkpoint in two formats."""
    import open_clip
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("open_clip")
    (folder / "clx-tiny.json").write_text(json.dumps(TINY))
    open_clip.add_model_config(folder / "clx-tiny.json")
    with openclip.quiet():
        model = open_clip.create_model("clx-tiny").eval()
    with torch.no_grad():
        model.logit_scale.fill_(np.log(1 / 0.02))
    files = {"torch": str(folder / "a.pt"), "safetensors": str(folder / "a.safetensors")}
    torch.save({"state_dict": model.state_dict()}, files["torch"])
    save_file(model.state_dict(), files["safetensors"])
    return "clx-tiny", model, files


@pytest.mark.parametrize("form", ["torch", "safetensors"])
def test_both_towers_come_from_one_reading(tiny: Any, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import open_clip

    name, model, files = tiny
    image = Image(encoder=f"open_clip:{name}", pretrained=files[form])
    text = Text(encoder=f"open_clip:{name}", pretrained=files[form])
    made, create = [], open_clip.create_model
    monkeypatch.setattr(open_clip, "create_model", lambda *a, **k: made.append(a) or create(*a, **k))
    seeing, reading = image.build_encoder().eval(), text.build_encoder().eval()
    assert openclip.open_clip_scale(name, files[form]) == (pytest.approx(0.02), None)
    assert len(made) == 1
    assert image.build_encoder() is not seeing, "a second run starts from weights of its own"

    pixels = image.collate([image.read(encoded(picture()))])
    words = text.collate([text.read("a dog"), text.read("a cat"), text.read("a dog")])
    with torch.no_grad():
        torch.testing.assert_close(seeing(**pixels), model.encode_image(seeing.floats(pixels["x"])))
        torch.testing.assert_close(reading(**words), model.encode_text(words["x"]))
    for encoder in (seeing, reading):
        assert encoder.width == 24
        assert len(encoder.blocks()) == 4, "embedding, two layers, norm and projection"
        held = [id(p) for block in encoder.blocks() for p in block.parameters()]
        assert sorted(held) == sorted(map(id, encoder.parameters()))
    last = {name for name, _ in seeing.blocks()[-1].named_parameters()}
    assert last == {"proj", "ln_post.weight", "ln_post.bias"}


def normalised(image: Image, shown: Any) -> torch.Tensor:
    """What the encoder makes of a picture first, `[C, H, W]`."""
    encoder = ImageEncoder()
    encoder.normalise(image.preprocessing.mean, image.preprocessing.std)
    return encoder.floats(image.collate([image.read(encoded(shown))])["x"])[0]


@pytest.mark.parametrize("shape", [(37, 61), (61, 37), (48, 48), (300, 200)])
def test_preprocessing_is_open_clips_own(tiny: Any, shape: tuple[int, int]) -> None:
    import open_clip
    from open_clip import transform

    name, model, _ = tiny
    image = Image(encoder=f"open_clip:{name}")
    theirs = transform.image_transform_v2(transform.PreprocessCfg(**model.visual.preprocess_cfg), is_train=False)
    ours = normalised(image, picture(*shape))
    torch.testing.assert_close(ours, theirs(picture(*shape)), rtol=0, atol=1e-6)
    assert open_clip.get_model_config(name)["vision_cfg"]["image_size"] == ours.shape[1]


@pytest.mark.parametrize(("name", "tag"), [("ViT-B-32", "laion2b_s34b_b79k"), ("ViT-B-16-SigLIP", "webli")])
def test_preprocessing_follows_the_tag_without_its_weights(name: str, tag: str) -> None:
    import open_clip
    from open_clip import transform

    config = open_clip.get_pretrained_cfg(name, tag)
    chosen = transform.merge_preprocess_dict(transform.PreprocessCfg(), config)
    theirs = transform.image_transform_v2(transform.PreprocessCfg(**chosen), is_train=False)
    image = Image(encoder=f"open_clip:{name}", pretrained=tag)
    ours = normalised(image, picture())
    torch.testing.assert_close(ours, theirs(picture()), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("encoder", "pretrained", "says"),
    [
        ("open_clip:ViT-B-32", "laion2b_s34b_b79k", "cannot be reached"),
        ("open_clip:RN50", "yfcc15m", "cannot be reached"),
        ("open_clip:ViT-B-32", "laion2b", "its tags are openai, laion400m_e31"),
        ("open_clip:ViT-B-32", "/nowhere/weights.pt", "no checkpoint file /nowhere/weights.pt"),
        ("open_clip:ViT-B-32", "/", "/ is a folder"),
        ("open_clip:ViT-B-23", None, "nearest is 'open_clip:ViT-B-32'"),
        ("timm:resnet18", "true", "cannot be reached"),
        ("timm:resnet18", "gone.safetensors", "no checkpoint file gone.safetensors"),
        ("timm:resnet18", "a1", "`true` or a checkpoint file"),
        ("timm:resnet81", None, "nearest is 'timm:resnet"),
        ("cnn", "true", "no pretrained weights"),
        ("torchvision:resnet18", None, "nearest is"),
    ],
)
def test_weights_that_cannot_be_had_are_one_quick_line(
    encoder: str, pretrained: str | None, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import open_clip  # noqa: F401 - not part of the time below
    import timm  # noqa: F401

    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody answers there
    began = time.monotonic()
    with pytest.raises(ValueError, match=".") as error:
        Image(encoder=encoder, pretrained=pretrained).build_encoder()
    assert says in str(error.value)
    assert "\n" not in str(error.value)
    assert time.monotonic() - began < 30, "not the minutes that the libraries' own retries take"


def test_a_file_that_is_no_checkpoint_is_one_line(tiny: Any, tmp_path: Path) -> None:
    name, _, files = tiny
    (tmp_path / "a.pt").write_text("not weights")
    for encoder in (f"open_clip:{name}", "timm:test_resnet"):
        with pytest.raises(ValueError, match="does not hold weights of") as error:
            Image(encoder=encoder, pretrained=str(tmp_path / "a.pt")).build_encoder()
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="does not hold weights of"):
        Image(encoder="timm:test_resnet", pretrained=files["torch"]).build_encoder()


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext"])
def test_timm_models_agree_with_timm(name: str, tmp_path: Path) -> None:
    import timm
    from timm.data import create_transform, resolve_model_data_config

    model = timm.create_model(name).eval()
    torch.save(model.state_dict(), tmp_path / "a.pth")
    image = Image(encoder=f"timm:{name}", pretrained=str(tmp_path / "a.pth"))
    encoder = image.build_encoder().eval()
    x = image.collate([image.read(encoded(picture(200, 300)))])
    theirs = create_transform(**resolve_model_data_config(model))(picture(200, 300))
    assert x["x"].dtype == torch.uint8
    torch.testing.assert_close(encoder.floats(x["x"])[0], theirs, rtol=0, atol=1e-6)
    with torch.no_grad():
        features = encoder(**x)
        torch.testing.assert_close(features, encoder(encoder.floats(x["x"])), msg="floats are taken as they are")
        head = model.forward_head(model.forward_features(encoder.floats(x["x"])), pre_logits=True)
    torch.testing.assert_close(features, head)
    assert features.shape == (1, encoder.width)
    assert len(encoder.blocks()) > 2
    held = [id(p) for block in encoder.blocks() for p in block.parameters()]
    assert sorted(held) == sorted(map(id, encoder.parameters()))


@pytest.mark.parametrize("side", [4, 8, 16, 28, 32, 64])
def test_the_small_network_takes_any_side(side: int) -> None:
    image = Image(size=side, channels=1, width=8)
    encoder = image.build_encoder()
    assert encoder(torch.randn(2, 1, side, side)).shape == (2, 32)
    assert len(encoder.blocks()) == 3


def test_frozen_blocks_in_eval_keep_their_statistics() -> None:
    encoder = Image(width=8).build_encoder().train()
    stem = encoder.blocks()[0].eval()
    before = {k: v.clone() for k, v in stem.state_dict().items()}
    encoder(torch.randn(4, 3, 32, 32))
    assert all(torch.equal(v, before[k]) for k, v in stem.state_dict().items())


def test_importing_costs_torch_alone() -> None:
    heavy = "{'PIL', 'open_clip', 'timm', 'torchvision', 'transformers'}"
    code = f"import sys, clx.modalities.image, clx.modalities.text; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()", done.stdout


def test_reading_does_not_change_the_warning_filters() -> None:
    before = list(warnings.filters)
    Image().read(encoded(picture()))
    assert warnings.filters == before
