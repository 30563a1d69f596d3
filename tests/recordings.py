"""A recording with a rhythm, gaps and spikes, runs on its windows, and what oracles make of it."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from clx.pipelines.config.schema import Config
from command import Command
from configs import small

LENGTH, TRAIN, VAL, STEPS = 24, 405, 540, 900  # of a window; ends of the parts
SPIKES = [*range(600, 890, 31)]


def signal() -> Any:
    """A rhythm of 12 steps with noise around 50; gaps in both parts, spikes in the last."""
    draw = np.random.default_rng(5)
    x = 50 + 10 * (np.sin(np.arange(STEPS) * np.pi / 6) + draw.normal(0, 0.1, STEPS))
    x[SPIKES] += 25
    x[[100, 101, 300, VAL + 75]] = np.nan
    return x


def windows_config(objective: Any = "ts2vec") -> dict[str, Any]:
    """A small run on windows of `rec.csv`."""
    data = {
        "train": "rec.csv",
        "val": {"last": 0.15},
        "test": {"last": 0.4},
        "long": {"time": "t", "channels": ["x"]},
        "windows": {"length": LENGTH, "stride": 3},
    }
    views = {"views": 2, "augmentation": {"crops": 0, "time_mask": 0.5}}
    series = {"encoder": "dilated", "width": 16, "head": "none", **views}
    raw = small(data, {"series": series}, objective, embed_dim=16)
    raw["train"] = {"batch_size": 8, "lr": 3e-3, "schedule": "constant"}
    return raw


def learn(clx: Command, folder: Path) -> None:
    """The recording `rec.csv`, a run `plain` of TS2Vec on it, and one, `ahead`, that learns to forecast besides."""
    folder.mkdir()
    cells = ["" if np.isnan(x) else f"{x:.6f}" for x in signal()]
    (folder / "rec.csv").write_text("t,x\n" + "".join(f"{t},{x}\n" for t, x in enumerate(cells)))
    plain = windows_config()
    plain["modalities"]["series"]["gaps"] = "indicate"  # so that a hidden step is none of a mean value
    plain["train"] |= {"steps": 120, "validate_every": 120, "seed": 1}
    ahead = windows_config([{"name": "mse"}, {"name": "ts2vec", "weight": 0.1}])
    ahead["data"]["windows"]["horizon"] = 6
    ahead["modalities"]["series"] |= {"pool": "last", "augmentation": {"jitter": 0.1, "time_mask": 0.1}}
    ahead["train"] |= {"steps": 80, "validate_every": 80}
    for name, raw in (("plain", plain), ("ahead", ahead)):
        (folder / f"{name}.yaml").write_text(json.dumps(raw))
        done = clx("train", f"{name}.yaml", "--out", name, cwd=folder)
        assert done.returncode == 0, done.stderr


def standardised() -> Any:
    """As training windows have it: mean and deviation are those of all their values, gaps left out."""
    x = signal()
    seen = np.concatenate([x[s : s + LENGTH] for s in range(0, TRAIN - LENGTH + 1, 3)])
    return (x - np.nanmean(seen)) / np.nanstd(seen)


def bridged(x: Any) -> Any:
    """Gaps filled by straight lines."""
    known = ~np.isnan(x)
    return np.interp(np.arange(len(x)), np.flatnonzero(known), x[known])


ENCODERS = [("tcn", "per-series", "interpolate"), ("dilated", "none", "mask")]
"""Of a run on two channels: `encoder`, `scale` and `gaps`."""


def two_channels(folder: Path, encoder: str, scale: str, gaps: str) -> tuple[list[Any], Config]:
    """Two recordings of 90 steps of two channels, as files and as they are here; a config that forecasts them."""
    draw = np.random.default_rng(1)
    made = [draw.normal(k, 1 + k, (90, 2)) for k in range(2)]
    made[0][61, 1] = np.nan
    for k, values in enumerate(made):
        np.save(folder / f"{k}.npy", values)
    (folder / "list.csv").write_text("series\n0.npy\n1.npy\n")
    raw = windows_config([{"name": "mse"}])
    windows = {"length": 16, "stride": 6, "horizon": 5}
    raw["data"] = {"train": str(folder / "list.csv"), "test": {"last": 0.5}, "windows": windows}
    raw["modalities"]["series"] |= {"encoder": encoder, "scale": scale, "gaps": gaps, "head": "linear"}
    return made, Config.model_validate(raw)
