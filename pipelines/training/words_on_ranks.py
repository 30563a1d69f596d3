"""Heads of labels' names on several ranks: each embeds all names, and one gives their gradient."""

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor

from clx.pipelines.model.towers import Embedder
from clx.pipelines.system.errors import BadInput
from clx.pipelines.training.shared_norms import trains_norms


def let_one_learn(model: Embedder, rank: int) -> None:
    """Let rank 0 give the gradient of the names, since every rank has the whole of it. Raises `BadInput` where batch
    norms would count a name once for each rank."""
    for head in model.words():
        if trains_norms(model.tower(head.by)):
            raise BadInput(
                f"modalities.{head.by} reads the names of labels, and has batch norms, which would count each as many "
                f"times as there are processes: -s modalities.{head.by}.head=linear, or train in one process"
            )
        head.silent = rank > 0


def refuse_whole_towers(model: Embedder) -> None:
    """Raise `BadInput` where a tower that is to be split over ranks is needed whole, for learned prompts."""
    for name in model.prompts:
        raise BadInput(
            f"train.shard splits the towers, of which modalities.{name}.prompt needs one whole: leave out train.shard"
        )


def split_names(learning: Embedder, models: Sequence[Embedder], cut: Callable[[str, Tensor], Tensor]) -> None:
    """Let names be read by towers that are split: the gradient of their rows is computed in the turn of the tower.

    Args:
        learning: the model that is trained.
        models: this one, and its average where there is one.
        cut: called with the column of a tower and the rows that it made, gives what stands for these in the loss.
    """
    for model in models:
        for head in model.words():
            head.split = True
    for head in learning.words():
        head.cut = partial(cut, head.by)
