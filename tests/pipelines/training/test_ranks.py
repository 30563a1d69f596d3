"""Training on several ranks is training on one."""

import itertools
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from clx.losses.base import LOSSES
from clx.pipelines.evaluation import embeddings
from clx.pipelines.evaluation.evaluate import evaluate_run
from clx.pipelines.experiments.train import train
from clx.pipelines.runs import checkpoint
from clx.pipelines.runs.folder import read_config
from clx.pipelines.system.errors import BadInput
from together import STEPPED, STEPS, TWO, Course, cases, learn, on_ranks, play, use, write_rows
from trained import Heard, weights

pytestmark = pytest.mark.longest

SIZES = [2, pytest.param(4, marks=pytest.mark.slow)]


def each(names: Callable[[int], Iterable[str]]) -> list[Any]:
    """So many ranks and a name of theirs."""
    marks = {2: (), 4: pytest.mark.slow}
    return [pytest.param(size, name, marks=marks[size]) for size in marks for name in names(size)]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("together")
    write_rows(folder)
    return folder


Found = list[tuple[dict[str, Course], dict[str, Any]]]


@pytest.fixture(scope="module")
def worlds() -> dict[int, Found]:
    """By the number of ranks, which are started once."""
    return {}


@pytest.fixture(params=SIZES)
def ranks(rows: Path, worlds: dict[int, Found], commands: Path, request: pytest.FixtureRequest) -> Found:
    if request.param not in worlds:
        worlds[request.param] = []  # where the ranks fail, once is enough
        worlds[request.param] = on_ranks(rows, request.param, commands / "python-once")
    assert worlds[request.param], "the ranks failed"
    return worlds[request.param]


@pytest.fixture(scope="module")
def alone(rows: Path) -> dict[str, Any]:
    return play(rows, None)


def apart(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """The largest distance between tensors of a name, by their norm, or a tenth of that of all where this is more:
    a bias before a batch norm has a gradient of rounding errors."""
    assert a.keys() == b.keys()
    norms = {name: t.double().norm() for name, t in a.items()}
    least = (torch.stack(list(norms.values())).norm() / 10).clamp(min=1e-300)
    return max(((a[name].double() - b[name].double()).norm() / norms[name].clamp(min=least)).item() for name in a)


@pytest.mark.parametrize(("ranks", "name"), each(cases), indirect=["ranks"])
@pytest.mark.filterwarnings("ignore:modalities.n is only negatives and has a tower of its own")
def test_ranks_learn_what_one_process_learns(rows: Path, ranks: Found, name: str) -> None:
    case = cases()[name]
    one = learn(case, rows, None, STEPS[len(ranks)])
    exact = case.exact if case.double else 1e-5
    assert one.losses
    assert one.val
    for rank, found in enumerate(rank[name] for rank, _ in ranks):
        assert found.losses == pytest.approx(one.losses, rel=exact, abs=exact)
        if case.plain:
            assert found.val == pytest.approx(one.val, rel=exact, abs=exact)
        if rank and case.train.get("shard"):  # rank 0 alone gathers
            continue
        assert apart(one.gradients, found.gradients) < exact
        if case.plain:
            assert apart(one.weights, found.weights) < exact
        assert all(torch.equal(found.weights[key], ranks[0][0][name].weights[key]) for key in found.weights)


FEATURES = ("relation", "partial sets", "features", "similar", "self-guided", "attention", "words", "shard, words")
FEATURES += tuple(name for name, loss in LOSSES.items() if loss.family == "decoders")


def known(size: int) -> list[str]:
    """But for networks that make views, which step another time, batch norms of chunks, features, originals and
    layers of any width, rows that are embedded between steps, and inputs that no term looks at."""
    found = cases(size).items()
    return [n for n, case in found if not case.still and case.exact < 1 and not case.full and n not in FEATURES]


@pytest.mark.parametrize(("ranks", "name"), each(known), indirect=["ranks"])
def test_what_is_sent_in_a_step_is_known_beforehand(ranks: Found, name: str) -> None:
    """An exchange, embeddings, extras, lengths where there are steps, gradients; two for each batch norm; and of split
    towers each one forward and, but for the last, backward, its gradient, and two norms.

    What the losses' primitives share out is known by itself: see tests/losses/test_ranks.py.
    """
    case, size = cases()[name], len(ranks)
    found_weights = ranks[0][0][name].weights.items()  # a norm of a loss sees all rows, and sends nothing
    channels = [t.numel() for key, t in found_weights if key.startswith("towers.") and key.endswith("running_mean")]
    stepped, split, modalities = name in STEPPED, bool(case.train.get("shard")), case.modalities or TWO
    towers = len(modalities) if split else 0
    for found in (rank[name] for rank, _ in ranks):
        assert found.calls == 4 + stepped + bool(case.tick) + 2 * len(channels) + (3 * towers + 1 if split else 0)
        assert split or found.bytes == ranks[0][0][name].bytes
    if split:
        return
    most = max(end - start for start, end in itertools.pairwise(case.ends[size]))
    views, width = sum(modality.get("views", 1) for modality in modalities.values()), 16
    number, longest = 8 if case.double else 4, 12 if stepped else 0
    longest *= 1 + (name == "dense")  # which compares what encoders make of the steps, too, of the same width
    row = number * views * width * (1 + longest) + views * (1 + longest)
    row += number * views * width * (case.train.get("second") is not None)  # keys
    row += 8 + 8 + 4 * len(case.data.get("target", [])) + 4 * 3 * ("several" in case.data)
    row += 8 * views * any("negatives" in term for term in case.objective)
    exchanged = 8 * bool(case.tick) + 8 * (5 + 3 + 2 * views) + 8 * views * (stepped + (name == "dense"))
    norms = sum(number * (4 * c + 1) for c in channels)
    numbers, tensors = ranks[0][0][name].learned
    assert ranks[0][0][name].bytes == exchanged + most * row + norms + number * (numbers + tensors + 2)


@pytest.mark.parametrize("name", ["memory, forward", "memory, shard"])
def test_where_memory_runs_out_on_one_all_take_fewer_rows_at_a_time(ranks: Found, name: str) -> None:
    sizes = {rank[name].chunk for rank, _ in ranks}
    assert len(sizes) == 1
    assert sizes <= {2, 3, 4}


def saved(run: Path) -> dict[str, Tensor]:
    """Weights of the last checkpoint, those that are trained, and what the optimiser keeps."""
    state = checkpoint.load_trainer(checkpoint.last(run))
    moments = {f"{n}.{k}": t for n, each in state["optimizer"]["state"].items() for k, t in each.items()}
    return weights(run) | moments | {f"trained.{name}": t for name, t in state["trained"].items()}


def lines(run: Path, log: str = "metrics.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / log).read_text().splitlines()]


def losses(run: Path) -> dict[int, float]:
    return {line["step"]: line["loss"] for line in lines(run) if "loss" in line}


def test_a_signal_to_one_stops_all_and_the_run_goes_on_as_if_it_had_not(rows: Path, ranks: Found) -> None:
    size = len(ranks)
    whole, again = saved(rows / f"whole-{size}"), saved(rows / f"stopped-{size}")
    assert all(torch.equal(whole[key], again[key]) for key in whole)
    assert lines(rows / f"whole-{size}") == lines(rows / f"stopped-{size}")
    said = f"stopped at step 4 of 6; continue with clx train --resume {rows}/stopped-{size}"
    assert {seen["stopped"] for _, seen in ranks} == {said}


def test_a_run_of_several_ranks_goes_on_with_one(rows: Path, ranks: Found, alone: dict[str, Any]) -> None:
    """Without dropout, as one process would have gone from the start."""
    begun, whole = rows / f"begun-{len(ranks)}", rows / "begun-0"
    assert checkpoint.last(begun).step == 4
    train(checkpoint.read_config(begun), begun, Heard(), resume=True)
    assert list(losses(begun)) == [1, 6]
    assert losses(begun) == pytest.approx(losses(whole), rel=1e-5)


def test_a_run_whose_towers_are_split_leaves_the_files_of_any_other(
    rows: Path, ranks: Found, alone: dict[str, Any]
) -> None:
    """It is stopped and goes on, on as many ranks and on one, which is told to split nothing."""
    size = len(ranks)
    split, then, whole = (rows / name for name in (f"split-{size}", f"split-then-{size}", "split-0"))
    assert checkpoint.last(then).step == 4
    with pytest.raises(BadInput, match="train.shard: true splits towers over several processes, and this is one"):
        train(checkpoint.read_config(then), then, Heard(), resume=True)
    train(read_config(then, ["train.shard=false"]), then, Heard(), resume=True)
    expected = saved(whole)
    for run in (split, then):
        found = saved(run)
        assert losses(run) == pytest.approx(losses(whole), rel=1e-5)
        assert {name: t.shape for name, t in found.items()} == {name: t.shape for name, t in expected.items()}
        assert apart(weights(run), weights(whole)) < 1e-4


def test_rows_are_asked_about_by_all_ranks_as_by_one_process(
    rows: Path, ranks: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The figures that end a training, embeddings and predictions, in batches so small that every rank has several."""
    monkeypatch.setattr(embeddings, "ROWS", 4)
    run = rows / f"told-{len(ranks)}"
    found = json.loads((run / "results.json").read_text())
    one = json.loads(json.dumps(evaluate_run(run, force=True, say=lambda text: None)).replace("NaN", "null"))
    assert {"retrieval", "probe", "classification"} <= one.keys()
    assert {name: found[name] for name in one} == one
    use(run, rows / "rows.csv", None, "-alone")
    for kind in (".parquet", ".csv"):
        files = [run.with_name(f"{run.name}{to}{kind}").read_bytes() for to in ("", "-alone")]
        assert files[0] == files[1]


def test_bad_rows_are_those_of_one_process(rows: Path, ranks: Found, alone: dict[str, Any]) -> None:
    size = len(ranks)
    known = sorted(line["row"] for line in lines(rows / "bad-0", "bad_rows.jsonl"))
    assert len(known) == 2
    assert sorted(line["row"] for line in lines(rows / f"bad-{size}", "bad_rows.jsonl")) == known
    ours, theirs = (
        {line["step"]: line["loss"] for line in lines(rows / f"bad-{n}") if "loss" in line} for n in (0, size)
    )
    assert ours == pytest.approx(theirs, rel=1e-4)
    assert {seen["bad"] for _, seen in ranks} == {alone["bad"]}


def test_what_is_not_finite_on_one_rank_is_skipped_by_all(rows: Path, ranks: Found, alone: dict[str, Any]) -> None:
    size = len(ranks)
    skipped = [line for line in lines(rows / f"skipped-{size}") if "skipped" in line]
    assert [line["step"] for line in skipped] == [2]
    assert len(skipped[0]["rows"]) == 32
    assert all(t.isfinite().all() for t in saved(rows / f"skipped-{size}").values())
    assert checkpoint.last(rows / f"skipped-{size}").step == 6
