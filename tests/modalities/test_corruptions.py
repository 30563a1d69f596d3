"""Damage of samples by name and severity."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from clx.modalities.audio import Audio
from clx.modalities.base import Modality
from clx.modalities.corruptions import CORRUPTIONS, corrupted
from clx.modalities.draws import Draws
from clx.modalities.image import Image
from clx.modalities.series import Series
from clx.modalities.table import Table
from clx.modalities.text import Text

N = 64
DRAW = torch.Generator().manual_seed(0)
WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "one", "lazy", "dog", "again", "and", "again"]


def table() -> tuple[Modality, list[Any]]:
    cells = [{"x": float(k % 7), "y": float(k), "kind": "ab"[k % 2]} for k in range(N)]
    found = Table(columns=["x", "y", "kind"])
    found.fit(cells)
    return found, [found.read(cell) for cell in cells]


def series() -> tuple[Modality, list[Any]]:
    values = torch.randn(N, 40, 2, generator=DRAW)
    found = Series()
    found.fit([each.numpy() for each in values])
    return found, [found.read(each.numpy()) for each in values]


def smooth(x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.interpolate(x, (48, 48), mode="bilinear")


SAMPLES: dict[str, Callable[[], tuple[Modality, list[Any]]]] = {
    "image": lambda: (Image(), list(smooth(torch.rand(N, 3, 6, 6, generator=DRAW) * 200 + 20).byte())),
    "audio": lambda: (Audio(), list(torch.randn(N, 800, generator=DRAW).cumsum(1) / 20)),
    "series": series,
    "table": table,
    "text": lambda: (text := Text(), [text.read(" ".join(WORDS[k % 5 :])) for k in range(N)]),
}
EVERY = [(kind, name) for kind, names in CORRUPTIONS.items() for name in names]


def far(one: Any, other: Any) -> float:
    """How much of a sample is changed: mean absolute difference, or words that are not in place."""
    if isinstance(one, torch.Tensor):
        return (one.float().nan_to_num() - other.float().nan_to_num()).abs().mean().item()
    a, b = one.text.split(), other.text.split()
    return sum(x != y for x, y in zip(a, b, strict=False)) + abs(len(a) - len(b))


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_severity_grows_and_rows_are_damaged_alone(kind: str, name: str) -> None:
    modality, samples = SAMPLES[kind]()
    before = [one.clone() if isinstance(one, torch.Tensor) else one for one in samples]
    ways = []
    for severity in (1, 3, 5):
        made = corrupted(modality, name, severity, samples, Draws.seeded(1, N))
        ways.append(sum(map(far, before, made)) / N)
        again = corrupted(modality, name, severity, samples[3:9], Draws.seeded(1, N).take(range(3, 9)))
        assert [far(a, b) for a, b in zip(again, made[3:9], strict=True)] == [0] * 6
        if isinstance(before[0], torch.Tensor):
            assert all(a.shape == b.shape and a.dtype == b.dtype for a, b in zip(made, before, strict=True))
    assert 0 < ways[0] < ways[1] < ways[2]
    assert all(far(a, b) == 0 for a, b in zip(samples, before, strict=True)), "samples stay as they were"


def test_strengths_are_what_they_say() -> None:
    grey = [torch.full((1, 60, 60), 128, dtype=torch.uint8) for _ in range(8)]
    noisy = torch.stack(corrupted(Image(), "noise", 3, grey, Draws.seeded(0, 8))).float()
    assert (noisy - 128).std().item() == pytest.approx(0.12 * 255, rel=0.03)
    assert corrupted(Image(), "darken", 2, grey, Draws.seeded(0, 8))[0].unique().tolist() == [64]
    ramp = torch.arange(60, dtype=torch.uint8).expand(1, 60, 60)
    for moved in corrupted(Image(), "shift", 3, [ramp] * 8, Draws.seeded(0, 8)):
        assert abs(int(moved[0, 30, 30]) - 30) == 7
    hidden = [(one == 127).float().mean().item() for one in corrupted(Image(), "occlude", 3, grey, Draws.seeded(0, 8))]
    assert hidden == pytest.approx([0.2] * 8, abs=0.02)
    sound = torch.randn(8000, generator=DRAW)
    (loud,) = corrupted(Audio(), "noise", 3, [sound], Draws.seeded(0, 1))
    assert 10 * (sound.square().mean() / (loud - sound).square().mean()).log10().item() == pytest.approx(10, abs=0.3)
    (late,) = corrupted(Audio(), "shift", 2, [sound], Draws.seeded(0, 1))
    assert torch.equal(late[800:], sound[:-800])


def test_an_emptied_cell_is_read_as_an_empty_one_is() -> None:
    modality, samples = table()
    made = torch.stack(corrupted(modality, "missing", 5, samples, Draws.seeded(0, N)))
    empty = modality.read({"x": None, "y": None, "kind": None})
    for column in range(2):
        gone = made[:, 2 + column] == 1
        assert 0.5 < gone.float().mean() < 0.9
        assert made[gone, column].unique().tolist() == [float(empty[column])]
    assert float(empty[4]) in made[:, 4].tolist()
