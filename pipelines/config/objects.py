"""Names become objects: the modalities and losses of a config, each option checked against what declares it."""

from collections.abc import Mapping
from typing import Any

from clx.losses.base import LOSSES, TERM_KEYS, Loss
from clx.losses.pairwise import OverPairs
from clx.modalities.base import Modality
from clx.modalities.registry import MODALITIES
from clx.pipelines.config.heads import head_of, heads_of
from clx.pipelines.config.label_heads import check_label_head, heads_labels, samples_labels, tells_labels
from clx.pipelines.config.modality_names import check_name
from clx.pipelines.config.options import construct, option_names, options_model, options_of
from clx.pipelines.config.schema import Config, Term
from clx.pipelines.config.shared_towers import alike, shared_prompt, tower_of, written_out
from clx.pipelines.system.errors import BadInput, nearest


def make_modalities(config: Config) -> dict[str, Modality]:
    """The modalities by name, each option checked against its dataclass."""
    made = {}
    for name, options in config.modalities.items():
        where = f"modalities.{name}"
        check_name(name)
        whole = options if options.get("like") is None else alike(config, name, options)
        if isinstance(prompt := options.get("prompt"), Mapping) and "like" in prompt:
            whole = {**whole, "prompt": {**shared_prompt(config, name, prompt), "like": prompt["like"]}}
        kind = whole.get("kind", name)
        if kind not in MODALITIES:
            raise BadInput(f"{where}: unknown kind {kind!r}{nearest(str(kind), MODALITIES)}")
        if options.get("drop") and len(config.modalities) == 1:
            raise BadInput(f"{where}.drop: a row keeps one of its inputs, and this run has no other input")
        made[name] = construct(MODALITIES[kind], {k: v for k, v in whole.items() if k != "kind"}, where)
        if isinstance(made[name].column, list) and (made[name].pair or kind == "table"):
            raise BadInput(f"{where}.column: one column; a table has `columns`, a pair of columns `pair`")
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
        if term.negatives:
            check_negatives(config, term, where)
        if term.fuse is not None and not LOSSES[term.name].trains_predictions:
            heads = ", ".join(sorted(name for name, loss in LOSSES.items() if loss.trains_predictions))
            raise BadInput(f"{where}.fuse: {term.name} trains no head that predicts; those that do are {heads}")
        check_label_head(config, term, where)
        if term.dims:
            check_dims(config, term, where)
        if term.rows is not None and "weights" not in LOSSES[term.name].needs():
            takers = ", ".join(sorted(name for name, loss in LOSSES.items() if "weights" in loss.needs()))
            raise BadInput(f"{where}.rows: {term.name} has no term a row that could be left out; {takers} do")
        check_declared(term, where)
        if config.keep == "concat":
            check_joined(term, where)
        losses.append(construct(LOSSES[term.name], term.options, f"{where} ({term.name})", keys_of(term.name)))
    for name, options in config.modalities.items():
        if config.keep == "concat" and isinstance(options.get("prompt"), Mapping):
            raise BadInput(f"modalities.{name}.prompt: learned prompts are of one tower; keep: concat joins several")
        if isinstance(options.get("column"), list) and name not in config.only_negatives:
            raise BadInput(
                f"modalities.{name}.column: several columns are for a modality that is only among the `negatives` of a "
                "term; give each other column a modality of its own, with like: to share a tower"
            )
        check_drawn(config, name)
    heads_of(config)
    widest = max(max(term.dims or [config.embed_dim]) for term in config.objective)
    if widest < config.embed_dim:
        raise BadInput(
            f"objective: no term looks at more than {widest} of embed_dim = {config.embed_dim} columns, so the others "
            f"would learn nothing: add {config.embed_dim} to dims, or set embed_dim: {widest}"
        )
    return losses


def keys_of(name: str) -> list[str]:
    """The keys of a term that this loss takes, besides its own parameters."""
    cls = LOSSES[name]
    refused = {
        "negatives": "negatives" not in cls.needs(),
        "rows": "weights" not in cls.needs(),
        "fuse": not cls.trains_predictions,
        "words": not tells_labels(name),
        "labels_per_step": not samples_labels(name),
        "prototypes_per_label": not heads_labels(name),
        "dims": not _has_widths(name),
    }
    return [key for key in TERM_KEYS if key not in DECLARED and not refused.get(key)]


DECLARED = {
    "exclude": "leaves no rows out",
    "label_smoothing": "has no targets to smooth",
    "of": "compares no features",
}
"""Keys that many losses share, and what to say of a loss that has no such parameter."""


def check_drawn(config: Config, name: str) -> None:
    """Raise `BadInput` for terms of a learned prompt that no term of the objective, or no label, gives rise to."""
    prompt = config.modalities[name].get("prompt")
    where = f"modalities.{name}.prompt"
    if not isinstance(prompt, Mapping) or not (drawn := [key for key in ("written", "gate") if key in prompt]):
        return
    readers = {
        n for n, m in config.modalities.items() if isinstance(p := m.get("prompt"), Mapping) and p.get("like") == name
    }
    if not any(term.words is not None and term.words.of in {name, *readers} for term in config.objective):
        raise BadInput(f"{where}.{drawn[0]}: no term reads labels with this prompt: set words: {name} in one")
    if "gate" in prompt and (config.data.several or isinstance(config.data.label, list)):
        raise BadInput(f"{where}.gate: it is by the one label of a row, and rows have sets of them: leave it out")


def check_declared(term: Term, where: str) -> None:
    """Raise `BadInput` for a key that other losses declare."""
    for key in (key for key in DECLARED if key in term.options):
        takers = sorted(name for name, cls in LOSSES.items() if key in option_names(cls))
        if term.name not in takers:
            raise BadInput(f"{where}.{key}: {term.name} {DECLARED[key]}; those that take it are {', '.join(takers)}")
    if isinstance(term.options.get("exclude"), Mapping):
        takers = sorted(name for name, cls in LOSSES.items() if issubclass(cls, OverPairs) and "keys" in cls.needs())
        if term.name not in takers:
            raise BadInput(
                f"{where}.exclude: {term.name} takes a word (none, sample_id, labels, repeats); those that let a "
                f"second model say which rows are no negatives are {', '.join(takers)}"
            )


def check_joined(term: Term, where: str) -> None:
    """Raise `BadInput` for a term that has no use for the embeddings of all stages side by side."""
    if term.dims or LOSSES[term.name].trains_predictions:
        what = "dims are of" if term.dims else f"{term.name} trains a head that looks at"
        raise BadInput(f"{where}: {what} the last stage's embeddings, and keep: concat joins those of all stages")
    if LOSSES[term.name].fuses_by_product:
        raise BadInput(f"{where}: {term.name} scores by products of rows; keep: concat joins unit rows for cosines")


def check_dims(config: Config, term: Term, where: str) -> None:
    """Raise `BadInput` for widths that a term cannot have."""
    if max(term.dims or [0]) > config.embed_dim:
        raise BadInput(
            f"{where}.dims: {max(term.dims or [0])} is above embed_dim = {config.embed_dim}, the whole width"
        )
    if not _has_widths(term.name):
        heads = LOSSES[term.name].trains_predictions
        what = "a head's predictions, which are of the whole embedding" if heads else "inner states of an encoder"
        takers = ", ".join(sorted(filter(_has_widths, LOSSES)))
        raise BadInput(f"{where}.dims: {term.name} is of {what}; terms on the embeddings themselves take it: {takers}")


def _has_widths(name: str) -> bool:
    """Whether a loss is of the columns of embeddings, so that it can be of the first ones alone."""
    return LOSSES[name].compares_embeddings and not LOSSES[name].trains_predictions


def check_negatives(config: Config, term: Term, where: str) -> None:
    """Raise `BadInput` for negatives that a term cannot have."""
    if "negatives" not in LOSSES[term.name].needs():
        takers = ", ".join(sorted(name for name, cls in LOSSES.items() if "negatives" in cls.needs()))
        raise BadInput(f"{where}.negatives: {term.name} takes none; {takers} do")
    for name in term.negatives or []:
        if name not in config.modalities:
            raise BadInput(f"{where}.negatives: unknown modality {name!r}{nearest(name, config.modalities)}")
        if name in (term.inputs or []):
            raise BadInput(f"{where}: {name} is among the inputs and among the negatives")
        if (term.negatives or []).count(name) > 1:
            raise BadInput(f"{where}.negatives: {name} is named twice")
    inputs = config.inputs_of(term)
    views = config.modalities[inputs[0]].get("views", 1) if inputs else 0
    if len(inputs) < 2 and (not isinstance(views, int) or views < 2):
        raise BadInput(
            f"{where}.negatives: besides them it needs two inputs or two views of one, and has "
            f"{', '.join(inputs) or 'none'}"
        )
    for name in term.negatives or []:
        own = tower_of(config, name)
        if own == tower_of(config, inputs[0]) and own not in [tower_of(config, n) for n in inputs[1:] or inputs]:
            raise BadInput(
                f"{where}.negatives: {name} is of the tower of {inputs[0]}, the anchor, and would stand beside "
                f"{', '.join(inputs[1:])}: write inputs: [{', '.join([*inputs[1:], inputs[0]])}]"
            )


def resolved(config: Config, modalities: Mapping[str, Modality], losses: list[Loss]) -> Config:
    """The config with every default of its modalities and losses written out."""
    return config.model_copy(
        update={
            "modalities": {n: written_out(m) for n, m in modalities.items()},
            "objective": [
                Term(
                    name=term.name,
                    weight=term.weight,
                    inputs=term.inputs,
                    negatives=term.negatives,
                    dims=term.dims,
                    until=term.until,
                    words=term.words,
                    prototypes_per_label=term.prototypes_per_label,
                    labels_per_step=term.labels_per_step,
                    rows=term.rows,
                    fuse=head.fuse if (head := head_of(config, term)) is not None else None,
                    **{"from": term.begin, **options_of(loss)},
                )
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
