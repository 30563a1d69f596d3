"""Options as users give them, checked against what declares them: a section of the config, or a dataclass's fields."""

import dataclasses
import re
import typing
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic_core import ErrorDetails, PydanticCustomError
from typing_extensions import is_typeddict

from clx.pipelines.system.errors import BadInput, nearest

T = TypeVar("T")
B = TypeVar("B", bound=BaseModel)


def parse(model: type[B], raw: Any, where: str | Callable[[str], str], beside: Iterable[str] = ()) -> B:
    """Validate `raw`, or raise `BadInput` with one line that names the first wrong key; `where` begins it, a text or
    what gives one for a dotted key.

    `beside` are keys that stand in the same place of a config and were taken out already: one may be misspelt, too.
    """
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        key, said = _explain(model, error, list(beside))
        raise BadInput(f"{where if isinstance(where, str) else where(key)}: {said}") from None


WORDS = {
    "model_type": "keys and values",
    "model_attributes_type": "keys and values",
    "dict_type": "keys and values",
    "list_type": "a list",
    "string_type": "a text",
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_parsing": "a number",
    "float_type": "a number",
    "bool_parsing": "true or false",
    "bool_type": "true or false",
}
"""What a value should be, where pydantic says it in words of its own."""
TAG = "<"
"""What the names of the members of a union begin with: pydantic puts them into the path of an error."""


UNION = re.compile(r"constrained-\w+|literal\[.*\]|str")
"""The same of members without a tag, which are the last part of the path: a number in a range, or a word."""


OLD_KEY = "old_key"


def old_key(key: str, text: str) -> PydanticCustomError:
    """For a validator of a whole section to raise: `key` in it is no key any more, and `text` says what is."""
    return PydanticCustomError(OLD_KEY, text, {"key": key})


def _path(problem: ErrorDetails) -> list[str]:
    """The key that a problem is of, without the names of the members of unions."""
    path = [part for part in map(str, problem["loc"]) if not part.startswith(TAG)]
    if problem["type"] == OLD_KEY:
        return [*path, problem["ctx"]["key"]]
    return path[:-1] if path and UNION.fullmatch(path[-1]) else path


def _of_its_kind(problems: list[ErrorDetails]) -> list[ErrorDetails]:
    """Without the complaints of a word that a mapping is none, and of a mapping that a word is none, where these may
    stand in one place."""
    words = ("literal_error", "string_type")
    wrong = [p for p in problems if (p["type"] in words) == isinstance(p["input"], Mapping)]
    wrong = [p for p in wrong if p["type"] in (*words, "dict_type")]
    return [p for p in problems if p not in wrong] or problems


def _explain(model: type[BaseModel], error: ValidationError, beside: list[str]) -> tuple[str, str]:
    """The dotted key that is wrong, and what is wrong with it."""
    # A union reports every member's complaint. An unknown key says most, and may be a missing one misspelt.
    most = ("extra_forbidden", "missing")
    found = _of_its_kind(error.errors())
    problems = sorted(found, key=lambda e: most.index(e["type"]) if e["type"] in most else len(most))
    rules = {m.__name__ for field in model.model_fields.values() for m in _members(field.annotation) if is_typeddict(m)}
    paths = [[part for part in _path(problem) if part not in rules] for problem in problems]
    first, path = problems[0], paths[0]
    others = [each for each in paths[1:] if each != path]
    literal = next(
        (p for p, each in zip(problems[1:], paths[1:], strict=True) if each == path and p["type"] == "literal_error"),
        None,
    )
    key, rest = ".".join(path), len(others)
    said = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    said = WORDS.get(first["type"], said)
    if literal is not None and first["msg"].startswith("Input should be"):  # a number or a word: both are said
        said += ", or " + literal["msg"].removeprefix("Input should be ")
    said = re.sub(r"^\w+ (should have at (least|most) \d+ \w+)( after validation.*)?$", r"\1", said)
    if first["type"] == "extra_forbidden":
        deeper = [f"{name}.{path[0]}" for name in model.model_fields if path[0] in _fields_at(model, [name])]
        hint = f" (did you mean {deeper[0]!r}?)" if len(path) == 1 and deeper else ""
        known = sorted({*_fields_at(model, path[:-1]), *(beside if len(path) == 1 else [])})
        text = f"unknown key {key!r}{hint or nearest(path[-1], known)}"
    elif first["type"] == "missing":
        text = f"key {key!r} is required"
    elif first["msg"].startswith("Input should be"):
        text = f"{key} = {first['input']!r}: should be {said}"
    else:
        value = first["input"][path[-1]] if first["type"] == OLD_KEY else first["input"]
        text = f"{key} = {value!r}: {said[0].lower()}{said[1:]}"
    return key, text + (f" (and {rest} more)" if rest else "")


def _members(annotation: Any) -> list[Any]:
    """It, the members of its unions, and what its lists hold."""
    return [annotation, *(m for arg in typing.get_args(annotation) for m in _members(arg))]


def _fields_at(model: type[BaseModel], path: list[str]) -> list[str]:
    at: type[BaseModel] = model
    for part in path:
        if part.isdecimal():  # a place in a list, whose members' fields are these already
            continue
        field = at.model_fields.get(part)
        found = field.annotation if field else None
        members = _members(found)
        if named := [m for m in members if is_typeddict(m)]:
            return list(typing.get_type_hints(named[0]))
        at = next((m for m in members if isinstance(m, type) and issubclass(m, BaseModel)), at)
    return [field.alias or name for name, field in at.model_fields.items()]


def options_model(cls: Any) -> type[BaseModel]:
    """The schema of a dataclass's fields, so that losses and modalities are checked like the rest."""
    return _options_model(cls)


@cache  # whose argument mypy wants to be hashable, which it takes no class for
def _options_model(cls: Any) -> type[BaseModel]:
    hints = typing.get_type_hints(cls, include_extras=True)
    fields: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        if not field.init:
            continue
        if field.default_factory is not dataclasses.MISSING:
            default: Any = Field(default_factory=field.default_factory)
        elif field.default is not dataclasses.MISSING:
            default = field.default
        else:
            default = ...
        fields[field.name] = (hints[field.name], default)
    return create_model(cls.__name__, __config__=ConfigDict(extra="forbid", allow_inf_nan=False), **fields)


def option_names(cls: Any) -> list[str]:
    """The names of the options that a dataclass declares."""
    return [field.name for field in dataclasses.fields(cls) if field.init]


def construct(cls: type[T], options: Mapping[str, Any], where: str, beside: Iterable[str] = ()) -> T:
    """An instance of a dataclass from config options; `BadInput` names the key, its value and its range. `beside`: see
    `parse`."""
    checked = parse(options_model(cls), dict(options), where, beside)
    try:
        return cls(**{name: getattr(checked, name) for name in type(checked).model_fields})
    except ValueError as error:
        raise BadInput(f"{where}: {error}") from None


def options_of(instance: Any) -> dict[str, Any]:
    """The fields a dataclass was made with, as plain values for a config file."""
    return {name: getattr(instance, name) for name in option_names(instance)}
