"""What a training says before its first step."""

from clx.pipelines.batches.loader import usual_workers
from clx.pipelines.training.schedule import length_of
from clx.pipelines.training.trainer import Trainer


def describe(trainer: Trainer) -> str:
    """One line on what is about to happen."""
    precision = str(trainer.learner.dtype).removeprefix("torch.")
    learned = sum(p.numel() for p in trainer.learner.model.parameters() if p.requires_grad)
    told = ""
    if trainer.settings.workers == "auto":
        count = usual_workers(trainer.rows)
        told = f", {count} worker{'s' if count != 1 else ''} (auto)"
    at = f", from step {trainer.step}" if trainer.step else ""
    chunk, rows, group = trainer.learner.chunks.size, trainer.settings.batch_size, trainer.group
    shared = "" if group is None else f" {group.shares(rows)}"
    if trainer.settings.shard:
        shared += ", each of which keeps a part of the towers"
    if chunk is not None and chunk < rows:
        alone = trainer.settings.chunk_statistics == "chunk"
        shared += f", encoded {chunk} at a time{', with the statistics of these in batch norms' if alone else ''}"
    elif trainer.learner.chunks.automatic:
        shared += ", encoded as many at a time as fit"
    shared = shared and f", {rows} rows a step{shared}"
    length = length_of(trainer.settings, trainer.plan.steps)
    return (
        f"{trainer.plan.rows} rows, {length}{at}{shared}, {learned / 1e6:.2f} M parameters to learn, "
        f"on {trainer.learner.device} in {precision}, seed {trainer.settings.seed}{told}"
    )
