"""Encoders of sound whose weights come as packages, on packages made here with random weights."""

from pathlib import Path

import numpy as np
import pytest
import torch

from clx.modalities.audio import Audio
from clx.modalities.audio_packaged import WIDTHS, SpeechEmbedding

MODELS = "openwakeword/resources/models"


@pytest.fixture
def speech(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package like openwakeword 0.4.0: its graph of the embedding, of random weights; gives the graph's file."""
    onnx = pytest.importorskip("onnx")
    rng = np.random.default_rng(0)
    nodes, known, last = [], {}, "input_1"

    def weights(name: str, *shape: int) -> str:
        known[name] = (rng.normal(size=shape) / np.sqrt(max(1, np.prod(shape[1:])))).astype(np.float32)
        return name

    def add(kind: str, *more: str, **attributes: object) -> None:
        nonlocal last
        nodes.append(onnx.helper.make_node(kind, [last, *more], [f"t{len(nodes)}"], **attributes))
        last = f"t{len(nodes) - 1}"

    def limit() -> None:
        add("LeakyRelu", alpha=0.2)
        add("Max", "least")

    known["least"] = np.full((1, 1, 1, 1), -0.4, np.float32)
    add("Conv", weights("first", 24, 1, 3, 3), pads=[0, 1, 0, 1])
    add("Relu")
    known["variance"] = rng.uniform(0.5, 2, 24).astype(np.float32)
    add("BatchNormalization", *(weights(name, 24) for name in ("scale", "shift", "mean")), "variance", epsilon=1e-3)
    limit()
    inputs = 24
    for stage, (width, _, pooled) in enumerate(WIDTHS):
        for k in range(4 if stage else 2):
            shape, pads = ((1, 3), [0, 1, 0, 1]) if k % 2 == 0 else ((3, 1), [0, 0, 0, 0])
            name = f"{stage}.{k}"
            add("Conv", weights(name, width, inputs, *shape), weights(f"{name}b", width), pads=pads)
            limit()
            inputs = width
        add("MaxPool", kernel_shape=list(pooled), strides=list(pooled))
    add("Conv", weights("end", 96, 96, 3, 1))

    def save(file: str, nodes: list[object], known: dict[str, np.ndarray], ends: list[object]) -> None:
        constants = [onnx.numpy_helper.from_array(value, name) for name, value in known.items()]
        graph = onnx.helper.make_graph(nodes, "g", [ends[0]], [ends[1]], constants)
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
        onnx.save(model, tmp_path / MODELS / file)

    def end(name: str, shape: list[object]) -> object:
        return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)

    (tmp_path / MODELS).mkdir(parents=True)
    (tmp_path / "openwakeword/__init__.py").write_text("raise RuntimeError('imported')")
    save("embedding_model.onnx", nodes, known, [end("input_1", ["n", 1, 76, 32]), end(last, ["n", 96, 1, 1])])
    front = {"0.stft.conv_real.weight": (257, 1, 512), "0.stft.conv_imag.weight": (257, 1, 512), "1.melW": (257, 32)}
    known = {name: np.abs(rng.normal(size=shape)).astype(np.float32) for name, shape in front.items()}
    copy = onnx.helper.make_node("Identity", ["x"], ["y"])
    save("melspectrogram.onnx", [copy], known, [end("x", ["n"]), end("y", ["n"])])
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path / MODELS / "embedding_model.onnx"


@torch.no_grad()
def test_speech_features_are_those_of_the_graph_on_each_window(speech: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    audio = Audio(encoder="openwakeword")
    encoder = audio.build_encoder().eval()
    assert isinstance(encoder, SpeechEmbedding)
    rng = np.random.default_rng(1)
    waves = [torch.from_numpy(rng.normal(0, 0.1, n).astype(np.float32)) for n in (16_000, 20_000, 3000)]
    batch = audio.collate(waves)
    frames, count = encoder.frames(**batch)
    assert count.tolist() == [97, 122, 76]
    h, mask = encoder.steps(**batch)
    assert mask.sum(1).tolist() == [3, 6, 1]
    graph = onnxruntime.InferenceSession(str(speech))
    for row in range(3):
        windows = [frames[row, 8 * k : 8 * k + 76] for k in range(int(mask[row].sum()))]
        expected = graph.run(None, {"input_1": torch.stack(windows)[:, None].numpy()})[0][:, :, 0, 0]
        torch.testing.assert_close(h[row][mask[row]], torch.from_numpy(expected), atol=1e-5, rtol=1e-4)
    assert encoder(**batch).shape == (3, encoder.width)


@torch.no_grad()
def test_speech_features_do_not_depend_on_padding(speech: Path) -> None:
    audio = Audio(encoder="openwakeword")
    encoder = audio.build_encoder().eval()
    wave = torch.randn(17_000, generator=torch.Generator().manual_seed(0)) * 0.1
    together = encoder(**audio.collate([wave, wave.repeat(2)]))[:1]
    torch.testing.assert_close(together, encoder(**audio.collate([wave])), atol=1e-4, rtol=1e-4)


@pytest.fixture
def voice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package like Resemblyzer with random weights in a pickle; gives the pickle."""
    made = Audio(encoder="resemblyzer", pretrained=False).build_encoder()
    (tmp_path / "resemblyzer").mkdir()
    (tmp_path / "resemblyzer/__init__.py").write_text("raise RuntimeError('imported')")
    state = {"model_state": made.state_dict() | {"similarity_weight": torch.ones(1)}, "step": 1}
    torch.save(state, tmp_path / "resemblyzer/pretrained.pt")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("CLX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "resemblyzer/pretrained.pt"


@torch.no_grad()
def test_a_voice_is_the_mean_of_its_windows_unit_rows_and_the_pickle_is_converted_once(voice: Path) -> None:
    audio = Audio(encoder="resemblyzer")
    encoder = audio.build_encoder().eval()
    kept = list((voice.parents[1] / "cache/weights").iterdir())
    assert [path.suffix for path in kept] == [".safetensors"]
    saved = torch.load(voice, weights_only=True)["model_state"]
    torch.testing.assert_close(encoder.state_dict()["lstm.weight_ih_l0"], saved["lstm.weight_ih_l0"])
    changed = kept[0].stat().st_mtime_ns
    audio.build_encoder()
    assert kept[0].stat().st_mtime_ns == changed
    wave = torch.randn(40_000, generator=torch.Generator().manual_seed(0)) * 0.1
    batch = audio.collate([wave, wave[:20_000]])
    rows, mask = encoder.steps(**batch)
    assert mask.sum(1).tolist() == [2, 1]
    torch.testing.assert_close(rows[mask].norm(dim=1), torch.ones(3))
    expected = torch.nn.functional.normalize(torch.stack([rows[0].mean(0), rows[1, 0]]), dim=1)
    torch.testing.assert_close(encoder(**batch), expected)
    torch.testing.assert_close(encoder(**audio.collate([wave[:20_000]])), expected[1:], atol=1e-5, rtol=1e-4)


def test_a_pickle_of_more_than_weights_is_refused_and_nothing_is_kept(voice: Path) -> None:
    torch.save({"model_state": {}, "path": Path("a")}, voice)
    with pytest.raises(ValueError, match="does not hold weights of resemblyzer"):
        Audio(encoder="resemblyzer").build_encoder()
    assert not list((voice.parents[1] / "cache/weights").iterdir())


@pytest.mark.parametrize("encoder", ["openwakeword", "resemblyzer"])
def test_another_rate_is_refused(encoder: str) -> None:
    with pytest.raises(ValueError, match="wants sample_rate 16000, not 8000"):
        Audio(encoder=encoder, sample_rate=8000).build_encoder()
