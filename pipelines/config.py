"""The configuration: one schema, read from a recipe or file, overridden key by key, strict about every name.

Nothing here imports torch, so a mistyped key costs a fraction of a second.
"""

import dataclasses
import difflib
import errno
import json
import re
import tomllib
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    create_model,
    model_validator,
)

T = TypeVar("T")
LARGEST = 100_000  # values in a config
Task = Literal["zeroshot", "retrieval", "probe", "knn", "svm", "fewshot", "regression", "forecast", "geometry"]
TASKS: tuple[Task, ...] = typing.get_args(Task)


class BadInput(ValueError):
    """Wrong usage, config or data: one line for the user."""

    exit_code = 2


class Refused(Exception):
    """The run finished but its result is refused: one line for the user."""

    exit_code = 3


class Failed(Exception):
    """The machine refused: disk full or read-only, a worker process killed. One line for the user."""

    exit_code = 1


class Heed(UserWarning):
    """Something went wrong and the work goes on all the same: one line for the user."""


class Stopped(BaseException):
    """A signal ended the work. No `Exception`, so that nothing that bears with damaged files swallows it."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


NO_MEMORY = ("can't allocate memory", "out of memory", "_ALLOC_FAILED")


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the memory of the machine or of its accelerator has run out."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(said in str(error) for said in NO_MEMORY)


@contextmanager
def in_memory(told: Callable[[], str]) -> Iterator[None]:
    """Raise `Failed` where memory runs out; `told` says where that was and what to do."""
    try:
        yield
    except Exception as error:
        if not out_of_memory(error):
            raise
        raise Failed(f"out of memory {told()}") from error


def nearest(name: str, options: Iterable[str]) -> str:
    """A hint such as ` (did you mean 'epochs'?)`, or the choices when nothing is near."""
    choices = sorted(options)
    near = difflib.get_close_matches(name, choices, n=1)
    if near:
        return f" (did you mean {near[0]!r}?)"
    return f" (one of: {', '.join(choices[:12])}{', ...' if len(choices) > 12 else ''})" if choices else ""


class Section(BaseModel):
    """A part of the config: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Fraction(Section):
    """A share of the training rows, drawn with `train.seed` and kept out of training."""

    fraction: Annotated[float, Field(gt=0, lt=1)]


class Last(Section):
    """The last share of the steps of every series, kept out of training: what comes later is never learned from."""

    last: Annotated[float, Field(gt=0, lt=1)]


def _held_out(value: Any) -> str:
    """Which of the ways to name val rows a value means, so that an error is about that one."""
    if isinstance(value, str):
        return "source"
    return "last" if isinstance(value, Last) or (isinstance(value, Mapping) and "last" in value) else "fraction"


HeldOut = Annotated[
    Annotated[str, Tag("source")] | Annotated[Fraction, Tag("fraction")] | Annotated[Last, Tag("last")],
    Discriminator(_held_out),
]

Later = Annotated[
    Annotated[str, Tag("source")] | Annotated[Last, Tag("last")],
    Discriminator(lambda value: "source" if isinstance(value, str) else "last"),
]


class Balance(Section):
    """More weight for training rows whose target (the first one), or else whose class, is rare."""

    rule: Literal["inverse", "sqrt-inverse"] = "sqrt-inverse"
    """Weights of 1 / density, or 1 / sqrt(density); their mean is 1."""
    by: Literal["weights", "sampling"] = "weights"
    """Multiply each row's term of the losses, or draw rows more often, which suits every loss."""
    kernel: Literal["gaussian", "triangular", "laplace", "none"] = "gaussian"
    """Label-distribution smoothing of a target's density over its bins (LDS, Yang et al. 2021)."""
    size: Annotated[int, Field(ge=1)] = 5
    """Bins under the kernel, an odd number."""
    sigma: Annotated[float, Field(gt=0)] = 2.0
    """Width of the gaussian or laplace kernel, in bins."""

    @model_validator(mode="after")
    def _symmetric(self) -> "Balance":
        if self.size % 2 == 0:
            raise ValueError(f"size = {self.size}: a kernel about a bin has an odd number of bins")
        return self


class Near(Section):
    """Positives from the data: all views of a row but the first are made of other rows of its group."""

    group: str
    """Column with the recording or subject that a row is of."""
    time: str | None = None
    """Column with the time of a row, a number or a date."""
    within: Annotated[float, Field(gt=0)] | None = None
    """Largest difference in `time`; in seconds for dates."""

    @model_validator(mode="after")
    def _both(self) -> "Near":
        if (self.time is None) != (self.within is None):
            raise ValueError("time and within go together")
        return self


class Long(Section):
    """A table with one row per time step becomes one row per series, in the column `series`."""

    id: str | None = None
    """Column that says which series a row is of; all rows are one series, named like the file, when not given."""
    time: str
    """Column with the time of a row, a number or a date."""
    channels: Annotated[list[str], Field(min_length=1)]
    """Columns with the values; patterns such as `acc_*` too."""
    every: Annotated[float, Field(gt=0)] | None = None
    """Values at even times so far apart, on straight lines between those given; in seconds for dates."""
    stamps: bool = False
    """One more channel with the time since the step before."""

    @model_validator(mode="after")
    def _one(self) -> "Long":
        if self.every is not None and self.stamps:
            raise ValueError("with every all steps are equally far apart: stamps would be constant")
        return self


class Windows(Section):
    """Each series becomes rows of one length, with their `recording` and `start`; files are read piece by piece."""

    column: str = "series"
    length: Annotated[int, Field(ge=2)]
    stride: Annotated[int, Field(ge=1)]
    """Steps from the start of one window to the next."""
    horizon: Annotated[int, Field(ge=1)] | None = None
    """Steps behind a window to forecast: what there is of them stands in the column `future`."""


class Data(Section):
    """Where rows come from and what their columns mean."""

    train: str
    """A manifest, a folder or the name of built-in data. Its `split` column, if any, is obeyed."""
    val: HeldOut | None = None
    """A source, a random share of the training rows, or the last share of every series, before that of `test`."""
    test: Later | None = None
    split: str = "split"
    """Name of the column that says train, val or test."""
    label: str | None = None
    """Column with the class of a row; its values are the class names of zero-shot evaluation. One of `target` here
    makes its bins the classes."""
    target: list[str] = []
    """Numeric columns to predict."""
    bin_width: Annotated[float, Field(gt=0)] | None = None
    """Width of a target's bins, in its units, for `balance`, for binned labels and for how many training rows are
    like a row; a fiftieth of the training range when not given."""
    balance: Balance | None = None
    """Weigh training rows against imbalance; not at all when not given."""
    long: Long | None = None
    """For a table with a row per time step: which columns make the series."""
    windows: Windows | None = None
    """Cuts long series into windows, after they were split into train, val and test."""
    neighbours: Near | None = None
    """Which rows are positives of each other besides a row's own views."""
    missing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of training cells to leave out at random, to see how a model bears missing inputs."""
    on_bad_row: Literal["fail", "skip"] = "fail"
    bad_row_budget: Annotated[float, Field(ge=0, le=1)] = 0.01
    """With `skip`, the share of training rows that may be bad before the run stops; one always may."""
    allow_outside: bool = False
    """Accept paths that lead out of the manifest's folder."""
    cache: bool = False
    """Keep decoded samples in memory after their first use, and what frozen encoders make of unvaried ones."""

    @model_validator(mode="after")
    def _cut_by(self) -> "Data":
        shares = [part.last for part in (self.val, self.test) if isinstance(part, Last)]
        if shares and self.windows is None:
            raise ValueError("val or test by {last: ...} needs windows, which say what series are cut and how")
        if sum(shares) >= 1:
            raise ValueError(f"val and test take {sum(shares):g} of every series and leave none to train on")
        return self

    @model_validator(mode="after")
    def _balanced_by(self) -> "Data":
        if self.balance is not None and not self.target and self.label is None:
            raise ValueError("balance needs target or label, the column whose rare values should count more")
        return self


class Term(BaseModel):
    """One objective of the weighted sum; further keys are the loss's own parameters."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str
    weight: Annotated[float, Field(ge=0)] | None = None
    """What it counts in the sum: 1 when not given, or what suits the loss beside an error in the target's units."""
    inputs: list[str] | None = None
    """Modalities this term looks at; all of them when not given."""

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class Train(Section):
    """The loop."""

    epochs: Annotated[int, Field(ge=1)] = 10
    steps: Annotated[int, Field(ge=1)] | None = None
    """Total optimiser steps; overrides `epochs`."""
    batch_size: Annotated[int, Field(ge=2)] = 256
    accumulate: Annotated[int, Field(ge=1)] = 1
    """Batches per optimiser step; each batch is contrasted on its own."""
    lr: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    warmup: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Share of all steps over which the rate rises linearly."""
    schedule: Literal["cosine", "constant"] = "cosine"
    clip: Annotated[float, Field(gt=0)] | None = 1.0
    """Largest gradient norm; null turns clipping off."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay per step of the averaged weights that are evaluated and saved as the model; 0 turns it off."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")] = "auto"
    workers: Annotated[int, Field(ge=0)] = 0
    """Processes that read data; 0 reads in the training process."""
    seed: Annotated[int, Field(ge=0)] = 0
    validate_every: Annotated[int, Field(ge=1)] | None = None
    """Steps between validations; once per epoch when not given."""
    save_every: Annotated[int, Field(ge=1)] | None = None
    """Steps between checkpoints, besides those after each validation."""
    save_minutes: Annotated[float, Field(gt=0)] = 15.0
    keep: Annotated[int, Field(ge=1)] = 2
    """How many of the newest checkpoints stay, besides the best."""
    bad_steps: Annotated[int, Field(ge=0)] = 10
    """Steps with a non-finite loss or gradient that are skipped before the run stops."""
    tensorboard: bool = False


Terms = Annotated[
    list[Term],
    Field(min_length=1),
    BeforeValidator(lambda value: [value] if isinstance(value, Mapping) else value),
]


class Pretrain(Section):
    """What the towers learn before the run's own objective: in a first stage of this run, or in an earlier run."""

    run: str | None = None
    """A run folder whose towers, and what they know of their columns, are taken over."""
    objective: Terms | None = None
    """Train them with this first, in the folder `pretrain` of the run."""
    head: str | None = None
    """Head in the first stage, where it differs: a projection that is thrown away afterwards. A tower with a frozen
    encoder keeps its own: nothing would be left of what it learned."""
    embed_dim: Annotated[int, Field(ge=1)] | None = None
    """Width of the first stage's embeddings, where it differs; the heads are then new in the second."""
    modalities: dict[str, dict[str, Any]] = {}
    """Options of modalities that differ in the first stage, such as `views` and `head`."""
    train: dict[str, Any] = {}
    """Keys of `train` that differ in the first stage."""
    checkpoint: Literal["last", "best"] = "last"
    """Which weights are taken. A contrastive loss on few validation rows is often lowest long before the features
    are at their best, so `best` is not the default."""
    freeze: bool = True
    """Keep what was taken over as it is, so that only what is new learns (linear probing); false fine-tunes it."""

    @model_validator(mode="after")
    def _one_source(self) -> "Pretrain":
        if (self.run is None) == (self.objective is None):
            raise ValueError("give either run, a folder, or objective, to train with first")
        if self.run is not None and (self.head or self.embed_dim or self.modalities or self.train):
            raise ValueError("head, embed_dim, modalities and train are for a first stage, not for an earlier run")
        return self


EmptyIsDefault = BeforeValidator(lambda value: {} if value is None else value)
"""A key with nothing after it, as YAML allows: all defaults."""


class Config(Section):
    """Everything that makes a run."""

    data: Data
    modalities: Annotated[dict[str, Annotated[dict[str, Any], EmptyIsDefault]], Field(min_length=1)]
    """Inputs by name; `kind` is the name itself unless given. The other keys are the modality's own."""
    embed_dim: Annotated[int, Field(ge=1)] = 128
    objective: Terms
    pretrain: Pretrain | None = None
    train: Annotated[Train, EmptyIsDefault] = Train()
    eval: list[Task] = ["zeroshot", "retrieval"]
    """Tasks of `clx eval` and of the evaluation that ends a training run."""


def recipes() -> dict[str, str]:
    """Text of every built-in recipe by name."""
    files = resources.files("clx.pipelines.recipes").iterdir()
    return {f.name.removesuffix(".yaml"): f.read_text() for f in files if f.name.endswith(".yaml")}


def read_source(source: str) -> dict[str, Any]:
    """The raw mapping in a YAML or TOML file, or in the built-in recipe of that name."""
    path = Path(source)
    known = recipes()
    if source not in known and (path.is_dir() or path.suffix in (".csv", ".tsv", ".jsonl", ".parquet")):
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
    raw = _parsed(text, f"config {source}", tomllib.loads if is_toml else yaml.safe_load)
    if not isinstance(raw, dict):
        raise BadInput(f"config {source}: expected keys and values, found {type(raw).__name__}")
    return raw


def _parsed(text: str, where: str, read: Callable[[str], Any]) -> Any:
    """The value in a text. Raises `BadInput`, also where aliases of aliases of aliases would fill the memory."""
    try:
        value = read(text)
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
    """Apply one `a.b=c` in place; `c` is read as YAML, a number in the key counts list items from 0."""
    key, equals, text = setting.partition("=")
    if not equals or not key:
        raise BadInput(f"-s {setting}: expected key.path=value")
    value = _parsed(text, f"-s {setting}", yaml.safe_load)
    if isinstance(value, str) and re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)[eE][+-]?\d+", value):
        value = float(value)  # YAML 1.1 reads 1e-3 as text
    at: Any = raw
    *parents, last = key.split(".")
    for parent in parents:
        at = _item(at, parent, setting) if isinstance(at, list) else at.setdefault(parent, {})
        if not isinstance(at, dict | list):
            raise BadInput(f"-s {setting}: {parent!r} holds a value, not keys")
    if isinstance(at, list):
        _item(at, last, setting)
        at[int(last)] = value
    else:
        at[last] = value


def _item(items: list[Any], index: str, setting: str) -> Any:
    if not index.isdecimal() or int(index) >= len(items):
        raise BadInput(f"-s {setting}: {index!r} is no item of a list of {len(items)} (count from 0)")
    return items[int(index)]


def load_config(source: str, settings: Iterable[str] = (), flags: Mapping[str, Any] | None = None) -> Config:
    """Defaults < recipe or file < `-s` settings < flags given on the command line.

    `flags` maps dotted keys to values; None means not given. Relative data paths of a file count from the
    working directory, as they would in the shell. Raises `BadInput`.
    """
    raw = read_source(source)
    if "sweep" in raw:
        raise BadInput(f"{source} describes a sweep of runs: clx sweep {source}")
    for setting in settings:
        override(raw, setting)
    for key, value in (flags or {}).items():
        if value is not None:
            override(raw, f"{key}={json.dumps(value)}")
    config = parse(Config, raw, f"config {source}")
    if config.pretrain is not None and config.pretrain.objective is not None:
        first_stage(config, f"config {source}: pretrain")  # its keys are checked now, not after the first stage
    return config


def first_stage(config: Config, where: str = "pretrain") -> Config:
    """The config of the stage that `pretrain.objective` asks for: the run's own with what differs."""
    assert config.pretrain is not None
    raw = config.model_dump(mode="json", exclude={"pretrain"})
    changes = config.pretrain.model_dump(mode="json", include={"objective", "embed_dim"}, exclude_none=True)
    for options in raw["modalities"].values():
        if config.pretrain.head is not None and not (options.get("freeze") and not options.get("unlocked")):
            options["head"] = config.pretrain.head
    for name, options in config.pretrain.modalities.items():
        if name not in raw["modalities"]:
            raise BadInput(f"{where}.modalities: unknown modality {name!r}{nearest(name, raw['modalities'])}")
        raw["modalities"][name] |= options
    return parse(Config, raw | changes | {"train": raw["train"] | config.pretrain.train, "eval": []}, where)


B = TypeVar("B", bound=BaseModel)


def parse(model: type[B], raw: Any, where: str) -> B:
    """Validate `raw`, or raise `BadInput` with one line that names the first wrong key."""
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise BadInput(f"{where}: {_explain(model, error)}") from None


def _explain(model: type[BaseModel], error: ValidationError) -> str:
    # A union reports every member's complaint; an unknown or missing key says most, so it goes first.
    problems = sorted(error.errors(), key=lambda e: e["type"] not in ("extra_forbidden", "missing"))
    first, rest = problems[0], len(problems) - 1
    path = [str(part) for part in first["loc"]]
    key, said = ".".join(path), first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if first["type"] == "extra_forbidden":
        deeper = [f"{name}.{path[0]}" for name in model.model_fields if path[0] in _fields_at(model, [name])]
        hint = f" (did you mean {deeper[0]!r}?)" if len(path) == 1 and deeper else ""
        text = f"unknown key {key!r}{hint or nearest(path[-1], _fields_at(model, path[:-1]))}"
    elif first["type"] == "missing":
        text = f"key {key!r} is required"
    elif first["msg"].startswith("Input should be"):
        text = f"{key} = {first['input']!r}: should be {said}"
    else:
        text = f"{key} = {first['input']!r}: {said[0].lower()}{said[1:]}"
    return text + (f" (and {rest} more)" if rest else "")


def _fields_at(model: type[BaseModel], path: list[str]) -> list[str]:
    at: type[BaseModel] = model
    for part in path:
        field = at.model_fields.get(part)
        found = field.annotation if field else None
        members = [found, *typing.get_args(found)]
        at = next((m for m in members if isinstance(m, type) and issubclass(m, BaseModel)), at)
    return list(at.model_fields)


def options_model(cls: Any) -> type[BaseModel]:
    """The schema of a dataclass's fields, so that losses and modalities are checked like the rest."""
    return _options_model(cls)


@cache
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
    return create_model(cls.__name__, __config__=ConfigDict(extra="forbid"), **fields)


def construct(cls: type[T], options: Mapping[str, Any], where: str) -> T:
    """An instance of a dataclass from config options; `BadInput` names the key, its value and its range."""
    checked = parse(options_model(cls), dict(options), where)
    try:
        return cls(**{name: getattr(checked, name) for name in type(checked).model_fields})
    except ValueError as error:
        raise BadInput(f"{where}: {error}") from None


def options_of(instance: Any) -> dict[str, Any]:
    """The fields a dataclass was made with, as plain values for a config file."""
    return {f.name: getattr(instance, f.name) for f in dataclasses.fields(instance) if f.init}


def dump(config: Config) -> str:
    """The config as YAML."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
