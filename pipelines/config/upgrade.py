"""Configs that earlier versions saved, read as this version would have saved them.

A saved config writes out every default, so an old word in it is not the user's doing: it is translated here. In a file
that a person wrote an old word is refused with the new one named.
"""

from collections.abc import Mapping
from typing import Any

from clx.pipelines.system.errors import BadInput

FORMAT = 6
"""Of the configs that this version saves, under the key `format`; 1 is that of configs without it."""
RENAMED = {
    "symile": {"negatives": "tuples"},
    "average-view": {"of": "two_view"},
    "pairwise": {"of": "two_view"},
}
"""Options of losses by their names in format 1."""
MADE_3 = {"batch_size": 256, "chunk": None, "chunk_statistics": "batch"}
"""Keys that take the place of `accumulate` of format 3, with their values where it was 1."""
HEADS_4 = ("l1", "mse", "huber", "cross-entropy", "binary-cross-entropy")
"""Losses that train a head in format 4."""
HEADS_1 = ("l1", "mse", "huber", "cross-entropy")
"""Losses that in format 1 were given predictions from all inputs, whatever their `inputs` said."""


def upgrade(raw: Any, where: str) -> Any:
    """The raw config in the present format and without its `format`; what is no config comes back as it is.

    Raises `BadInput` for a format of a later version.
    """
    if not isinstance(raw, dict):
        return raw
    raw = dict(raw)
    found = raw.pop("format", 1)
    if isinstance(found, bool) or not isinstance(found, int) or not 1 <= found <= FORMAT:
        raise BadInput(f"{where} has config format {found!r:.20}, and this version of clx reads 1 to {FORMAT}")
    if found < 2:
        stages = [raw, raw.get("pretrain")]
        for stage in stages:
            if isinstance(stage, dict) and isinstance(stage.get("objective"), list):
                stage["objective"] = [_term_1(term) for term in stage["objective"]]
            elif isinstance(stage, dict):
                stage |= {"objective": _term_1(stage["objective"])} if "objective" in stage else {}
    if found < 3 and isinstance(data := raw.get("data"), dict):
        changed = {}
        if isinstance(data.get("long"), dict):
            changed["long"] = {"holes": False} | data["long"]
        if isinstance(data.get("val"), dict) and "fraction" in data["val"]:
            changed["val"] = {"by": "row", "stratify": False} | data["val"]
        if data.get("cache") is True:
            changed["cache"] = "memory"
        raw["data"] = data | changed
    if found < 3 and len(raw.get("modalities") or ()) > 1:
        for stage in [raw, raw.get("pretrain")]:
            if isinstance(stage, dict) and "objective" in stage:
                terms = stage["objective"]
                stage["objective"] = [*map(_term_2, terms)] if isinstance(terms, list) else _term_2(terms)
    if found < 4:
        train = raw["train"] if isinstance(raw.get("train"), dict) else {}
        raw |= {"train": _train_3(train)} if train else {}
        stage = raw.get("pretrain")
        if isinstance(stage, dict) and isinstance(first := stage.get("train"), dict):
            raw["pretrain"] = stage | {"train": _first_3(train, first, _train_3(train))}
    if found < 5:
        stage = raw.get("pretrain")
        raw |= {"objective": _shared_4(raw["objective"])} if isinstance(raw.get("objective"), list) else {}
        if isinstance(stage, dict) and isinstance(stage.get("objective"), list):
            raw["pretrain"] = stage | {"objective": _shared_4(stage["objective"])}
    if found < 6 and "pretrain" in raw:
        raw |= _stages_5(raw.pop("pretrain"))
    for part in [raw, *(raw.get("stages") or [])]:
        if isinstance(part, dict) and isinstance(train := part.get("train"), dict) and "tensorboard" in train:
            part["train"] = _boards(train)
    return raw


def _boards(train: dict[str, Any]) -> dict[str, Any]:
    """Settings of the loop with `log_to` in the place of a key that also asked for TensorBoard."""
    asked = ["tensorboard"] if train["tensorboard"] is True else []
    listed = list(dict.fromkeys([*asked, *(train.get("log_to") or [])]))
    rest = {key: value for key, value in train.items() if key not in ("tensorboard", "log_to")}
    return rest | ({"log_to": listed} if listed or "log_to" in train else {})


def _stages_5(pretrain: Any) -> dict[str, Any]:
    """The stages of format 6 for what in format 5 came before the run's own objective."""
    if not isinstance(pretrain, Mapping):
        return {}
    first = {key: value for key, value in pretrain.items() if key != "freeze" and value is not None}
    return {"stages": [first, {"freeze": pretrain.get("freeze", True)}]}


def _shared_4(terms: list[Any]) -> list[Any]:
    """Terms of format 4, in which all that train a head trained one, on the inputs of any of them."""
    heads = [t for t in terms if isinstance(t, Mapping) and t.get("name") in HEADS_4]
    inputs = [t.get("inputs") for t in heads]
    if all(each == inputs[0] for each in inputs):
        return terms
    every = None if None in inputs else list(dict.fromkeys(name for each in inputs for name in each or []))
    return [t | {"inputs": every} if t in heads else t for t in terms]


def _train_3(train: dict[str, Any]) -> dict[str, Any]:
    """Settings of the loop in format 3, where several batches, each contrasted by itself, could make a step."""
    train = dict(train)
    batches = train.pop("accumulate", 1)
    if isinstance(batches, int) and batches > 1 and isinstance(size := train.get("batch_size"), int):
        train |= {"batch_size": size * batches, "chunk": size, "chunk_statistics": "chunk"}
    return train


def _first_3(train: dict[str, Any], first: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """What the first stage changes in `now`, where in format 3 it changed `train`, whose other keys it takes over."""
    found, now = MADE_3 | _train_3(train | first), MADE_3 | now
    changed = {key for key in MADE_3 if found[key] != now[key]}
    return {key: value for key, value in found.items() if key in changed or key in first}


def _term_1(term: Any) -> Any:
    """A term of format 1 in format 2."""
    if not isinstance(term, Mapping):
        return term
    new = RENAMED.get(str(term.get("name")), {})
    changed = {new.get(key, key): value for key, value in term.items()}
    return changed | ({"inputs": None} if term.get("name") in HEADS_1 and "inputs" in term else {})


def _term_2(term: Any) -> Any:
    """A term of format 2, which knew one way to fuse inputs, in format 3."""
    if isinstance(term, str) and term in HEADS_1:
        return {"name": term, "fuse": "mean"}
    return {"fuse": "mean", **term} if isinstance(term, Mapping) and term.get("name") in HEADS_1 else term
