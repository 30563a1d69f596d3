"""Which device and which number format a run uses."""

import torch

from clx.pipelines.config import BadInput


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


def pick_precision(asked: str, device: torch.device) -> torch.dtype:
    """The type of autocast: bf16 on a GPU that has it, fp16 on an older one, fp32 elsewhere."""
    if asked == "auto":
        if device.type != "cuda":
            return torch.float32
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[asked]
