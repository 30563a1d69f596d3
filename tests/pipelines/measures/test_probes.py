"""What is learned on frozen features, against scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_diabetes, load_digits
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVR
from torch import Tensor

from clx.pipelines.measures import probes
from clx.pipelines.measures.episodes import episodes


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, ...]:
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    features, labels = torch.tensor(x[order], dtype=torch.float32), torch.from_numpy(y[order])
    return features[:900], labels[:900], features[900:1300], labels[900:1300], features[1300:], labels[1300:]


def test_probe_is_scikit_learns_logistic_regression(digits: tuple[Tensor, ...]) -> None:
    x, y, val_x, val_y, test_x, test_y = digits
    fitted = probes.probe(x, y, 10, (val_x, val_y))
    scaler = StandardScaler().fit(x.numpy())
    best, right = {}, {}
    for l2, score in fitted.path[2:]:  # stronger penalties leave weights so small that rounding decides
        model = LogisticRegression(C=1 / (l2 * len(x)), max_iter=3000, tol=1e-6)
        model.fit(scaler.transform(x.numpy()), y.numpy())
        assert score == pytest.approx(model.score(scaler.transform(val_x.numpy()), val_y.numpy()), abs=0.005)
        best[l2], right[l2] = score, model.score(scaler.transform(test_x.numpy()), test_y.numpy())
    assert [l2 for l2, _ in fitted.path] == list(probes.L2)
    assert best[fitted.penalty] == max(best.values())
    assert (fitted.model(test_x).argmax(1) == test_y).double().mean().item() == pytest.approx(
        right[fitted.penalty], abs=0.005
    )


def test_without_validation_rows_a_share_chooses_and_all_learn(digits: tuple[Tensor, ...]) -> None:
    x, y, _, _, test_x, test_y = digits
    fitted = probes.probe(x, y, 10, seed=1)
    scaler = StandardScaler().fit(x.numpy())
    model = LogisticRegression(C=1 / (fitted.penalty * len(x)), max_iter=3000)
    model.fit(scaler.transform(x.numpy()), y.numpy())
    mine = (fitted.model(test_x).argmax(1) == test_y).double().mean().item()
    assert mine == pytest.approx(model.score(scaler.transform(test_x.numpy()), test_y.numpy()), abs=0.005)


@pytest.mark.parametrize("weights", ["uniform", "distance"])
@pytest.mark.parametrize("k", [1, 7, 20])
def test_neighbours_vote_as_scikit_learns(digits: tuple[Tensor, ...], weights: str, k: int) -> None:
    x, y, _, _, test_x, _ = digits
    test_x = torch.cat([test_x, x[:20]])  # some at distance 0
    model = KNeighborsClassifier(k, metric="cosine", weights=weights).fit(x.double().numpy(), y.numpy())
    votes = probes.neighbours(x.double(), y, test_x.double(), 10, k, weights, cells=10_000)  # type: ignore[arg-type]
    assert (votes.numpy().argmax(1) == model.predict(test_x.double().numpy())).all()


def test_ridge_and_absolute_error_are_scikit_learns() -> None:
    x, y = load_diabetes(return_X_y=True)
    known, aims = torch.tensor(x, dtype=torch.float32), torch.tensor(y, dtype=torch.float32)
    val = known[300:], aims[300:]
    scaled = StandardScaler().fit(x[:300]).transform(x)
    fitted = probes.regressor(known[:300], aims[:300], "ridge", val)
    for penalty, mae in fitted.path:
        model = Ridge(alpha=penalty * 300).fit(scaled[:300], y[:300])
        assert mae == pytest.approx(np.abs(model.predict(scaled[300:]) - y[300:]).mean(), rel=1e-3)
    assert fitted.penalty == min(fitted.path, key=lambda each: each[1])[0]
    robust = probes.regressor(known[:300], aims[:300], "l1", val)
    spread = y[:300].std()
    model = LinearSVR(epsilon=0, C=1 / (robust.penalty * 300), max_iter=200_000, random_state=0)
    model.fit(scaled[:300], (y[:300] - y[:300].mean()) / spread)
    expected = model.predict(scaled[300:]) * spread + y[:300].mean()
    assert np.abs(robust.model(val[0])[:, 0].numpy() - expected).mean() < 0.02 * spread


def test_episodes_tell_what_prototypes_tell() -> None:
    draw = torch.Generator().manual_seed(0)
    centres = torch.eye(6)
    labels = torch.arange(6).repeat(30)
    x = centres[labels] + 0.05 * torch.randn(180, 6, generator=draw)
    noise = torch.randn(180, 6, generator=draw)
    options = {"ways": 4, "shots": 3, "count": 200, "seed": 1}
    easy = episodes(x[:90], labels[:90], x[90:], labels[90:], **options)  # type: ignore[arg-type]
    blind = episodes(noise[:90], labels[:90], noise[90:], labels[90:], **options)  # type: ignore[arg-type]
    assert easy is not None
    assert blind is not None
    assert easy.min() == 1.0
    assert len(blind) == 200
    assert abs(blind.mean().item() - 0.25) < 0.03
    again = episodes(noise[:90], labels[:90], noise[90:], labels[90:], **options)  # type: ignore[arg-type]
    assert again is not None
    assert torch.equal(blind, again)
    assert episodes(x[:5], labels[:5], x, labels, ways=4, shots=3, count=5, seed=0) is None


def test_support_vectors_are_scikit_learns_by_ts2vecs_protocol() -> None:
    draw = np.random.default_rng(3)
    y = np.arange(90) % 3
    x = (draw.normal(size=(90, 4)) + 1.2 * np.eye(4)[y]).astype(np.float32)
    queries = draw.normal(size=(40, 4)).astype(np.float32)
    known = torch.from_numpy(x), torch.from_numpy(y), torch.from_numpy(queries)
    answers, cost, path = probes.svm(*known)
    grid = GridSearchCV(SVC(), {"C": [*(10.0**k for k in range(-4, 5)), 1e9]}, cv=5).fit(x, y)
    assert cost == grid.best_params_["C"]
    assert [score for _, score in path] == grid.cv_results_["mean_test_score"].tolist()
    assert np.array_equal(answers.numpy(), grid.predict(queries))
    few, cost, path = probes.svm(known[0][:40], known[1][:40], known[2])
    assert (cost, path) == (1e9, [])
    assert np.array_equal(few.numpy(), SVC(C=1e9).fit(x[:40], y[:40]).predict(queries))


def test_of_equal_penalties_the_smallest_is_taken() -> None:
    """Four rows far apart: every penalty has both validation rows right, and the strongest hardly tells them apart."""
    x, y = torch.tensor([[-1.0], [-0.9], [0.9], [1.0]]), torch.tensor([0, 0, 1, 1])
    fitted = probes.probe(x, y, 2, (torch.tensor([[-1.0], [1.0]]), torch.tensor([0, 1])))
    assert {score for _, score in fitted.path} == {1.0}
    assert fitted.penalty == min(probes.L2)
    assert fitted.model(x).softmax(1).amax(1).min() > 0.99


def test_neighbours_follow_the_sizes_of_classes() -> None:
    def of(*sizes: int) -> int:
        return probes.usual_k(torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes)) * 3)

    assert of(140, 150, 160) == 20
    assert of(25, 25) == 12
    assert of(90, 10) == 5, "of 20 the ten could never have the most"
    assert of(5, 5, 5) == 2
    assert of(1, 1) == 1
    assert of(*[200] * 9, 1) == 20, "one rare class of ten does not make all others noisy"
