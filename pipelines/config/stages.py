"""`stages` of a config: trainings one after another, each with data, objective, modalities and training of its own."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from clx.pipelines.config.section import Section

SECTIONS = ("data", "modalities", "embed_dim", "objective", "train")
"""Keys of the top level that a stage may have, too."""
HOW = ("run", "checkpoint", "freeze", "whole")
"""Keys of a stage that are no section of a config."""

LENGTHS = {"epochs": ("steps", "minutes"), "steps": ("minutes",), "minutes": ("epochs", "steps")}
"""Keys of `train` that say how long a run is, with those that give way where one is set over others."""


class Stage(Section):
    """One of several trainings. Its sections are laid over those of the top level key by key: a key of `data`, of
    `train` or of a modality takes the place of that key, `objective` and `embed_dim` as a whole."""

    run: Annotated[str, Field(min_length=1)] | None = None
    """A run folder in the place of the first stage: its towers, and what they know of their columns, are taken over."""
    data: dict[str, Any] = {}
    modalities: dict[str, dict[str, Any] | None] = {}
    embed_dim: Annotated[int, Field(ge=1)] | None = None
    """Width of this stage's embeddings, where it differs: the heads are then new in the next."""
    objective: Any = None
    train: dict[str, Any] = {}
    head: str | None = None
    """Head of all towers in this stage: a projection, say, that is thrown away afterwards. A tower with a frozen
    encoder keeps its own: nothing would be left of what it learned."""
    checkpoint: Literal["last", "best"] = "last"
    """Which weights of this stage the next begins with. A contrastive loss on few validation rows is often lowest long
    before the features are at their best, so `best` is not the default."""
    freeze: bool = False
    """Keep what was taken over from the stage before as it is, so that only what is new learns (linear probing)."""
    whole: bool = False
    """Its sections are all there is: nothing of the top level counts in it. So a run saves its stages."""

    @model_validator(mode="after")
    def _one_source(self) -> "Stage":
        own = [key for key in (*SECTIONS, "head", "freeze") if getattr(self, key)]
        if self.run is not None and own:
            raise ValueError(f"{own[0]} is for a stage that is trained here, and run for a training that is done")
        return self

    @property
    def sections(self) -> dict[str, Any]:
        """Those that it has, as they were given."""
        return {key: getattr(self, key) for key in SECTIONS if getattr(self, key)}


def in_order(raw: Any) -> Any:
    """The raw config as the last stage has it, with all stages before it whole under `stages`, and of the last one what
    is no section. Of a config in this form it is that config; what is malformed stays, to be refused."""
    stages = raw.get("stages") if isinstance(raw, Mapping) else None
    if not isinstance(stages, list | tuple) or not stages:
        return raw
    raws = [stage.model_dump() if isinstance(stage, Stage) else stage for stage in stages]
    if not all(isinstance(stage, Mapping) for stage in raws) or any(_malformed(part) for part in (raw, *raws)):
        return raw
    top = {key: value for key, value in raw.items() if key != "stages"}
    before: list[dict[str, Any]] = []
    for stage in raws[:-1]:
        before.append(_with_memory(_whole(top, stage), before))
    rest = {key: value for key, value in raws[-1].items() if key not in (*SECTIONS, "head")}
    return _with_memory(laid_over(top, raws[-1]), before) | {"stages": [*before, rest]}


def _with_memory(raw: dict[str, Any], before: list[dict[str, Any]]) -> dict[str, Any]:
    """The same with the sources of the stages before where `data.replay` does not say whose rows come again."""
    data = raw.get("data") or {}
    replay = data.get("replay")
    if not isinstance(replay, Mapping) or replay.get("from"):
        return raw
    named = [(stage.get("data") or {}).get("train") for stage in before]
    listed = [source for each in named for source in (each if isinstance(each, list) else [each])]
    sources = [source.get("source") if isinstance(source, Mapping) else source for source in listed]
    found = list(dict.fromkeys(source for source in sources if source is not None))
    return raw | {"data": data | {"replay": {**replay, "from": found}}}


def _malformed(part: Mapping[str, Any]) -> bool:
    """Whether a section is of a kind that nothing can be laid over."""
    sections = [part.get(key) or {} for key in ("data", "train", "modalities")]
    named = sections[2].values() if isinstance(sections[2], Mapping) else ()
    return not all(isinstance(each, Mapping) or each is None for each in (*sections, *named))


def _whole(top: Mapping[str, Any], stage: Mapping[str, Any]) -> dict[str, Any]:
    if stage.get("run") is not None or stage.get("whole"):
        return dict(stage)
    found = laid_over(top, stage)
    rest = {key: value for key, value in stage.items() if key not in (*SECTIONS, "head")}
    return rest | {key: found[key] for key in SECTIONS if key in found} | {"whole": True}


def laid_over(top: Mapping[str, Any], stage: Mapping[str, Any]) -> dict[str, Any]:
    """The raw config with the sections of a stage. A length that a stage sets takes the place of one above it."""
    found = dict(top)
    for key in ("data", "train"):
        if stage.get(key):
            found[key] = (top.get(key) or {}) | stage[key]
    own = stage.get("train") or {}
    for other in {other for key in LENGTHS if own.get(key) is not None for other in LENGTHS[key]} - own.keys():
        found["train"].pop(other, None)
    if stage.get("modalities") or stage.get("head") is not None:
        both = dict(top.get("modalities") or {})
        if (head := stage.get("head")) is not None:
            both = {n: o if _keeps_head(o or {}) else (o or {}) | {"head": head} for n, o in both.items()}
        for name, options in (stage.get("modalities") or {}).items():
            both[name] = (both.get(name) or {}) | (options or {})
        found["modalities"] = both
    return found | {key: stage[key] for key in ("objective", "embed_dim") if stage.get(key) is not None}


def _keeps_head(options: Mapping[str, Any]) -> bool:
    """Whether a tower's head is all of it that learns, or that of another."""
    return options.get("like") is not None or bool(options.get("freeze") and not options.get("unlocked"))


def set_by_all(raw: Mapping[str, Any], key: str) -> str | None:
    """Where the last stage sets a dotted key of the top level, if all stages do that are trained here: what the top
    level says is then of none of them. None elsewhere."""
    stages = raw.get("stages")
    if not isinstance(stages, list) or not all(isinstance(stage, Mapping) for stage in stages):
        return None
    trained = [stage for stage in stages if stage.get("run") is None]
    section, _, rest = key.partition(".")

    def sets(stage: Mapping[str, Any]) -> bool:
        if stage.get("whole"):
            return True
        at: Any = stage.get(section)
        for part in rest.split(".") if rest and section != "objective" else []:
            at = at.get(part) if isinstance(at, Mapping) else None
        return at is not None

    if section not in SECTIONS or not trained or not all(map(sets, trained)):
        return None
    return f"stages.{len(stages) - 1}.{key}"
