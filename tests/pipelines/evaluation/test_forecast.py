"""Forecasts and anomaly scores: figures against scikit-learn and loops, and that nobody sees what is to come."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from clx.pipelines.batches.batch import Key
from clx.pipelines.batches.dataset import BatchDataset
from clx.pipelines.config.schema import Config, Data
from clx.pipelines.data.splits import load_splits
from clx.pipelines.evaluation import forecast
from clx.pipelines.model.build import prepare
from clx.pipelines.runs.checkpoint import load
from clx.pipelines.system.errors import BadInput, Failed
from clx.pipelines.use import predict_recordings
from command import Command

LENGTH, TRAIN, VAL, STEPS = 24, 405, 540, 900  # of a window; ends of the parts
SPIKES = [*range(600, 890, 31)]


def signal() -> Any:
    """A rhythm of 12 steps with noise around 50; gaps in both parts, spikes in the last."""
    draw = np.random.default_rng(5)
    x = 50 + 10 * (np.sin(np.arange(STEPS) * np.pi / 6) + draw.normal(0, 0.1, STEPS))
    x[SPIKES] += 25
    x[[100, 101, 300, VAL + 75]] = np.nan
    return x


def config(**changes: Any) -> dict[str, Any]:
    views = {"views": 2, "augmentation": {"crops": 0, "time_mask": 0.5}}
    return {
        "data": {
            "train": "rec.csv",
            "val": {"last": 0.15},
            "test": {"last": 0.4},
            "long": {"time": "t", "channels": ["x"]},
            "windows": {"length": LENGTH, "stride": 3},
        },
        "modalities": {"series": {"encoder": "dilated", "width": 16, "head": "none", **views}},
        "embed_dim": 16,
        "objective": {"name": "ts2vec"},
        "train": {"batch_size": 8, "lr": 3e-3, "schedule": "constant"},
        "eval": [],
        **changes,
    }


@pytest.fixture(scope="module")
def folder(clx: Command, once: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording, a run of TS2Vec on its windows, and one that is trained to forecast besides."""
    made = once("forecast", lambda folder: learn(clx, folder))
    return Path(shutil.copytree(made, tmp_path_factory.mktemp("copy") / "forecast"))


def learn(clx: Command, folder: Path) -> None:
    folder.mkdir()
    cells = ["" if np.isnan(x) else f"{x:.6f}" for x in signal()]
    (folder / "rec.csv").write_text("t,x\n" + "".join(f"{t},{x}\n" for t, x in enumerate(cells)))
    plain = config()
    plain["modalities"]["series"]["gaps"] = "indicate"  # so that a hidden step is none of a mean value
    plain["train"] |= {"steps": 120, "validate_every": 120}
    ahead = config(objective=[{"name": "mse"}, {"name": "ts2vec", "weight": 0.1}])
    ahead["data"]["windows"]["horizon"] = 6
    ahead["modalities"]["series"] |= {"pool": "last", "augmentation": {"jitter": 0.1, "time_mask": 0.1}}
    ahead["train"] |= {"steps": 80, "validate_every": 80}
    for name, raw in (("plain", plain), ("ahead", ahead)):
        (folder / f"{name}.yaml").write_text(json.dumps(raw))
        done = clx("train", f"{name}.yaml", "--out", name, cwd=folder)
        assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def result(clx: Command, folder: Path) -> dict[str, Any]:
    args = ("--task", "forecast", "--horizons", "4,6,30", "--resamples", "50", "--json")
    done = clx("eval", "ahead", *args, cwd=folder)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def standardised() -> Any:
    """As training windows have it: mean and deviation are those of all their values, gaps left out."""
    x = signal()
    seen = np.concatenate([x[s : s + LENGTH] for s in range(0, TRAIN - LENGTH + 1, 3)])
    return (x - np.nanmean(seen)) / np.nanstd(seen)


def bridged(x: Any) -> Any:
    known = ~np.isnan(x)
    return np.interp(np.arange(len(x)), np.flatnonzero(known), x[known])


def windows(first: int, end: int, h: int) -> tuple[Any, Any, Any]:
    """Starts, lags and what follows, of all windows of a part that a measured step h later follows."""
    x, starts = standardised(), range(first, end - LENGTH - h + 1, 3)
    kept = [s for s in starts if not np.isnan(x[s + LENGTH + h - 1])]
    lags = np.stack([bridged(x[s : s + LENGTH]) for s in kept])
    return np.array(kept), lags, np.stack([x[s + LENGTH : s + LENGTH + h] for s in kept])


@pytest.mark.parametrize("h", [4, 30])
def test_baselines_are_those_of_a_loop_over_the_file(result: dict[str, Any], h: int) -> None:
    _, train, train_aim = windows(0, TRAIN, h)
    _, val, val_aim = windows(TRAIN, VAL, h)
    starts, test, aim = windows(VAL, STEPS, h)
    known = ~np.isnan(aim)
    line = result["forecast"][f"seasonal-naive->{h}"]
    wrong = {m: np.nanmean((train[:, [LENGTH - m + k % m for k in range(h)]] - train_aim) ** 2) for m in range(1, 25)}
    assert line["season"] == min(wrong, key=wrong.__getitem__)
    assert line["season"] in (12, 24)
    said = test[:, [LENGTH - line["season"] + k % line["season"] for k in range(h)]]
    assert line["rows"] == len(starts)
    assert line["mse"] == pytest.approx(np.mean((said - aim)[known] ** 2), rel=1e-4)
    assert line["mae"] == pytest.approx(np.mean(np.abs(said - aim)[known]), rel=1e-4)

    filled = np.stack([bridged(row) for row in train_aim])
    scaler = StandardScaler().fit(train)
    path = {}
    for penalty in (each["penalty"] for each in result["forecast"][f"ridge-on-lags->{h}"]["path"]):
        model = Ridge(alpha=penalty * len(train)).fit(scaler.transform(train), filled)
        path[penalty] = model, np.nanmean((model.predict(scaler.transform(val)) - val_aim) ** 2)
    line = result["forecast"][f"ridge-on-lags->{h}"]
    assert [each["val_mse"] for each in line["path"]] == pytest.approx([score for _, score in path.values()], rel=1e-3)
    best = min(path, key=lambda penalty: path[penalty][1])
    assert line["penalty"] == best
    said = path[best][0].predict(scaler.transform(test))
    assert line["mse"] == pytest.approx(np.mean((said - aim)[known] ** 2), rel=1e-3)
    low, high = line["mse_ci"]
    assert low < line["mse"] < high


def test_every_method_answers_the_same_windows(result: dict[str, Any]) -> None:
    lines = result["forecast"]
    methods = ("series", "trained-predictor", "ridge-on-lags", "seasonal-naive")
    assert [*lines] == [f"{m}->{h}" for h in (4, 6, 30) for m in methods if h <= 6 or m != "trained-predictor"]
    for h in (4, 6, 30):
        assert len({lines[f"{m}->{h}"]["rows"] for m in methods if f"{m}->{h}" in lines}) == 1
    assert lines["trained-predictor->6"]["mse"] < 0.9 * 1.4, "the mean of training alone scores 1.4 here"
    assert lines["series->6"]["features"] == "encoder"
    assert result["settings"]["horizons"] == [4, 6, 30]


def test_nothing_behind_the_end_of_a_window_is_seen(folder: Path) -> None:
    """Another future changes neither features nor lags of a window; another last step does."""
    run = load(folder / "plain", "last")
    run.model.eval()
    data = run.config.data
    data = data.model_copy(update={"windows": data.windows.model_copy(update={"horizon": 5})})  # type: ignore[union-attr]
    text = (folder / "rec.csv").read_text().splitlines()
    found = []
    for changed in (None, VAL + 30 + LENGTH, VAL + 30 + LENGTH - 1):
        lines = list(text)
        if changed is not None:
            lines[1 + changed] = f"{changed},99"
        (folder / "changed.csv").write_text("\n".join(lines) + "\n")
        rows = load_splits(data.model_copy(update={"train": str(folder / "changed.csv")}), 0)["test"]
        found.append(forecast.ends(run, "series", rows, 5, "encoder"))
    at = 10  # the window that begins 30 steps into the test part
    before, after, last = found
    assert torch.equal(before.features[at], after.features[at])
    assert torch.equal(before.lags[at], after.lags[at])
    assert not torch.equal(before.future[at], after.future[at])
    assert not torch.allclose(before.features[at], last.features[at])
    series = run.modalities["series"]
    window = torch.cat([before.lags[at], torch.ones(LENGTH, 1)], 1)
    steps, _ = run.model.tower("series").encoder.steps(**series.collate([window]))  # type: ignore[operator]
    assert torch.allclose(steps[0, -1], before.features[at], atol=1e-5), "TS2Vec's: the last step of the window"


def test_forecasts_are_in_the_units_of_the_file(clx: Command, folder: Path) -> None:
    x = [60, 40] * 30
    (folder / "new.csv").write_text("t,x\n" + "".join(f"{t},{v}\n" for t, v in enumerate(x)))
    done = clx("predict", "ahead", "new.csv", "--checkpoint", "last", cwd=folder)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(line["recording"], line["ahead"]) for line in lines] == [("new", k) for k in range(1, 7)]
    seen = np.concatenate([signal()[s : s + LENGTH] for s in range(0, TRAIN - LENGTH + 1, 3)])
    mean, deviation = np.nanmean(seen), np.nanstd(seen)
    run = load(folder / "ahead", "last")
    run.model.eval()
    window = torch.tensor((np.array(x[-LENGTH:]) - mean) / deviation).float()[None, :, None]
    here = {"series": torch.ones(1, dtype=torch.bool)}
    with torch.no_grad():
        z = run.model({"series": {"x": window, "mask": torch.ones(1, LENGTH, dtype=torch.bool)}}, here)
        said = run.model.predict(z, here)[0].numpy() * deviation + mean
    assert [line["predicted"] for line in lines] == pytest.approx(said.tolist(), rel=1e-3)
    own = clx("predict", "ahead", "--out", "f.csv", cwd=folder)
    assert own.returncode == 0, own.stderr
    assert (folder / "f.csv").read_text().splitlines()[0] == "recording,ahead,predicted"
    (folder / "new.csv").write_text("t,x\n1,50\n2,51\n")
    short = clx("predict", "ahead", "new.csv", cwd=folder)
    assert (short.returncode, short.stdout) == (1, "")
    assert "2 steps; the windows of the run have 24" in short.stderr


def test_scores_are_those_of_a_loop_over_windows(folder: Path) -> None:
    run = load(folder / "plain", "best")
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


def test_recordings_that_cannot_be_scored_are_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gaps give no score; what cannot be read and what is shorter than a window is said, and the next goes on."""
    draw = np.random.default_rng(0)
    made = [draw.normal(50, 10, (40, 1)) for _ in range(5)]
    made[0][:] = np.nan
    made[1][30] = np.inf
    made[2][30] = 1e31
    made[3] = made[3][: LENGTH - 1]
    made.append(draw.normal(50, 10, (40, 2)))
    for k, values in enumerate(made):
        np.save(folder / f"odd{k}.npy", values)
    (folder / "odd.csv").write_text("series\n" + "".join(f"odd{k}.npy\n" for k in range(len(made))))
    run = load(folder / "plain", "best")
    run.model.eval()
    listed = dataclasses.replace(
        run, config=run.config.model_copy(update={"data": Data(train="odd.csv", windows=run.config.data.windows)})
    )
    scorer = predict_recordings.open_scorer(listed, average=5)
    parts = [
        *predict_recordings.anomalies(scorer, predict_recordings.recordings(listed, str(folder / "odd.csv"), None), 1.0)
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
                scorer, predict_recordings.recordings(listed, str(folder / "odd.csv"), None), 1.0
            )
        ]


def test_spikes_are_found_better_than_by_differences(clx: Command, folder: Path) -> None:
    done = clx("predict", "plain", "--anomaly", "--out", "odd.jsonl", cwd=folder)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (folder / "odd.jsonl").read_text().splitlines()]
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


def test_what_cannot_be_forecast_says_why(clx: Command, folder: Path, digits_run: Path) -> None:
    for run, args, words in (
        ("plain", ["--task", "forecast", "--horizons", "500"], "horizon 500: there are no windows to ask"),
        ("plain", ["--task", "forecast", "--horizons", "4,x"], "options: horizons"),
        ("plain", ["--task", "forecast", "--split", "train"], "needs training windows of earlier times"),
        (digits_run, ["--task", "forecast"], "needs data.windows on a series"),
    ):
        done = clx("eval", run, *args, cwd=folder)
        assert (done.returncode, done.stdout) == (2, ""), done.stderr
        assert words in done.stderr.splitlines()[-1], done.stderr
    for args, words in (
        (["plain"], "has no head that predicts"),
        (["plain", "--beta", "3"], "--anomaly, which is not given"),
        (["plain", "--anomaly", "--beta", "nan"], "--beta nan: so many"),
        (["plain", "--anomaly", "--beta", "-1"], "--beta -1: so many"),
        (["plain", "gone.csv", "--anomaly"], "no such file"),
        (["ahead", "--keep", "t"], "not for the steps of recordings"),
        ([str(digits_run), "--anomaly"], "not trained on windows"),
    ):
        done = clx("predict", *args, cwd=folder)
        assert (done.returncode, done.stdout) == (2, ""), done.stderr
        assert words in done.stderr
        assert "is an anomaly" not in done.stderr, "the threshold takes long: what is wrong is said before"


def test_windows_that_none_can_use(clx: Command, folder: Path) -> None:
    """Where no recording is as long as a window the task says so; a window longer than what is read is refused."""
    (folder / "brief.csv").write_text("t,x\n" + "".join(f"{t},{50 + t % 3}\n" for t in range(LENGTH - 1)))
    args = ("--train", "rec.csv", "--task", "forecast", "--horizons", "3")
    done = clx("eval", "plain", "--data", "brief.csv", *args, cwd=folder)
    assert done.returncode == 2, done.stderr
    assert "horizon 3: there are no windows to ask that so many steps follow" in done.stderr.splitlines()[-1]
    for windows, steps, words in (
        ({"length": 24, "stride": 3}, 20, r"data.windows.length = 24, but modalities.series reads 20 steps at most"),
        ({"length": 8, "stride": 3, "horizon": 30}, 20, r"data.windows.horizon = 30, but"),
    ):
        raw = config()
        raw["data"] |= {"train": str(folder / "rec.csv"), "windows": windows}
        raw["modalities"]["series"]["max_steps"] = steps
        made = Config.model_validate(raw)
        with pytest.raises(BadInput, match=words):
            prepare(made, load_splits(made.data, 0))


def test_without_val_windows_the_last_of_training_choose_and_none_shares_a_future(folder: Path) -> None:
    run = load(folder / "plain", "last")
    run.model.eval()
    data = run.config.data
    data = data.model_copy(update={"windows": data.windows.model_copy(update={"horizon": 9})})  # type: ignore[union-attr]
    known = forecast.ends(run, "series", load_splits(data, 0)["train"], 9, "head")
    split = forecast.Split.of(known, None, 9)
    assert split is not None
    assert split.choose.tolist() == [*range(int(split.choose[0]), int(known.whole(9)[-1]) + 1)]
    assert known.start[split.learn.numpy()].max() + 9 <= known.start[int(split.choose[0])]


@pytest.mark.parametrize(
    ("encoder", "scale", "gaps"), [("tcn", "per-series", "interpolate"), ("dilated", "none", "mask")]
)
def test_channels_of_files(tmp_path: Path, encoder: str, scale: str, gaps: str) -> None:
    """Values are by the training windows' statistics whatever the encoder sees, and of the right steps and channels."""
    draw = np.random.default_rng(1)
    made = [draw.normal(k, 1 + k, (90, 2)) for k in range(2)]
    made[0][61, 1] = np.nan
    for k, values in enumerate(made):
        np.save(tmp_path / f"{k}.npy", values)
    (tmp_path / "list.csv").write_text("series\n0.npy\n1.npy\n")
    raw = config(objective=[{"name": "mse"}])
    raw["data"] = {
        "train": str(tmp_path / "list.csv"),
        "test": {"last": 0.5},
        "windows": {"length": 16, "stride": 6, "horizon": 5},
    }
    raw["modalities"]["series"] |= {"encoder": encoder, "scale": scale, "gaps": gaps, "head": "linear"}
    made_config = Config.model_validate(raw)
    splits = load_splits(made_config.data, 0)
    run = prepare(made_config, splits)
    run.model.eval()
    assert run.forecasts == ("series", 5)
    assert run.model.predictor is not None
    assert run.model.predictor.out_features == 10
    found = forecast.ends(run, "series", splits["test"], 5, "head")
    state = run.modalities["series"].state()
    mean, deviation = np.array(state["mean"]), np.array(state["deviation"])
    trained = np.concatenate([values[s : s + 16] for values in made for s in range(0, 30, 6)])
    assert mean == pytest.approx(trained.mean(0))
    assert deviation == pytest.approx(trained.std(0))
    assert found.start.tolist() == [45, 51, 57, 63, 69] * 2
    assert found.recording.tolist() == [0] * 5 + [1] * 5
    assert found.whole(5).tolist() == [k for k in range(10) if k % 5 < 5 and found.start[k] + 21 <= 90]
    for k, start in enumerate(found.start.tolist()):
        values = (made[k // 5] - mean) / deviation
        filled = values[start : start + 16].copy()
        for c in range(2):
            filled[:, c] = bridged(filled[:, c])
        assert np.allclose(found.lags[k], filled, atol=1e-5)
        follows = values[start + 16 : start + 21]
        assert np.allclose(found.future[k][: len(follows)], follows, atol=1e-5, equal_nan=True)
        assert found.future[k][len(follows) :].isnan().all()
    batch = BatchDataset(splits["test"], run.modalities, forecasts=run.forecasts)[Key(0, 0, np.arange(10))]
    assert torch.allclose(batch.targets.view(10, 5, 2), found.future, equal_nan=True)
    scorer = predict_recordings.Scorer(run, "series", 16, 3)
    whole = load_splits(made_config.data, 0, whole=True)["test"]
    apart = scorer.differences(whole, 0)
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
    made[1][86, 0] = np.inf
    np.save(tmp_path / "1.npy", made[1])
    with pytest.raises(BadInput, match=r"column (series|future): infinite value at step"):
        forecast.ends(run, "series", splits["test"], 5, "head")
