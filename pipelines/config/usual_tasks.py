"""What is evaluated where nobody says, and which tasks no data could let a config have."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

from clx.pipelines.config.task_names import Task

PAIR_SCORING = ("angle", "codiemb", "cosent")
"""Objectives by which `data.target` is the score of a pair of inputs; `relation` is one more where it is by score."""
CANDIDATE_SCORING = "distil-scores"
"""The objective by which the columns of `data.target` are scores of a query's candidates."""
SET_HEADS = ("asymmetric", "binary-cross-entropy", "label-ranking", "mlcd", "multilabel-softmax", "sparsemax")
"""Objectives of a head that says which labels of a set apply."""
CLASS_HEADS = ("cross-entropy", "core-tuning", "moit")
"""Objectives of a head that says which class a row is of."""
HEADS = (*CLASS_HEADS, *SET_HEADS, "mutual-information", "label-prototypes", "l1", "mse", "huber")
"""Objectives of a head, which alone say nothing of how inputs lie to each other."""


class Named(Protocol):
    """A term, of which the name and the options of its loss are asked."""

    @property
    def name(self) -> str: ...
    @property
    def options(self) -> dict[str, Any]: ...


def scores_pairs(term: Named) -> bool:
    """Whether a term takes `data.target` for the score of the pair of its inputs."""
    return term.name in PAIR_SCORING or (term.name == "relation" and term.options.get("by") == "score")


def usual_tasks(
    terms: Sequence[Named],
    modalities: Mapping[str, Mapping[str, Any]],
    *,
    label: bool,
    target: bool,
    horizon: bool,
) -> list[Task]:
    """What to evaluate where nobody says: what the objectives train, on what the data have.

    Args:
        terms: of the objective.
        modalities: their options by name.
        label: whether there is one; so `target`, and a `horizon` to forecast.
    """
    objectives = {term.name for term in terms}
    kinds = [kind_of(name, modalities) for name in modalities if not modalities[name].get("pair")]
    several = len(modalities) > 1 and not objectives <= {*HEADS}
    tasks: list[Task] = ["classification"] if {*CLASS_HEADS} & objectives and not target else []
    sets = any(name in objectives for name in SET_HEADS)
    tasks += ["multilabel"] if sets else []
    if target:
        scored = len(modalities) > 1 and any(map(scores_pairs, terms))
        candidates = CANDIDATE_SCORING in objectives
        tasks += (
            ["sts"]
            if scored
            else ["retrieval"]
            if candidates
            else ["retrieval", "regression"]
            if several
            else ["regression"]
        )
    elif horizon:
        tasks += ["forecast"]
    elif several:
        words: list[Task] = ["zeroshot", "retrieval"] if "text" in kinds else ["retrieval", "probe", "knn"]
        tasks += words if label and not sets else ["retrieval"]
    elif not tasks:
        tasks += ["probe", "knn"] if label else ["geometry"]
    return tasks


def kind_of(name: str, modalities: Mapping[str, Mapping[str, Any]]) -> str:
    """The kind of a modality in a config: its own, that of the one it is like, or its name."""
    options = modalities[name]
    like = options.get("like")
    if isinstance(like, str) and like in modalities and not modalities[like].get("like"):
        return kind_of(like, modalities)
    return str(options.get("kind", name))


def unfit(
    task: Task,
    objectives: Collection[str],
    modalities: Mapping[str, Mapping[str, Any]],
    *,
    label: bool,
    target: bool,
    windows: bool,
) -> str | None:
    """Why no data could let this config have a task, as far as the config tells; None where they could."""
    kinds = [kind_of(name, modalities) for name in modalities if not modalities[name].get("pair")]
    if (
        task in ("zeroshot", "classification", "forgetting", "multilabel", "probe", "knn", "svm", "recall", "fewshot")
        and not label
    ):
        return "needs data.label, the column with the class"
    if task == "zeroshot" and "text" not in kinds:
        return f"needs a text modality to read the labels; the config has {', '.join(modalities)}"
    if task in ("classification", "forgetting") and (target or not {*CLASS_HEADS} & {*objectives}):
        return f"needs a class head, which {', '.join(CLASS_HEADS)} train, and no data.target"
    if task in ("retrieval", "sts") and len(modalities) < 2:
        return f"needs two modalities, the config has {', '.join(modalities)}"
    if task in ("regression", "sts") and not target:
        return "needs data.target, the column with the numbers"
    if task in ("analogies", "similarity"):
        return f"needs a file: clx eval RUN --{'analogies' if task == 'analogies' else 'matrix'} FILE"
    if task == "forecast" and not windows:
        return "needs data.windows, which cut long series"
    return None
