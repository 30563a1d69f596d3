"""Training, evaluation and embedding on pretended CUDA: as on the CPU, and the host hardly waits for the device."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from clx.pipelines.batches.batch import Batch, ahead
from clx.pipelines.experiments.train import train
from clx.pipelines.system.devices import fetched
from clx.pipelines.training.buffers import KeptBuffers
from clx.pipelines.use.embed import embed
from clx.pipelines.use.embedding_tables import EmbeddingOptions
from configs import Make
from pretend_cuda import Mismatch, Pretended, Stream, pretending
from trained import Heard, metrics, trainer_of

OBJECTIVES: dict[str, list[dict[str, Any]]] = {
    "clip": [{"name": "clip", "learn_temperature": True}],
    "supcon": [{"name": "supcon"}, {"name": "cross-entropy", "weight": 0.5}],
    "siglip": [{"name": "siglip"}, {"name": "mv-infonce", "weight": 0.1}],
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_step_waits_once_and_a_logged_one_twice(name: str, tmp_path: Path, make_config: Make) -> None:
    config = make_config(objective=OBJECTIVES[name], train__device="cuda", train__precision="fp32", train__ema=0.9)
    with pretending() as pretence:
        trainer = trainer_of(config, tmp_path)
        trainer.learner.model.train()
        waits = []
        for batch in trainer.batches():
            before = pretence.waits
            trainer.update(batch)
            waits.append(pretence.waits - before)
        assert all(isinstance(p, Pretended) for p in trainer.learner.model.parameters())
        assert all(isinstance(p.grad, Pretended) for p in trainer.learner.learned)
    assert waits[1:-1] == [1] * (len(waits) - 2), "in steady state"
    assert waits[-1] == 2, "the last step is logged"


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_waits_no_more(precision: str, tmp_path: Path, make_config: Make) -> None:
    config = make_config(train__device="cuda", train__precision=precision, train__steps=3, train__clip=1.0)
    with pretending() as pretence:
        trainer = trainer_of(config, tmp_path)
        trainer.learner.model.train()
        _, batch, _ = trainer.batches()
        before = pretence.waits
        assert trainer.learner.update(batch).outcome == "taken"
        assert pretence.waits - before == 1


def test_rows_without_an_input_cost_one_wait_for_each_loss(tmp_path: Path, make_config: Make) -> None:
    config = make_config(train__device="cuda", train__precision="fp32", modalities__text__drop=0.3)
    with pretending() as pretence:
        trainer = trainer_of(config, tmp_path)
        trainer.learner.model.train()
        batch, *_ = trainer.batches()
        before = pretence.waits
        assert trainer.learner.update(batch).outcome == "taken"
        assert pretence.waits - before == 2


def test_training_evaluation_and_embedding_are_those_of_the_cpu(tmp_path: Path, make_config: Make) -> None:
    found = {}
    for device in ("cpu", "cuda"):
        out = tmp_path / device
        config = make_config(
            eval=["zeroshot"],
            train__device=device,
            train__precision="fp32",
            train__ema=0.5,
            train__steps=3,
            train__validate_every=2,
        )
        with pretending():  # with device cpu nothing is pretended
            result = train(config, out / "run", Heard())
            embed(out / "run", out / "z.parquet", options=EmbeddingOptions(split="val"), device=device, workers=2)
        found[device] = result["evaluation"], metrics(out / "run"), pq.read_table(out / "z.parquet")
    (scores, lines, table), (other, other_lines, other_table) = found["cpu"], found["cuda"]
    assert scores["zeroshot"]["image"]["top1"] == other["zeroshot"]["image"]["top1"]
    assert len(lines) == len(other_lines)
    for line, of_cuda in zip(lines, other_lines, strict=True):
        counted, of_cuda_counted = line.pop("scores", {}), of_cuda.pop("scores", {})  # by bins, whose edges some are at
        assert line == pytest.approx(of_cuda, rel=1e-3)
        assert counted.keys() == of_cuda_counted.keys()
        for pair, kinds in counted.items():
            for kind, bins in kinds.items():
                assert sum(bins) == sum(of_cuda_counted[pair][kind]) > 0
                moved = sum(abs(a - b) for a, b in zip(bins, of_cuda_counted[pair][kind], strict=True))
                assert moved <= max(2, 0.02 * sum(bins))
    for column in ("image", "text", "table"):
        ours, theirs = (torch.tensor(each[column].to_pylist()) for each in (table, other_table))
        torch.testing.assert_close(theirs, ours, rtol=1e-3, atol=1e-4)


def test_a_spoiled_step_changes_nothing(tmp_path: Path, make_config: Make) -> None:
    config = make_config(train__device="cuda", train__precision="fp32")
    with pretending():
        trainer = trainer_of(config, tmp_path)
        trainer.learner.model.train()
        first, second, *_ = trainer.batches()
        trainer.learner.update(first)
        before = {name: x.cpu() for name, x in trainer.learner.model.state_dict().items() if x.is_floating_point()}
        second.inputs["image"]["x"] = torch.full_like(second.inputs["image"]["x"], math.nan, dtype=torch.float32)
        assert trainer.learner.update(second).outcome == "spoiled"
        for name, x in before.items():
            assert trainer.learner.model.state_dict()[name].cpu().equal(x), name


def test_buffers_are_copied_only_if_they_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = torch.nn.Sequential(torch.nn.BatchNorm1d(3), torch.nn.BatchNorm1d(3))
    model.register_buffer("constant", torch.ones(4))
    model.register_buffer("gates", torch.ones(4))
    kept, copied, copy = KeptBuffers(model), list[int](), torch._foreach_copy_
    monkeypatch.setattr(torch, "_foreach_copy_", lambda to, of: (copied.append(len(to)), copy(to, of)))
    kept.keep()
    model[0](torch.randn(5, 3))
    model.gates.add_(1)
    first = model[0].running_mean.clone()
    for _ in range(2):
        kept.keep()
        model(torch.randn(5, 3))
        model.gates[0] += 1
        kept.restore()
        assert model[0].running_mean.equal(first)
        assert model[1].running_mean.equal(torch.zeros(3))
        assert model.gates.equal(torch.full((4,), 2.0))
    assert copied == [4, 5, 5], "both statistics of both norms, and what is no constant"


def test_figures_are_fetched_together() -> None:
    with pretending() as pretence:
        figures = {
            "loss": 1.5,
            "dropped": torch.tensor(0, device="cuda"),
            "skipped": torch.tensor(3, device="cuda"),
            "temperature": torch.tensor(0.5, device="cuda"),
            "bias": torch.tensor(0.0, device="cuda"),
            "here": torch.tensor(2.0),
        }
        pretence.reads.clear()
        assert fetched(figures) == {"loss": 1.5, "skipped": 3, "temperature": 0.5, "bias": 0.0, "here": 2.0}
        assert pretence.waits == 1
        assert fetched({"loss": 1.0}) == {"loss": 1.0}
        assert pretence.waits == 1


def test_a_batch_is_copied_while_the_one_before_it_is_computed_with(tmp_path: Path, make_config: Make) -> None:
    trainer = trainer_of(make_config(train__device="cpu"), tmp_path)
    made = list(trainer.batches())[:3]
    order = []

    def coming() -> Iterator[Batch]:
        for number, batch in enumerate(made):
            order.append(f"copied {number}")
            yield batch

    with pretending() as pretence:
        early = torch.cuda.Stream()
        with torch.cuda.stream(early):
            lost = made[0].to(torch.device("cuda"))
        with pytest.raises(Mismatch, match="another stream"):
            lost.labels + 1
        for number, batch in enumerate(ahead(coming(), torch.device("cuda"))):
            order.append(f"computed {number}")
            assert batch.labels.add(1).cpu().equal(made[number].labels + 1)
            assert batch.to(torch.device("cuda")) is batch
            assert not batch.lacks
        assert set(pretence.recorded) == {Stream.current}
        assert len(pretence.recorded) == 3 * len(tensors_of(made[0]))
    assert order == ["copied 0", "copied 1", "computed 0", "copied 2", "computed 1", "computed 2"]
    assert list(ahead(made, torch.device("cpu"))) == made


def tensors_of(batch: Batch) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    batch.mapped(lambda x: found.append(x) or x)  # type: ignore[func-returns-value]
    return found


def test_all_of_a_batch_is_pinned(tmp_path: Path, make_config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = trainer_of(make_config(train__device="cpu"), tmp_path)
    batch, *_ = trainer.batches()
    batch.weights, batch.repeats = torch.ones(len(batch)), torch.arange(len(batch))
    batch.contents = {"image": torch.arange(len(batch))}
    pinned = set[int]()

    def pin(x: torch.Tensor) -> torch.Tensor:
        copy = x.clone()
        pinned.add(id(copy))
        return copy

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    held = batch.pin_memory()
    tensors = [*held.present.values(), held.labels, held.targets, held.sample_id, held.weights, held.repeats]
    tensors += [*held.contents.values(), *(x for value in held.inputs.values() for x in value.values())]  # type: ignore[union-attr]
    assert all(id(x) in pinned for x in tensors)
    assert held.present["image"].equal(batch.present["image"])
