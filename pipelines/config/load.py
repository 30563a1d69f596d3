"""From a recipe or a file, overridden key by key, to a config."""

import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from clx.pipelines.config.options import parse
from clx.pipelines.config.schema import Config
from clx.pipelines.config.stage_configs import trained_before
from clx.pipelines.config.stages import LENGTHS, set_by_all
from clx.pipelines.config.upgrade import FORMAT, upgrade
from clx.pipelines.config.usual_tasks import unfit
from clx.pipelines.system.errors import BadInput, nearest

LARGEST = 100_000  # values in a config


def recipes() -> dict[str, str]:
    """Text of every built-in recipe by name."""
    files = resources.files("clx.pipelines.config.recipes").iterdir()
    return {f.name.removesuffix(".yaml"): f.read_text() for f in files if f.name.endswith(".yaml")}


def read_source(source: str) -> dict[str, Any]:
    """The raw mapping in a YAML or TOML file, or in the built-in recipe of that name."""
    path = Path(source)
    known = recipes()
    if source not in known and (path.is_dir() or path.suffix in (".csv", ".tsv", ".jsonl", ".parquet", ".tar", ".gz")):
        raise BadInput(f"{source} is data, not a config: clx init {source} -o my.yaml writes one for it")
    if source in known:
        text, is_toml = known[source], False
    elif path.is_file():
        try:
            text, is_toml = path.read_text(encoding="utf-8"), path.suffix == ".toml"
        except UnicodeDecodeError as error:
            raise BadInput(f"config {source}: not UTF-8 text ({error.reason} at byte {error.start})") from None
        except OSError as error:
            raise BadInput(f"config {source}: {error.strerror}") from None
    elif path.suffix or "/" in source:
        raise BadInput(f"config {source}: no such file")
    else:
        raise BadInput(f"no recipe and no file named {source!r}{nearest(source, known)}")
    raw = _parsed(text, f"config {source}", tomllib.loads if is_toml else read_yaml)
    if not isinstance(raw, dict):
        raise BadInput(f"config {source}: expected keys and values, found {type(raw).__name__}")
    return raw


class _Loader(yaml.SafeLoader):
    """YAML as `safe_load` reads it, but for a key that is given twice, of which the first would be lost."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} is given twice", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(text: str) -> Any:
    """The value in a YAML text. Raises `yaml.YAMLError`, also for a key that is given twice."""
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def _parsed(text: str, where: str, read: Callable[[str], Any]) -> Any:
    """The value in a text. Raises `BadInput`, also where aliases of aliases of aliases would fill the memory."""
    try:
        value = read(text)
    except yaml.MarkedYAMLError as error:
        at = f" line {error.problem_mark.line + 1}" if error.problem_mark and "\n" in text.strip() else ""
        said = [words for words in (error.context, error.problem) if words]
        raise BadInput(f"{where}{at}: {', '.join(said)}") from None
    except (yaml.YAMLError, ValueError, RecursionError, OverflowError, TypeError, AttributeError) as error:
        raise BadInput(f"{where}: {' '.join(str(error).split())[:300]}") from None
    left, open_ends = LARGEST, [value]
    while open_ends:
        at = open_ends.pop()
        left -= 1
        if left < 0:
            raise BadInput(f"{where}: over {LARGEST} values, or one that contains itself")
        if isinstance(at, dict | list):
            open_ends += [*at, *at.values()] if isinstance(at, dict) else at
    return value


def override(raw: dict[str, Any], setting: str) -> None:
    """Apply one `a.b=c` in place; `c` is read as YAML."""
    key, equals, text = setting.partition("=")
    if not equals or not key:
        raise BadInput(f"-s {setting}: expected key.path=value")
    set_key(raw, key, value_of(text, f"-s {setting}"), f"-s {setting}")


def value_of(text: str, where: str) -> Any:
    """The value that a text stands for in YAML; see `scientific`."""
    return scientific(_parsed(text, where, read_yaml))


def scientific(value: Any) -> Any:
    """A text such as `1e-3` as the number that it is to everybody but YAML 1.1; other values as they are."""
    number = isinstance(value, str) and re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)[eE][+-]?\d+", value)
    return float(value) if number else value


def set_key(raw: dict[str, Any], key: str, value: Any, where: str) -> None:
    """Set a dotted key in place; a number in it counts list items from 0. Raises `BadInput`, which begins `where`.

    A length that is set decides how long a run is: another that stood there goes.
    """
    at: Any = raw
    *parents, last = key.split(".")
    for parent in parents:
        if parent == "objective" and isinstance(at, dict) and isinstance(at.get(parent), str):
            at[parent] = {"name": at[parent]}  # `objective: clip` for short
        at = _item(at, parent, where) if isinstance(at, list) else at.setdefault(parent, {})
        if not isinstance(at, dict | list):
            raise BadInput(f"{where}: {parent!r} holds a value, not keys")
    if isinstance(at, list):
        _item(at, last, where)
        at[int(last)] = value
    else:
        at[last] = value
        if value is not None and re.fullmatch(r"(stages\.\d+\.)?train\.\w+", key):
            for other in LENGTHS.get(last, ()):
                at.pop(other, None)


def _item(items: list[Any], index: str, where: str) -> Any:
    if not index.isdecimal() or int(index) >= len(items):
        raise BadInput(f"{where}: {index!r} is no item of a list of {len(items)} (count from 0)")
    return items[int(index)]


def load_config(
    source: str | Mapping[str, Any], settings: Iterable[str] = (), flags: Mapping[str, Any] | None = None
) -> Config:
    """Defaults < recipe, file or mapping < `-s` settings < flags given on the command line.

    `flags` maps dotted keys to values; None means not given. Relative data paths of a file count from the
    working directory, as they would in the shell. Raises `BadInput`.
    """
    raw, named = (read_source(source), f"config {source}") if isinstance(source, str) else (deepcopy(source), "config")
    assert isinstance(raw, dict)
    written = "format" not in raw
    if not written:  # the config of a run, which a person did not write
        raw = upgrade(raw, named)
    if "sweep" in raw:
        raise BadInput(f"{source} describes a sweep of runs: clx sweep {source}")
    said: dict[str, str] = {}
    for setting in settings:
        override(raw, setting)
        said[setting.partition("=")[0]] = f"-s {setting}"
    for key, value in (flags or {}).items():
        if value is not None:
            flag = f"--{key.rpartition('.')[2].replace('_', '-')} {value}"
            set_key(raw, key, value, flag)
            said[key] = flag
    for key, words in said.items():
        if (place := set_by_all(raw, key)) is not None:
            raise BadInput(f"{words}: every stage sets {key} itself: -s {place}=VALUE sets it of the last")
    origin = partial(_origin, named, said)
    config = parse(Config, raw, origin)
    if written and "eval" in config.model_fields_set:  # a saved config has the tasks that nobody named, too
        check_tasks(config, origin("eval"))
    trained_before(config, f"{named}: ")  # their keys are checked now, not when their turn has come
    return config


def _origin(file: str, said: Mapping[str, str], key: str) -> str:
    """What gave a key its value, for an error about it: the last setting or flag of it, or else the file."""
    bare = ".".join(part for part in key.split(".") if not part.isdecimal())
    of_key = [text for name, text in said.items() if any(f"{each}.".startswith(f"{name}.") for each in (key, bare))]
    return of_key[-1] if of_key else file


def check_tasks(config: Config, where: str) -> None:
    """Raise `BadInput` when `eval` names a task that no data could let this config have."""
    objectives, data = [term.name for term in config.objective], config.data
    facts = {"label": data.label is not None, "target": bool(data.target), "windows": data.windows is not None}
    for task in config.eval:
        if reason := unfit(task, objectives, config.modalities, **facts):
            raise BadInput(f"{where}: eval names {task!r}, which {reason}")


def dump(config: Config) -> str:
    """The config as YAML, with the number of its format."""
    return yaml.safe_dump({"format": FORMAT} | config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
