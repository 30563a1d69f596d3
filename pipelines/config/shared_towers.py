"""Columns that share a tower, or a learned prompt: what each has of the other, and what is its own."""

from collections.abc import Mapping
from typing import Any

from clx.modalities.base import Modality
from clx.pipelines.config.options import options_of
from clx.pipelines.config.schema import Config
from clx.pipelines.system.errors import BadInput, nearest

OF_THE_COLUMN = ("kind", "like", "column", "several", "views", "augmentation", "crop", "drop", "prompt")
"""Keys of a modality that says `like`, where its kind has them; all others are those of the tower that it shares."""


def alike(config: Config, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a modality that shares another's tower: that one's, and what is its own. Raises `BadInput`."""
    where, like = f"modalities.{name}", options["like"]
    if not isinstance(like, str) or like not in config.modalities or like == name:
        others = [other for other in config.modalities if other != name]
        raise BadInput(f"{where}.like: no other modality {like!r}{nearest(str(like), others)}")
    model = config.modalities[like]
    kind = model.get("kind", like)
    if model.get("like") is not None:
        raise BadInput(f"{where}.like: {like} shares the tower of {model['like']} itself: write like: {model['like']}")
    if kind == "table" or model.get("pair") is not None:
        what = "a table, whose encoder knows its columns" if kind == "table" else "a pair of columns"
        raise BadInput(f"{where}.like: {like} is {what}; a tower is shared by single columns")
    if wrong := [key for key in options if key not in OF_THE_COLUMN]:
        raise BadInput(
            f"{where}.{wrong[0]}: it has the tower of {like}, so this is set there, modalities.{like}.{wrong[0]}; its "
            "own are column, views, augmentation, of texts prompt and of images crop"
        )
    if options.get("kind", kind) != kind:
        raise BadInput(f"{where}.kind: {options['kind']}, but it is like {like}, whose kind is {kind}")
    return (
        {"kind": kind}
        | {key: value for key, value in model.items() if key not in ("column", "prompt", "crop")}
        | dict(options)
    )


def shared_prompt(config: Config, name: str, prompt: Mapping[str, Any]) -> Mapping[str, Any]:
    """The options of the learned prompt that a modality's `prompt: {like: OTHER}` names. Raises `BadInput`."""
    where, like = f"modalities.{name}.prompt", prompt["like"]
    if not isinstance(like, str) or like not in config.modalities or like == name:
        others = [other for other in config.modalities if other != name]
        raise BadInput(f"{where}.like: no other modality {like!r}{nearest(str(like), others)}")
    if wrong := [key for key in prompt if key != "like"]:
        raise BadInput(f"{where}.{wrong[0]}: the vectors are those of {like}: set modalities.{like}.prompt.{wrong[0]}")
    if tower_of(config, like) != tower_of(config, name):
        raise BadInput(
            f"{where}.like: {like} is of another tower, whose vectors {name} cannot read: set modalities.{name}.like"
        )
    found = config.modalities[like].get("prompt")
    if not isinstance(found, Mapping):
        what = "is words, which each column says itself" if found else "is not set"
        raise BadInput(f"{where}.like: modalities.{like}.prompt {what}; learned vectors are shared, {{tokens: 4}} say")
    if "like" in found:
        raise BadInput(f"{where}.like: {like} has the prompt of {found['like']} itself: write like: {found['like']}")
    return found


def tower_of(config: Config, name: str) -> str:
    """The modality whose tower this one has."""
    return str(config.modalities[name].get("like") or name)


def written_out(modality: Modality) -> dict[str, Any]:
    """Kind and options of a modality; of one that shares a tower, or a learned prompt, those that are its own."""
    whole = {"kind": modality.kind, **options_of(modality)}
    if isinstance(prompt := whole.get("prompt"), Mapping) and "like" in prompt:
        whole["prompt"] = {"like": prompt["like"]}
    return whole if modality.like is None else {key: whole[key] for key in OF_THE_COLUMN if key in whole}
