"""The stages of a config as configs of their own, and back."""

from collections.abc import Callable

from clx.pipelines.config.options import parse
from clx.pipelines.config.schema import Config
from clx.pipelines.config.stages import SECTIONS, Stage

LOOKED_AT = {"levels": ("kernel", ("tree", "paths")), "group": ("by", ("group",))}
"""By keys of `data`, the option of a term that looks at it, and its values that do."""


def looks_at(config: Config, key: str) -> bool:
    """Whether a term looks at what a key of `data` says, which is one of `LOOKED_AT`."""
    option, values = LOOKED_AT[key]
    return any(term.options.get(option) in values for term in config.objective)


def config_of(config: Config, k: int, where: str = "") -> Config:
    """The config of stage `k`, counted from 0, which is not the last and is trained here; it has no stages and no
    tasks, nor what only other stages look at. Raises `BadInput` for what is wrong in it."""
    stage = parse(Config, config.stages[k].sections | {"eval": []}, f"{where}stages.{k}")
    unasked = {key: None for key in LOOKED_AT if not looks_at(stage, key)}
    return stage.model_copy(update={"data": stage.data.model_copy(update=unasked)})


def trained_before(config: Config, where: str = "") -> dict[int, Config]:
    """Those before the last that are trained here, by their number. Raises `BadInput`."""
    return {k: config_of(config, k, where) for k, stage in enumerate(config.stages[:-1]) if stage.run is None}


def with_stages(config: Config, change: Callable[[Config], Config]) -> Config:
    """The config with `change` done to the stages before the last that are trained here."""
    if not config.stages:
        return config
    stages = list(config.stages)
    for k, one in trained_before(config).items():
        changed = change(one).model_dump(mode="json", include=set(SECTIONS))
        stages[k] = Stage.model_validate(stages[k].model_dump() | changed)
    return config.model_copy(update={"stages": stages})
