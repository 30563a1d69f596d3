"""Parts of a run that would learn nothing, of which it is warned before it trains."""

from collections.abc import Iterator
from warnings import warn

from clx.losses.base import Loss
from clx.pipelines.config.schema import Config
from clx.pipelines.model.objective import Objective
from clx.pipelines.model.towers import Embedder
from clx.pipelines.system.errors import ClxWarning


def warn_of_idle_parts(config: Config, model: Embedder, objective: Objective) -> None:
    """Warn of terms that reach nothing that learns, which are computed and change nothing, and of towers in no term."""
    reached = {model.tower(name) for name in seen_by(config)}
    for name, tower in ((name, model.tower(name)) for name in config.modalities):
        if tower not in reached and any(p.requires_grad for p in tower.parameters()):
            warn(
                f"modalities.{name} is in no term of the objective: it learns nothing, and is scored all the same; "
                "leave it out, or add it to the inputs of a term",
                ClxWarning,
                stacklevel=2,
            )
    answers = {model.tower(name) for term in config.objective for name in config.inputs_of(term)}
    for name in sorted(config.only_negatives):
        tower = model.tower(name)
        if tower not in answers and any(p.requires_grad for p in tower.parameters()):
            like = (
                ""
                if config.modalities[name].get("kind", name) == "table"
                else "; with `like` of the second input it shares that one's"
            )
            warn(
                f"modalities.{name} is only negatives and has a tower of its own, which learns nothing but to lie far "
                f"from the inputs{like}",
                ClxWarning,
                stacklevel=2,
            )
    for term, loss in zip(config.objective, objective.losses, strict=True):
        assert isinstance(loss, Loss)
        inputs = config.inputs_of(term)
        towers = [model.tower(name) for name in inputs]
        heads = [model.head(objective.heads[loss].name)] if loss in objective.heads and model.heads else []
        texts = [] if term.words is None else [term.words.of]
        heads += [model.prompts_of(name) for name in [*inputs, *texts] if name in model.prompt_of]
        heads += map(model.tower, texts)
        if not any(p.requires_grad for part in [loss, *heads, *towers] for p in part.parameters()):
            warn(
                f"loss {term.name!r} changes nothing: all that it looks at is frozen ({', '.join(inputs)})",
                ClxWarning,
                stacklevel=2,
            )


def seen_by(config: Config) -> set[str]:
    """The modalities that some term looks at, as inputs, as negatives or as the texts of its words."""
    found = {name for term in config.objective for name in [*config.inputs_of(term), *(term.negatives or [])]}
    return found | {term.words.of for term in config.objective if term.words is not None}


def unseen_lines(config: Config, model: Embedder) -> Iterator[str]:
    """A line on each modality that no term looks at, of those whose tower learns from others or not at all."""
    seen = seen_by(config)
    reached = {model.tower(name) for name in seen}
    for name in (name for name in config.modalities if name not in seen):
        tower = model.tower(name)
        if tower in reached or not any(p.requires_grad for p in tower.parameters()):
            yield (
                f"no term looks at modalities.{name}: it is evaluated, and teaches nothing; `inputs` or `negatives` of "
                "a term would name it"
            )
