"""The first step of a run whose loss or gradient was not finite, kept so that it can be run again.

nonfinite/step.json           its number, rows, loss and gradient norm; sealed
nonfinite/model.safetensors   weights before the step, which it did not change
nonfinite/state.safetensors   random streams before the step, and the second model where it follows
"""

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from clx.pipelines.batches.batch import Batch
from clx.pipelines.runs.checkpoint import random_state, restore_random, weights
from clx.pipelines.runs.folder import NONFINITE, WEIGHTS
from clx.pipelines.system.durable_files import FORMAT, Damaged, seal, sync, unseal, write_text
from clx.pipelines.system.errors import BadInput, Failed
from clx.pipelines.system.text import finite
from clx.pipelines.training.step import Learner, Update

STEP, STATE = "step.json", "state.safetensors"


@dataclass
class Kept:
    """A step as it was kept."""

    about: dict[str, Any]
    """`step`, counted from 0; `seconds` of `train.minutes` before it; `rows`, their `sample_id`; `content`, a digest
    of the batch; `loss`, `grad_norm`, null where not finite; `chunk`; `processes`; `scaler` of half precision;
    `python` and `numpy`, random streams."""
    weights: dict[str, Tensor]
    state: dict[str, Tensor]


def keep(out: Path, learner: Learner, update: Update, batch: Batch, processes: int = 1, writes: bool = True) -> None:
    """Keep the newest step of a run in its folder `out`. Of several processes all are called, and one `writes`.

    Raises `Failed`, and leaves nothing, when the disk does not take it.
    """
    both = weights(learner.model, learner.objective) if writes or learner.sharded is not None else {}
    if not writes:
        return
    torch_stream, cuda_streams = learner.streams
    streams = random_state()  # of numpy and Python a step does not draw
    second = {} if learner.second is None else learner.second.state(learner.model)
    state = {"torch": torch_stream, **{f"cuda.{k}": each for k, each in enumerate(cuda_streams)}}
    state |= {f"second.{name}": each.contiguous() for name, each in second.items()}
    about = {
        "format": FORMAT,
        "step": learner.step - 1,
        "seconds": learner.length.seconds,
        "rows": update.rows.tolist(),
        "content": content(batch) if processes == 1 else None,
        "loss": update.figures["loss"],
        "grad_norm": update.figures["grad_norm"],
        "chunk": learner.chunks.size,
        "processes": processes,
        "scaler": learner.scaler.state_dict(),
        "python": streams["python"],
        "numpy": streams["numpy"],
    }
    place, beside = out / NONFINITE, out / f".{NONFINITE}.tmp"
    try:
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir()
        for name, each in ((WEIGHTS, both), (STATE, state)):
            save_file(each, beside / name)
            (beside / name).chmod(0o644)  # safetensors keeps it to the owner
        write_text(beside / STEP, seal(finite(about)))
        sync(beside)
        shutil.rmtree(place, ignore_errors=True)
        beside.rename(place)
        sync(out)
    except (OSError, SafetensorError) as error:
        raise Failed(f"{place} cannot be written: {' '.join(str(error).split())[:200]}") from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def read(out: Path) -> Kept:
    """The step that the run in `out` has kept. Raises `BadInput` where there is none, or it is damaged."""
    place = out / NONFINITE
    if not (place / STEP).exists():
        raise BadInput(f"{out} has kept no step: none of its steps had a loss or a gradient that was not finite")
    try:
        about = unseal(place / STEP)
        return Kept(about, load_file(place / WEIGHTS), load_file(place / STATE))
    except (Damaged, OSError, SafetensorError) as error:
        raise BadInput(f"{place} is damaged: {' '.join(str(error).split())[:200]}") from None


def take_up(kept: Kept, learner: Learner) -> None:
    """Bring a learner of the run to the moment before the step. Raises `BadInput` where it is another run's."""
    try:
        learner.both.load_state_dict(kept.weights)
        second = {n.removeprefix("second."): each for n, each in kept.state.items() if n.startswith("second.")}
        if learner.second is not None:
            learner.second.take(learner.model, second)
        if kept.about["scaler"] and learner.scaler.is_enabled():
            learner.scaler.load_state_dict(kept.about["scaler"])
    except (RuntimeError, ValueError, LookupError) as error:
        raise BadInput(f"the kept step does not fit this run: {' '.join(str(error).split())[:200]}") from None
    learner.step = int(kept.about["step"])
    learner.length.seconds = float(kept.about.get("seconds", 0.0))
    learner.chunks.set(kept.about["chunk"])
    learner.chunks.planned = True


def restore_streams(kept: Kept) -> None:
    """Bring the random streams to where they were before the step."""
    cuda = [kept.state[f"cuda.{k}"] for k in range(sum(name.startswith("cuda.") for name in kept.state))]
    restore_random(
        {"python": kept.about["python"], "numpy": kept.about["numpy"], "torch": kept.state["torch"], "cuda": cuda}
    )


def content(batch: Batch) -> str:
    """A digest of what a batch is to the model: inputs, answers, which are there."""
    found = hashlib.blake2b(digest_size=16)
    for name, each in tensors_of(batch):
        found.update(json.dumps([name, str(each.dtype), list(each.shape)]).encode())
        found.update(each.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def tensors_of(batch: Batch) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a batch by name, such as `image x` of inputs and `targets`."""
    for name, value in sorted(batch.inputs.items()):
        yield from ((f"{name} {key}", each) for key, each in sorted(value.items()))
    yield from ((f"present {name}", each) for name, each in sorted(batch.present.items()))
    for name in ("labels", "targets", "sample_id", "label_sets", "weights"):
        each = getattr(batch, name)
        if each is not None:
            yield name, each
