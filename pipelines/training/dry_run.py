"""What training would do, without doing it: rows, steps, parameters, an estimate of memory."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from clx.pipelines.batches.dataset import BatchDataset
from clx.pipelines.batches.loader import batches, once
from clx.pipelines.batches.meetings import meetings_of
from clx.pipelines.batches.telling_columns import say_understood
from clx.pipelines.config.packages import check_packages
from clx.pipelines.config.schema import Config
from clx.pipelines.config.secrets import without_secrets
from clx.pipelines.data.imbalance import column_weights
from clx.pipelines.data.leaks import warn_of_leaks
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.data.shared_content import inputs_of
from clx.pipelines.data.splits import load_splits
from clx.pipelines.model.build import Run, prepare
from clx.pipelines.system.devices import pick_device, pick_precision
from clx.pipelines.training.schedule import check_patience, length_of, plan
from clx.pipelines.training.second import second_of
from clx.pipelines.training.stages import check_stages


def dry_run(config: Config, say: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
    """What training would do: resolved config, rows, steps, parameters and an estimate of memory in bytes; of several
    stages the last one's, with the steps of those before it, all of which are checked. `say` hears what the data were
    taken for."""
    check_packages(config)
    device = pick_device(config.train.device)
    splits = load_splits(config.data, config.train.seed, inputs=inputs_of(config))
    warn_of_leaks(splits, config)
    planned = plan(config, len(splits["train"]))
    check_patience(config, splits)
    checked = check_stages(config, splits) if config.stages else None
    run = prepare(config, splits) if checked is None else checked.last
    say_understood(run.config, run.modalities, splits, say)
    column_weights(run.config.data, splits["train"])  # as training does, which refuses what is no weight
    meetings = meetings_of(run.config, splits["train"])
    learned = sum(p.numel() for p in run.model.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in run.model.parameters() if not p.requires_grad)
    objective = sum(p.numel() for p in run.objective.parameters())
    stages = (
        {}
        if checked is None
        else {"stages": {k + 1: of.steps or length_of(one.train, None) for k, (one, of) in checked.before.items()}}
    )
    return {
        "config": without_secrets(run.config).model_dump(mode="json"),
        "rows": {name: len(manifest) for name, manifest in splits.items()},
        "batches_per_epoch": planned.per_epoch,
        **stages,
        **({"steps": planned.steps} if planned.steps else {"minutes": config.train.minutes}),
        **({} if meetings is None else {"batches": meetings.described()}),
        "device": str(device),
        "precision": str(pick_precision(config.train.precision, device)).removeprefix("torch."),
        "parameters": {"learned": learned, "frozen": frozen, "objective": objective},
        "memory": estimate_memory(config, run, splits["train"], learned, frozen),
    }


def estimate_memory(config: Config, run: Run, manifest: Manifest, learned: int, frozen: int) -> dict[str, int]:
    """Bytes for weights with gradients and optimiser state, and for one batch's inputs and activations.

    Activations are measured: the tensors that autograd keeps for a few rows, scaled to the batch size.
    """
    copies = 4 + (1 if config.train.ema else 0)  # weights, gradients, two moments, the average
    few = min(8, len(manifest))
    data = BatchDataset(manifest, run.modalities, label=config.data.label_column, classes=run.class_index, augment=True)
    batch = next(batches(data, [once(few, few)[0]]))
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    parameters = {p.untyped_storage().data_ptr() for p in run.model.parameters()}
    run.model.train()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        z = run.model(batch.inputs, batch.present)
    del z
    held = sum(size for pointer, size in kept.items() if pointer not in parameters)
    inputs = sum(t.untyped_storage().nbytes() for value in batch.inputs.values() for t in value.values())
    scale = config.train.batch_size / few
    second = second_of(run, torch.device("cpu"))
    if second is not None:
        second.check(run, manifest)
    remembered = sum(buffer.nbytes for buffer in run.objective.buffers())
    parts = {
        "weights": 4 * (learned * copies + frozen),
        "second": 0 if second is None else second.bytes(run.model),
        "remembered": 2 * remembered,  # with the copy from before a step
        "inputs": int(inputs * scale),
        "activations": int(held * scale),
    }
    return parts | {"total": sum(parts.values())}
