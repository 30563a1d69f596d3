"""What others make of the same rows in a line or two: boosted trees, MiniRocket, linear models on plain features.

Each is given the rows to learn from and those to be asked, and returns its error: 1 - accuracy, the mean absolute
error, or 1 - Spearman's correlation.
"""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clx.pipelines.data.cell_files import resolve
from clx.pipelines.data.distinct import numbers
from clx.pipelines.data.manifest import Manifest

Array = NDArray[Any]
Yardstick = Callable[[Manifest, Manifest], float]


def boosted_numbers(target: str, columns: tuple[str, ...] = ()) -> Yardstick:
    """scikit-learn's histogram gradient boosting on a table's numbers, as it comes; of all other columns if none is
    named."""

    def error(train: Manifest, test: Manifest) -> float:
        from sklearn.ensemble import HistGradientBoostingRegressor

        names = columns or tuple(c for c in train.columns if c not in (target, "split"))
        model = HistGradientBoostingRegressor(random_state=0).fit(_table(train, names), numbers(train, target))
        return float(np.abs(model.predict(_table(test, names)) - numbers(test, target)).mean())

    return error


def boosted_classes(label: str) -> Yardstick:
    """The same for classes."""

    def error(train: Manifest, test: Manifest) -> float:
        from sklearn.ensemble import HistGradientBoostingClassifier

        names = tuple(c for c in train.columns if c not in (label, "split"))
        model = HistGradientBoostingClassifier(random_state=0).fit(_table(train, names), _labels(train, label))
        return _wrong(model.predict(_table(test, names)), _labels(test, label))

    return error


def linear_pixels(label: str, size: int = 32) -> Yardstick:
    """Logistic regression on standardised pixels of `size` x `size`."""
    return _linear(label, lambda rows: np.stack([_pixels(rows, i, size) for i in range(len(rows))]))


def linear_mel(label: str, column: str) -> Yardstick:
    """Logistic regression on mean and deviation over time of 64 log-mel bands."""
    return _linear(label, lambda rows: np.stack([_mel(rows, i, column) for i in range(len(rows))]))


def minirocket(label: str) -> Yardstick:
    """aeon's MiniRocketClassifier with its default ridge."""

    def error(train: Manifest, test: Manifest) -> float:
        from aeon.classification.convolution_based import MiniRocketClassifier

        x, unseen = (np.stack([_channels(row) for row in rows.column("series")]) for rows in (train, test))
        model = MiniRocketClassifier(random_state=0, n_jobs=1).fit(x, _labels(train, label))
        return _wrong(model.predict(unseen), _labels(test, label))

    return error


def tfidf_cosine(first: str, second: str, score: str) -> Yardstick:
    """The cosine of two sentences' TF-IDF vectors, as their score."""

    def error(train: Manifest, test: Manifest) -> float:
        from scipy.stats import spearmanr
        from sklearn.feature_extraction.text import TfidfVectorizer

        words = TfidfVectorizer(sublinear_tf=True).fit([*train.column(first), *train.column(second)])
        one, other = words.transform(test.column(first)), words.transform(test.column(second))
        cosine = np.asarray(one.multiply(other).sum(1)).ravel()
        return 1 - float(spearmanr(cosine, numbers(test, score)).statistic)

    return error


def _linear(label: str, features: Callable[[Manifest], Array]) -> Yardstick:
    def error(train: Manifest, test: Manifest) -> float:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=300))
        model.fit(features(train), _labels(train, label))
        return _wrong(model.predict(features(test)), _labels(test, label))

    return error


def _table(rows: Manifest, names: tuple[str, ...]) -> Array:
    return np.stack([numbers(rows, name) for name in names], 1)


def _labels(rows: Manifest, label: str) -> Array:
    return np.array([str(cell) for cell in rows.column(label)])


def _wrong(guesses: Array, answers: Array) -> float:
    return float((guesses != answers).mean())


def _pixels(rows: Manifest, i: int, size: int) -> Array:
    from PIL import Image

    cell = resolve(rows.cell(i, "image"), rows)
    picture = Image.open(io.BytesIO(cell) if isinstance(cell, bytes) else cell).convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    return np.asarray(Image.alpha_composite(white, picture).convert("RGB").resize((size, size)), np.float32).ravel()


def _mel(rows: Manifest, i: int, column: str) -> Array:
    import soundfile
    import torch
    import torchaudio

    wave, rate = soundfile.read(str(resolve(rows.cell(i, column), rows)), dtype="float32")
    mel = torchaudio.transforms.MelSpectrogram(rate, n_fft=512, hop_length=128, n_mels=64)(torch.from_numpy(wave))
    log = (mel + 1e-6).log()
    return torch.cat([log.mean(1), log.std(1)]).numpy()


def _channels(series: Any) -> Array:
    array = np.asarray(series, dtype=np.float64)
    return array.reshape(len(array), -1).T
