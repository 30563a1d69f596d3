"""Names become objects: the modalities and losses of a config, each option checked against what declares it."""

from collections.abc import Mapping
from typing import Any

from clx.losses.base import LOSSES, Loss
from clx.modalities.base import MODALITIES, Modality
from clx.pipelines.config.options import construct, options_model, options_of
from clx.pipelines.config.schema import Config, Term
from clx.pipelines.system.errors import BadInput, nearest


def make_modalities(config: Config) -> dict[str, Modality]:
    """The modalities by name, each option checked against its dataclass."""
    made = {}
    for name, options in config.modalities.items():
        if not name.isidentifier():
            raise BadInput(f"modalities.{name}: a name must be letters, digits and underscores")
        kind = options.get("kind", name)
        if kind not in MODALITIES:
            raise BadInput(f"modalities.{name}: unknown kind {kind!r}{nearest(str(kind), MODALITIES)}")
        rest = {key: value for key, value in options.items() if key != "kind"}
        made[name] = construct(MODALITIES[kind], rest, f"modalities.{name}")
    return made


def make_losses(config: Config) -> list[Loss]:
    """The losses of all terms, each option checked against its dataclass."""
    losses = []
    for k, term in enumerate(config.objective):
        where = "objective" if len(config.objective) == 1 else f"objective.{k}"
        if term.name not in LOSSES:
            raise BadInput(f"{where}.name: unknown loss {term.name!r}{nearest(term.name, LOSSES)}")
        for name in term.inputs or []:
            if name not in config.modalities:
                raise BadInput(f"{where}.inputs: unknown modality {name!r}{nearest(name, config.modalities)}")
        losses.append(construct(LOSSES[term.name], term.options, f"{where} ({term.name})"))
    return losses


def resolved(config: Config, modalities: Mapping[str, Modality], losses: list[Loss]) -> Config:
    """The config with every default of its modalities and losses written out."""
    return config.model_copy(
        update={
            "modalities": {n: {"kind": m.kind, **options_of(m)} for n, m in modalities.items()},
            "objective": [
                Term(name=term.name, weight=term.weight, inputs=term.inputs, **options_of(loss))
                for term, loss in zip(config.objective, losses, strict=True)
            ],
        }
    )


def schema() -> dict[str, Any]:
    """JSON Schema of a config file, with the options of every modality and loss."""
    whole = Config.model_json_schema()
    definitions = whole.setdefault("$defs", {})
    for group, registry in (("modality", MODALITIES), ("loss", LOSSES)):
        for name, cls in registry.items():
            part = options_model(cls).model_json_schema()
            definitions |= part.pop("$defs", {})
            definitions[f"{group}:{name}"] = part
    return whole
