"""Forecasts: figures against scikit-learn and loops, and that nobody sees what is to come."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from clx.pipelines.batches.batch import Key
from clx.pipelines.batches.dataset import BatchDataset
from clx.pipelines.config.schema import Config
from clx.pipelines.data.splits import load_splits
from clx.pipelines.evaluation.tasks import forecast
from clx.pipelines.model.build import prepare
from clx.pipelines.runs.checkpoint import load
from clx.pipelines.system.errors import BadInput
from command import Command
from recordings import ENCODERS, LENGTH, STEPS, TRAIN, VAL, bridged, standardised, two_channels, windows_config


@pytest.fixture(scope="module")
def result(clx: Command, recorded: Path) -> dict[str, Any]:
    args = ("--task", "forecast", "--horizons", "4,6,30", "--resamples", "50", "--json")
    done = clx("eval", "ahead", *args, cwd=recorded)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


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


def test_nothing_behind_the_end_of_a_window_is_seen(recorded: Path) -> None:
    """Another future changes neither features nor lags of a window; another last step does."""
    run = load(recorded / "plain", "last")
    run.model.eval()
    data = run.config.data
    data = data.model_copy(update={"windows": data.windows.model_copy(update={"horizon": 5})})  # type: ignore[union-attr]
    text = (recorded / "rec.csv").read_text().splitlines()
    found = []
    for changed in (None, VAL + 30 + LENGTH, VAL + 30 + LENGTH - 1):
        lines = list(text)
        if changed is not None:
            lines[1 + changed] = f"{changed},99"
        (recorded / "changed.csv").write_text("\n".join(lines) + "\n")
        rows = load_splits(data.model_copy(update={"train": str(recorded / "changed.csv")}), 0)["test"]
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


def test_what_cannot_be_forecast_says_why(clx: Command, recorded: Path, digits_run: Path) -> None:
    for run, args, words in (
        ("plain", ["--task", "forecast", "--horizons", "500"], "horizon 500: there are no windows to ask"),
        ("plain", ["--task", "forecast", "--horizons", "4,x"], "options: horizons"),
        ("plain", ["--task", "forecast", "--split", "train"], "needs training windows of earlier times"),
        (digits_run, ["--task", "forecast"], "needs data.windows on a series"),
    ):
        done = clx("eval", run, *args, cwd=recorded)
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
        done = clx("predict", *args, cwd=recorded)
        assert (done.returncode, done.stdout) == (2, ""), done.stderr
        assert words in done.stderr
        assert "is an anomaly" not in done.stderr, "the threshold takes long: what is wrong is said before"


def test_windows_that_none_can_use(clx: Command, recorded: Path) -> None:
    """Where no recording is as long as a window the task says so; a window longer than what is read is refused."""
    (recorded / "brief.csv").write_text("t,x\n" + "".join(f"{t},{50 + t % 3}\n" for t in range(LENGTH - 1)))
    args = ("--train", "rec.csv", "--task", "forecast", "--horizons", "3")
    done = clx("eval", "plain", "--data", "brief.csv", *args, cwd=recorded)
    assert done.returncode == 2, done.stderr
    assert "horizon 3: there are no windows to ask that so many steps follow" in done.stderr.splitlines()[-1]
    for windows, steps, words in (
        ({"length": 24, "stride": 3}, 20, r"data.windows.length = 24, but modalities.series reads 20 steps at most"),
        ({"length": 8, "stride": 3, "horizon": 30}, 20, r"data.windows.horizon = 30, but"),
    ):
        raw = windows_config()
        raw["data"] |= {"train": str(recorded / "rec.csv"), "windows": windows}
        raw["modalities"]["series"]["max_steps"] = steps
        made = Config.model_validate(raw)
        with pytest.raises(BadInput, match=words):
            prepare(made, load_splits(made.data, 0))


def test_without_val_windows_the_last_of_training_choose_and_none_shares_a_future(recorded: Path) -> None:
    run = load(recorded / "plain", "last")
    run.model.eval()
    data = run.config.data
    data = data.model_copy(update={"windows": data.windows.model_copy(update={"horizon": 9})})  # type: ignore[union-attr]
    known = forecast.ends(run, "series", load_splits(data, 0)["train"], 9, "head")
    split = forecast.Split.of(known, None, 9)
    assert split is not None
    assert split.choose.tolist() == [*range(int(split.choose[0]), int(known.whole(9)[-1]) + 1)]
    assert known.start[split.learn.numpy()].max() + 9 <= known.start[int(split.choose[0])]


@pytest.mark.parametrize(("encoder", "scale", "gaps"), ENCODERS)
def test_values_are_by_the_training_windows_statistics(tmp_path: Path, encoder: str, scale: str, gaps: str) -> None:
    """Whatever the encoder sees; and they are of the right steps and channels."""
    made, config = two_channels(tmp_path, encoder, scale, gaps)
    splits = load_splits(config.data, 0)
    run = prepare(config, splits)
    run.model.eval()
    found = forecast.ends(run, "series", splits["test"], 5, "head")
    state = run.modalities["series"].state()
    mean, deviation = np.array(state["mean"]), np.array(state["deviation"])
    trained = np.concatenate([values[s : s + 16] for values in made for s in range(0, 30, 6)])
    assert mean == pytest.approx(trained.mean(0))
    assert deviation == pytest.approx(trained.std(0))
    for k, start in enumerate(found.start.tolist()):
        values = (made[k // 5] - mean) / deviation
        filled = values[start : start + 16].copy()
        for c in range(2):
            filled[:, c] = bridged(filled[:, c])
        assert np.allclose(found.lags[k], filled, atol=1e-5)
        follows = values[start + 16 : start + 21]
        assert np.allclose(found.future[k][: len(follows)], follows, atol=1e-5, equal_nan=True)
        assert found.future[k][len(follows) :].isnan().all()


def test_windows_of_the_last_part_and_what_follows_them(tmp_path: Path) -> None:
    made, config = two_channels(tmp_path, *ENCODERS[0])
    splits = load_splits(config.data, 0)
    run = prepare(config, splits)
    run.model.eval()
    assert run.forecasts == ("series", 5)
    assert run.model.predictor is not None
    assert run.model.predictor.out_features == 10
    found = forecast.ends(run, "series", splits["test"], 5, "head")
    assert found.start.tolist() == [45, 51, 57, 63, 69] * 2
    assert found.recording.tolist() == [0] * 5 + [1] * 5
    assert found.whole(5).tolist() == [k for k in range(10) if k % 5 < 5 and found.start[k] + 21 <= 90]
    batch = BatchDataset(splits["test"], run.modalities, forecasts=run.forecasts)[Key(0, 0, np.arange(10))]
    assert torch.allclose(batch.targets.view(10, 5, 2), found.future, equal_nan=True)
    made[1][86, 0] = np.inf
    np.save(tmp_path / "1.npy", made[1])
    with pytest.raises(BadInput, match=r"column (series|future): infinite value at step"):
        forecast.ends(run, "series", splits["test"], 5, "head")
