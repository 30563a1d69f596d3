"""The task `similarity`: whether near embeddings are of things that people call alike."""

import numpy as np
import torch

from clx.pipelines.evaluation.named_things import Named, asked_file, read_similarities, vectors_of
from clx.pipelines.evaluation.task_context import Lines, TaskContext, nonempty, task
from clx.pipelines.measures.bootstrap import Array
from clx.pipelines.measures.prediction import correlations


@task("similarity")
def similarity(context: TaskContext) -> Lines:
    """Spearman's and Pearson's correlation of cosines with the similarities of a file, of each input and all stacked.

    Intervals draw the things, not their pairs: a pair is as often there as both its things are.
    """
    given = read_similarities(asked_file(context.settings.matrix, "--matrix"))
    names = list(dict.fromkeys(name for pair in given for name in pair))
    by_input = dict(vectors_of(context, names))
    found: Lines = {}
    for name, known in by_input.items():
        _add(context, found, name, [known], given)
    if len(by_input) > 1:
        _add(context, found, "+".join(by_input), [*by_input.values()], given)
    return nonempty(found, "no input knows three of the pairs")


def _add(
    context: TaskContext, found: Lines, name: str, inputs: list[Named], given: dict[tuple[str, str], float]
) -> None:
    """A line of the things that all of `inputs` know, whose cosines are averaged; none of fewer than three pairs."""
    places = [{each: k for k, each in enumerate(known)} for known, _ in inputs]
    pairs = [pair for pair in given if all(each in place for place in places for each in pair)]
    if len(pairs) < 3:
        return
    cosines = torch.zeros(len(pairs), dtype=torch.float64)
    for place, (_, rows) in zip(places, inputs, strict=True):
        x, y = (rows[[place[pair[side]] for pair in pairs]].double() for side in (0, 1))
        cosines += (x * y).sum(1) / len(inputs)
    things = {each: k for k, each in enumerate(dict.fromkeys(each for pair in pairs for each in pair))}
    one, other = (np.array([things[pair[side]] for pair in pairs]) for side in (0, 1))
    correlated = correlations(cosines, torch.tensor([given[pair] for pair in pairs], dtype=torch.float64))

    def by_thing(weights: Array) -> dict[str, Array]:
        step = max(1, 2**22 // len(pairs))
        parts = [
            correlated(part[:, one] * part[:, other]) for part in np.split(weights, range(step, len(weights), step))
        ]
        return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}

    line = context.figures(len(things), by_thing)
    unknown = len({each for pair in given for each in pair} - things.keys())
    found[name] = line | {"pairs": len(pairs), "things": len(things), "unknown_words": unknown}
