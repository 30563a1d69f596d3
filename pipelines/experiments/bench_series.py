"""Accuracy on the series that aeon packages: clx without labels beside what classifies series today."""

import json
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from clx.pipelines.config.schema import Config
from clx.pipelines.data.builtin import AEON, load_builtin
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.evaluation.embeddings import embed_manifest
from clx.pipelines.experiments.train import train
from clx.pipelines.measures import probes
from clx.pipelines.model.build import Run
from clx.pipelines.runs import checkpoint
from clx.pipelines.system.errors import BadInput, nearest
from clx.pipelines.system.progress import Silent

SETS = ("GunPoint", "ArrowHead", "ItalyPowerDemand", "BasicMotions", "JapaneseVowels", "OSULeaf", "ACSF1")
Array = NDArray[Any]
Splits = dict[str, Manifest]


def table(
    sets: Sequence[str], methods: Sequence[str], seeds: int, steps: int, log: Path | None, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Test accuracy by set and method: mean and deviation over `seeds`, and seconds per seed.

    With `log` every figure is appended to that JSONL file when it is known, and those that it has are not made
    again. Raises `BadInput` for a set or method that there is not.
    """
    known = [name for name, *_ in AEON]
    for name in sets:
        if name not in known:
            raise BadInput(f"aeon packages no set {name!r}{nearest(name, known)}")
    for method in methods:
        if method not in METHODS:
            raise BadInput(f"unknown method {method!r}{nearest(method, METHODS)}")
    made = _read(log)
    for name, method, seed in ((n, m, s) for n in sets for m in methods for s in range(seeds)):
        if seed and method in CERTAIN:
            continue
        if all(_key(name, part, seed, steps) in made for part in METHODS[method]):
            continue
        start = time.monotonic()
        found = RUNNERS[method](load_builtin(f"aeon:{name}"), seed, steps)
        seconds = round(time.monotonic() - start, 1)
        for part, accuracy in found.items():
            line = {"set": name, "method": part, "seed": seed, "steps": steps, "accuracy": accuracy, "seconds": seconds}
            made[_key(name, part, seed, steps)] = line
            say(f"{name} {part} seed {seed}: {accuracy:.4f} in {seconds} s")
            if log is not None:
                with log.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
    parts = [part for method in methods for part in METHODS[method]]
    return list(_summary(sets, parts, seeds, steps, made))


Key = tuple[str, str, int, int | None]


def _key(name: str, part: str, seed: int, steps: int) -> Key:
    return name, part, seed, steps if part in TRAINED else None


def _read(log: Path | None) -> dict[Key, dict[str, Any]]:
    if log is None or not log.exists():
        return {}
    try:
        lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
        return {_key(line["set"], line["method"], line["seed"], line["steps"]): line for line in lines}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{log} is not a log of this command: {error}") from None


def _summary(
    sets: Sequence[str], parts: Sequence[str], seeds: int, steps: int, made: dict[Key, dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    means: dict[str, list[float]] = {}
    for name in sets:
        for part in parts:
            lines = [made[key] for s in range(seeds) if (key := _key(name, part, s, steps)) in made]
            values = [line["accuracy"] for line in lines]
            means.setdefault(part, []).append(fmean(values))
            yield {
                "set": name,
                "method": part,
                "accuracy": round(fmean(values), 4),
                "deviation": round(pstdev(values), 4),
                "seeds": len(values),
                "seconds": round(fmean(line["seconds"] for line in lines), 1),
            }
    if len(sets) > 1:
        for part, values in means.items():
            yield {"set": "mean", "method": part, "accuracy": round(fmean(values), 4)}


def _arrays(splits: Splits) -> tuple[list[Array], Array, list[Array], Array]:
    """Training series `[C, T]` and labels, then those of the test split."""
    found: list[Any] = []
    for split in ("train", "test"):
        rows = splits[split].column("series")
        found.append([np.asarray(row, dtype=np.float64).reshape(len(row), -1).T for row in rows])
        found.append(np.array(splits[split].column("label")))
    return tuple(found)


def _equal(train: list[Array], test: list[Array]) -> tuple[Array, Array]:
    """Zero-padded to the longest training series, and cut to it: `[N, C, T]`."""
    length = max(row.shape[1] for row in train)

    def fit(row: Array) -> Array:
        return np.pad(row[:, :length], ((0, 0), (0, max(0, length - row.shape[1]))))

    return np.stack([fit(row) for row in train]), np.stack([fit(row) for row in test])


def minirocket(splits: Splits, seed: int, steps: int) -> dict[str, float]:
    """aeon's MiniRocketClassifier with its default ridge."""
    from aeon.classification.convolution_based import MiniRocketClassifier

    train, y, test, answers = _arrays(splits)
    x, unseen = _equal(train, test)
    with _numba_quiet():
        guesses = MiniRocketClassifier(random_state=seed, n_jobs=1).fit(x, y).predict(unseen)
    return {"minirocket": float((guesses == answers).mean())}


def dtw(splits: Splits, seed: int, steps: int) -> dict[str, float]:
    """The nearest training series by dynamic time warping, with a window of the whole series."""
    from aeon.classification.distance_based import KNeighborsTimeSeriesClassifier

    train, y, test, answers = _arrays(splits)
    x, unseen = (train, test) if len({row.shape for row in [*train, *test]}) > 1 else _equal(train, test)
    with _numba_quiet():
        guesses = KNeighborsTimeSeriesClassifier(n_neighbors=1, distance="dtw", n_jobs=1).fit(x, y).predict(unseen)
    return {"1nn-dtw": float((guesses == answers).mean())}


@contextmanager
def _numba_quiet() -> Iterator[None]:
    """aeon's functions are compiled when first called, and numba then warns of its own casts."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def ts2vec(splits: Splits, seed: int, steps: int) -> dict[str, float]:
    """TS2Vec's recipe on the training series without their labels; then three classifiers on frozen features."""
    name = splits["train"].name.split()[0]
    crops = {"crops": 0.0, "time_mask": 0.5}
    series = {"encoder": "dilated", "width": 256, "layers": 10, "head": "none", "views": 2, "augmentation": crops}
    settings = {"batch_size": 8, "lr": 1e-3, "schedule": "constant", "warmup": 0, "weight_decay": 0.01, "clip": None}
    run = _trained(name, series, {"name": "ts2vec"}, settings | {"steps": steps, "seed": seed})
    features = {split: embed_manifest(run, splits[split]) for split in ("train", "test")}
    x, unseen = (features[split].z["series"].numpy() for split in ("train", "test"))
    y, answers = (features[split].labels.numpy() for split in ("train", "test"))
    return {
        "ts2vec svm": svm(x, y, unseen, answers),
        "ts2vec probe": probe(x, y, unseen, answers),
        "ts2vec 1nn": nearest_neighbour(x, y, unseen, answers),
    }


def inceptiontime(splits: Splits, seed: int, steps: int) -> dict[str, float]:
    """tsai's InceptionTimePlus, trained with the labels."""
    name = splits["train"].name.split()[0]
    series = {"encoder": "tsai:InceptionTimePlus", "width": 128, "augmentation": "none"}
    rows = len(splits["train"])
    settings = {"batch_size": min(16, rows), "lr": 1e-3, "steps": 2 * steps, "seed": seed}
    run = _trained(name, series, {"name": "cross-entropy"}, settings)
    test = embed_manifest(run, splits["test"])
    with torch.no_grad():
        guesses = run.model.predict(test.z, test.present).argmax(1)
    return {"inceptiontime": float((guesses == test.labels).float().mean())}


def _trained(name: str, series: dict[str, Any], loss: dict[str, Any], settings: dict[str, Any]) -> Run:
    raw = {
        "data": {"train": name, "label": "label", "cache": "memory"},
        "modalities": {"series": series},
        "embed_dim": series["width"],
        "objective": loss,
        "train": settings,
        "eval": [],
    }
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        train(Config.model_validate(raw), out, Silent())
        return checkpoint.load(out, "last")


def svm(x: Array, y: Array, unseen: Array, answers: Array) -> float:
    """RBF support vectors as TS2Vec's protocol has them."""
    known, labels, queries = (torch.from_numpy(each) for each in (x, y, unseen))
    return float((probes.svm(known, labels, queries)[0].numpy() == answers).mean())


def probe(x: Array, y: Array, unseen: Array, answers: Array) -> float:
    """Logistic regression on standardised features."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000))
    return float(model.fit(x, y).score(unseen, answers))


def nearest_neighbour(x: Array, y: Array, unseen: Array, answers: Array) -> float:
    """The nearest training series by Euclidean distance of standardised features."""
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return float(make_pipeline(StandardScaler(), KNeighborsClassifier(1)).fit(x, y).score(unseen, answers))


METHODS = {
    "ts2vec": ("ts2vec svm", "ts2vec probe", "ts2vec 1nn"),
    "minirocket": ("minirocket",),
    "1nn-dtw": ("1nn-dtw",),
    "inceptiontime": ("inceptiontime",),
}
RUNNERS = {"ts2vec": ts2vec, "minirocket": minirocket, "1nn-dtw": dtw, "inceptiontime": inceptiontime}
CERTAIN = {"1nn-dtw"}
"""Methods without any randomness."""
TRAINED = {*METHODS["ts2vec"], "inceptiontime"}
