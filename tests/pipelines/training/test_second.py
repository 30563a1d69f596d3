"""A second model beside the first: it follows, or stays as it is, and has no gradient."""

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from clx.pipelines.config.schema import Config
from clx.pipelines.data.splits import load_splits
from clx.pipelines.data.understood import uses_of
from clx.pipelines.experiments.train import train
from clx.pipelines.model import checks
from clx.pipelines.runs import checkpoint
from clx.pipelines.system.errors import BadInput, ClxWarning, Stopped
from clx.pipelines.training.dry_run import dry_run
from clx.pipelines.training.rows import validation_rows
from clx.pipelines.training.step import Learner
from clx.pipelines.use.export import export
from configs import OPEN_CLIP, small
from trained import Heard, StopAt, trainer_of, weights

VIEWS = {"width": 4, "size": 8, "head": "mlp", "views": 2}


MOMENTUM = {"momentum": 0.9}


def config(
    objective: Any = "byol", second: Any = MOMENTUM, image: dict[str, Any] | None = None, **train_: Any
) -> Config:
    data = {"train": "digits", "label": "label"}
    settings = {"batch_size": 32, "steps": 4, "second": second, **train_}
    raw = small(data, {"image": VIEWS | (image or {})}, objective, train=settings)
    return Config.model_validate(raw)


MOCO = {"name": "moco", "queue": 80, "both_ways": True}


def step(learner: Learner, batch: Any) -> None:
    learner.model.train(), learner.objective.train()
    learner.update(batch)


def test_a_copy_follows_the_weights_and_counts_its_own_norms(tmp_path: Path) -> None:
    trainer = trainer_of(config(second={"momentum": 0.8, "schedule": "cosine"}), tmp_path)
    learner, second = trainer.learner, trainer.learner.second
    assert second is not None
    expected = {name: p.detach().clone() for name, p in learner.model.named_parameters()}
    for done, batch in enumerate(trainer.batches(), 1):
        step(learner, batch)
        momentum = 1 - 0.2 * (math.cos(math.pi * done / 4) + 1) / 2
        for name, p in learner.model.named_parameters():
            expected[name] = momentum * expected[name] + (1 - momentum) * p.detach()
        for name, p in second.module.named_parameters():
            torch.testing.assert_close(p, expected[name])
            assert not p.requires_grad
            assert p.grad is None
    head = "towers.image.head.1.running_mean"
    assert int(second.module.get_buffer("towers.image.head.1.num_batches_tracked")) == 8  # two views, four steps
    assert not torch.equal(second.module.get_buffer(head), learner.model.get_buffer(head))


def test_norms_by_running_statistics_tell_no_key_of_other_rows(tmp_path: Path) -> None:
    """CCP's asymmetric batch norm: queries by the batch, keys by what the model has counted so far."""
    trainer = trainer_of(config(MOCO, {"momentum": 0.9, "norms": "running"}), tmp_path)
    learner, second = trainer.learner, trainer.learner.second
    assert second is not None
    for batch in trainer.batches():
        step(learner, batch)
    model, copied = dict(learner.model.named_buffers()), dict(second.module.named_buffers())
    counted = [name for name in copied if "running" in name]
    assert len(counted) >= 4
    assert all(torch.equal(copied[name], model[name]) for name in counted)
    alone = {view: {key: rows[:3] for key, rows in each.items()} for view, each in batch.inputs.items()}
    keys = second(batch.inputs, batch.present, training=True)
    few = second(alone, {view: rows[:3] for view, rows in batch.present.items()}, training=True)
    assert second.module.training
    for name in keys:
        torch.testing.assert_close(few[name], keys[name][:3])
    with pytest.raises(BadInput, match=r"train.second.norms: running, but no tower has batch norms; heads have them"):
        trainer_of(
            config(second={"momentum": 0.9, "norms": "running"}, image={"norm": "group", "head": "linear"}), tmp_path
        )


def test_a_queue_for_each_value_of_a_column(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = config(MOCO | {"by": "group"}).model_dump(mode="json")
    table = tmp_path / "rows.csv"
    lines = [
        f"{k % 5},{k * 2},{k % 3},{'abc'[k % 3] if k % 7 else ''},{'train' if k < 48 else 'val'}" for k in range(64)
    ]
    table.write_text("\n".join(["x,y,kind,site,split", *lines]).replace("2,124,2,c", "2,124,2,z"))
    raw |= {
        "data": {"train": str(table), "group": "site"},
        "modalities": {"table": {"columns": ["x", "y"], "views": 2}},
    }
    monkeypatch.setattr(checks, "MUCH", 500)
    with pytest.warns(ClxWarning, match=r"loss 'moco': data.group has 3 values.* 0 MB in memory and in every checkp"):
        trainer = trainer_of(Config.model_validate(raw), tmp_path / "run")
    assert uses_of(trainer.run.config, load_splits(trainer.run.config.data, 0)["train"])["site"] == "group"
    moco: Any = trainer.learner.objective.losses[0]
    assert sorted(moco.queues) == [f"table/{v} {k}" for v in (0, 1) for k in (0, 1, 2)]
    batch = next(trainer.batches())
    assert batch.groups is not None
    assert batch.groups.tolist() == [k % 3 if k % 7 else -1 for k in batch.sample_id.tolist()]
    step(trainer.learner, batch)
    held = [{k % 3 for k in moco.queues[f"table/0 {g}"].ids.tolist() if k >= 0} for g in range(3)]
    assert held == [{0}, {1}, {2}]
    val = validation_rows(trainer.run, load_splits(trainer.run.config.data, 0)["val"])
    assert val.groups is not None
    assert val.groups.tolist() == [-1 if k in (49, 56, 62, 63) else k % 3 for k in range(48, 64)]
    with pytest.raises(BadInput, match="data.group = 'site', but no term looks at groups of rows: moco does"):
        trainer_of(Config.model_validate(raw | {"objective": "byol"}), tmp_path / "other")


def test_keys_are_those_of_the_model_itself_where_nothing_has_moved(tmp_path: Path) -> None:
    learner = (trainer := trainer_of(config(), tmp_path)).learner
    batch = next(trainer.batches())
    assert learner.second is not None
    learner.model.eval()
    keys = learner.second(batch.inputs, batch.present, training=False)
    z = learner.model(batch.inputs, batch.present)
    assert keys.keys() == z.keys() == {"image/0", "image/1"}
    assert all(torch.equal(keys[name], z[name]) and not keys[name].requires_grad for name in z)
    learner.second(batch.inputs, batch.present, training=True)
    assert learner.second.module.training
    learner.second(batch.inputs, batch.present, training=False)
    assert not learner.second.module.training


def test_chunks_give_the_same_keys(tmp_path: Path) -> None:
    made = config(MOCO, image={"norm": "group"}, chunk=5)
    learner = (trainer := trainer_of(made, tmp_path)).learner
    batch, second = next(trainer.batches()), learner.second
    assert second is not None
    sizes: list[int] = []
    second.module.tower("image").encoder.register_forward_pre_hook(
        lambda _, args, kwargs: sizes.append(len(kwargs["x"])), with_kwargs=True
    )
    keys = second(batch.inputs, batch.present, training=True)
    assert max(sizes) == 5
    learner.chunks.set(None)
    whole = second(batch.inputs, batch.present, training=True)
    for name in keys:
        torch.testing.assert_close(keys[name], whole[name], rtol=1e-4, atol=1e-5)


def test_frozen_parts_are_shared_and_not_copied(tmp_path: Path) -> None:
    learner = trainer_of(config(image={"freeze": True}), tmp_path).learner
    second = learner.second
    assert second is not None
    own, theirs = dict(second.module.named_parameters()), dict(learner.model.named_parameters())
    assert all((own[name] is theirs[name]) == name.startswith("towers.image.encoder") for name in own)
    assert "towers.image.head.0.weight" in second.state(learner.model)
    assert "towers.image.encoder.stem.0.weight" not in second.state(learner.model)


def everything(learner: Learner) -> dict[str, Tensor]:
    """What a step may change, but the count of batches that norms have seen."""
    named = learner.whole.state_dict()
    return {name: value.clone() for name, value in named.items() if "num_batches" not in name}


@pytest.mark.parametrize("objective", [MOCO, "byol", {"name": "dino", "prototypes": 8}])
def test_a_step_that_is_spoiled_leaves_copy_and_queue_as_they_were(objective: Any, tmp_path: Path) -> None:
    learner = (trainer := trainer_of(config(objective), tmp_path)).learner
    made = trainer.batches()
    step(learner, next(made))
    before = everything(learner)
    bad = copy.copy(next(made))
    plain = learner.contrast

    def spoiled(*args: Any, **more: Any) -> Any:
        found = plain(*args, **more)
        return found._replace(loss=found.loss * torch.nan)

    learner.contrast = spoiled  # type: ignore[method-assign]
    step(learner, bad)
    assert all(torch.equal(value, before[name]) for name, value in everything(learner).items())
    learner.contrast = plain  # type: ignore[method-assign]
    step(learner, bad)
    changed = {name for name, value in everything(learner).items() if not torch.equal(value, before[name])}
    assert any(name.startswith("1.") for name in changed)
    assert objective != MOCO or any("queues" in name for name in changed)


def saved(run: Path) -> dict[str, Tensor]:
    one = checkpoint.last(run)
    state = checkpoint.load_trainer(one)
    kept = {f"second.{name}": value for name, value in state["second"].items()}
    return kept | weights(run) | {f"trained.{name}": value for name, value in state.get("trained", {}).items()}


@pytest.mark.parametrize("ema", [pytest.param(0.0, marks=pytest.mark.slow), 0.9])
def test_a_run_that_was_stopped_goes_on_bit_for_bit(ema: float, tmp_path: Path) -> None:
    objective = [MOCO, {"name": "dino", "prototypes": 8}]
    made = config(objective, ema=ema, validate_every=2)
    train(made, tmp_path / "whole", Heard())
    with pytest.raises(Stopped):
        train(made, tmp_path / "again", StopAt(2))
    train(made, tmp_path / "again", Heard(), resume=True)
    whole, again = saved(tmp_path / "whole"), saved(tmp_path / "again")
    assert whole.keys() == again.keys()
    assert all(torch.equal(value, again[name]) for name, value in whole.items())
    assert any("second." in name for name in whole)
    ids = whole["objective.losses.0.queues.image/1.ids"]
    assert (ids >= 0).all()  # 4 batches of 32 fill the queue of 80
    shared = [name for name in whole if "queues" in name and name.startswith("trained.")]
    assert len(shared) == (6 if ema else 0)
    assert all(torch.equal(whole[name], whole[name.removeprefix("trained.")]) for name in shared)
    lines = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "again")]
    assert lines[0] == lines[1]
    assert all(math.isfinite(json.loads(line).get("val_loss", 0.0)) for line in lines[0].splitlines())


def test_an_export_has_no_second_model_and_the_run_opens_without_it(tmp_path: Path) -> None:
    train(config(MOCO, steps=2), tmp_path / "run", Heard())
    list(export(tmp_path / "run", "safetensors", tmp_path / "out"))
    whole = checkpoint.load(tmp_path / "run")
    names = set(checkpoint.load_parts(tmp_path / "out"))
    assert names == {*checkpoint.weights(whole.model, whole.objective)}
    assert not any("second" in name for name in names)
    assert checkpoint.load(tmp_path / "run").config.train.second is not None


def test_a_finished_run_teaches(tmp_path: Path) -> None:
    """Images of another size are brought to its own; the teacher stays as it is."""
    teacher = config("nt-xent", None, image={"size": 12, "head": "linear"}, steps=1)
    train(teacher, tmp_path / "teacher", Heard())
    pupil = config({"name": "distil", "form": "features"}, {"run": str(tmp_path / "teacher")}, image={"views": 1})
    learner = (trainer := trainer_of(pupil, tmp_path)).learner
    second = learner.second
    assert second is not None
    assert not second.follows
    before = {name: value.clone() for name, value in second.module.state_dict().items()}
    batch = next(trainer.batches())
    keys = second(batch.inputs, batch.present, training=True)["image"]
    source = checkpoint.load(tmp_path / "teacher")
    pixels = torch.nn.functional.interpolate(
        batch.inputs["image"]["x"].float(), (12, 12), mode="bilinear", antialias=True
    )
    shown = {"image": {"x": pixels.round().to(torch.uint8)}}
    torch.testing.assert_close(keys, source.model(shown, {"image": batch.present["image"]})["image"])
    step(learner, batch)
    assert all(torch.equal(value, before[name]) for name, value in second.module.state_dict().items())
    assert second.state(learner.model) == {}
    train(pupil, tmp_path / "pupil", Heard())
    with pytest.raises(BadInput, match=r"set embed_dim to that"):
        trainer_of(Config.model_validate(pupil.model_dump() | {"embed_dim": 12}), tmp_path)
    wrong = pupil.model_dump() | {"modalities": {"scan": {"kind": "image", "column": "image", "size": 8}}}
    with pytest.raises(BadInput, match=r"has no modalities.scan of kind image; it has image"):
        trainer_of(Config.model_validate(wrong), tmp_path)


def test_a_teacher_must_read_texts_as_the_run_does(tmp_path: Path) -> None:
    data = {"train": "digits", "label": "label"}
    texts = {"text": {"layers": 1, "width": 32, "max_length": 64}, "image": VIEWS | {"views": 1}}
    train(Config.model_validate(small(data, texts, "clip", train={"steps": 1})), tmp_path / "teacher", Heard())
    second = {"second": {"run": str(tmp_path / "teacher")}}
    same = small(data, texts, "distil", train=second)
    trainer_of(Config.model_validate(same), tmp_path)
    texts["text"]["max_length"] = 32
    with pytest.raises(BadInput, match=r"reads modalities.text otherwise \(transformer\)"):
        trainer_of(Config.model_validate(small(data, texts, "distil", train=second)), tmp_path)


def test_a_pretrained_model_teaches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import open_clip

    (tmp_path / "tiny.json").write_text(json.dumps(OPEN_CLIP))
    open_clip.add_model_config(str(tmp_path / "tiny.json"))
    made = config({"name": "distil"}, {"model": "tiny"}, image={"views": 1})
    learner = (trainer := trainer_of(made, tmp_path)).learner
    batch = next(trainer.batches())
    assert learner.second is not None
    assert learner.second(batch.inputs, batch.present, True)["image"].shape == (32, 32)
    trainer_of(made, tmp_path)
    state = torch.get_rng_state()
    trainer_of(config("distil", image={"views": 1}), tmp_path)
    assert torch.equal(state, torch.get_rng_state())  # the teacher draws nothing from the run's stream
    with pytest.raises(BadInput, match=r"train.second.model: .*no-such"):
        trainer_of(config("distil", {"model": "no-such"}, image={"views": 1}), tmp_path)


@pytest.mark.parametrize(
    ("objective", "second", "said"),
    [
        ("byol", {}, r"give one of momentum"),
        ("byol", {"momentum": 0.9, "run": "x"}, r"give one of momentum"),
        ("byol", {"momentum": 1.0}, r"less than 1"),
        ("byol", {"run": "x", "schedule": "cosine"}, r"schedule is of momentum"),
        ("byol", {"run": "x", "pretrained": "y"}, r"pretrained is the weights of model"),
    ],
)
def test_settings_that_do_not_fit_are_refused(objective: str, second: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        config(objective, second)
    with pytest.raises(ValueError, match="shard keeps a part of each tower"):
        config(objective, shard=True)


def test_a_loss_with_keys_and_a_second_model_need_each_other(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"loss 'moco' needs keys, .* -s train.second.momentum=0.99"):
        trainer_of(config("moco", None), tmp_path)
    with pytest.raises(BadInput, match=r"no loss of the objective looks at a second model \(nt-xent\); .*byol, .*moco"):
        trainer_of(config("nt-xent"), tmp_path)
    with pytest.raises(BadInput, match=r"train.second.run: .*nowhere"):
        trainer_of(config("distil", {"run": str(tmp_path / "nowhere")}), tmp_path)


def test_options_of_moco_are_read_from_a_config(tmp_path: Path) -> None:
    mixed = MOCO | {"mix": {"top": 8, "pairs": 4}, "by": "labels", "hardest": 20}
    learner = (trainer := trainer_of(config(mixed), tmp_path)).learner
    for batch in trainer.batches():
        step(learner, batch)
    assert sorted(learner.objective.losses[0].queues)[:2] == ["image/0 0", "image/0 1"]  # type: ignore
    for wrong, said in (
        ({"mix": {"tops": 8}}, r"objective \(moco\): unknown key 'mix.tops' \(did you mean 'top'\?\)"),
        ({"mix": {"top": 0}}, r"mix.top = 0: should be greater than or equal to 1"),
        ({"mix": {"top": 81}}, r"mix.top = 81, but the queue has 80 rows"),
        ({"by": "lang"}, r"by = 'lang': should be 'labels' or 'group'"),
        ({"by": "group"}, r"loss 'moco' needs groups of rows: set data.group to a column of digits train .*label"),
    ):
        with pytest.raises(BadInput, match=said):
            trainer_of(config(MOCO | wrong), tmp_path)


def test_a_dry_run_counts_copy_and_queue() -> None:
    memory = dry_run(config(MOCO))["memory"]
    assert memory["second"] > 1000
    assert memory["remembered"] == 2 * 2 * (80 * 8 * 4 + 80 * 8 + 8)
    assert memory["total"] == sum(value for name, value in memory.items() if name != "total")


def test_memory_of_a_row_is_that_of_the_model_which_learns(tmp_path: Path) -> None:
    learner = trainer_of(config(chunk="auto"), tmp_path).learner
    assert learner.second is not None
    assert learner.chunks.models[0] is learner.model
    assert learner.second.module in learner.chunks.models


def test_a_first_stage_may_have_a_second_model_of_its_own(tmp_path: Path) -> None:
    first = {"objective": "byol", "train": {"steps": 2, "second": MOMENTUM}}
    raw = config("cross-entropy", None, steps=2).model_dump() | {"stages": [first, {}]}
    train(Config.model_validate(raw), tmp_path / "run", Heard())
    assert "second" in checkpoint.load_trainer(checkpoint.last(tmp_path / "run" / "stages" / "1"))
    assert "second" not in checkpoint.load_trainer(checkpoint.last(tmp_path / "run"))
