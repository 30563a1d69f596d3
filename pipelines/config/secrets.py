"""A config as others may see it: queries, names and passwords in URLs of data give access to them."""

from typing import Any

from clx.pipelines.config.schema import Config
from clx.pipelines.config.stage_configs import trained_before, with_stages
from clx.pipelines.system.remote import Url, scheme_of, shown

SOURCES = ("train", "val", "test", "root")


def without_secrets(config: Config) -> Config:
    """The same, whose sources are URLs as messages show them."""
    data = config.data
    hidden: dict[str, Any] = {key: shown(value) for key, value in _named(config).items()}
    if not isinstance(data.train, str):
        hidden["train"] = [part.model_copy(update={"source": shown(part.source)}) for part in data.train]
    if data.replay is not None:
        hidden["replay"] = data.replay.model_copy(update={"sources": [shown(each) for each in data.replay.sources]})
    return with_stages(config.model_copy(update={"data": data.model_copy(update=hidden)}), without_secrets)


def secrets_of(config: Config) -> list[str]:
    """Sources that hold more than is shown, as they are shown."""
    every = [config, *trained_before(config).values()]
    named = dict.fromkeys(source for one in every for source in (*_all(one), *_named(one).values()))
    return [shown(value) for value in named if scheme_of(value) and Url(value).secret]


def _all(config: Config) -> list[str]:
    return [*config.data.sources, *(config.data.replay.sources if config.data.replay is not None else [])]


def _named(config: Config) -> dict[str, str]:
    return {key: value for key in SOURCES if isinstance(value := getattr(config.data, key), str)}
