"""Fracast as an encoder: what its own library computes, whatever stands beside a series."""

import numpy as np
import pytest
import torch

from clx.modalities.series import Series


def series(**options: object) -> Series:
    made = Series(encoder="fracast", scale="none", **options)  # type: ignore[arg-type]
    made.fit([np.zeros((40, 2)) + np.arange(40)[:, None]])
    return made


def test_features_are_those_of_its_own_library() -> None:
    """Of a series of two channels, each by itself as `FracastModel` puts it to its core; and of it among others."""
    fracast = pytest.importorskip("fracast")
    made = series()
    encoder = made.build_encoder().eval()
    values = np.random.default_rng(0).normal(size=(300, 2)).cumsum(0)
    others = [np.sin(np.arange(2500.0))[:, None] * [1, 2], np.ones((2, 2))]
    batch = made.collate([made.read(cell) for cell in (values, *others)])
    told: list[torch.Tensor] = []
    model = fracast.FracastModel.from_pretrained(weights="fp32")
    model.core.register_forward_hook(lambda module, given, out: told.append(out))
    model.forecast(values.T)
    with torch.no_grad():
        found = encoder(**batch)
        alone = encoder(**made.collate([made.read(values)]))
    wanted = torch.cat([torch.cat([h[-300:].mean(0), h[-1]]) for h in told[0]])
    assert found.shape == (3, encoder.width) == (3, 256)
    assert found.isfinite().all()
    torch.testing.assert_close(found[0], wanted, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found[:1], alone, atol=1e-4, rtol=1e-4)


def test_without_weights_it_learns_and_another_file_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fracast")
    made = series(pretrained=False)
    encoder = made.build_encoder()
    encoder(**made.collate([torch.randn(20, 2), torch.randn(30, 2)])).square().sum().backward()
    assert all(p.grad is not None for p in encoder.parameters())
    monkeypatch.setattr("safetensors.torch.load_file", lambda file: {"core.other": torch.ones(1)})
    with pytest.raises(ValueError, match="does not hold the encoder of fracast"):
        series().build_encoder()
