"""Which rows of a batch are a rank's."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch.utils.data import Sampler

from clx.pipelines.batches.batch import Key


@dataclass
class Part(Sampler[Key]):
    """Of the rows of each key, those of one rank: a contiguous part, so that all parts together are in order."""

    keys: Sampler[Key] | Sequence[Key]
    rank: int
    size: int

    def __len__(self) -> int:
        return len(self.keys)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Key]:
        for key in self.keys:
            yield key.part(share(len(key.rows), self.rank, self.size))


def share(rows: int, rank: int, size: int) -> slice:
    """Which of the rows of a batch are this rank's: as many as the others have, or one more or less."""
    return slice(rows * rank // size, rows * (rank + 1) // size)
