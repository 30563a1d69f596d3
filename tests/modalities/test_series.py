"""Reading series, their statistics, and the encoders of them; importing tsai is the slow part."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clx.modalities.base import CellError
from clx.modalities.series import Series
from clx.modalities.series_encoders import TSAI

WALK = np.random.default_rng(0).normal(5, 3, (40, 2)).cumsum(0)
RAW: dict[str, Any] = {"scale": "none"}


def npy(array: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


def csv_of(header: str, separator: str = ",") -> str:
    return header + "\n".join(separator.join(map(repr, row)) for row in WALK.tolist())


@pytest.mark.parametrize(
    "cell",
    [WALK, WALK.tolist(), list(WALK), str(WALK.tolist()), npy(WALK), csv_of("").encode()],
    ids=["array", "lists", "rows", "json", "npy", "csv"],
)
def test_every_form_of_a_series_reads_alike(cell: Any) -> None:
    torch.testing.assert_close(Series(**RAW).read(cell), torch.from_numpy(WALK).float())


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", csv_of("")),
        ("a.csv", csv_of("left,right\n")),
        ("a.tsv", csv_of("l\tr\n", "\t")),
        ("a.txt", csv_of("", " ")),
    ],
)
def test_files(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    torch.testing.assert_close(Series(**RAW).read(tmp_path / name), torch.from_numpy(WALK).float())
    np.save(tmp_path / "a.npy", WALK)
    torch.testing.assert_close(Series(**RAW).read(tmp_path / "a.npy"), torch.from_numpy(WALK).float())


def test_one_channel_needs_no_nesting() -> None:
    assert Series(**RAW).read([1, 2, 3]).tolist() == [[1], [2], [3]]


def test_gaps_are_bridged_and_can_be_told() -> None:
    nan = float("nan")
    cell = [[nan, 1.0], [2.0, 2.0], [nan, 3.0], [4.0, 4.0], [None, 5.0]]
    assert Series(**RAW).read(cell)[:, 0].tolist() == [2, 2, 3, 4, 4]
    told = Series(gaps="indicate", **RAW)
    told.fit([cell])
    assert told.read(cell)[:, 2].tolist() == [0, 1, 0, 1, 0]
    assert told.read(cell)[:, 3].tolist() == [1] * 5
    view = told.augment([told.read(cell)], torch.Generator().manual_seed(0))[0]
    assert set(view[:, 2:].flatten().tolist()) == {0.0, 1.0}
    assert told.build_encoder()(**told.collate([view])).shape == (1, 128)


BAD: dict[str, Any] = {
    "zero bytes": Path("empty.csv"),
    "unknown extension .xyz": Path("a.xyz"),
    "no such file": Path("missing.npy"),
    "Python objects, not numbers": npy(np.array([{}, 1], dtype=object)),
    "not a whole .npy file": npy(WALK)[:-9],
    "neither .npy nor UTF-8 text": b"\xff\xfe\x00",
    "NaN in channel 2 everywhere": [[1.0, float("nan")], [2.0, None]],
    "infinite value at step 2": [1.0, float("inf")],
    "ragged: rows of 3 and 2 values": [[1, 2, 3], [1, 2]],
    "ragged: rows of 2 and 3 values": b"1,2\n1,2,3\n",
    "line 3, column 2 is not a number": b"a,b\n1,2\n1,x\n",
    "1 step is too short": [1.0],
    "no values": [],
    "not a list of numbers": ["a", "b"],
    "not a JSON list": "seven",
    "3 dimensions": np.zeros((4, 2, 2)),
    "3 channels; the training data have 2": np.zeros((9, 3)),
}


@pytest.mark.parametrize("reason", BAD)
def test_an_unreadable_series_says_why(reason: str, tmp_path: Path) -> None:
    modality = Series()
    modality.fit([WALK])
    (tmp_path / "empty.csv").touch()
    (tmp_path / "a.xyz").touch()
    cell = BAD[reason]
    with pytest.raises(CellError, match=f"^{reason}"):
        modality.read(tmp_path / cell if isinstance(cell, Path) else cell)


def test_scales() -> None:
    modality = Series()
    far = WALK * 1e-3 + 1e6  # a mean far from zero must not cost the deviation its digits
    modality.fit([far[:10], far[10:], "unreadable", np.zeros((5, 3))])
    scaled = modality.read(far)
    torch.testing.assert_close(scaled.mean(0), torch.zeros(2), atol=1e-3, rtol=0)
    torch.testing.assert_close(scaled.std(0, correction=0), torch.ones(2), atol=1e-3, rtol=0)
    alone = Series(scale="per-series").read(WALK[:7])
    torch.testing.assert_close(alone.std(0, correction=0), torch.ones(2))
    flat = Series()
    flat.fit([[3.0, 3.0, 3.0]])
    assert flat.read([3.0, 4.0]).tolist() == [[0.0], [1.0]]


def test_reading_does_not_change_what_was_learned_nor_the_cell() -> None:
    modality = Series()
    modality.fit([WALK])
    state, before = modality.state(), WALK.copy()
    modality.read(np.where(WALK > 60, np.nan, WALK))
    modality.read(WALK * 100)
    assert modality.state() == state
    assert np.array_equal(WALK, before)


def test_long_series_are_cut() -> None:
    assert len(Series(max_steps=10, **RAW).read(WALK)) == 10
    assert len(Series(max_steps=10, **RAW).read(csv_of("a,b\n").encode())) == 10


def test_strong_views_differ_more_than_mild_ones() -> None:
    samples = [torch.from_numpy(WALK).float()] * 16
    distance = {}
    for augmentation in ("mild", "strong"):
        views = Series(augmentation=augmentation).augment(samples, torch.Generator().manual_seed(0))  # type: ignore[arg-type]
        distance[augmentation] = np.mean([abs(float(v.std() - samples[0].std())) for v in views])
    assert distance["strong"] > 2 * distance["mild"]


@pytest.mark.parametrize("length", [2, 30, 270, 3000])
def test_the_tcn_takes_any_length_and_minds_no_padding(length: int) -> None:
    modality = Series(width=16, **RAW)
    series = torch.randn(length, 1, generator=torch.Generator().manual_seed(0))
    modality.fit([series.numpy()])
    net = modality.build_encoder()
    other = torch.full((length + 77, 1), 9.0)
    together = net(**modality.collate([series, other]))[0]
    torch.testing.assert_close(together, net(series[None])[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", sorted(TSAI))
def test_every_tsai_architecture_runs(name: str) -> None:
    torch.manual_seed(0)
    modality = Series(encoder=f"tsai:{name}", width=8)
    modality.fit([WALK, WALK[:25]])
    net = modality.build_encoder()
    samples = [modality.read(WALK), modality.read(WALK[:25]), modality.read(WALK[:9])]
    features = net(**modality.collate(samples))
    assert features.shape == (3, 8)
    features.square().sum().backward()
    assert all(p.grad is not None for p in net.parameters() if p.requires_grad)
    held = [id(p) for block in net.blocks() for p in block.parameters()]
    assert sorted(held) == sorted(id(p) for p in net.parameters())
    net.eval()
    with torch.no_grad():
        together = net(**modality.collate(samples))
        alone = torch.cat([net(**modality.collate([sample])) for sample in samples])
        longer = net(**modality.collate([torch.cat([samples[0], samples[0]])]))
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-4)
    assert longer.isfinite().all(), "longer than any in training"


def test_unknown_names_name_the_nearest() -> None:
    with pytest.raises(ValueError, match="tsai:InceptionTimePlus"):
        Series(encoder="tsai:InceptionTimPlus").build_encoder()
    with pytest.raises(ValueError, match="no pretrained weights"):
        Series(pretrained="x").build_encoder()
