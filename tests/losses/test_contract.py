"""What holds for every registered loss, whatever it computes."""

import dataclasses
import doctest
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import torch
from torch import Tensor

from clx.losses.base import LOSSES, TERM_KEYS, Data, Exclude, Loss, register
from clx.losses.extras import EXTRAS
from clx.losses.primitives import cube, tiles
from loss_inputs import EVERY, NAMES, batch, inner_of, make, name_of, quick_and_slow

GUIDE = (Path(__file__).parents[2] / "losses" / "README.md").read_text()
TEMPERED = [n for n in EVERY if "temperature" in {f.name for f in dataclasses.fields(LOSSES[n])}]
ON_EMBEDDINGS = [n for n in EVERY if LOSSES[n].family != "supervised heads"]
# parts that are constants to the gradient by definition, switched off where the value is differentiated
DIFFERENTIABLE: dict[str, dict[str, Any]] = {
    "dclw": {"sigma": 1e9},
    "supremix": {"mixing": "none"},
    "groco": {"stop_gradient": False},
    "prime": {"min_margin": 0.2, "max_margin": 0.2},
    "sogclr": {"gamma": 1.0},
    "isogclr": {"gamma": 1.0, "rate": 0.0},
}
# targets are constants to the gradient by definition: the tests against loops have their gradients
CONSTANT_TARGETS = {"core-tuning", "moit", "sct", "pg-rank", "simsiam", "swav"}  # or constant draws of rankings
# a few by finite differences in the quick tests: test_oracles.py has the gradients of all
DIFFERENCES = {"clip", "siglip", "nt-xent", "symile", "align-uniform", "hcl", "multi-similarity", "conr", "ts2vec"}
# draws belong to places in the batch, so a permuted batch has other ones
WITHOUT_DRAWS: dict[str, dict[str, Any]] = {
    "supremix": {"mixing": "positive"},
    "m3col": {"select": 0.0},
    "core-tuning": {"contrast": 0.0, "least_share": 1.0, "alpha": 1e20},
    "hydra": {"partner": "identical"},
    "attention": {"samples": 0},
}
# what has no gradient, and so stays as it is where the embeddings are moved
CONSTANT = {"originals", "keys", "key_layers"}
COMPARE_LABELS = ("Sparsemax", "LabelRanking", "MultilabelSoftmax")
# so that rows of the batch are anchors
HAVE_ANCHORS: dict[str, dict[str, Any]] = {"conr": {"window": 1.5}}


def call(loss: Loss, data: dict[str, Any]) -> Tensor:
    inner = inner_of(data["z"], name_of(loss))
    data = {key: value for key, value in inner.items() if key in CONSTANT} | data
    data |= {key: value for key, value in inner.items() if key not in CONSTANT}
    data.setdefault("generator", torch.Generator().manual_seed(5))
    extras = {key: data[key] for key in loss.needs()}
    if "predictions" in extras and "labels" in extras:
        extras["predictions"] = data["predictions"] * data["predictions"].new_tensor([1.0, -1.0, 0.5])
    if type(loss).__name__ in COMPARE_LABELS:  # of one label alone all shares are 1, and no two compare
        extras["predictions"] = data["predictions"] * data["predictions"].new_tensor([1.0, -1.0])
        extras["label_sets"] = torch.cat([data["label_sets"], 1 - data["label_sets"]], 1)
    if next(iter(data["z"].values())).dtype == torch.float64:
        loss.double()
    if loss.remembers:
        begin_again(loss)
    return loss(data["z"], **extras)


def begin_again(loss: Loss) -> None:
    """Buffers as they were when this was called first: queues, running statistics."""
    kept = vars(loss).setdefault("begun", [buffer.clone() for buffer in loss.buffers()])
    for buffer, begun in zip(loss.buffers(), kept, strict=True):
        buffer.copy_(begun)


def gradients(loss: Loss, data: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss, and its gradients by name: those of the embeddings, or of the predictions for a supervised head."""
    data["z"] = {name: x.detach().clone().requires_grad_() for name, x in data["z"].items()}
    data["predictions"] = data["predictions"].detach().clone().requires_grad_()
    leaves = data["z"] | {"predictions": data["predictions"]}
    value = call(loss, data)
    grads = torch.autograd.grad(value, list(leaves.values()), allow_unused=True)
    named = {name: g for name, g in zip(leaves, grads, strict=True) if g is not None}
    assert named
    return value.detach(), named


def assert_finite(loss: Loss, data: dict[str, Any]) -> None:
    value, grads = gradients(loss, data)
    assert value.isfinite(), f"value {value}"
    for name, g in grads.items():
        assert g.isfinite().all(), f"gradient of {name}: {g}"


@pytest.fixture
def cut(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The batch all at once, or in tiles of three rows."""
    if request.param == "tiles":
        monkeypatch.setattr(tiles, "small_side", 0)
        monkeypatch.setattr(tiles, "tile_side", lambda x: 3)
        monkeypatch.setattr(cube, "tiny_cube", 0)
        monkeypatch.setattr(cube, "slab_shape", lambda y: (6, 2))
    return str(request.param)


def with_cuts(first: Any, second: Any) -> list[Any]:
    """Each of two values with the batch at once and in tiles; two of the four pairs are enough for the quick tests."""
    slow = pytest.mark.slow
    quick = [pytest.param(first, "tiles"), pytest.param(second, "small batch")]
    return [*quick, pytest.param(first, "small batch", marks=slow), pytest.param(second, "tiles", marks=slow)]


@pytest.mark.parametrize("name", EVERY)
def test_scalar_of_the_right_kind(name: str) -> None:
    for dtype in (torch.float64, torch.float32):
        value = call(make(name), batch(dtype=dtype))
        assert value.shape == ()
        assert value.isfinite()
        assert value.dtype == dtype


@pytest.mark.parametrize("name", EVERY)
def test_described(name: str) -> None:
    cls = LOSSES[name]
    for attribute in ("family", "paper", "formula", "cost", "use", "fits", "__doc__"):
        assert getattr(cls, attribute), f"{name} has no {attribute}"
    assert set(cls.fits) <= set(get_args(Data))
    hints = get_type_hints(cls, include_extras=True)
    for f in dataclasses.fields(cls):
        assert f.kw_only
        if f.init and hints[f.name] is float:
            assert f.name == "bias", f"{name}.{f.name} has no range"
    assert cls.required() <= cls.needs() <= EXTRAS.keys()


@pytest.mark.parametrize("name", [*EVERY, *EXTRAS, *TERM_KEYS[:3]])
def test_the_guide_names_it(name: str) -> None:
    assert f"`{name}`" in GUIDE


@pytest.mark.parametrize("name", EVERY)
def test_its_docstring_shows_it_at_work(name: str) -> None:
    """test_layout.py runs the examples."""
    examples = doctest.DocTestParser().get_examples(LOSSES[name].__doc__ or "")
    assert any(LOSSES[name].__name__ in example.source for example in examples)
    assert any(example.want for example in examples)


@pytest.mark.parametrize("name", quick_and_slow([n for n in ON_EMBEDDINGS if n not in CONSTANT_TARGETS], DIFFERENCES))
@pytest.mark.parametrize("missing", [pytest.param(False, marks=pytest.mark.slow), True])
def test_gradcheck(name: str, missing: bool) -> None:
    loss = make(name, **DIFFERENTIABLE.get(name, {})).double()
    data = batch()
    loss.remembers = False
    data |= {key: value for key, value in inner_of(data["z"], name).items() if key in CONSTANT}
    if missing:
        data["present"]["text"][:2] = False
        data["present"]["image"][3] = False
    parameters = list(loss.parameters())
    inputs = [x.clone().requires_grad_() for x in data["z"].values()]

    def value(*tensors: Tensor) -> Tensor:
        data["z"] = dict(zip(NAMES, tensors, strict=False))
        return call(loss, data)

    assert torch.autograd.gradcheck(value, (*inputs, *parameters), atol=1e-7, rtol=1e-5, fast_mode=True)


@pytest.mark.parametrize(
    "name", sorted({*EVERY} - {"pg-rank", "laso", "cmim", "replaced-token"})
)  # whose draws are of places throughout
def test_row_order_does_not_matter(name: str) -> None:
    loss, data = make(name, **WITHOUT_DRAWS.get(name, {})), batch()
    data["present"]["text"][1] = False
    before = call(loss, data)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(2))
    for key in ("labels", "label_sets", "targets", "predictions", "sample_id"):
        data[key] = data[key][order]
    for key in ("z", "present"):
        data[key] = {n: x[order] for n, x in data[key].items()}
    torch.testing.assert_close(call(loss, data), before)


@pytest.mark.parametrize("name", EVERY)
def test_inputs_stay_as_they_were(name: str) -> None:
    loss, data = make(name), batch()
    data["present"]["text"][1] = False
    data["weights"] = torch.ones(6)

    def tensors() -> dict[str, Tensor]:
        flat = {f"{key} of {n}": x for key in ("z", "present") for n, x in data[key].items()}
        return flat | {key: x for key, x in data.items() if isinstance(x, Tensor)}

    before = {key: x.clone() for key, x in tensors().items()}
    gradients(loss, data)
    for key, x in tensors().items():
        assert torch.equal(before[key], x), key


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("dtype", [pytest.param(torch.bfloat16, marks=pytest.mark.slow), torch.float16])
def test_half_precision(name: str, dtype: torch.dtype) -> None:
    loss, data = make(name), batch(dtype=dtype)
    assert_finite(loss, data)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value, grads = gradients(loss, data)
    data["z"] = {n: x.float() for n, x in data["z"].items()}
    data["predictions"] = data["predictions"].float()
    exact, expected = gradients(loss, data)
    torch.testing.assert_close(value.float(), exact.float(), rtol=1e-5, atol=1e-6)
    for n, g in grads.items():  # half precision is in the inputs and in the gradients handed back, not between
        torch.testing.assert_close(g.float(), expected[n], rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("size", [0, 1])
def test_batch_of_none_and_of_one(name: str, size: int) -> None:
    loss, data = make(name), batch(size=size)
    assert_finite(loss, data)
    if not size:
        assert call(loss, data).item() == 0


@pytest.mark.parametrize("name", EVERY)
def test_nobody_has_a_positive(name: str) -> None:
    loss, data = make(name), batch()
    data["labels"], data["targets"] = torch.arange(6) % 3, torch.arange(6.0, dtype=torch.float64)[:, None] * 1e3
    data["present"]["text"][:] = False
    data["present"]["audio/0"][:] = False
    assert_finite(loss, data)
    data["labels"] = torch.full((6,), -1)
    data["targets"] = data["label_sets"] = torch.full((6, 1), torch.nan, dtype=torch.float64)
    assert_finite(loss, data)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("rows", ["collapsed", "duplicates", "zeros", "one class", "huge"])
def test_degenerate_rows(name: str, rows: str) -> None:
    loss, data = make(name), batch(dtype=torch.float32)
    if rows == "collapsed":
        data["z"] = {n: torch.ones(6, 4) for n in NAMES}
    elif rows == "duplicates":
        data["z"] = {n: x[[0, 0, 0, 1, 1, 2]] for n, x in data["z"].items()}
    elif rows == "zeros":
        data["z"] = {n: x * torch.tensor([0, 0, 1, 1, 0, 1.0])[:, None] for n, x in data["z"].items()}
    elif rows == "huge":
        data["z"] = {n: x * 1e4 for n, x in data["z"].items()}
    else:
        data["labels"], data["targets"] = torch.zeros(6, dtype=torch.long), torch.zeros(6, 1)
    assert_finite(loss, data)


@pytest.mark.parametrize("name", TEMPERED)
@pytest.mark.parametrize("learned", [pytest.param(False, marks=pytest.mark.slow), True])
def test_temperature_sweep(name: str, learned: bool) -> None:
    for temperature in (0.005, 0.07, 10.0):
        data = batch(size=12, width=8, dtype=torch.float32)
        data["z"]["text"] = data["z"]["image"].clone()  # cosines of 1: logits of 200 at 0.005
        data["z"]["audio/0"][:4] = -data["z"]["image"][:4]
        loss = make(name, width=8, temperature=temperature, learn_temperature=learned, min_temperature=0.001)
        assert_finite(loss, data)
        if learned:
            value = call(loss, data)
            (g,) = torch.autograd.grad(value, [loss.log_temperature])
            assert g.isfinite()


@pytest.mark.parametrize("name", TEMPERED)
def test_temperature_is_held_between_its_limits_and_leaves_them_again(name: str) -> None:
    loss = make(name, temperature=1.0, learn_temperature=True, min_temperature=0.5, max_temperature=2.0)
    with torch.no_grad():
        loss.log_temperature.fill_(9.0)
    assert float(loss.tau.detach()) == pytest.approx(2.0)
    assert loss.tau.requires_grad
    (g,) = torch.autograd.grad(loss.tau, [loss.log_temperature])
    assert g == pytest.approx(2.0)  # no dead clamp
    with pytest.raises(ValueError, match="must start between"):
        make(name, temperature=3.0, learn_temperature=True, max_temperature=2.0)


@pytest.mark.parametrize("name", EVERY)
def test_state_round_trip(name: str) -> None:
    fields = {"learn_temperature": True} if name in TEMPERED else {}
    loss, other = make(name, **fields), make(name, **fields)
    with torch.no_grad():
        for p in loss.parameters():
            p.add_(0.1)
    other.load_state_dict(loss.state_dict())
    data = batch()
    data["present"]["text"][1] = False
    assert torch.equal(call(loss, data), call(other, data))


@pytest.mark.parametrize("name", EVERY)
def test_learned_scalars_have_a_dimension_and_are_read_from_files_in_which_they_had_none(name: str) -> None:
    fields = {"learn_temperature": True} if name in TEMPERED else {}
    loss, other = make(name, **fields), make(name, **fields)
    assert all(p.dim() for p in loss.parameters())  # FSDP refuses the others
    with torch.no_grad():
        for p in loss.parameters():
            p.add_(0.1)
    own = {key for key, _ in loss.named_parameters(recurse=False)}
    saved = {
        key: value.squeeze() if key in own and value.numel() == 1 else value for key, value in loss.state_dict().items()
    }
    shapes = {key: value.shape for key, value in saved.items()}
    torch.nn.ModuleDict({"objective": other}).load_state_dict({f"objective.{key}": v for key, v in saved.items()})
    assert {key: value.shape for key, value in saved.items()} == shapes
    for a, b in zip(loss.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


DRAWING: dict[str, list[dict[str, Any]]] = {
    "symile": [{"tuples": "shuffled"}],
    "supremix": [{"mixing": "negative"}, {"mixing": "positive", "window": 3.0, "max_positives": 2}],
}
ALWAYS_DRAWING = {"supremix", "m3col", "core-tuning", "whitened", "hydra", "pg-rank", "laso", "cmim", "replaced-token"}


@pytest.mark.parametrize(
    ("name", "fields"), [(name, fields) for name in EVERY for fields in [{}, *DRAWING.get(name, [])]]
)
def test_what_is_random_comes_from_the_generator_alone(name: str, fields: dict[str, Any]) -> None:
    loss, fresh = make(name, **fields), make(name, **fields).state_dict()

    def draw(seed: int) -> tuple[Tensor, bool]:
        """The loss, and whether anything was drawn."""
        loss.load_state_dict(fresh)  # what it remembers, DBPM say, is as in the beginning
        data = batch(size=12)
        data["generator"] = torch.Generator().manual_seed(seed)
        before = data["generator"].get_state()
        value, _ = gradients(loss, data)
        return value, not torch.equal(before, data["generator"].get_state())

    torch.manual_seed(0)
    state = torch.get_rng_state()
    value, drawn = draw(1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(7)
    assert torch.equal(draw(1)[0], value)
    assert drawn == (fields in DRAWING.get(name, []) or name in ALWAYS_DRAWING)
    assert drawn == (draw(2)[0] != value)


@pytest.mark.parametrize("name", ON_EMBEDDINGS)
def test_absent_rows_are_never_looked_at(name: str) -> None:
    loss = make(name)
    data, other = batch(), batch()
    for d, filler in ((data, torch.nan), (other, 7.0)):
        d["present"]["text"][:3] = False
        d["present"]["image"][4] = False
        for n in NAMES:
            d["present"][n][5] = False  # an item that has nothing at all
            d["z"][n][~d["present"][n]] = filler
    value, grads = gradients(loss, data)
    assert value.isfinite()
    torch.testing.assert_close(value, gradients(loss, other)[0])
    for n, g in grads.items():
        assert g.isfinite().all()
        assert (g[~data["present"][n]] == 0).all()


@pytest.mark.parametrize("name", [n for n in EVERY if "weights" in LOSSES[n].needs()])
@pytest.mark.parametrize(("unknown", "cut"), with_cuts(True, False), indirect=["cut"])
def test_each_row_counts_by_its_weight(name: str, unknown: bool, cut: str) -> None:
    loss = make(name, **HAVE_ANCHORS.get(name, {}))

    def value(weights: Tensor | None) -> Tensor:
        data = batch() | {"weights": weights}
        if unknown:
            data["labels"][2], data["targets"][2], data["label_sets"][2] = -1, torch.nan, torch.nan
        return call(loss, data)

    weights = torch.tensor([0.5, 2.0, 1.5, 0.1, 3.0, 0.7], dtype=torch.float64)
    alone = torch.stack([value(row) for row in torch.eye(6, dtype=torch.float64)])
    torch.testing.assert_close(value(weights), weights @ alone)
    torch.testing.assert_close(value(torch.ones(6)), alone.sum())
    torch.testing.assert_close(value(None), alone.sum())
    assert (alone != 0).sum() > 2


@pytest.mark.parametrize("name", [n for n in ON_EMBEDDINGS if n != "distil-scores"])  # which has columns for its inputs
def test_an_input_that_no_row_has_is_as_if_it_were_not_asked_for(name: str) -> None:
    loss, data, without = make(name), batch(), batch()
    data["present"]["text"][:] = False
    data["z"]["text"][:] = torch.nan
    data["present"]["image"][1] = without["present"]["image"][1] = False
    for key in ("z", "present"):
        del without[key]["text"]
    value, grads = gradients(loss, data)
    assert value.isfinite()
    assert all(g.isfinite().all() for g in grads.values())
    if name != "symile":  # which has a learned row for what is absent
        expected, others = gradients(loss, without)
        torch.testing.assert_close(value, expected)
        for n, g in others.items():
            torch.testing.assert_close(grads[n], g)


@pytest.mark.parametrize("name", ON_EMBEDDINGS)
def test_all_present_is_the_same_as_not_saying_so(name: str) -> None:
    loss, data = make(name), batch()
    said = call(loss, data)
    data["present"] = None
    torch.testing.assert_close(call(loss, data), said)


@pytest.mark.parametrize("name", ON_EMBEDDINGS)
def test_backward_twice(name: str) -> None:
    loss, data = make(name), batch()
    data["z"] = {n: x.requires_grad_() for n, x in data["z"].items()}
    value = call(loss, data)
    first = torch.autograd.grad(value, list(data["z"].values()), retain_graph=True, allow_unused=True)
    second = torch.autograd.grad(value, list(data["z"].values()), allow_unused=True)
    for a, b in zip(first, second, strict=True):
        assert (a is None and b is None) or torch.equal(a, b)


def leaves_of(loss: Loss, data: dict[str, Any]) -> list[Tensor]:
    """What may receive a gradient: embeddings, predictions and the loss's own parameters."""
    data["z"] = {name: x.clone().requires_grad_() for name, x in data["z"].items()}
    data["predictions"].requires_grad_()
    return [*data["z"].values(), data["predictions"], *loss.parameters()]


@pytest.mark.parametrize(("dtype", "cut"), with_cuts(torch.float32, torch.float64), indirect=["cut"])
@pytest.mark.parametrize(
    ("name", "learned"),
    [*((n, n in TEMPERED) for n in EVERY), *(pytest.param(n, False, marks=pytest.mark.slow) for n in TEMPERED)],
)
def test_the_incoming_gradient_arrives_as_it_is(name: str, learned: bool, dtype: torch.dtype, cut: str) -> None:
    """Some CPU libraries take a factor of NaN for 0, which would hide from the optimiser that a step is bad."""
    fields = HAVE_ANCHORS.get(name, {}) | ({"learn_temperature": True} if learned else {})
    loss, data = make(name, 16, **fields), batch(size=8, width=16, dtype=dtype)
    if name == "mutual-information":  # which is of rows without a label
        data["labels"][::2] = -1
    leaves = leaves_of(loss, data)
    value = call(loss, data)

    def gradient(incoming: float) -> list[Tensor]:
        got = torch.autograd.grad(value, leaves, value.new_tensor(incoming), retain_graph=True, allow_unused=True)
        return [g for g in got if g is not None]

    once, twice = gradient(1.0), gradient(2.0)
    assert any(bool(g.any()) for g in once)
    for a, b in zip(once, twice, strict=True):
        assert torch.equal(2 * a, b)
    for incoming in (torch.nan, torch.inf):
        for a, b in zip(once, gradient(incoming), strict=True):
            assert not (b[a != 0]).isfinite().any(), f"{incoming} became {b}"


@pytest.mark.parametrize("name", TEMPERED)
@pytest.mark.parametrize("cut", ["tiles", pytest.param("small batch", marks=pytest.mark.slow)], indirect=True)
def test_a_learned_temperature_that_is_nan_shows(name: str, cut: str) -> None:
    loss = make(name, 16, learn_temperature=True, **HAVE_ANCHORS.get(name, {}))
    data = batch(size=8, width=16, dtype=torch.float32)
    leaves = leaves_of(loss, data)
    usual = torch.autograd.grad(call(loss, data), leaves, allow_unused=True)
    with torch.no_grad():
        loss.log_temperature.fill_(torch.nan)
    value = call(loss, data)
    assert value.isnan()
    for a, b in zip(usual, torch.autograd.grad(value, leaves, allow_unused=True), strict=True):
        assert b is None or not b[a != 0].isfinite().any()


@pytest.mark.parametrize("name", ON_EMBEDDINGS)
@pytest.mark.parametrize("cut", ["tiles", pytest.param("small batch", marks=pytest.mark.slow)], indirect=True)
def test_an_embedding_that_is_nan_shows(name: str, cut: str) -> None:
    loss, data = make(name, 16, **HAVE_ANCHORS.get(name, {})), batch(size=8, width=16, dtype=torch.float32)
    assert call(loss, data).isfinite()
    data["z"]["image"][3, 5] = torch.nan
    assert call(loss, data).isnan()


@pytest.mark.parametrize("name", TEMPERED)
def test_a_fixed_temperature_is_finite(name: str) -> None:
    for temperature in (torch.nan, torch.inf):
        with pytest.raises(ValueError, match="not finite"):
            make(name, temperature=temperature)


@pytest.mark.parametrize("name", EVERY)
def test_shapes_are_checked(name: str) -> None:
    loss, data = make(name), batch()
    for wrong in (data["z"]["text"][:, :3], data["z"]["text"][:5], data["z"]["text"][0]):
        with pytest.raises(ValueError, match="share one shape"):
            loss(data["z"] | {"text": wrong}, **{key: data[key] for key in loss.needs() & data.keys()})


@pytest.mark.parametrize("key", [key for key in TERM_KEYS if key != "from"])  # which Python itself refuses
def test_the_keys_of_a_term_are_no_fields_of_a_loss(key: str) -> None:
    class Fake(Loss):
        pass

    Fake.__annotations__ = {key: float}
    setattr(Fake, key, 1.0)
    fake = dataclasses.dataclass(eq=False, kw_only=True)(Fake)
    with pytest.raises(ValueError, match=f"field {key!r} of test-of-keys: a term of a config has a key of that name"):
        register("test-of-keys")(fake)
    assert "test-of-keys" not in LOSSES


def test_a_field_may_be_the_key_of_a_term_itself() -> None:
    @dataclasses.dataclass(eq=False, kw_only=True)
    class Fake(Loss):
        exclude: Exclude = "none"

    try:
        assert register("test-of-keys")(Fake) is Fake
    finally:
        del LOSSES["test-of-keys"]


def settings_of(name: str) -> list[dict[str, Any]]:
    """Fields that change what a loss requires: one set for each value of `exclude`, where it has that."""
    if "exclude" not in {f.name for f in dataclasses.fields(LOSSES[name])}:
        return [{}]
    return [{"exclude": value} for value in ("none", "labels", "sample_id", "repeats")]


@pytest.mark.parametrize(("name", "fields"), [(name, fields) for name in EVERY for fields in settings_of(name)])
def test_what_it_requires_is_enough_and_each_of_it_is_necessary(name: str, fields: dict[str, Any]) -> None:
    loss, data = make(name, **fields).double(), batch()
    data |= inner_of(data["z"], name)
    data["predictions"] = torch.cat([data["predictions"]] * (3 if "labels" in loss.required() else 1), 1)
    given = {key: data[key] for key in loss.requires()}
    assert loss(data["z"], **given).isfinite()
    assert loss.required() <= loss.requires() <= loss.needs()
    for key in given:
        with pytest.raises((TypeError, ValueError), match=key):
            loss(data["z"], **{k: v for k, v in given.items() if k != key})


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("learned", [False, True])
def test_scale_and_what_is_learned(name: str, learned: bool) -> None:
    loss = make(name, **({"learn_temperature": learned, "temperature": 0.3} if name in TEMPERED else {}))
    temperature, bias = loss.scale()
    assert temperature == (pytest.approx(0.3) if name in TEMPERED else None)
    assert (bias is not None) == (LOSSES[name].family == "sigmoid")
    named = loss.learned()
    assert ("temperature" in named) == (learned and name in TEMPERED)
    for value, expected in ((named.get("temperature"), temperature), (named.get("bias"), bias)):
        if value is not None:
            assert value.shape == ()
            assert not value.requires_grad
            assert value.item() == expected


@pytest.mark.parametrize("name", EVERY)
def test_defaults_by_the_deviation_of_the_targets_are_options_of_the_loss(name: str) -> None:
    given = LOSSES[name].target_defaults(20.0)
    fields = {f.name for f in dataclasses.fields(LOSSES[name])}
    for key, value in given.items():
        assert key == "weight" or key in fields
        # distances in another unit, the same default in that unit
        scaled = LOSSES[name].target_defaults(200.0)[key]
        assert scaled == pytest.approx(value / 10 if key == "pushing" else value * 10)
    assert all(value >= 0 for value in LOSSES[name].target_defaults(0.0).values())
    make(name, **{key: value for key, value in given.items() if key != "weight"})


def test_the_defaults_by_the_deviation_are_those_that_were_measured() -> None:
    assert LOSSES["conr"].target_defaults(7.0) == {"weight": 0.14, "window": 0.7, "pushing": 0.0286}
    assert LOSSES["supremix"].target_defaults(7.0) == {"window": 2.1}


@pytest.mark.parametrize("name", EVERY)
def test_a_fused_query_scores_by_the_sum_of_cosines_or_by_the_product(name: str) -> None:
    loss, data = make(name), batch(dtype=torch.float32)
    a, b = (torch.nn.functional.normalize(data["z"][n], dim=1) for n in NAMES[:2])
    there = torch.ones(6, dtype=torch.bool)
    fused = loss.fuse(dict(zip(NAMES[:2], (a, b), strict=True)), dict.fromkeys(NAMES[:2], there))
    torch.testing.assert_close(fused, a * b if loss.fuses_by_product else a + b)


@pytest.mark.parametrize("name", EVERY)
def test_fuse_never_looks_at_absent_rows(name: str) -> None:
    loss, data = make(name), batch(dtype=torch.float32)
    data["present"]["text"][0] = False
    two = {n: data["z"][n] for n in NAMES[:2]}
    fused = loss.fuse(two, {n: data["present"][n] for n in two})
    assert fused.shape == (6, 4)
    assert fused.isfinite().all()
    two["text"][0] = torch.nan
    assert torch.equal(loss.fuse(two, {n: data["present"][n] for n in two}), fused)
