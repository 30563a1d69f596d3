"""Reading series, their statistics, and the encoders of them; importing tsai is the slow part."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import RidgeClassifierCV

from clx.modalities.base import CellError
from clx.modalities.draws import Draws
from clx.modalities.series import Series
from clx.modalities.series_encoders import TSAI, dilated
from clx.modalities.series_views import VIEWS

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
    view = told.augment([told.read(cell)], Draws.seeded(0, 1))[0]
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
        views = Series(augmentation=augmentation).augment(samples, Draws.seeded(0, len(samples)))  # type: ignore[arg-type]
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


def varied(cells: list[Any], policy: dict[str, float], seed: int = 0, **options: Any) -> list[torch.Tensor]:
    modality = Series(augmentation=policy, views=2, **RAW, **options)
    return modality.augment([modality.read(cell) for cell in cells], Draws.seeded(seed, len(cells)))


RAMPS = [np.stack([np.arange(n), 100 - 2.0 * np.arange(n)], 1) for n in (50, 33, 8, 2)]


@pytest.mark.parametrize("name", sorted(VIEWS))
def test_every_view_changes_what_it_says_and_nothing_at_strength_zero(name: str) -> None:
    series = [torch.from_numpy(ramp).float() for ramp in RAMPS]
    for before, after in zip(series, varied(RAMPS, {name: 0}), strict=True):
        torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-3)
    strength = 5 if name == "permutation" else 0.5
    views = varied(RAMPS, {name: strength})
    assert not torch.equal(views[0], series[0])
    assert all(view.isfinite().all() for view in views)
    if name != "crop":
        assert [len(view) for view in views] == [50, 33, 8, 2]
    alone = varied(RAMPS[:1], {name: strength})  # a series does not depend on the length of its neighbours
    assert len(alone[0]) == len(views[0]) or name == "crop"


def test_views_that_move_time_keep_values_together() -> None:
    """The second channel is 100 less twice the first: a view that moves steps moves both."""
    for name, strength in (("crop", 0.8), ("permutation", 6), ("time_warp", 0.5)):
        for view in varied(RAMPS, {name: strength}):
            torch.testing.assert_close(view[:, 1], 100 - 2 * view[:, 0], rtol=1e-4, atol=1e-3)
    pieces = varied([RAMPS[0]] * 40, {"permutation": 4})
    assert all(sorted(view[:, 0].round().int().tolist()) == list(range(50)) for view in pieces)
    joints = [int((view[:, 0].diff() - 1).abs().gt(0.5).sum()) for view in pieces]
    assert max(joints) == 3
    assert min(joints) == 0
    for view in varied([RAMPS[0]] * 20, {"time_warp": 0.5}):
        assert (view[:, 0].diff() > 0).all()
        torch.testing.assert_close(view[[0, -1], 0], torch.tensor([0.0, 49.0]))
    cut = varied([RAMPS[0]] * 200, {"crop": 0.4})
    assert min(int(view[0, 0]) for view in cut) == 0
    assert max(int(view[0, 0]) for view in cut) == 9
    assert min(int(view[-1, 0]) for view in cut) == 40
    assert all((view[:, 0].diff() == 1).all() for view in cut)


def test_views_of_values_have_the_size_they_say() -> None:
    noise = np.random.default_rng(0).normal(3, 2, (200, 500, 1))
    series = torch.from_numpy(noise).float()
    change = torch.stack(varied(list(noise), {"jitter": 0.3})) - series
    assert change.std().item() == pytest.approx(0.6, rel=0.05)
    factor = torch.stack(varied(list(noise), {"scaling": 0.3})) / series
    assert factor.min().item() == pytest.approx(0.7, abs=0.02)
    assert factor.max().item() == pytest.approx(1.3, abs=0.02)
    assert (factor.std(1) < 1e-4).all()
    bent = torch.stack(varied(list(noise), {"magnitude_warp": 0.3})) / series
    assert (bent - 1).std().item() == pytest.approx(0.3, rel=0.2)
    assert bent.diff(dim=1).abs().max() < 0.05
    hidden = torch.stack(varied(list(noise), {"time_mask": 0.4}))
    gone = (hidden - series.mean(1, keepdim=True)).abs() < 1e-5
    assert gone.float().mean().item() == pytest.approx(0.4, abs=0.01)
    stretch = torch.stack(varied(list(noise), {"cutout": 0.4})) != series
    assert stretch.sum(1).flatten().tolist() == [200] * 200
    waves = torch.fft.rfft(torch.stack(varied(list(noise), {"frequency_mask": 0.4})), dim=1).abs()
    assert (waves[:, 1:] < 1e-2).float().mean().item() == pytest.approx(0.4, abs=0.02)
    torch.testing.assert_close(waves[:, 0], torch.fft.rfft(series, dim=1).abs()[:, 0], rtol=1e-4, atol=1e-2)


def test_hidden_steps_are_told_as_gaps() -> None:
    view = varied([WALK], {"cutout": 0.5}, gaps="indicate")[0]
    assert view[:, 2:].sum(0).tolist() == [20, 20]


@pytest.mark.parametrize("least", [0.0, 0.6])
def test_crops_share_a_stretch_and_keep_their_time(least: float) -> None:
    modality = Series(augmentation={"crops": least}, views=3, **RAW)
    samples = [modality.read(ramp) for ramp in RAMPS]
    shares, reached = [], [0, 0]
    for seed in range(60):
        views = modality.vary([samples] * 3, [Draws.seeded(seed, len(samples))] * 3)
        seen = [modality.collate(view)["mask"] for view in views]
        common = seen[0] & seen[1]
        assert (common.sum(1) >= torch.tensor([2, 2, 2, 2])).all()
        for view, mask in zip(views, seen, strict=True):
            x = modality.collate(view)["x"]
            for row, sample, kept in zip(x, samples, mask, strict=True):
                assert torch.equal(row[: len(sample)][kept[: len(sample)]], sample[kept[: len(sample)]])
                assert not row[~kept].any()
                assert kept.int().diff().ne(0).sum() <= 2, "one piece"
        steps = torch.arange(50)
        first, second = (steps[mask[0]] for mask in seen[:2])
        assert first[0] <= second[0]
        assert first[-1] <= second[-1]
        reached[0] += int(first[0] < second[0])
        reached[1] += int(first[-1] < second[-1])
        shares.append(common[0].sum().item() / 50)
    assert min(shares) >= least - 0.02
    assert min(shares) < least + 0.15
    assert max(shares) > 0.85
    assert min(reached) > 20


def test_a_crop_gives_the_features_of_the_piece_alone() -> None:
    """Left-out steps are to an encoder what lies beyond the ends."""
    for encoder in ("dilated", "tcn"):
        modality = Series(encoder=encoder, width=16, **RAW)
        modality.fit([WALK])
        net = modality.build_encoder()
        piece = modality.read(WALK)
        left_out = torch.full_like(piece, torch.nan)
        left_out[8:30] = piece[8:30]
        h, mask = net.steps(**modality.collate([left_out]))  # type: ignore[operator]
        alone, _ = net.steps(**modality.collate([piece[8:30]]))  # type: ignore[operator]
        assert mask.sum() == alone.shape[1]
        torch.testing.assert_close(h[mask], alone[0])


@pytest.mark.parametrize("encoder", ["tcn", "dilated"])
def test_features_per_step_are_those_that_are_pooled(encoder: str) -> None:
    modality = Series(encoder=encoder, width=16, **RAW)
    modality.fit([WALK])
    net = modality.build_encoder().eval()
    inputs = modality.collate([modality.read(WALK), modality.read(WALK[:9])])
    h, mask = net.steps(**inputs)  # type: ignore[operator]
    assert mask.sum(1).tolist() == [40, 9]
    torch.testing.assert_close(net.pool(h, mask), net(**inputs))  # type: ignore[operator]
    if encoder == "dilated":
        assert h.shape == (2, 40, 16)
        torch.testing.assert_close(net(**inputs)[0], h[0].amax(0))
        far = inputs["x"].clone()
        far[0, 0] += 1  # the receptive field spans the training series
        assert not torch.equal(net.steps(far, inputs["mask"])[0][0, -1], h[0, -1])  # type: ignore[operator]


@pytest.mark.parametrize("length", [1, 7, 8, 9, 30])
def test_taps_beyond_a_series_are_spared_and_change_nothing(length: int) -> None:
    layer = torch.nn.Conv1d(3, 5, 3, padding=8, dilation=8).double()
    h = torch.randn(2, 3, length, dtype=torch.double, requires_grad=True)
    weigh = torch.randn(2, 5, length, dtype=torch.double)
    found, expected = dilated(layer, h), layer(h)
    assert torch.allclose(found, expected)
    leaves = (h, *layer.parameters())
    grads, wanted = (torch.autograd.grad(out, leaves, weigh) for out in (found, expected))
    assert all(torch.allclose(a, b) for a, b in zip(grads, wanted, strict=True))


def test_what_is_spared_binds_no_exported_graph_to_a_length() -> None:
    class Layer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Conv1d(3, 5, 3, padding=8, dilation=8)

        def forward(self, h: torch.Tensor) -> torch.Tensor:
            return dilated(self.layer, h)

    layer, length = Layer(), torch.export.Dim("length", min=2, max=4096)
    program = torch.export.export(layer, (torch.randn(2, 3, 7),), dynamic_shapes=({2: length},)).module()
    for steps in (2, 8, 9, 300):
        h = torch.randn(2, 3, steps)
        assert torch.allclose(program(h), layer(h), atol=1e-6)


def test_minirocket_is_fitted_and_comes_back_from_its_state() -> None:
    draw = np.random.default_rng(0)
    series = [
        np.sin(np.arange(60) * (0.35 - 0.15 * (k % 2)) + draw.normal()) + draw.normal(0, 0.3, 60) for k in range(80)
    ]
    modality = Series(encoder="minirocket", width=840)
    np.random.seed(5)
    modality.fit([np.zeros((9, 2)), *series[:40]])
    before = np.random.get_state()[1].copy()  # type: ignore[union-attr]
    net = modality.build_encoder()
    assert (np.random.get_state()[1] == before).all()  # type: ignore[union-attr]
    inputs = modality.collate([modality.read(one) for one in series])
    features = net(**inputs)
    assert features.shape == (80, 840)
    assert 0.3 < features.mean() < 0.7
    classes = np.arange(80) % 2
    fitted = RidgeClassifierCV(np.logspace(-3, 3, 7)).fit(features[:40], classes[:40])
    assert fitted.score(features[40:], classes[40:]) > 0.9
    other = Series(encoder="minirocket", width=840)
    other.load_state(json.loads(json.dumps(modality.state())))
    assert torch.equal(other.build_encoder(load=False)(**inputs), features)
    assert not [p for p in net.parameters() if p.requires_grad]
    with pytest.raises(ValueError, match="set width to 168"):
        Series(encoder="minirocket").build_encoder()


@pytest.mark.parametrize("scale", ["global", "per-series"])
def test_masked_gaps_are_left_out_of_everything(scale: Any) -> None:
    gappy, filled = WALK.copy(), WALK.copy()
    gappy[[3, 4, 20], [0, 1, 0]] = np.nan
    filled[[3, 4, 20]] = np.nan
    modality = Series(gaps="mask", scale=scale, encoder="dilated", width=16, layers=3)
    modality.fit([gappy])
    assert np.allclose(modality.state()["mean"], np.nanmean(gappy, 0))
    sample = modality.read(gappy)
    assert np.flatnonzero(sample.isnan().any(1)).tolist() == [3, 4, 20]
    assert np.flatnonzero(sample.isnan().all(1)).tolist() == [3, 4, 20]
    if scale == "per-series":
        kept = np.delete(WALK, [3, 4, 20], 0)
        torch.testing.assert_close(sample[0], torch.from_numpy((WALK[0] - kept.mean(0)) / kept.std(0)).float())
    inputs = modality.collate([sample, modality.read(WALK[:9])])
    assert np.flatnonzero(~inputs["mask"][0]).tolist() == [3, 4, 20]
    assert inputs["x"].isfinite().all()
    net = modality.build_encoder()
    before = net(**inputs)
    inputs["x"][0, [3, 4, 20]] = 0
    torch.testing.assert_close(net(**inputs), before)
    for policy in ({name: 0.5 for name in VIEWS if name != "permutation"}, {"permutation": 3.0}):
        varied_ = Series(gaps="mask", scale=scale, augmentation=policy)
        varied_.fit([gappy])
        view = varied_.augment([varied_.read(gappy)] * 8, Draws.seeded(0, 8))
        assert varied_.collate(view)["x"].isfinite().all()
        assert all(one.isnan().any() for one in view)
    with pytest.raises(CellError, match="no step without a gap"):
        modality.read([[1.0, np.nan], [np.nan, 2.0]])


def test_a_time_column_is_guessed_from_all_files(tmp_path: Path) -> None:
    """By value: what is left are the other columns, with gaps where even steps are missing; a state keeps it."""
    files = [tmp_path / "a.csv", tmp_path / "b.csv"]
    files[0].write_text("x,T [s],y\n" + "".join(f"{t * t},{t / 2},{-t}\n" for t in (0, 1, 2, 4, 5)))
    files[1].write_text("x,T [s],y\n" + "".join(f"{t},{t / 2},{-t}\n" for t in range(4)))
    modality = Series(**RAW)
    modality.fit(files)
    assert modality.read(files[0]).tolist() == [[t, -s] for t, s in ((0, 0), (1, 1), (4, 2), (10, 3), (16, 4), (25, 5))]
    assert modality.understood() == [
        "the column 't [s]' of its files is the time of a step and no channel (time: false makes it one)"
    ]
    other = Series(**RAW)
    other.load_state(json.loads(json.dumps(modality.state())))
    assert torch.equal(other.read(files[0]), modality.read(files[0]))
    (tmp_path / "c.csv").write_text("x,y\n1,2\n3,4\n")
    with pytest.raises(CellError, match="no column 't \\[s\\]' for the time"):
        other.read(tmp_path / "c.csv")
    before = Series(**RAW)  # a run of an earlier version took time for a channel
    before.load_state({"channels": 3, "length": 5, "mean": [0.0] * 3, "deviation": [1.0] * 3})
    assert before.read(files[1])[:, 1].tolist() == [0, 0.5, 1, 1.5]


@pytest.mark.parametrize(
    ("text", "options", "channels", "guessed"),
    [
        ("t,x\n1,5\n2,6\n3,9\n", {}, 1, True),
        ("t,x\n1,5\n3,6\n2,9\n", {}, 2, False),  # t may be a temperature
        (",x\n0,5\n1,6\n2,9\n", {}, 1, True),
        ("index,x\n0,5\n1,6\n2,9\n", {}, 1, True),
        ("energy,x\n0,5\n1,6\n2,9\n", {}, 2, False),
        ("0,5\n1,6\n2,9\n", {}, 1, True),
        ("0,5\n1,6\n1,9\n", {}, 2, False),
        ("1\n2\n3\n", {}, 1, False),
        ("13/02/2024,5\n14/02/2024,6\n15/02/2024,1\n", {}, 1, True),
        ("01/02/2024,5\n01/03/2024,6\n01/04/2024,1\n", {}, 1, True),
        ("t,x\n1,5\n2,6\n3,9\n", {"time": False}, 2, False),
        ("energy,x\n0,5\n1,6\n2,9\n", {"time": "Energy"}, 1, False),
        ("energy,x\n0,5\n1,6\n2,9\n", {"time": True}, 1, False),
    ],
)
def test_what_is_a_time_column(
    text: str, options: dict[str, Any], channels: int, guessed: bool, tmp_path: Path
) -> None:
    (tmp_path / "a.csv").write_text(text)
    modality = Series(**RAW, **options)
    modality.fit([tmp_path / "a.csv"])
    assert modality.channels == channels
    assert bool(modality.understood()) == guessed
    assert modality.read(text.encode()).shape[1] == channels


@pytest.mark.parametrize(
    ("shapes", "steps"),
    [
        ([(2, 200)], 200),
        ([(1, 30)], 30),
        ([(3, 40), (3, 20)], 40),  # as many channels in all
        ([(40, 3), (20, 3)], 40),
        ([(4, 40), (5, 40)], 4),
        ([(30, 12)], 30),
        ([(200,)], 200),
    ],
)
def test_which_way_round_an_array_lies(shapes: list[tuple[int, ...]], steps: int) -> None:
    arrays = [np.random.default_rng(0).normal(size=shape) for shape in shapes]
    modality = Series(**RAW)
    modality.fit(map(npy, arrays))
    found = modality.read(npy(arrays[0]))
    assert len(found) == steps
    turned = steps != shapes[0][0]
    assert torch.equal(found, torch.from_numpy(arrays[0].T if turned else arrays[0]).float().reshape(steps, -1))
    assert bool(modality.understood()) == turned


def test_layout_turns_arrays_lists_and_text() -> None:
    with pytest.raises(ValueError, match="layout: time-first or layout: channels-first decides"):
        Series().fit([npy(WALK.T[:, :12])])
    modality = Series(**RAW, layout="channels-first")
    wide = WALK.T
    text = "\n".join(",".join(map(repr, row)) for row in wide.tolist()).encode()
    for cell in (npy(wide), npy(np.asfortranarray(wide)), wide, wide.tolist(), str(wide.tolist()), text):
        torch.testing.assert_close(modality.read(cell), torch.from_numpy(WALK).float())
    assert modality.read([1, 2, 3]).tolist() == [[1], [2], [3]]
    modality = Series(**RAW)
    modality.fit([wide])
    assert modality.understood() == ["lists [2, 40] are 2 steps of 40 channels (layout: channels-first turns)"]


def test_what_is_beyond_max_steps_is_cut(tmp_path: Path) -> None:
    modality = Series(**RAW, max_steps=30)
    (tmp_path / "a.csv").write_text(csv_of(""))
    assert [modality.cut(c) for c in (WALK, npy(WALK), tmp_path / "a.csv", WALK[:30], [1, 2])] == [True] * 3 + [
        False
    ] * 2


def test_text_with_a_line_a_channel(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(3, 50)).round(3)
    values[:, 0] = [1, 2, 3]  # which grows, and is no time: it is the first step
    path = tmp_path / "a.csv"
    path.write_text("\n".join(",".join(map(str, row)) for row in values))
    modality = Series(**RAW, layout="channels-first", max_steps=40)
    modality.fit([path])
    assert np.allclose(modality.read(path), values.T[:40], atol=1e-6)
    assert modality.cut(path)
    assert not Series(**RAW, layout="channels-first").cut(path)
    assert np.allclose(modality.read(values.tolist()), values.T[:40], atol=1e-6)
    with pytest.raises(CellError, match="no values"):
        modality.read([])
    with pytest.raises(ValueError, match="lines are channels"):
        Series(layout="channels-first", time=True)


def test_what_is_guessed_of_arrays_is_not_of_lists_and_text(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(80.0).reshape(2, 40))
    (tmp_path / "b.csv").write_text("".join(f"{k},{k % 3}\n" for k in (5, 3, 8)))
    modality = Series(**RAW)
    modality.fit([tmp_path / "a.npy", tmp_path / "b.csv"])
    again = Series(**RAW)
    again.load_state(modality.state())
    for each in (modality, again):
        assert each.read(tmp_path / "a.npy").shape == (40, 2)
        assert each.read(tmp_path / "b.csv").tolist() == [[5, 2], [3, 0], [8, 2]]
        assert each.read([[1, 2], [3, 4], [5, 6]]).tolist() == [[1, 2], [3, 4], [5, 6]]
