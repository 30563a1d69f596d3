"""What every registered modality keeps to, whatever its kind. A new kind adds one entry to CASES."""

import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

from clx.modalities.base import CellError, Encoder, Modality
from clx.modalities.draws import Draws
from clx.modalities.registry import MODALITIES
from clx.modalities.series_views import VIEWS
from clx.modalities.text_views import CHANGES


@dataclass
class Case:
    """A modality that is small to build, cells it reads (of unequal length where it can), and one it must not."""

    config: dict[str, Any]
    cells: list[Any]
    bad: Any


def image() -> Case:
    noise = np.random.default_rng(0).integers(0, 256, (6, 20, 16, 3), dtype=np.uint8)
    return Case({"size": 16, "width": 8, "flip": True}, list(noise), b"")


def text() -> Case:
    words = ["seven", "sieben", "the number seven", "七", "a longer text. It has two sentences", "x"]
    config = {"templates": ["{}", "a {}", "the {}", "one {}"], "width": 32, "layers": 2, "max_length": 40}
    return Case(config, words, "   ")


def audio() -> Case:
    noise = np.random.default_rng(0).normal(0, 0.1, 4000).astype(np.float32)
    config = {"sample_rate": 8000, "width": 32, "dropout": 0.0}
    return Case(config, [noise[:length] for length in (4000, 1600, 2500, 800, 3999, 100)], b"")


def series() -> Case:
    walk = np.random.default_rng(0).normal(0, 1, (90, 2)).cumsum(0)
    return Case({"width": 16}, [walk[:length].tolist() for length in (90, 20, 55, 2, 89, 33)], [[1.0, 2.0], [3.0]])


def table() -> Case:
    rows = [{"a": 0.5 * i, "b": None if i == 2 else str(i % 4), "c": "xy"[i % 2]} for i in range(6)]
    return Case({"columns": ["a", "b", "c"], "width": 32, "dropout": 0.0}, rows, {"a": "1,5", "b": "2", "c": "x"})


CASES: dict[str, Callable[[], Case]] = {
    "image": image,
    "text": text,
    "audio": audio,
    "series": series,
    "table": table,
}


@pytest.fixture(params=sorted(MODALITIES))
def case(request: pytest.FixtureRequest) -> Case:
    if request.param not in CASES:
        pytest.fail(f"CASES has no entry for {request.param}")
    case = CASES[request.param]()
    case.config["kind"] = request.param
    return case


def build(case: Case, **changes: Any) -> Modality:
    config = {key: value for key, value in (case.config | changes).items() if key != "kind"}
    modality = MODALITIES[case.config["kind"]](**config)
    modality.fit(case.cells)
    return modality


def encoder_of(modality: Modality) -> Encoder:
    torch.manual_seed(0)
    return modality.build_encoder().eval()


def seeded(seed: int) -> Draws:
    return Draws.seeded(seed, 6)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(torch.nan_to_num(a[k]), torch.nan_to_num(b[k])) for k in a)


@pytest.mark.parametrize("augmentation", ["none", "mild", "strong"])
def test_a_batch_becomes_finite_features(case: Case, augmentation: str) -> None:
    modality = build(case, augmentation=augmentation)
    samples = [modality.read(cell) for cell in case.cells]
    inputs = modality.collate(modality.augment(samples, seeded(0)))
    encoder = encoder_of(modality).train()
    features = encoder(**inputs)
    assert features.shape == (len(samples), encoder.width)
    assert features.isfinite().all()
    features.square().sum().backward()
    silent = [name for name, p in encoder.named_parameters() if p.requires_grad and p.grad is None]
    assert not silent, "every parameter learns"


def test_reading_and_collating_are_deterministic(case: Case) -> None:
    modality = build(case)
    first, second = (modality.collate([modality.read(cell) for cell in case.cells]) for _ in range(2))
    assert same(first, second)


@pytest.mark.parametrize("augmentation", ["mild", "strong"])
def test_a_view_follows_from_its_seed_alone(case: Case, augmentation: str) -> None:
    modality = build(case, augmentation=augmentation)
    samples = [modality.read(cell) for cell in case.cells]
    before = modality.collate(samples)
    torch.manual_seed(1)
    once = modality.collate(modality.augment(list(samples), seeded(3)))
    torch.manual_seed(2)
    again = modality.collate(modality.augment(list(samples), seeded(3)))
    other = modality.collate(modality.augment(list(samples), seeded(4)))
    assert same(once, again)
    assert not same(once, other)
    assert same(before, modality.collate(samples)), "views leave the samples as they were"


AUGMENTATIONS: dict[str, list[Any]] = {
    "series": [*({name: 0.5} for name in VIEWS), {"permutation": 5.0}, {"crops": 0.3}],
    "text": [{name: 0.5} for name in CHANGES if name != "substitute"],
}
"""What a kind has besides mild and strong."""


def test_a_view_does_not_depend_on_the_batch(case: Case) -> None:
    """The same row among other rows, in another order, or alone: text, pixels and tokens are equal, floats to the
    rounding of sums over batches that are padded otherwise."""
    for augmentation in ["mild", "strong", *AUGMENTATIONS.get(case.config["kind"], [])]:
        modality = build(case, augmentation=augmentation)
        samples = [modality.read(cell) for cell in case.cells]
        modality.lend(samples)
        draws = seeded(3)
        together = modality.vary([samples] * 2, [draws.child(v) for v in range(2)])
        for places in ([0], [5, 2, 0], [4, 3, 2, 1, 0]):
            own = [draws.child(v).take(places) for v in range(2)]
            for view, expected in zip(modality.vary([[samples[i] for i in places]] * 2, own), together, strict=True):
                for i, one in zip(places, view, strict=True):
                    if not isinstance(one, torch.Tensor):
                        assert one == expected[i]
                    elif one.is_floating_point():
                        torch.testing.assert_close(one, expected[i], rtol=1e-5, atol=1e-5, equal_nan=True)
                    else:
                        assert torch.equal(one, expected[i])
        assert not any(
            torch.equal(torch.as_tensor(a), torch.as_tensor(b))
            for a, b in zip(*together, strict=True)
            if case.config["kind"] in ("image", "audio") and torch.is_tensor(a) and a.shape == b.shape
        ), "two views differ"


def test_no_augmentation_changes_nothing(case: Case) -> None:
    modality = build(case, augmentation="none")
    samples = [modality.read(cell) for cell in case.cells]
    assert same(modality.collate(samples), modality.collate(modality.augment(list(samples), seeded(0))))


def test_a_row_does_not_depend_on_its_neighbours(case: Case) -> None:
    """Not on their length, which pads it, nor on anything else of them, in evaluation."""
    modality = build(case)
    encoder = encoder_of(modality)
    samples = [modality.read(cell) for cell in case.cells]
    with torch.no_grad():
        together = encoder(**modality.collate(samples))
        alone = torch.cat([encoder(**modality.collate([sample])) for sample in samples])
        reversed_ = encoder(**modality.collate(samples[::-1])).flip(0)
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(together, reversed_, rtol=1e-4, atol=1e-5)


def test_blocks_hold_every_parameter_once(case: Case) -> None:
    encoder = encoder_of(build(case))
    held = [id(parameter) for block in encoder.blocks() for parameter in block.parameters()]
    assert sorted(held) == sorted(id(parameter) for parameter in encoder.parameters())


def test_a_bad_cell_is_one_short_reason(case: Case) -> None:
    with pytest.raises(CellError) as error:
        build(case).read(case.bad)
    assert 0 < len(str(error.value)) < 90
    assert "\n" not in str(error.value)


def test_an_unknown_encoder_names_the_nearest(case: Case) -> None:
    known = next(iter(MODALITIES[case.config["kind"]].encoders()))
    with pytest.raises(ValueError, match=known):
        replace(build(case), encoder=known[:-1] + "_").build_encoder()


def test_it_survives_a_worker_process_and_a_run_folder(case: Case) -> None:
    modality = build(case)
    sent = pickle.loads(pickle.dumps(modality))
    restored = build(case)
    restored.load_state(modality.state())
    expected = modality.collate([modality.read(cell) for cell in case.cells])
    for other in (sent, restored):
        assert same(expected, other.collate([other.read(cell) for cell in case.cells]))


def test_encoders_are_described(case: Case) -> None:
    kind = MODALITIES[case.config["kind"]]
    assert kind.default_encoder in kind.encoders()
    assert all(kind.encoders().values())
    for name in kind.encoders():
        assert "NAME" not in name or name.endswith(":NAME")
