"""Heads over several inputs: the values of each way, what learns, and what is missing."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from clx.pipelines.config.objects import make_losses, make_modalities
from clx.pipelines.config.schema import Config
from clx.pipelines.experiments.train import train
from clx.pipelines.model.fusion import MEMORY, PACE, POWER, Concat, Gated, by_modality, head
from clx.pipelines.runs.checkpoint import load
from clx.pipelines.system.errors import BadInput
from clx.pipelines.system.progress import Silent
from clx.pipelines.use.predict import Predictor
from configs import Make, small
from trained import trainer_of

THERE = {"a": torch.tensor([True, True, False, False]), "b": torch.tensor([True, False, True, False])}
Z = {"a": torch.full((4, 1), 3.0), "b": torch.full((4, 1), 6.0)}


@pytest.fixture
def gated() -> Gated:
    """It counts `a` twice as much as `b`, and each predicts what its embedding is."""
    made = Gated(["a", "b"], 1, 1)
    for each in made.heads.values():
        nn.init.ones_(each.weight), nn.init.zeros_(each.bias)  # type: ignore[arg-type]
    made.errors.copy_(torch.tensor([0.5, 0.5 * 2 ** (1 / POWER)]))
    return made


def test_inputs_count_by_their_own_error(gated: Gated) -> None:
    torch.testing.assert_close(gated(Z, THERE)[:3, 0], torch.tensor([2 / 3 * 3 + 1 / 3 * 6, 3.0, 6.0]))
    assert gated(Z, THERE).isfinite().all()
    assert gated({"b": Z["b"]}, THERE)[:, 0].tolist() == [6] * 4
    with torch.no_grad():
        gated.adding.fill_(1 / PACE)  # 1 / ((2/3)^2 + (1/3)^2) = 1.8 inputs are added up; one is as it was
    torch.testing.assert_close(gated(Z, THERE)[:3, 0], torch.tensor([1.8 * 4, 3.0, 6.0]))


def test_of_several_inputs_only_what_adds_them_learns(gated: Gated) -> None:
    def learning(z: dict[str, Tensor]) -> set[str]:
        gated.zero_grad()
        gated(z, THERE)[:3].sum().backward()
        return {name for name, p in gated.named_parameters() if p.grad is not None and p.grad.any()}

    assert learning(Z) == {"adding"}
    assert learning({"a": Z["a"]}) == {"heads.a.weight", "heads.a.bias"}


def test_an_error_is_the_mean_of_the_last_batches(gated: Gated) -> None:
    for error in (4.0, 2.0, 9.0):
        gated.track("b", torch.tensor(error), torch.tensor(True))
    gated.track("b", torch.tensor(7.0), torch.tensor(False))
    assert gated.errors.tolist() == [0.5, 5]
    for _ in range(20 * MEMORY):
        gated.track("b", torch.tensor(1.0), torch.tensor(True))
    assert gated.errors[1].item() == pytest.approx(1, abs=1e-5)


def test_concat_never_looks_at_what_is_absent_but_knows_that_it_is() -> None:
    torch.manual_seed(0)
    made = Concat(["a", "b"], 8, 2)
    z = {name: torch.randn(4, 8) for name in THERE}
    other = {"a": z["a"].where(THERE["a"][:, None], torch.nan), "b": z["b"].where(THERE["b"][:, None], 7)}
    torch.testing.assert_close(made(z, THERE), made(other, THERE))
    torch.testing.assert_close(made({"a": z["a"]}, THERE)[1], made(z, THERE)[1])
    torch.testing.assert_close(made.alone("a")(z["a"])[1], made(z, THERE)[1])
    zero = made({name: torch.zeros(4, 8) for name in z}, THERE)
    assert len({tuple(row) for row in zero.tolist()}) == 4  # zero, or missing


def test_views_are_averaged_where_they_are_present() -> None:
    z = {"a/0": torch.tensor([[1.0], [1]]), "a/1": torch.tensor([[3.0], [9]])}
    found, here = by_modality(["a", "b"], z, {"a/0": torch.tensor([True, True]), "a/1": torch.tensor([True, False])})
    assert found["a"].tolist() == [[2], [1]]
    assert (list(found), here["a"].tolist()) == (["a"], [True, True])


@pytest.mark.parametrize("fuse", ["mean", "concat", "gated"])
def test_of_one_input_all_are_the_same_head(fuse: str) -> None:
    torch.manual_seed(0)
    one = head(fuse, ["a"], 4, 2)
    torch.manual_seed(0)
    assert torch.equal(one.weight, nn.Linear(4, 2).weight)


@pytest.mark.parametrize("fuse", ["mean", "concat", "gated"])
def test_each_way_trains_with_missing_inputs_and_opens_again(fuse: str, make_config: Make, tmp_path: Path) -> None:
    made = make_config(
        objective={"name": "cross-entropy", "fuse": fuse}, data__missing=0.4, modalities__table__drop=0.3
    )
    train(made, tmp_path / "run", Silent())
    run = load(tmp_path / "run")
    assert run.config.objective[0].fuse == fuse
    z = {name: torch.randn(5, 16) for name in run.modalities}
    present = {name: torch.rand(5) < 0.6 for name in z}
    assert run.model.predict(z, present).isfinite().all()
    only = {"image": z["image"]}, {"image": torch.ones(5, dtype=torch.bool)}
    module = run.model.alone("image")
    assert module is not None
    torch.testing.assert_close(module(z["image"]), run.model.predict(*only))


def test_answers_of_the_rows_of_the_gates_teach_no_input(make_config: Make, tmp_path: Path) -> None:
    """In the first half of a run; afterwards they do, and the gates stay."""
    trainer = trainer_of(make_config(objective="cross-entropy", train__batch_size=200), tmp_path)
    learner, batch = trainer.learner, next(trainer.batches())
    gates = learner.model.predictor
    assert isinstance(gates, Gated)
    gates.adding.data.fill_(0.01)
    learner.model.eval()

    def gradients(step: int, shuffled: Tensor) -> tuple[Tensor, Tensor, list[float]]:
        learner.step = step
        learner.model.zero_grad()
        gates.batches.zero_(), gates.errors.fill_(1)
        labels, batch.labels = batch.labels, batch.labels.where(~shuffled, batch.labels.roll(1))
        done = learner.length.done(step)
        loss = learner.contrast(batch, learner.model, learner.objective, 0, progress=done).loss
        loss.backward()  # type: ignore[no-untyped-call]
        batch.labels = labels
        heads = torch.cat([part.weight.grad for part in gates.heads.values()])  # type: ignore[misc]
        return heads, gates.adding.grad.clone(), gates.errors.tolist()  # type: ignore[union-attr]

    held = ((batch.sample_id * 2654435761) >> 16) % 5 == 0
    assert 20 <= held.sum() <= 60
    nothing = torch.zeros_like(held)
    for changed, inputs_differ, gates_differ in ((held, False, True), (~held, True, False)):
        before, after = gradients(0, nothing), gradients(0, changed)
        assert torch.equal(before[0], after[0]) is not inputs_differ
        assert torch.equal(before[1], after[1]) is not gates_differ
        assert (before[2] == after[2]) is not gates_differ
    late, later = gradients(3, nothing), gradients(3, held)
    assert not torch.equal(late[0], later[0])
    assert late[2] == [1, 1, 1], "errors are tracked no more"
    assert late[1] == 0


def test_parts_of_a_target_are_added_up_and_an_input_of_noise_does_no_harm(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(600, 3)).round(3)
    lines = [f"{a},{b},{c},{a + b:.3f},{'test' if k >= 500 else 'train'}" for k, (a, b, c) in enumerate(x)]
    (tmp_path / "rows.csv").write_text("\n".join(["a,b,noise,y,split", *lines]) + "\n")
    options = {"kind": "table", "width": 32, "layers": 1, "augmentation": "none", "dropout": 0.0}

    def error(*names: str) -> float:
        modalities = {name: {**options, "columns": [name]} for name in names}
        data = {"train": str(tmp_path / "rows.csv"), "target": ["y"], "cache": "memory"}
        raw = small(data, modalities, "l1", train={"steps": 80, "batch_size": 64, "lr": 0.01, "validate_every": 80})
        train(Config.model_validate(raw), tmp_path / "-".join(names), Silent())
        lines = Predictor(tmp_path / "-".join(names)).predict()
        return float(np.mean([abs(line["predicted_y"] - line["y"]) for line in lines]))

    alone, both, noisy = error("a"), error("a", "b"), error("a", "noise")
    assert both < 0.5 * alone
    assert noisy < 1.05 * alone


@pytest.mark.parametrize(
    ("objective", "reason"),
    [
        (
            [{"name": "clip", "fuse": "mean"}],
            "clip trains no head that predicts; those that do are asymmetric, binary-cross-entropy, ",
        ),
        ([{"name": "l1", "fuse": "mean"}, {"name": "mse"}], "l1 has mean and mse has gated: give its terms the same"),
    ],
)
def test_a_fuse_that_has_no_head_or_two_is_refused(
    objective: list[dict[str, str]], reason: str, make_config: Make
) -> None:
    with pytest.raises(BadInput, match=reason):
        make_losses(make_config(objective=objective))


def test_the_only_input_cannot_be_dropped(make_config: Make) -> None:
    made = make_config()
    alone = made.model_copy(update={"modalities": {"table": {**made.modalities["table"], "drop": 0.2}}})
    with pytest.raises(BadInput, match="this run has no other input"):
        make_modalities(alone)
