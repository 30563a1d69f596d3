"""Weights that others trained: where they are, whether they can be fetched, and towers cut into blocks."""

import logging
import os
import re
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import nn

HUB = "https://huggingface.co"


@contextmanager
def quiet() -> Iterator[None]:
    """Silence a library's log, and keep it from installing a handler on the root logger."""
    root, handler, before = logging.getLogger(), logging.NullHandler(), logging.root.manager.disable
    root.addHandler(handler)
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
        root.removeHandler(handler)


def hub_reachable() -> bool:
    """Whether the Hugging Face hub answers; the libraries' own retries take minutes to find out."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
        return False
    try:
        with urllib.request.urlopen(os.environ.get("HF_ENDPOINT", HUB), timeout=5.0):
            return True
    except urllib.request.HTTPError:  # it answered
        return True
    except (OSError, ValueError):
        return False


def require_hub(what: str) -> None:
    """Raise `ValueError` at once when `what` would have to be fetched and cannot be."""
    if not hub_reachable():
        raise ValueError(f"{what} is not on this machine and {HUB} cannot be reached; give a local path")


def in_hub_cache(repository: str, *files: str) -> Path | None:
    """The first of the files that an earlier download left on this machine."""
    from huggingface_hub import try_to_load_from_cache

    for file in files:
        found = try_to_load_from_cache(repository, file)
        if isinstance(found, str):
            return Path(found)
    return None


def first_line(error: BaseException) -> str:
    """The first line of an error's message: some libraries add pages."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def local_file(text: str) -> Path | None:
    """The file that `pretrained` names, or None when it reads like a tag; `ValueError` if it is missing."""
    path = Path(text).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        raise ValueError(f"{text} is a folder, not a checkpoint file")
    if os.sep in text or path.suffix in {".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".npz"}:
        raise ValueError(f"no checkpoint file {text}")
    return None


def cut(tower: nn.Module, order: Callable[[str], float]) -> list[nn.Module]:
    """A tower as blocks from input to output, each a module that shares the tower's parts.

    Args:
        order: position of the parameter with this dotted name; those at one position form one block.
    """
    blocks: dict[float, nn.Module] = {}

    def place(name: str, module: nn.Module) -> None:
        places = {order(part) for part, _ in module.named_parameters(name)}
        if len(places) == 1:  # as a whole, so that `eval()` on the block reaches its dropout too
            blocks.setdefault(places.pop(), nn.Module()).add_module(name.replace(".", "_") or "all", module)
        elif places:
            for part, parameter in module.named_parameters(name, recurse=False):
                block = blocks.setdefault(order(part), nn.Module())
                block.register_parameter(part.replace(".", "_"), parameter)
            for child, below in module.named_children():
                place(f"{name}.{child}" if name else child, below)

    place("", tower)
    return [blocks[position] for position in sorted(blocks)]


def cut_at(tower: nn.Module, layers: str, tail: str) -> list[nn.Module]:
    """`cut` into what comes first, the numbered `layers`, and the `tail` (regular expressions of names)."""

    def order(part: str) -> float:
        if layer := re.search(rf"(?:^|\.)(?:{layers})\.?(\d+)(?:\.|$)", part):
            return 1 + int(layer[1])
        return float("inf") if re.match(rf"(?:{tail})(?:\.|$)", part) else 0

    return cut(tower, order)
