"""Execute training runs one after another in this process, or several at a time in processes of their own.

Torch is imported once per process, not once per run.
"""

import gc
import multiprocessing
import os
import signal
import threading
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

from clx.pipelines.config.schema import Config
from clx.pipelines.evaluation.evaluate import evaluate_run
from clx.pipelines.experiments.sweep_grid import Point
from clx.pipelines.experiments.train import train
from clx.pipelines.runs import state
from clx.pipelines.runs.folder import begun, checkpoints, read_config
from clx.pipelines.system.durable_files import is_locked
from clx.pipelines.system.errors import ClxWarning, Paused, Stopped
from clx.pipelines.system.progress import Progress, Silent
from clx.pipelines.system.signals import raise_stopped

PATIENCE = 60.0
"""Seconds to wait for a process that still saves in a run's folder, as those of a killed sweep may do."""


class Job(NamedTuple):
    """A run to be executed."""

    name: str
    config: Config
    out: Path
    anew: bool
    """Replace what is there, instead of going on with it."""
    until: int | None = None
    """The step at which it pauses, to be evaluated by `tasks` on val rows."""
    tasks: tuple[str, ...] = ()


def execute(job: Job, progress: Progress) -> str | None:
    """Train one run, or go on with it; the error in one line where it failed. Raises `Stopped`."""
    waited = time.monotonic()
    while is_locked(job.out) and time.monotonic() - waited < PATIENCE:
        time.sleep(0.2)
    try:
        with suppress(Paused):
            if not job.anew and begun(job.out):
                if job.until is None or not came_to(job.out, job.until):
                    train(read_config(job.out), job.out, progress, resume=True, until=job.until)
            else:
                train(job.config, job.out, progress, overwrite=True, until=job.until)
        if job.tasks:
            evaluate_run(
                job.out, job.tasks, split="val", checkpoint="last", device=job.config.train.device, say=progress.say
            )
    except Exception as error:  # one run's failure is no reason to leave out the others
        if os.environ.get("CLX_DEBUG"):
            raise
        return " ".join(str(error).split()) or type(error).__name__
    finally:
        gc.collect()  # models hold cycles, and the next run wants the memory
    return None


def came_to(out: Path, step: int) -> bool:
    """Whether a run has done so many steps, or has ended before."""
    found = checkpoints(out)
    return state.recorded_state(out) == "finished" or (bool(found) and found[-1].step >= step)


def one_by_one(jobs: Sequence[Job], progress: Progress) -> Iterator[tuple[str, str | None]]:
    """Names with the error that the run ended with, as they end. Raises `Stopped` after a signal."""
    for job in jobs:
        progress.say(f"run {job.name}")
        yield job.name, execute(job, progress)


class Worker:
    """A process that executes jobs as they are sent."""

    def __init__(self, number: int, count: int, environment: Mapping[str, str]) -> None:
        context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
        self.pipe, theirs = context.Pipe()
        self.number = number
        self.job: Job | None = None
        self.process: BaseProcess = context.Process(target=work, args=(theirs, count, dict(environment)))
        self.process.start()
        theirs.close()

    def give(self, job: Job) -> None:
        self.job = job
        self.pipe.send(job)

    def heard(self) -> ClxWarning | str | None:
        """What a run warns of, or the error of the one that has ended, also where the process ended with it."""
        try:
            error: ClxWarning | str | None = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            code = self.process.exitcode or 0
            error = f"its process was ended by signal {-code}" if code < 0 else f"its process ended with {code}"
            if code == -signal.SIGKILL:
                error += ", as the system does when memory runs out"
        return error


def work(pipe: Connection, count: int, environment: Mapping[str, str]) -> None:
    """Execute the jobs that come; a worker among `count`."""
    os.setpgrp()  # Ctrl-C is for the parent, which then tells each worker once
    os.environ.update(environment)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    if "OMP_NUM_THREADS" not in os.environ:
        import torch

        torch.set_num_threads(max(1, torch.get_num_threads() // count))
    signal.signal(signal.SIGTERM, raise_stopped)
    show_other, sending = warnings.showwarning, threading.Lock()

    def show(message: Warning | str, category: type[Warning], *rest: Any) -> None:
        if issubclass(category, ClxWarning):
            with suppress(OSError), sending:  # readers in threads warn, too; the parent may have gone
                pipe.send(message)  # it says this once for all runs
        else:
            show_other(message, category, *rest)

    warnings.showwarning = show  # type: ignore[assignment]
    with suppress(EOFError, OSError):
        try:
            while True:
                error = execute(pipe.recv(), Silent())
                with sending:
                    pipe.send(error)
        except Stopped as stopped:
            pipe.close()
            os._exit(stopped.exit_code)


def _leave_with_parent() -> None:
    """When the parent is killed, stop as if by a signal: the run is saved, and another sweep goes on with it."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)


def devices(number: int, count: int, environment: Mapping[str, str]) -> dict[str, str]:
    """The environment that gives worker `number` one of `count` CUDA devices to itself, where there are several.

    >>> devices(3, 2, {})
    {'CUDA_VISIBLE_DEVICES': '1'}
    >>> devices(0, 2, {"CUDA_VISIBLE_DEVICES": "5,7"})
    {'CUDA_VISIBLE_DEVICES': '5'}
    """
    if count < 2:
        return {}
    names = environment.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(count)))).split(",")
    return {"CUDA_VISIBLE_DEVICES": names[number % count]}


def side_by_side(jobs: Sequence[Job], count: int) -> Iterator[tuple[str, str | None]]:
    """Like `one_by_one`, by `count` processes; several CUDA devices are dealt out among them."""
    import torch

    gpus = torch.cuda.device_count()
    left = list(reversed(jobs))
    workers: list[Worker] = []

    def start(number: int) -> Worker:
        return Worker(number, count, devices(number, gpus, os.environ))

    try:
        for number in range(min(count, len(jobs))):
            workers.append(start(number))
            workers[-1].give(left.pop())
        while busy := [worker for worker in workers if worker.job]:
            for pipe in wait([worker.pipe for worker in busy]):
                worker = next(w for w in busy if w.pipe is pipe)
                job, error = worker.job, worker.heard()
                if isinstance(error, ClxWarning):
                    warnings.warn(error, stacklevel=1)
                    continue
                assert job is not None
                worker.job = None
                if left:
                    if not worker.process.is_alive():
                        workers[workers.index(worker)] = worker = start(worker.number)
                    worker.give(left.pop())
                yield job.name, error
    finally:
        _end(workers)


def _end(workers: Iterable[Worker]) -> None:
    """Tell every process to stop, and wait until the runs are saved."""
    for worker in workers:
        worker.pipe.close()
        if worker.job is not None and worker.process.is_alive():
            worker.process.terminate()
    for worker in workers:
        worker.process.join()


def jobs_of(todo: Iterable[tuple[Point, bool]], folder: Path) -> list[Job]:
    """Points of a sweep as jobs."""
    return [Job(point.name, point.config, folder / point.name, anew, point.until, point.tasks) for point, anew in todo]
