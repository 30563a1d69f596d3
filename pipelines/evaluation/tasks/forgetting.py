"""The task `forgetting`: what the class head of each stage of a run says of the classes of all stages."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from clx.pipelines.evaluation.embeddings import Embedded, embed_manifest
from clx.pipelines.evaluation.task_context import Lines, TaskContext, Unfit, need_label, task
from clx.pipelines.measures.bootstrap import Array, Statistic
from clx.pipelines.model.build import Run
from clx.pipelines.model.scoring import head_says
from clx.pipelines.runs.checkpoint import load
from clx.pipelines.runs.stages import stages_before

NEEDS = "needs a run of stages, two or more of which train a class head on classes that none before had"


@task("forgetting")
def forgetting(context: TaskContext) -> Lines:
    """Accuracy of the last head on the classes of each stage, and how far it is below the best of the heads before.

    A row of a class that a head does not know is a wrong answer of it.
    """
    need_label(context)
    run = context.run
    if run.folder is None or not run.config.stages:
        raise Unfit(NEEDS)
    before = [load(place, which, run.device, alone=True) for place, which, _ in stages_before(run.config, run.folder)]
    stages, groups, known = list[Run](), list[set[str]](), set[str]()
    for one in [*before, run]:
        if one.model.predictor is not None and not one.config.data.target and (new := {*one.facts.classes} - known):
            stages.append(one)
            groups.append(new)
            known |= new
    if stages and stages[-1] is not run and run.model.predictor is not None:
        stages.append(run)  # the last stage has old classes alone: all of them may have been forgotten
    if len(stages) < 2 or stages[-1] is not run:
        raise Unfit(NEEDS)
    rows, right = answered(context, stages)
    group = torch.tensor([next((k for k, names in enumerate(groups) if name in names), -1) for name in rows])
    asked = [k for k in range(len(groups)) if (group == k).any()]
    old = [k for k in asked if k < len(stages) - 1]
    if not old:
        raise Unfit("no row is of a class of an earlier stage")
    right, group = right[:, group >= 0], group[group >= 0]
    line = context.figures(len(group), statistic(right, group, asked, len(stages)))
    table = [[round(right[k, group == j].double().mean().item(), 4) for j in asked] for k in range(len(stages))]
    name = "+".join(name for name in context.embedded.z if name in run.model.predict_from)
    return {name: line | {"by_stage": table, "stages": len(stages), "rows": len(group)}}


def answered(context: TaskContext, stages: list[Run]) -> tuple[list[str], Tensor]:
    """The true classes of the rows that every stage's head can look at, and which of them each gets right `[S, n]`."""
    manifest = context.embedded.manifest.take(context.embedded.rows.numpy())
    here = replace(context.embedded, manifest=manifest, rows=torch.arange(len(manifest)))
    parts: list[Embedded] = [
        here if one is context.run else embed_manifest(one, manifest, report=context.report) for one in stages
    ]
    seen = torch.stack([one.model.predictable(part.present) for one, part in zip(stages, parts, strict=True)]).all(0)
    seen &= here.labels >= 0
    names = np.array(here.classes, dtype=object)[here.labels[seen].numpy()]
    right = []
    for one, part in zip(stages, parts, strict=True):
        some = part.take(seen.nonzero()[:, 0])
        said = head_says(one, some.z, some.present).argmax(1).numpy()
        right.append(torch.from_numpy((np.array(one.facts.classes, dtype=object)[said] == names).astype(bool)))
    return names.tolist(), torch.stack(right)


def statistic(right: Tensor, group: Tensor, asked: list[int], stages: int) -> Statistic:
    """The figures of weighted rows."""
    answers, member = right.numpy().astype(np.float64), np.stack([(group == j).numpy() for j in asked])
    old = [k for k, j in enumerate(asked) if j < stages - 1]

    def of(weights: Array) -> dict[str, Array]:
        per = np.stack([(weights * answer) @ member.T for answer in answers], 1)  # [b, S, G]
        counts = (weights @ member.T.astype(np.float64))[:, None]
        with np.errstate(invalid="ignore"):
            shares = per / counts
            found = {"top1": per[:, -1].sum(1) / counts[:, 0].sum(1)}
            found["old_top1"] = per[:, -1, old].sum(1) / counts[:, 0, old].sum(1)
            new = [k for k in range(len(asked)) if k not in old]
            if new:
                found["new_top1"] = per[:, -1, new].sum(1) / counts[:, 0, new].sum(1)
        best, last = shares[:, :-1, old].max(1), shares[:, -1, old]
        return found | {"forgetting": (best - last).mean(1)}

    return of
