"""One tower for several columns, and columns that are only negatives."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from clx.losses.further_negatives import Negatives
from clx.losses.infonce import infonce
from clx.losses.primitives.edits import DifferentIds
from clx.losses.primitives.functional import unit
from clx.modalities.draws import Draws
from clx.pipelines.batches.check import check_source
from clx.pipelines.config.load import dump, load_config
from clx.pipelines.config.schema import Config
from clx.pipelines.data.splits import load_splits
from clx.pipelines.evaluation.embeddings import embed_manifest
from clx.pipelines.experiments.doctor.examine import examine_run
from clx.pipelines.experiments.train import train
from clx.pipelines.model.build import prepare
from clx.pipelines.model.idle_parts import unseen_lines
from clx.pipelines.runs import checkpoint
from clx.pipelines.system.errors import BadInput, ClxWarning, Stopped
from clx.pipelines.system.progress import Progress
from clx.pipelines.use.search import Neighbours, Searcher
from command import Command
from configs import small
from trained import StopAt, trainer_of, weights

ROWS = [
    ("a dog", "one dog", "a cat", "", "train"),
    ("the red car", "a red car", "one dog", "a blue car", "train"),  # the first negative is row 1's positive
    ("it rains", "rain falls", "", "", "train"),
    ("he reads", "he is reading", "he writes", "he sings", "train"),
    ("a dog", "one dog", "a cat", "", "val"),
    ("it rains", "rain falls", "snow", "sun", "val"),
]
TEXT = {"kind": "text", "width": 32, "layers": 1}


def raw_config(folder: Path, **more: Any) -> dict[str, Any]:
    """Anchors, positives and two columns of negatives through one tower."""
    lines = ["anchor,positive,neg_1,neg_2,split", *(",".join(row) for row in ROWS)]
    (folder / "t.csv").write_text("\n".join(lines) + "\n")
    modalities = {"anchor": TEXT, "positive": {"like": "anchor"}, "wrong": {"like": "anchor", "column": ["neg_*"]}}
    objective = {"name": "infonce", "inputs": ["anchor", "positive"], "negatives": ["wrong"], "temperature": 0.05}
    return small({"train": str(folder / "t.csv")}, modalities, objective, train={"batch_size": 4}) | more


def made(folder: Path, **more: Any) -> Config:
    return Config.model_validate(raw_config(folder, **more))


def test_two_columns_have_one_tower_whose_weights_are_saved_once(tmp_path: Path, silent: Progress) -> None:
    train(made(tmp_path), tmp_path / "run", silent)
    saved = load_file(checkpoint.pick(tmp_path / "run").path / "model.safetensors")
    assert {name.split(".")[2] for name in saved if name.startswith("model.towers.")} == {"anchor"}
    run = checkpoint.load(tmp_path / "run")
    assert run.model.tower("positive") is run.model.tower("anchor") is run.model.tower("wrong/1")
    own = run.config.modalities["positive"]
    assert own.pop("like") == "anchor"
    assert not {"width", "layers", "encoder", "head", "pair", "freeze"} & own.keys()
    assert run.config.modalities["wrong"]["column"] == ["neg_1", "neg_2"]
    assert run.config.objective[0].negatives == ["wrong"]
    embedded = embed_manifest(run, load_splits(run.config.data, 0)["val"])
    assert list(embedded.z) == ["anchor", "positive"]
    assert not torch.equal(embedded.z["anchor"], embedded.z["positive"])


def test_negatives_are_what_the_loss_is_given(tmp_path: Path) -> None:
    """By values: the loss of a step is that of the formula on the embeddings of all columns, repeats left out."""
    trainer = trainer_of(made(tmp_path), tmp_path / "run")
    learner = trainer.learner
    learner.model.eval()
    batch = next(trainer.batches())
    assert set(batch.present) == {"anchor", "positive", "wrong/0", "wrong/1"}
    assert {n: here.sum().item() for n, here in batch.present.items()} == {
        "anchor": 4, "positive": 4, "wrong/0": 3, "wrong/1": 2}  # fmt: skip
    assert batch.contents is not None
    z = learner.model(batch.inputs, batch.present)
    u = {name: unit(rows) for name, rows in z.items()}
    further = torch.cat([u[n][batch.present[n]] for n in ("wrong/0", "wrong/1")])
    contents = torch.cat([batch.contents[n][batch.present[n]] for n in ("wrong/0", "wrong/1")])
    repeats = (batch.contents["positive"][:, None] == contents).nonzero().tolist()
    assert len(repeats) == 1  # "one dog" is no negative of "a dog"
    assert batch.sample_id[repeats[0][0]] == 0
    found = learner.contrast(batch, learner.model, learner.objective, 0).loss
    edit = DifferentIds(batch.contents["positive"], contents)
    torch.testing.assert_close(found, infonce(u["anchor"], u["positive"], 0.05, None, Negatives(further, edit)))
    assert found.item() != infonce(u["anchor"], u["positive"], 0.05).item()


def given_to(config: Config, out: Path) -> tuple[set[str], dict[str, Any]]:
    """The names of the inputs that the loss of a step is given, and what else it is."""
    trainer, seen = trainer_of(config, out), []
    trainer.learner.objective.losses[0].register_forward_pre_hook(lambda _, *g: seen.append(g), with_kwargs=True)
    batch = next(trainer.batches())
    assert trainer.learner.contrast(batch, trainer.learner.model, trainer.learner.objective, 0).loss.isfinite()
    return set(seen[0][0][0]), seen[0][1]


def test_late_compares_the_tokens_of_negatives(tmp_path: Path) -> None:
    objective = {"name": "late", "inputs": ["anchor", "positive"], "negatives": ["wrong"]}
    z, given = given_to(made(tmp_path, objective=objective), tmp_path / "run")
    assert z == {"anchor", "positive"}
    assert set(given["negatives"]) == {"wrong/0", "wrong/1"}
    assert set(given["steps"]) == z | {"wrong/0", "wrong/1"}
    assert given["steps"]["wrong/0"][1].any()


def test_two_views_of_one_input_have_negatives_too(tmp_path: Path) -> None:
    raw = raw_config(tmp_path, objective={"name": "dcl", "inputs": ["anchor"], "negatives": ["wrong"]})
    raw["modalities"]["anchor"] = TEXT | {"views": 2, "dropout": 0.1}
    z, given = given_to(Config.model_validate(raw), tmp_path / "run")
    assert z == {"anchor/0", "anchor/1"}
    assert set(given["negatives"]) == {"wrong/0", "wrong/1"}


def test_rows_that_share_a_negative_are_no_repeats(tmp_path: Path) -> None:
    """Those that share an anchor or a positive are, and no negatives of each other."""
    raw = raw_config(tmp_path)
    rows = [f"the anchor of {k % 14},what belongs to {k},what is wrong for {k % 3} rows" for k in range(16)]
    (tmp_path / "t.csv").write_text("\n".join(["anchor,positive,negative", *rows]) + "\n")
    raw["modalities"]["wrong"] = {"like": "anchor", "column": "negative"}
    raw["train"] |= {"batch_size": 16}
    trainer = trainer_of(Config.model_validate(raw), tmp_path / "run")
    batch = next(trainer.batches())
    assert batch.repeats is not None
    assert sorted(batch.repeats.unique(return_counts=True)[1].tolist()) == [1] * 12 + [2, 2]


def test_what_is_only_negatives_learns_the_tower_too(tmp_path: Path) -> None:
    """With a tower of its own the gradient of the negatives is there to see."""
    raw = raw_config(tmp_path)
    raw["modalities"]["wrong"] = TEXT | {"column": ["neg_*"]}
    with pytest.warns(ClxWarning, match="modalities.wrong is only negatives and has a tower of its own"):
        trainer = trainer_of(Config.model_validate(raw), tmp_path / "run")
    assert not [*unseen_lines(trainer.run.config, trainer.run.model)]
    batch = next(trainer.batches())
    trainer.learner.contrast(batch, trainer.learner.model, trainer.learner.objective, 0).loss.backward()  # type: ignore[no-untyped-call]
    learning = {n.split(".")[1] for n, p in trainer.learner.model.named_parameters() if p.grad is not None}
    assert learning == {"anchor", "wrong"}


def test_a_term_sees_its_inputs_in_their_order(tmp_path: Path) -> None:
    """`infonce` goes from the first to the second, whatever the order of the modalities."""
    for order in (["anchor", "positive"], ["positive", "anchor"]):
        objective = {"name": "infonce", "inputs": order, "negatives": ["wrong"]}
        trainer = trainer_of(made(tmp_path, objective=objective), tmp_path / "run")
        batch = next(trainer.batches())
        seen: list[list[str]] = []
        loss = trainer.learner.objective.losses[0]
        loss.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(list(args[0])))
        trainer.learner.contrast(batch, trainer.learner.model, trainer.learner.objective, 0)
        assert seen == [order]


def test_resumed_is_as_if_it_had_never_stopped(tmp_path: Path, silent: Progress) -> None:
    config = made(tmp_path, train={"steps": 6, "batch_size": 4, "workers": 1})
    train(config, tmp_path / "whole", silent)
    with pytest.raises(Stopped):
        train(config, tmp_path / "parts", StopAt(3))
    train(checkpoint.read_config(tmp_path / "parts"), tmp_path / "parts", silent, resume=True)
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_a_saved_config_is_read_again(tmp_path: Path, silent: Progress) -> None:
    train(made(tmp_path), tmp_path / "run", silent)
    again = tmp_path / "again.yaml"
    again.write_text(dump(checkpoint.read_config(tmp_path / "run")))
    train(load_config(str(again)), tmp_path / "second", silent)
    first, second = weights(tmp_path / "run"), weights(tmp_path / "second")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_what_is_fitted_is_fitted_on_all_columns_of_the_tower(tmp_path: Path) -> None:
    rows = [{"one": [float(k), k + 1.0, k + 3.0], "two": [100.0 + k, 90.0, 120.0 - k]} for k in range(4)]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    raw = small(
        {"train": str(tmp_path / "t.jsonl")},
        {"one": {"kind": "series", "encoder": "tcn", "width": 8, "scale": "global"}, "two": {"like": "one"}},
        "clip",
        train={"batch_size": 4},
    )
    config = Config.model_validate(raw)
    run = prepare(config, load_splits(config.data, 0))
    assert run.modalities["one"].state() == run.modalities["two"].state()
    values = torch.tensor([[row["one"], row["two"]] for row in rows])
    assert run.modalities["one"].state()["mean"] == pytest.approx([values.mean().item()], rel=1e-5)


def test_frozen_features_of_several_columns(tmp_path: Path, silent: Progress) -> None:
    """Computed once, they give what encoding each batch gives."""
    found = []
    for cache in ("memory", None):
        raw = raw_config(tmp_path)
        raw["data"] |= {"cache": cache}
        raw["modalities"]["anchor"] = TEXT | {"freeze": True, "augmentation": "none"}
        train(Config.model_validate(raw), tmp_path / str(cache), silent)
        found.append(weights(tmp_path / str(cache)))
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name], rtol=1e-4, atol=1e-5)


def test_towers_are_taken_over_from_pretraining_by_the_name_they_are_called_by(
    tmp_path: Path, silent: Progress
) -> None:
    train(made(tmp_path), tmp_path / "first", silent)
    second = made(
        tmp_path,
        stages=[{"run": str(tmp_path / "first")}, {}],
        train={"steps": 1, "lr": 1e-9, "batch_size": 4},
    )
    train(second, tmp_path / "second", silent)
    first, taken = weights(tmp_path / "first"), weights(tmp_path / "second")
    for name in (name for name in first if name.startswith("model.towers.anchor.encoder")):
        torch.testing.assert_close(taken[name], first[name], rtol=0, atol=1e-6)


def test_an_export_has_one_file_for_a_tower(clx: Command, tmp_path: Path, silent: Progress) -> None:
    more, out = tmp_path / "more.csv", tmp_path / "out"
    more.write_text("anchor,positive\n" + "".join(f"word {k},words {k}\n" for k in range(8)))
    train(made(tmp_path), tmp_path / "run", silent)
    done = clx("export", tmp_path / "run", "--format", "safetensors", "-o", out, "--data", more, "--json")
    assert done.returncode == 0, done.stderr
    assert [(row["modality"], row["file"]) for row in json.loads(done.stdout)] == [
        ("anchor", "anchor.safetensors"), ("positive", "anchor.safetensors")]  # fmt: skip
    assert sorted(path.name for path in out.glob("*.safetensors")) == ["anchor.safetensors", "objective.safetensors"]
    assert set(json.loads((out / "clx.json").read_text())["modalities"]) == {"anchor", "positive"}
    run = checkpoint.load(out)
    assert run.model.tower("positive") is run.model.tower("anchor")


CONFIGS: list[tuple[dict[str, Any], Any, str]] = [
    ({"b": {"like": "a", "width": 64}}, "clip", r"modalities.b.width: it has the tower of a, .*modalities.a.width"),
    ({"b": {"like": "c"}}, "clip", "modalities.b.like: no other modality 'c'"),
    ({"b": {"like": "b"}}, "clip", "modalities.b.like: no other modality 'b'"),
    ({"b": {"like": ["a"]}}, "clip", "modalities.b.like: no other modality"),
    ({"b": {"like": "a"}, "c": {"like": "b"}}, "clip", "write like: a"),
    ({"b": {"like": "a", "kind": "image"}}, "clip", "like a, whose kind is text"),
    ({"b": {"like": "a", "column": ["x", "y"]}}, "clip", "several columns are for a modality that is only"),
    ({"b": {"like": "a"}}, {"name": "clip", "negatives": ["w"]}, "unknown modality 'w'"),
    (
        {"b": {"like": "a"}},
        {"name": "cosent", "negatives": ["b"]},
        "cosent takes none; clip, dcl, dclw, debiased, energy-hinge, hcl, infonce, late, .* siglip do",
    ),
    ({"b": {"like": "a"}}, {"name": "clip", "negatives": ["b"]}, "two inputs or two views of one, and has a"),
    (
        {"b": {"like": "a"}, "w": {"kind": "table", "columns": ["w"]}},
        {"name": "late", "inputs": ["a", "b"], "negatives": ["w"]},
        "encoder mlp of modalities.w has none",
    ),
    (
        {"b": {"like": "a"}},
        {"name": "clip", "inputs": ["a", "b"], "negatives": ["b"]},
        "b is among the inputs and among the negatives",
    ),
    (
        {"b": {"like": "a"}, "w": {"like": "a"}},
        {"name": "clip", "inputs": ["a", "b"], "negatives": ["w", "w"]},
        "negatives: w is named twice",
    ),
    (
        {"b": {"kind": "image"}, "w": {"like": "a"}},
        {"name": "clip", "inputs": ["a", "b"], "negatives": ["w"]},
        r"w is of the tower of a, the anchor, .*write inputs: \[b, a\]",
    ),
    ({"b": {"like": "a", "prompt": "q {}"}}, "clip", "prompt 'q {}' stands before the text as it is"),
    ({"b": {"like": "a"}}, {"name": "clip", "negative": ["b"]}, "unknown key 'negative' .did you mean 'negatives'"),
    ({"b": {"like": "a"}}, {"name": "clip", "input": ["a"]}, "unknown key 'input' .did you mean 'inputs'"),
]


@pytest.mark.parametrize(("modalities", "objective", "message"), CONFIGS)
def test_what_cannot_be_is_refused(
    tmp_path: Path, silent: Progress, modalities: dict[str, Any], objective: Any, message: str
) -> None:
    (tmp_path / "t.csv").write_text("a,b,w\n" + "x,y,z\n" * 8)
    raw = small({"train": str(tmp_path / "t.csv")}, {"a": TEXT} | modalities, objective, train={"batch_size": 4})
    with pytest.raises(BadInput, match=message):
        train(Config.model_validate(raw), tmp_path / "run", silent)


def test_each_column_has_a_prompt_of_its_own(tmp_path: Path, silent: Progress) -> None:
    raw = raw_config(tmp_path)
    raw["modalities"]["anchor"] = TEXT | {"prompt": "query: ", "templates": ["{}", "on {}"]}
    raw["modalities"]["positive"]["prompt"] = "passage: "
    train(Config.model_validate(raw), tmp_path / "run", silent)
    run = checkpoint.load(tmp_path / "run")
    read = {name: str(modality.read("a dog")) for name, modality in run.modalities.items()}
    assert read == {"anchor": "query: a dog", "positive": "passage: a dog", "wrong": "a dog"}
    anchor = run.modalities["anchor"]
    assert list(map(str, anchor.prompts("dog"))) == ["query: dog", "query: on dog"]
    assert list(map(str, anchor.prompts("dog", ["a {}"]))) == ["query: a dog"]
    views = {str(anchor.augment([anchor.read("dog")], Draws.seeded(k, 1))[0]) for k in range(8)}
    assert views == {"query: dog", "query: on dog"}
    np.save(tmp_path / "rows.npy", torch.eye(8).numpy())
    (hits,) = Searcher(tmp_path / "rows.npy", run=run).search(["a dog"], top=8)
    with torch.no_grad():
        inputs = {name: m.collate([m.read("a dog")]) for name, m in run.modalities.items()}
        asked = run.model(inputs, dict.fromkeys(inputs, torch.ones(1, dtype=torch.bool)))
    scores = {name: unit(z)[0].sort(descending=True).values.tolist() for name, z in asked.items()}
    assert isinstance(hits, Neighbours)
    assert [hit["score"] for hit in hits.hits] == pytest.approx(scores["anchor"], abs=1e-5)
    assert scores["anchor"] != pytest.approx(scores["positive"], abs=1e-3)


def test_tables_and_pairs_share_no_tower(tmp_path: Path, silent: Progress) -> None:
    (tmp_path / "t.csv").write_text("a,b\n" + "1,2\n" * 8)
    for model, what in (({"kind": "table", "columns": ["a"]}, "a table"), (TEXT | {"pair": "b"}, "a pair of columns")):
        raw = small(
            {"train": str(tmp_path / "t.csv")}, {"a": model, "b": {"like": "a"}}, "clip", train={"batch_size": 4}
        )
        with pytest.raises(BadInput, match=f"modalities.b.like: a is {what}"):
            train(Config.model_validate(raw), tmp_path / "run", silent)


def test_a_tower_in_no_term_is_warned_of(tmp_path: Path) -> None:
    raw = raw_config(tmp_path)
    raw["modalities"]["idle"] = TEXT | {"column": "neg_1"}
    with pytest.warns(ClxWarning, match="modalities.idle is in no term of the objective: it learns nothing"):
        trainer_of(Config.model_validate(raw), tmp_path / "run")
    raw["modalities"]["idle"] = {"like": "anchor", "column": "neg_1"}  # whose tower learns
    trainer = trainer_of(Config.model_validate(raw), tmp_path / "run")
    (line,) = unseen_lines(trainer.run.config, trainer.run.model)
    assert line.startswith("no term looks at modalities.idle: it is evaluated, and teaches nothing")


def test_columns_of_negatives_without_a_cell_are_refused(tmp_path: Path) -> None:
    raw = raw_config(tmp_path)
    (tmp_path / "t.csv").write_text("anchor,positive,neg_1,neg_2\n" + "a dog,one dog,, \n" * 8)
    with pytest.raises(BadInput, match="modalities.wrong: columns neg_1, neg_2 are empty in every training row"):
        trainer_of(Config.model_validate(raw), tmp_path / "run")
    (tmp_path / "t.csv").write_text("anchor,positive,neg_1,neg_2\n" + "a dog,one dog,, \n" * 8 + "it,is,so,\n")
    trainer_of(Config.model_validate(raw), tmp_path / "run")


def test_test_rows_need_no_columns_that_are_only_negatives(tmp_path: Path, silent: Progress) -> None:
    (tmp_path / "test.csv").write_text("anchor,positive\na dog,one dog\nit rains,rain falls\nhe reads,he is reading\n")
    raw = raw_config(tmp_path, eval=["retrieval"])
    raw["data"]["test"] = str(tmp_path / "test.csv")
    found = train(Config.model_validate(raw), tmp_path / "run", silent)
    assert found["evaluation"]["split"] == "test"
    report = check_source(None, str(tmp_path / "run" / "config.yaml"))
    assert report["ok"], report["findings"]
    inputs = report["splits"]["test"]["inputs"]
    assert [inputs[name]["missing"] for name in ("anchor", "wrong/0", "wrong/1")] == [0, 3, 3]
    rows = (line for line in examine_run(tmp_path / "run") if line["check"] == "inputs")
    assert "modalities.wrong/1 (neg_2)" in "".join(line["value"] for line in rows)
