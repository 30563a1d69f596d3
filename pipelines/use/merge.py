"""One run of the weights of several that trainings from one start arrived at: what `clx merge` calls, and a program."""

import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from clx.pipelines.config.options import options_of
from clx.pipelines.measures.merged_weights import average, by_delta, slerp
from clx.pipelines.model.build import Run
from clx.pipelines.runs.checkpoint import save_weights, weights
from clx.pipelines.runs.folder import META, clear, refuse_existing
from clx.pipelines.runs.open import open_model
from clx.pipelines.system.durable_files import write_text
from clx.pipelines.system.errors import BadInput, nearest

By = Literal["average", "delta", "slerp"]
State = dict[str, Tensor]
MERGED = "merge.json"
"""Of what a run was made."""
FREE = {
    *("freeze", "unlocked", "lora", "checkpointing", "pretrained", "views", "drop", "augmentation", "noise", "mix"),
    *("dropout", "head_dropout", "flip", "crop", "column", "pair", "like", "several", "substitutes"),
}
"""Options of a modality that may differ: they say what is trained on, or how, and not what the weights compute."""
STRANGERS = 0.1
"""Cosine of all matrices of two runs below which they have no common start: of other first weights it is about 0."""


def merge(
    runs: Sequence[Path],
    out: Path,
    by: By = "average",
    *,
    base: Path | None = None,
    shares: Sequence[float] | None = None,
    checkpoint: str = "best",
    overwrite: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Write a run whose weights are merged of several.

        merge([Path("runs/a"), Path("runs/b")], Path("runs/both"), "delta", base=Path("runs/init"))

    Config, data and all that the runs do not have in common are those of the first. Numbers that are counted, not
    learned, are the first's too; running statistics of batch norms are averaged.

    Args:
        runs: two or more run folders, of one architecture and one start.
        out: a new folder, that every command takes as a run; it cannot be resumed.
        by: `average`, `delta` (see `measures.merged_weights`), or `slerp`, of two.
        base: for `delta`, the run that the others began with.
        shares: a weight for each run; all the same when None.
        checkpoint: of each run: `best`, `last`, or a step.
        overwrite: whether a run in `out` is replaced.
        say: hears what is good to know.

    Gives what is written in `merge.json`: the runs, their shares, how alike their weights were, how many `tensors`
    there are, and which were `kept` as the first run has them. Raises `BadInput`.
    """
    weight = _shares(runs, by, base, shares)
    refuse_existing(out, overwrite)
    if any(out.resolve() == one.resolve() for one in (*runs, *([base] if base else []))):
        raise BadInput(f"--out {out} is one of the runs that are merged")
    opened = [open_model(one, None, checkpoint, "cpu", only_run=True).merged() for one in runs]
    states = [weights(run.model, run.objective) for run in opened]
    for path, run, state in zip(runs[1:], opened[1:], states[1:], strict=True):
        check_alike(runs[0], opened[0], states[0], path, run, state)
    start: State = {}
    if base is not None:
        run = open_model(base, None, checkpoint, "cpu", only_run=True).merged()
        start = weights(run.model, run.objective)
        check_alike(runs[0], opened[0], states[0], base, run, start)
    alike = [cosine(states[0], each) for each in states[1:]]
    for path, value in zip(runs[1:], alike, strict=True):
        if value < STRANGERS:
            raise BadInput(
                f"{runs[0]} and {path} have no common start: the cosine of their weights is {value:.2g}. Merge runs "
                "that were fine-tuned from one (stages: [{run: RUN}, {}])"
            )
    remembered = {f"objective.{name}" for name, _ in opened[0].objective.named_buffers()}
    merged, told = merge_states(states, start, by, weight, remembered)
    _say(told, by, say)
    told = {
        "runs": [str(one) for one in runs],
        **({"base": str(base)} if base else {}),
        **{"by": by, "weights": weight, "cosine": alike},
        **told,
    }
    _write(out, opened[0], merged, told)
    return {"out": str(out), **told}


def _shares(runs: Sequence[Path], by: str, base: Path | None, shares: Sequence[float] | None) -> list[float]:
    """Weights that sum to 1. Raises `BadInput`."""
    if by not in get_args(By):
        raise BadInput(f"--by {by}{nearest(by, get_args(By))}")
    if len(runs) < 2:
        raise BadInput("merge two runs or more")
    if by == "slerp" and len(runs) != 2:
        raise BadInput(f"--by slerp is the way from one run to another, and {len(runs)} are given: --by average")
    if (by == "delta") != (base is not None):
        raise BadInput(
            "--by delta needs --base, the run that the others began with"
            if base is None
            else f"--base is for --by delta, and this is --by {by}"
        )
    found = [1.0] * len(runs) if shares is None else list(shares)
    if len(found) != len(runs) or not all(math.isfinite(w) and w >= 0 for w in found) or not sum(found):
        said = ",".join(f"{w:g}" for w in found)
        raise BadInput(f"--weights {said}: expected one from 0 on for each of the {len(runs)} runs")
    return [w / sum(found) for w in found]


def check_alike(one: Path, first: Run, state: State, other: Path, second: Run, theirs: State) -> None:
    """Raise `BadInput`, with the key that differs, where the second run's towers are not of the first one's make."""
    both = f"{one} and {other} cannot be merged"
    if first.config.embed_dim != second.config.embed_dim:
        raise BadInput(f"{both}: embed_dim is {first.config.embed_dim} and {second.config.embed_dim}")
    for name, modality in first.modalities.items():
        if name in first.config.only_negatives or name not in first.model.towers:
            continue
        if name not in second.modalities or name not in second.model.towers:
            raise BadInput(
                f"{both}: {other} has no modality {name} with a tower; it has {', '.join(second.modalities)}"
            )
        mine, its = modality, second.modalities[name]
        if mine.kind != its.kind:
            raise BadInput(f"{both}: modalities.{name}.kind is {mine.kind} and {its.kind}")
        options, others = options_of(mine), options_of(its)
        for key in sorted({*options, *others} - FREE):
            if options.get(key) != others.get(key):
                raise BadInput(f"{both}: modalities.{name}.{key} is {options.get(key)!r} and {others.get(key)!r}")
        learned, its_learned = first.facts.states[name], second.facts.states[name]
        for key in sorted({*learned, *its_learned}):
            if learned.get(key) != its_learned.get(key):
                raise BadInput(
                    f"{both}: the data taught them other {key} of {name}; train one from the other, or both from one "
                    "(stages: [{run: RUN}, {}]), which takes them over"
                )
    for name in (name for name in state if name.startswith("model.towers.")):
        if name not in theirs or theirs[name].shape != state[name].shape:
            found = list(theirs[name].shape) if name in theirs else "not there"
            raise BadInput(f"{both}: {name} is {list(state[name].shape)} and {found}")
    if _head(state) and _head(theirs):
        for key in ("classes", "target_mean", "target_scale"):
            if getattr(first.facts, key) != getattr(second.facts, key):
                raise BadInput(f"{both}: their heads tell other {key.replace('_', ' ')}")


def _head(state: State) -> bool:
    return any(name.startswith("model.predictor.") for name in state)


def cosine(one: State, other: State) -> float:
    """The cosine of all matrices of two runs' towers as one vector: gains and biases begin alike everywhere."""
    names = [name for name, value in one.items() if name.startswith("model.towers.") and value.dim() > 1]
    dots = [(one[name].double() * other[name].double()).sum() for name in names if one[name].is_floating_point()]
    squares = [sum(float(state[name].double().square().sum()) for name in names) for state in (one, other)]
    return float(sum(dots)) / math.sqrt(math.prod(squares)) if all(squares) else 1.0


def merge_states(
    states: Sequence[State], base: State, by: By, shares: Sequence[float], remembered: Collection[str] = ()
) -> tuple[State, dict[str, Any]]:
    """Weights of one, and how many `tensors` were merged, how many of them are running `statistics`, how many are on a
    straight line (`linear`), and which were `kept` as the first has them: also what losses remember, as queues are."""
    merged: State = {}
    told: dict[str, Any] = {"tensors": 0, "statistics": 0, **({"linear": 0} if by == "slerp" else {}), "kept": []}
    for name, mine in states[0].items():
        found = [state.get(name) for state in states]
        there = [each for each in found if each is not None and each.shape == mine.shape]
        begun = base.get(name)
        lacking = len(there) < len(states) or (by == "delta" and (begun is None or begun.shape != mine.shape))
        statistic = name.rpartition(".")[2] in ("running_mean", "running_var")
        lacking = lacking or (name in remembered and not statistic)
        if lacking or not mine.is_floating_point():
            merged[name] = mine
            if lacking or any(not torch.equal(mine, each) for each in there):
                told["kept"].append(name)
            continue
        told["tensors"] += 1
        if statistic:
            merged[name] = average(there, shares)
            told["statistics"] += 1
        elif by == "delta":
            assert begun is not None
            merged[name] = by_delta(begun, there, shares)
        elif by == "slerp":
            merged[name], straight = slerp(there[0], there[1], shares[1])
            told["linear"] += straight
        else:
            merged[name] = average(there, shares)
    return merged, told


def _say(told: Mapping[str, Any], by: str, say: Callable[[str], None]) -> None:
    if told["statistics"]:
        say(
            f"{told['statistics']} running statistics of batch norms are averaged: they are of none of the weights "
            "exactly, and a few steps of training learn them anew"
        )
    counts = [name for name in told["kept"] if name.endswith("num_batches_tracked")]
    if kept := [name for name in told["kept"] if name not in counts]:
        more = f" and {len(kept) - 3} more" if len(kept) > 3 else ""
        say(f"as the first run has them, since they cannot be averaged: {', '.join(kept[:3])}{more}")
    if by == "slerp":
        say(f"{told['linear']} of {told['tensors']} tensors are so alike that the arc between them is a straight line")


def _write(out: Path, run: Run, merged: State, told: Mapping[str, Any]) -> None:
    """The run in its folder."""
    if out.exists():
        clear(out, marked=True)
    out.mkdir(parents=True, exist_ok=True)
    for leftover in [*out.glob("*.safetensors"), out / META, out / MERGED]:  # of an earlier one
        leftover.unlink(missing_ok=True)
    torch.nn.ModuleDict({"model": run.model, "objective": run.objective}).load_state_dict(merged)
    save_weights(out, run, run.step or 0, None)
    write_text(out / MERGED, json.dumps(told, indent=1, ensure_ascii=False))
