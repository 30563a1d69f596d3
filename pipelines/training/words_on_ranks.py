"""Heads of labels' names on several ranks: each embeds all names, and one gives their gradient."""

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
    """Raise `BadInput` where a tower that is to be split over ranks is needed whole, to embed the names of labels."""
    for name in model.prompts:
        raise BadInput(
            f"train.shard splits the towers, of which modalities.{name}.prompt needs one whole: leave out train.shard"
        )
    for head in model.words():
        raise BadInput(
            f"train.shard splits the towers, of which words: {head.by} needs one whole: leave out train.shard"
        )
