"""Which device and which number format a run uses, and how threads share it."""

import os
import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, Self

import torch
from torch import Tensor

from clx.pipelines.system.errors import BadInput


def pick_device(asked: str) -> torch.device:
    """`auto` is the first of cuda, mps and cpu that is there. Raises `BadInput` for one that is not."""
    if asked == "auto":
        asked = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    device = torch.device(asked)
    absent = (device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()) or (
        device.type == "mps" and not torch.backends.mps.is_available()
    )
    if absent:
        raise BadInput(f"device {asked} is not available here ({torch.cuda.device_count()} CUDA devices)")
    return device


def own_device(asked: str, environment: Mapping[str, str] = os.environ) -> str:
    """What to ask for as one of several processes of a machine: `auto` is the CUDA device of the number that a launcher
    has given this process there, where there are several devices and it has given one."""
    names = ("LOCAL_RANK", "SLURM_LOCALID", "OMPI_COMM_WORLD_LOCAL_RANK")
    number = next((environment[name] for name in names if environment.get(name, "").isdecimal()), None)
    count = torch.cuda.device_count()
    return asked if asked != "auto" or number is None or count < 2 else f"cuda:{int(number) % count}"


def pick_precision(asked: str, device: torch.device) -> torch.dtype:
    """The type of autocast: bf16 on a GPU that has it, fp16 on an older one, fp32 elsewhere."""
    if asked == "auto":
        if device.type != "cuda":
            return torch.float32
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[asked]


def fetched(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same, with a number for each tensor `[]`; of those on a GPU all are fetched together, since each would wait.

    Counts on a GPU that are 0 are left out, as those of a CPU were never made.
    """
    there = {name: value for name, value in values.items() if isinstance(value, Tensor) and not value.is_cpu}
    numbers = torch.stack([value.float() for value in there.values()]).tolist() if there else []
    found = {**values, **dict(zip(there, numbers, strict=True))}
    for name, value in there.items():
        if not value.is_floating_point() and not found[name]:
            del found[name]
    return {name: value.item() if isinstance(value, Tensor) else value for name, value in found.items()}


class Turns:
    """Lets several threads run one model: on a CPU all at once, each on its share of the cores; elsewhere in turn.

    On a CPU batches side by side are faster than one batch on all cores, whose threads wait for each other at
    every layer.
    """

    def __init__(self, device: torch.device, workers: int) -> None:
        self.lock = nullcontext() if device.type == "cpu" else threading.Lock()
        self.threads, self.workers = torch.get_num_threads(), workers

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        torch.set_num_threads(self.threads)  # threads that start later begin with what was set last in any of them

    @contextmanager
    def __call__(self, alone: bool = False) -> Generator[None, None, None]:
        """A turn of the calling thread; `alone`, as the first and smallest batch is, on all cores."""
        torch.set_num_threads(self.threads if alone else max(1, self.threads // self.workers))
        with self.lock:
            yield
