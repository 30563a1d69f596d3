"""Forecasts and anomaly scores of recordings, against loops over their windows."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clx.pipelines.config.data_schema import Data
from clx.pipelines.data.splits import load_splits
from clx.pipelines.model.build import prepare
from clx.pipelines.runs.checkpoint import load
from clx.pipelines.system.errors import Failed
from clx.pipelines.use import predict_recordings
from command import Command
from recordings import ENCODERS, LENGTH, SPIKES, STEPS, TRAIN, VAL, bridged, signal, standardised, two_channels


def test_forecasts_are_in_the_units_of_the_file(clx: Command, recorded: Path) -> None:
    x = [60, 40] * 30
    (recorded / "new.csv").write_text("t,x\n" + "".join(f"{t},{v}\n" for t, v in enumerate(x)))
    done = clx("predict", "ahead", "new.csv", "--checkpoint", "last", cwd=recorded)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(line["recording"], line["ahead"]) for line in lines] == [("new", k) for k in range(1, 7)]
    seen = np.concatenate([signal()[s : s + LENGTH] for s in range(0, TRAIN - LENGTH + 1, 3)])
    mean, deviation = np.nanmean(seen), np.nanstd(seen)
    run = load(recorded / "ahead", "last")
    run.model.eval()
    window = torch.tensor((np.array(x[-LENGTH:]) - mean) / deviation).float()[None, :, None]
    here = {"series": torch.ones(1, dtype=torch.bool)}
    with torch.no_grad():
        z = run.model({"series": {"x": window, "mask": torch.ones(1, LENGTH, dtype=torch.bool)}}, here)
        said = run.model.predict(z, here)[0].numpy() * deviation + mean
    assert [line["predicted"] for line in lines] == pytest.approx(said.tolist(), rel=1e-3)
    own = clx("predict", "ahead", "--out", "f.csv", cwd=recorded)
    assert own.returncode == 0, own.stderr
    assert (recorded / "f.csv").read_text().splitlines()[0] == "recording,ahead,predicted"
    (recorded / "new.csv").write_text("t,x\n1,50\n2,51\n")
    short = clx("predict", "ahead", "new.csv", cwd=recorded)
    assert (short.returncode, short.stdout) == (1, "")
    assert "2 steps; the windows of the run have 24" in short.stderr


def test_scores_are_those_of_a_loop_over_windows(recorded: Path) -> None:
    run = load(recorded / "plain", "best")
    scorer = predict_recordings.open_scorer(run, average=5)
    (manifest,) = predict_recordings.recordings(run, None, None)
    run.model.eval()
    got = scorer.differences(manifest, 0)
    x, tower = standardised()[VAL:], run.model.tower("series")
    known = ~np.isnan(x)
    assert np.isnan(got[: LENGTH - 1]).all()
    for t in (LENGTH - 1, 60, 76, 75 + LENGTH - 1, 174):  # of a gap at 75: in the window's midst, and where it begins
        here = slice(t - LENGTH + 1, t + 1)
        window = torch.tensor(np.stack([bridged(x[here]), known[here]], 1)).float()
        hidden = torch.cat([window[:-1], torch.stack([window[:-1, 0].mean(), torch.zeros(())])[None]])
        with torch.no_grad():
            both, _ = tower.encoder.steps(torch.stack([window, hidden]))  # type: ignore[operator]
        assert got[t] == pytest.approx((both[0, -1] - both[1, -1]).abs().sum().item(), rel=1e-3)
    assert np.isnan(got[75])
    assert np.allclose(scorer.differences(manifest, 0, 100), got[100:], rtol=1e-4, equal_nan=True)
    for block in (1, 7):
        fewer = predict_recordings.open_scorer(run, average=5, block=block).differences(manifest, 0)
        assert np.allclose(fewer, got, rtol=1e-4, equal_nan=True), "whatever is read at once"
    scores, valid = scorer.scores(got), np.flatnonzero(~np.isnan(got))
    for k in (5, 40, 100):
        before = got[valid[k - 5 : k]].mean()
        assert scores[valid[k]] == pytest.approx((got[valid[k]] - before) / before)
    assert np.isnan(scores[valid[:5]]).all()


def test_recordings_that_cannot_be_scored_are_named(recorded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gaps give no score; what cannot be read and what is shorter than a window is said, and the next goes on."""
    draw = np.random.default_rng(0)
    made = [draw.normal(50, 10, (40, 1)) for _ in range(5)]
    made[0][:] = np.nan
    made[1][30] = np.inf
    made[2][30] = 1e31
    made[3] = made[3][: LENGTH - 1]
    made.append(draw.normal(50, 10, (40, 2)))
    for k, values in enumerate(made):
        np.save(recorded / f"odd{k}.npy", values)
    (recorded / "odd.csv").write_text("series\n" + "".join(f"odd{k}.npy\n" for k in range(len(made))))
    run = load(recorded / "plain", "best")
    run.model.eval()
    listed = dataclasses.replace(
        run, config=run.config.model_copy(update={"data": Data(train="odd.csv", windows=run.config.data.windows)})
    )
    scorer = predict_recordings.open_scorer(listed, average=5)
    parts = [
        *predict_recordings.anomalies(
            scorer, predict_recordings.recordings(listed, str(recorded / "odd.csv"), None), 1.0
        )
    ]
    assert [len(lines) for lines, _ in parts] == [40, 0, 0, 0, 40, 0]
    assert all(line["score"] is None for line in parts[0][0])
    assert sum(line["score"] is not None for line in parts[4][0]) == 40 - (LENGTH - 1) - 5
    said = [(one.where.rpartition("row ")[2], one.reason) for _, bad in parts for one in bad]
    assert [row for row, _ in said] == ["2", "3", "4", "6"]
    words = ("infinite value at step", "beyond 1e+30", "23 steps; the windows of the run have 24", "2 channels; the")
    assert all(word in reason for word, (_, reason) in zip(words, said, strict=True))

    def full(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(predict_recordings, "at_end", full)
    with pytest.raises(Failed, match="with 256 windows at a time: --batch-size takes fewer"):
        [
            *predict_recordings.anomalies(
                scorer, predict_recordings.recordings(listed, str(recorded / "odd.csv"), None), 1.0
            )
        ]


def test_spikes_are_found_better_than_by_differences(clx: Command, recorded: Path) -> None:
    done = clx("predict", "plain", "--anomaly", "--out", "odd.jsonl", cwd=recorded)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (recorded / "odd.jsonl").read_text().splitlines()]
    assert [line["time"] for line in lines] == [str(t) for t in range(VAL, STEPS)]
    flagged = {int(line["time"]) for line in lines if line["anomaly"]}
    scored = {int(line["time"]) for line in lines if line["score"] is not None}
    spikes = set(SPIKES) & scored
    x = bridged(signal())
    steps = np.abs(np.diff(x, prepend=x[0]))
    usual = steps[:TRAIN]
    naive = {t for t in scored if steps[t] > usual.mean() + 4 * usual.std()}
    assert len(flagged & spikes) / len(spikes) >= 0.8
    assert len(flagged & spikes) / len(flagged) > len(naive & spikes) / len(naive), "a spike has two great differences"


@pytest.mark.parametrize(("encoder", "scale", "gaps"), ENCODERS)
def test_every_channel_is_forecast_as_the_model_says(tmp_path: Path, encoder: str, scale: str, gaps: str) -> None:
    made, config = two_channels(tmp_path, encoder, scale, gaps)
    splits = load_splits(config.data, 0)
    run = prepare(config, splits)
    run.model.eval()
    state = run.modalities["series"].state()
    mean, deviation = np.array(state["mean"]), np.array(state["deviation"])
    scorer = predict_recordings.Scorer(run, "series", 16, 3)
    apart = scorer.differences(load_splits(config.data, 0, whole=True)["test"], 0)
    assert len(apart) == 45
    assert np.flatnonzero(np.isnan(apart)).tolist() == [*range(15), 61 - 45]
    ((lines, bad),) = predict_recordings.forecasts(scorer, predict_recordings.recordings(run, None, None))
    (first, second) = predict_recordings.forecasts(
        dataclasses.replace(scorer, block=1), predict_recordings.recordings(run, None, None)
    )
    alone = [line["predicted_2"] for line in first[0] + second[0]]
    assert alone == pytest.approx([line["predicted_2"] for line in lines], rel=1e-4)
    assert [*lines[0]] == ["recording", "ahead", "predicted_1", "predicted_2"]
    assert (len(lines), bad) == (10, [])
    series, here = run.modalities["series"], {"series": torch.ones(2, dtype=torch.bool)}
    with torch.no_grad():
        z = run.model({"series": series.collate([series.read(values[-16:]) for values in made])}, here)
        said = run.model.predict(z, here).view(10, 2).numpy() * deviation + mean
    told = [[line["predicted_1"], line["predicted_2"]] for line in lines]
    assert np.allclose(told, said, rtol=1e-4)
