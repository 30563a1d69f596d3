"""The task `analogies`: whether what leads from a to b leads from c to d."""

import torch
from torch import Tensor

from clx.pipelines.evaluation.named_things import asked_file, read_analogies, vectors_of
from clx.pipelines.evaluation.task_context import Lines, TaskContext, nonempty, task
from clx.pipelines.measures.bootstrap import means


@task("analogies")
def analogies(context: TaskContext) -> Lines:
    """Top-1 and top-5 of the word nearest to b - a + c, among all words of the file that the input knows but these
    three (3CosAdd; Mikolov et al. 2013, arXiv 1301.3781), and how parallel b - a and d - c are."""
    asked = read_analogies(asked_file(context.settings.analogies, "--analogies"))
    names = list(dict.fromkeys(word for line in asked for word in line))
    found: Lines = {}
    for name, (known, rows) in vectors_of(context, names):
        index = {word: k for k, word in enumerate(known)}
        able = [[index[word] for word in line] for line in asked if all(word in index for word in line)]
        counts = {"questions": len(able), "skipped": len(asked) - len(able), "unknown_words": len(names) - len(known)}
        if able:
            hits, parallel = solved(rows.double(), torch.tensor(able))
            figures = means({"top1": hits < 1, "top5": hits < 5, "offset_cosine": parallel})
            found[name] = context.figures(len(able), figures) | counts | {"candidates": len(known)}
    return nonempty(found, "no input knows the words of any analogy")


def solved(rows: Tensor, asked: Tensor) -> tuple[Tensor, Tensor]:
    """For analogies `[Q, 4]` of unit rows `[N, D]`, how many other rows are nearer to b - a + c than d, `[Q]`, of those
    as near half, and the cosine of b - a with d - c, `[Q]`, 0 where a and b, or c and d, are one."""
    a, b, c, d = rows[asked].unbind(1)
    better = []
    for place, target in zip(asked.split(1024), (b - a + c).split(1024), strict=True):
        scores = target @ rows.T
        own = scores.gather(1, place[:, 3:])
        scores.scatter_(1, place[:, :3], -torch.inf)
        tied = ((scores == own).sum(1) - 1).clamp(min=0)
        ahead = (scores > own).sum(1) + tied / 2
        lost = (place[:, 3:] == place[:, :3]).any(1)  # d is a word that is never answered
        better.append(ahead.masked_fill(lost, len(rows)))
    return torch.cat(better), torch.cosine_similarity(b - a, d - c, dim=1)
