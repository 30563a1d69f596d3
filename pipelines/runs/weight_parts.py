"""Weights as a file for each tower, as exports have them."""

from collections.abc import Iterable
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from clx.pipelines.system.durable_files import replacing


def save_parts(folder: Path, state: dict[str, Tensor], towers: Iterable[str]) -> None:
    """Weights as a file for each of the `towers`, with names that count from it, and one for the rest."""
    files = {tower: f"model.towers.{tower}." for tower in towers}
    for file, prefix in files.items():
        part = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        _save_part(folder / f"{file}.safetensors", part, prefix)
    rest = {name: value for name, value in state.items() if not name.startswith(tuple(files.values()))}
    _save_part(folder / "objective.safetensors", rest, "")


def _save_part(path: Path, part: dict[str, Tensor], prefix: str) -> None:
    with replacing(path) as beside:
        save_file(part, beside, metadata={"prefix": prefix})
        beside.chmod(0o644)  # safetensors keeps it to the owner


def load_parts(folder: Path) -> dict[str, Tensor]:
    """What `save_parts` wrote."""
    state: dict[str, Tensor] = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            prefix = (file.metadata() or {}).get("prefix", "")
            state |= {prefix + name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return state
