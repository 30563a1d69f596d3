"""Parts of a run that would learn nothing, of which it is warned before it trains."""

from warnings import warn

from clx.losses.base import Loss
from clx.pipelines.config.schema import Config
from clx.pipelines.model.objective import Objective
from clx.pipelines.model.towers import Embedder
from clx.pipelines.system.errors import ClxWarning


def warn_of_idle_parts(config: Config, model: Embedder, objective: Objective) -> None:
    """Warn of terms that reach nothing that learns, which are computed and change nothing, and of towers in no term."""
    reached = {model.tower(name) for term in config.objective for name in config.inputs_of(term)}
    reached |= {model.tower(name) for term in config.objective for name in term.negatives or []}
    reached |= {model.tower(term.words.of) for term in config.objective if term.words is not None}
    for name, tower in ((name, model.tower(name)) for name in config.modalities):
        if tower not in reached and any(p.requires_grad for p in tower.parameters()):
            warn(
                f"modalities.{name} is in no term of the objective: it learns nothing, and is scored all the same; "
                "leave it out, or add it to the inputs of a term",
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
