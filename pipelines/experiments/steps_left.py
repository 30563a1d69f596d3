"""The steps of a run that are left, and what is said where data, memory or a signal end them."""

from functools import partial

from clx.pipelines.batches.loader import Lost
from clx.pipelines.system.errors import BadInput, explain_out_of_memory
from clx.pipelines.system.progress import Progress
from clx.pipelines.system.signals import Signals
from clx.pipelines.training.logs import advised
from clx.pipelines.training.trainer import Trainer


def steps_left(trainer: Trainer, progress: Progress, until: int | None = None) -> float:
    """All steps that are left; rows per second. What was learned is saved when the data end the run."""
    data = trainer.run.config.data
    begun, skipping = trainer.step, data.on_bad_row == "skip"
    try:
        with Signals().watched() as signals, explain_out_of_memory(partial(short_of_memory, trainer)):
            speed = trainer.loop(progress, signals, until)
        if trainer.writes and (said := trainer.bad_rows.left_out()):
            progress.say(said)
        return speed
    except (BadInput, Lost) as error:
        hint = (
            "" if skipping or isinstance(error, Lost) else f" ({advised(trainer.bad_rows.rows, data.bad_row_budget)})"
        )
        if trainer.step == begun and trainer.saving.step < 0:
            raise type(error)(f"{error}{hint}") from None
        if trainer.saving.step != trainer.step:
            trainer.save()
        then = f"saved at step {trainer.step}: mend it and clx train --resume {trainer.out}"
        raise type(error)(f"{error}{hint}; {then}") from None
    finally:
        trainer.metrics.close()


def short_of_memory(trainer: Trainer) -> str:
    """Where memory ran out, and what to do. Nothing is saved then: the step may be half done."""
    size, chunk = trainer.settings.batch_size, trainer.settings.chunk
    half, rows = max(2, size // 2), size if trainer.group is None else -(-size // trainer.group.size)
    said = f"after {trainer.learner.length.place(trainer.step)} with train.batch_size = {size}: "
    fewer = min(rows, chunk if isinstance(chunk, int) else rows) // 2
    if fewer and (chunk != "auto" or trainer.group is not None):  # alone, `auto` has tried fewer
        said += f"-s train.chunk={fewer} encodes fewer rows at a time, with the same gradient; else --batch-size {half}"
    else:
        said += f"train anew with fewer rows (--batch-size {half})"
    if trainer.saving.step < 0:
        return said
    return f"{said}, or, with more memory, clx train --resume {trainer.out} goes on from step {trainer.saving.step}"
