"""A config whose paths hold from any folder."""

from pathlib import Path
from typing import Any

from clx.pipelines.config.schema import Config
from clx.pipelines.config.stage_configs import with_stages
from clx.pipelines.data.builtin import is_builtin


def rooted(config: Config) -> Config:
    """The same with absolute paths, so that a run finds its data, and what it began from, from any folder."""
    data = config.data

    def place(source: str) -> str:
        return str(Path(source).absolute()) if not is_builtin(source) and Path(source).exists() else source

    if isinstance(data.train, str):
        found: dict[str, Any] = {"train": place(data.train)}
    else:
        found = {"train": [part.model_copy(update={"source": place(part.source)}) for part in data.train]}
    found |= {key: place(value) for key in ("val", "test") if isinstance(value := getattr(data, key), str)}
    if data.root is not None:
        found["root"] = place(data.root)
    if data.replay is not None:
        found["replay"] = data.replay.model_copy(update={"sources": [place(each) for each in data.replay.sources]})
    changes: dict[str, Any] = {"data": data.model_copy(update=found)}
    config = with_stages(config, rooted)
    if config.stages and config.stages[0].run is not None:
        begun = config.stages[0].model_copy(update={"run": str(Path(config.stages[0].run).absolute())})
        changes["stages"] = [begun, *config.stages[1:]]
    second = config.train.second
    if second is not None and second.run is not None:
        beside = second.model_copy(update={"run": str(Path(second.run).absolute())})
        changes["train"] = config.train.model_copy(update={"second": beside})
    if any(options.get("lora") for options in config.modalities.values()):  # their weights are read at each opening
        changes["modalities"] = {name: with_weights_at(options) for name, options in config.modalities.items()}
    return config.model_copy(update=changes)


def with_weights_at(options: dict[str, Any]) -> dict[str, Any]:
    """The options of a modality with the absolute path of its pretrained weights, where they are on this disk."""
    family, _, folder = str(options.get("encoder", "")).partition(":")
    if family == "hf" and Path(folder).expanduser().is_dir():
        return options | {"encoder": f"hf:{Path(folder).expanduser().absolute()}"}
    file = options.get("pretrained")
    if isinstance(file, str) and Path(file).expanduser().is_file():
        return options | {"pretrained": str(Path(file).expanduser().absolute())}
    return options
