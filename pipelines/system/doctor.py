"""`clx doctor`: what this machine has, what is missing, and what to do about it. Nothing is downloaded or changed."""

import os
import platform
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path
from typing import Any, Literal

from clx.pipelines.system.cores import usable_cores
from clx.pipelines.system.memory import free_memory

Level = Literal["ok", "note", "problem", "broken"]
"""Broken is what nothing works without; a problem will cost time or memory; a note is good to know."""
Row = dict[str, Any]
GIB = 2**30
IMPORTED = ("torchvision", "torchaudio", "open_clip", "tsai.models")
"""Packages that break on import when they do not fit torch; they take seconds each."""


def row(check: str, value: Any, level: Level = "ok", advice: str | None = None) -> Row:
    return {"check": check, "value": value, "level": level, "advice": advice}


def examine(runs: Path, imports: bool = False) -> Iterator[Row]:
    """Every check as a row `check`, `value`, `level`, `advice`. `imports` really imports the large libraries too."""
    yield row("python", f"{platform.python_version()} ({sys.executable}), {platform.system()} {platform.machine()}")
    yield from packages()
    for check in (torch_rows, lambda: import_rows() if imports else iter(()), audio, hub, cpu, memory, files):
        yield from guarded(check)
    yield from guarded(lambda: disk(runs))


def guarded(check: Callable[[], Iterator[Row]]) -> Iterator[Row]:
    """The rows of a check; one that fails is a row too."""
    try:
        yield from check()
    except Exception as error:
        name = getattr(check, "__name__", "check").removesuffix("_rows").replace("<lambda>", "check")
        yield row(name, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}", "problem")


def packages() -> Iterator[Row]:
    """clx, what it requires, and its extras, by their metadata alone."""
    try:
        yield row("clx", version("clx"))
    except PackageNotFoundError:
        yield row("clx", "not installed", "broken", "pip install . in its folder: versions cannot be checked")
        return
    wanted: dict[str, list[tuple[str, str]]] = {}
    for line in requires("clx") or []:
        text, _, marker = line.partition(";")
        named = re.match(r"[\w.-]+", text.strip())
        extra = re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", marker)
        if named:
            wanted.setdefault(extra[1] if extra else "", []).append((named[0], text.strip()[named.end() :].strip()))
    for name, limits in wanted.get("", []):
        found = installed(name)
        if found is None:
            yield row(name, "not installed", "broken", f"pip install '{name}{limits}'")
        elif not fits(found, limits):
            yield row(name, f"{found}, wanted {limits}", "broken", f"pip install '{name}{limits}'")
        elif name in ("torch", "torchvision", "torchaudio", "open-clip-torch", "tsai", "timm", "scikit-learn"):
            yield row(name, found)
    for extra in metadata("clx").get_all("Provides-Extra") or []:
        lacking = [name for name, _ in wanted.get(extra, []) if installed(name) is None]
        if extra != "test" and lacking:
            yield row(f"extra {extra}", f"missing {', '.join(lacking)}", "note", f"pip install '.[{extra}]'")
        elif extra != "test":
            yield row(f"extra {extra}", ", ".join(f"{name} {installed(name)}" for name, _ in wanted.get(extra, [])))


def installed(name: str) -> str | None:
    """The version of an installed package."""
    try:
        return version(re.sub(r"\[.*", "", name))
    except PackageNotFoundError:
        return None


def fits(found: str, limits: str) -> bool:
    """Whether a version is within limits such as `>=2.12,<2.13`."""
    from packaging.specifiers import SpecifierSet

    return SpecifierSet(limits.strip("() ")).contains(found, prereleases=True)


def torch_rows() -> Iterator[Row]:
    """Whether torch works, on which devices, in which precision."""
    try:
        import torch
    except Exception as error:  # a missing library of the system is an OSError
        yield row(
            "torch", f"cannot be imported: {error}", "broken", "pip install --force-reinstall 'torch>=2.12,<2.13'"
        )
        return
    builds = {name: found for name in ("torch", "torchvision", "torchaudio") if (found := installed(name))}
    tags = {found.partition("+")[2] for found in builds.values() if "+" in found}
    if len(tags) > 1:
        shown = ", ".join(f"{name} {found}" for name, found in builds.items())
        yield row("builds", shown, "broken", "install the three for one CUDA version, in one pip command")
    yield from cuda()
    if torch.backends.mps.is_available():
        yield row("mps", "Apple GPU; train.precision auto is fp32 there")
    cores, threads = usable_cores(), torch.get_num_threads()
    level: Level = "problem" if threads > cores else "ok"
    advice = f"export OMP_NUM_THREADS={cores}" if threads > cores else None
    yield row("threads", f"torch uses {threads} of {cores} usable cores", level, advice)


def cuda() -> Iterator[Row]:
    """Each CUDA device with its memory and a small product on it; why there is none where one is expected."""
    import torch

    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for number in range(there):
        about = torch.cuda.get_device_properties(number)
        free, total = torch.cuda.mem_get_info(number)
        half = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
        shown = f"{about.name}, {free / GIB:.1f} of {total / GIB:.1f} GiB free, train.precision auto is {half}"
        try:
            torch.ones(8, 8, device=f"cuda:{number}").matmul(torch.ones(8, 8, device=f"cuda:{number}")).sum().item()
        except Exception as error:
            said = " ".join(str(error).split())[:150]
            yield row(
                f"cuda:{number}", f"{shown}; a product on it fails: {said}", "broken", "--device cpu works without"
            )
            continue
        busy = free < total / 4
        yield row(
            f"cuda:{number}", shown, "problem" if busy else "ok", "nvidia-smi shows who uses it" if busy else None
        )
    if there:
        return
    card = Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if card and hidden is not None:
        yield row("cuda", f"hidden: CUDA_VISIBLE_DEVICES is {hidden!r}", "problem", "unset CUDA_VISIBLE_DEVICES")
    elif card and torch.version.cuda is None:
        yield row("cuda", "there is an NVIDIA driver, but this torch is for CPUs", "problem", "install torch with CUDA")
    elif card:
        advice = f"this torch wants a driver for CUDA {torch.version.cuda}: nvidia-smi shows what the driver supports"
        yield row("cuda", "there is an NVIDIA driver, but torch sees no device", "problem", advice)
    else:
        yield row("cuda", "no NVIDIA GPU; training runs on the CPU in fp32", "note")


def import_rows() -> Iterator[Row]:
    """The large libraries, imported."""
    import warnings

    for name in IMPORTED:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                import_module(name)
            yield row(f"import {name}", "works")
        except Exception as error:
            said = " ".join(str(error).split())[:200]
            advice = "pip install --force-reinstall with the versions that clx wants, in one command"
            yield row(f"import {name}", f"{type(error).__name__}: {said}", "broken", advice)


def audio() -> Iterator[Row]:
    """What soundfile decodes."""
    try:
        import soundfile
    except Exception as error:  # libsndfile itself may be missing
        yield row("soundfile", f"cannot be imported: {error}", "broken", "apt install libsndfile1")
        return
    known = soundfile.available_formats()
    wanted = ["WAV", "FLAC", "OGG", "MP3", "AIFF"]
    read, lacking = ([name for name in wanted if (name in known) is there] for there in (True, False))
    shown = f"libsndfile {soundfile.__libsndfile_version__} reads {', '.join(read)}"
    if lacking:
        yield row("soundfile", f"{shown}; not {', '.join(lacking)}", "problem", "pip install -U soundfile")
    else:
        yield row("soundfile", shown)


def hub() -> Iterator[Row]:
    """Hugging Face's cache and whether its hub may be asked."""
    switches = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    offline = [name for name in switches if os.environ.get(name, "0").lower() in ("1", "true", "yes", "on")]
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    models = len(list(cache.glob("models--*"))) if cache.is_dir() else 0
    shown = f"{models} models in {cache}"
    if offline:
        yield row("hugging face", f"{shown}; offline ({offline[0]} is set): only these load", "note")
    else:
        yield row("hugging face", f"{shown}; others are fetched when asked for")


def cpu() -> Iterator[Row]:
    cores, all_cores = usable_cores(), os.cpu_count() or 1
    yield row("cores", f"{cores} usable" + (f" of {all_cores}" if all_cores != cores else ""))


def memory() -> Iterator[Row]:
    """Memory that is free, within the limit of the control group."""
    if (found := free_memory()) is None:
        return
    free, total = found
    low = free < 2 * GIB
    advice = "lower train.batch_size or train.workers, and leave data.cache off" if low else None
    yield row("memory", f"{free / GIB:.1f} of {total / GIB:.1f} GiB available", "problem" if low else "ok", advice)


def files() -> Iterator[Row]:
    """What worker processes need: shared memory to hand batches over, and open files."""
    shared = Path("/dev/shm")
    if shared.is_dir():
        space = shutil.disk_usage(shared)
        low = space.free < GIB // 2
        advice = "with train.workers, give the container more (docker run --shm-size 8g) or set train.workers=0"
        shown = f"{space.free / GIB:.2f} of {space.total / GIB:.2f} GiB free in /dev/shm"
        yield row("shared memory", shown, "problem" if low else "ok", advice if low else None)
    try:
        import resource
    except ImportError:  # Windows sets no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = soft < 1024
    more = f"ulimit -n {min(hard, 4096) if hard > 0 else 4096}"
    yield row("open files", f"{soft} at most", "problem" if few else "ok", more if few else None)


def disk(runs: Path) -> Iterator[Row]:
    """Free space where runs are written, and whether they can be."""
    place = runs.absolute()
    while not place.exists():
        place = place.parent
    space = shutil.disk_usage(place)
    shown = f"{space.free / GIB:.1f} GiB free for {runs}"
    if not os.access(place, os.W_OK):
        yield row("disk", f"{place} cannot be written to", "problem", "train into another folder with --out")
    elif space.free < 2 * GIB:
        yield row("disk", shown, "problem", "make room, or train into another disk with --out; train.keep=1 keeps less")
    else:
        yield row("disk", shown)
