"""SwAV and DINO: one view tells which of the learned prototypes another view belongs to."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Interval, Lt
from torch import Tensor, nn

from clx.losses.base import Embeddings, Tempered, average, register, zero_loss
from clx.losses.directed import Rows, Way, in_turn
from clx.losses.primitives.functional import unit
from clx.losses.queues import Queue


@torch.no_grad()
def balanced(scores: Tensor, epsilon: float, rounds: int = 3) -> Tensor:
    """Codes `[B, K]` that sum to 1 for each row and use all prototypes about alike: Sinkhorn's algorithm in logarithms.

    Args:
        scores: `[B, K]` similarities of rows and prototypes.
        epsilon: the smaller, the nearer to one prototype a row.
        rounds: of prototypes and then rows.

    Reference:
        Caron et al. 2020, arXiv 2006.09882, equation 5. Their code takes exp(scores / epsilon) as it is, which leaves
        the range of float32 where a score is 88 epsilon.
    """
    logits = scores / epsilon
    if logits.is_cpu and logits.numel() and float(logits.abs().amax()) < 30:  # no exponential leaves the range
        codes = logits.exp()
        for _ in range(rounds):
            codes = codes / codes.sum(0)
            codes = codes / codes.sum(1, keepdim=True)
        return codes
    for _ in range(rounds):
        logits = logits - logits.logsumexp(0)
        logits = logits - logits.logsumexp(1, keepdim=True)
    return logits.exp()


def cross_entropy(codes: Tensor, scores: Tensor, temperature: Tensor | float) -> Tensor:
    """Of each row's softmax over prototypes with its code, both `[B, K]`: the mean over rows, `[]`."""
    return -(codes * (scores / temperature).log_softmax(1)).sum(1).mean()


@dataclass(eq=False, kw_only=True)
class WithPrototypes(Tempered):
    """Prototypes `[K, D]`, unit rows wherever they are used, which the loss learns; held still while less than `frozen`
    of the run's steps are done.

    `local` names inputs, small crops say, that learn from all others and from which nobody learns.
    """

    family = "self-distillation"
    cost = "time O(V B K (V + D)), memory O(V B K); K prototypes"

    temperature: Annotated[float, Gt(0)] = 0.1
    prototypes: Annotated[int, Ge(2)] = 3000
    frozen: Annotated[float, Ge(0), Lt(1)] = 0.0
    local: list[str] = field(default_factory=list)
    directions: nn.Parameter = field(init=False, repr=False)  # [K, D]

    def setup(self, names: Sequence[str], dim: int, classes: Sequence[str] = (), rows: int = 0) -> None:
        of = {name.partition("/")[0] for name in names}
        if unknown := set(self.local) - of:
            raise ValueError(f"local names {', '.join(sorted(unknown))}, but the inputs are {', '.join(sorted(of))}")
        if not self.tellers(names):
            raise ValueError("all inputs are local: nobody is left to learn from")
        self.directions = nn.Parameter(torch.randn(self.prototypes, dim) / math.sqrt(dim))

    def tellers(self, names: Iterable[str]) -> list[str]:
        """Of the views of inputs, those that others learn from."""
        return [name for name in names if name.partition("/")[0] not in self.local]

    def ways(self, z: Embeddings, present: dict[str, Tensor] | None) -> tuple[dict[str, Rows], list[tuple[Way, Rows]]]:
        """`in_turn` without the ways to inputs from which nobody learns; each with its rows among those of its end."""
        there, every = in_turn(z, present)
        back = {(way.end, way.start): way.of_start for way in every}
        return there, [(way, back[way.start, way.end]) for way in every if self.tellers([way.end])]

    def told(self, codes: dict[str, Tensor], scores: dict[str, Tensor], ways: list[tuple[Way, Rows]]) -> Tensor:
        """The mean cross-entropy over the ways, of codes and scores `[N, K]` by name."""
        return average(
            [cross_entropy(codes[way.end][rows], scores[way.start][way.of_start], self.tau) for way, rows in ways]
        )

    def at(self, progress: float) -> Tensor:
        """The prototypes, without their gradient while they are held still."""
        return self.directions.detach() if progress < self.frozen else self.directions

    def scores(self, rows: Sequence[Tensor], directions: Tensor) -> list[Tensor]:
        """Cosines `[B, K]` of each of some `[B, W]` with prototypes `[K, D]`, of which the first W columns count."""
        width = rows[0].shape[1]
        columns = unit(directions if width == directions.shape[1] else directions[:, :width]).T
        return [unit(each) @ columns for each in rows]

    def of_names(self, z: Embeddings, there: dict[str, Rows], directions: Tensor) -> dict[str, Tensor]:
        """`scores` of the rows that are there, by name."""
        return dict(zip(z, self.scores([x[there[name]] for name, x in z.items()], directions), strict=True))


@register("swav")
@dataclass(eq=False, kw_only=True)
class SwAV(WithPrototypes):
    """Each view tells the code of each other view, where codes are shared out over prototypes evenly.

    With fewer rows than prototypes codes cannot use all of these: take `prototypes` below the batch, or a `queue` of so
    many earlier rows of each view, which share in the codes from when it is full and `queue_from` of the run's steps
    are done (3,840 rows from the 15th epoch on in the paper, for batches of 256). The paper has its prototypes `frozen`
    in the first epoch.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> loss = SwAV(prototypes=4)
        >>> loss.setup(["image/0", "image/1"], 16)
        >>> views = {"image/0": torch.randn(8, 16), "image/1": torch.randn(8, 16)}
        >>> 0 < loss(views).item() < 12
        True
    """

    paper = "Caron et al. 2020, arXiv 2006.09882"
    formula = "mean over a != b of -mean_i sum_k q_b,ik log softmax_k(u_a,i.c_k / t), q by Sinkhorn over the batch"
    use = "views of one modality whose rows fall into groups; no second model"
    fits = ("one modality",)
    sharpness = "1 / temperature, and 1 / epsilon of the codes"

    epsilon: Annotated[float, Gt(0)] = 0.05
    rounds: Annotated[int, Ge(1)] = 3
    queue: Annotated[int, Ge(0)] = 0
    queue_from: Annotated[float, Ge(0), Lt(1)] = 0.0
    queues: nn.ModuleDict = field(init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.queue_from and not self.queue:
            raise ValueError("queue_from without a queue: say its rows, queue: 4096")
        self.queues = nn.ModuleDict()

    def setup(self, names: Sequence[str], dim: int, classes: Sequence[str] = (), rows: int = 0) -> None:
        super().setup(names, dim, classes, rows)
        if self.queue:
            self.queues = nn.ModuleDict({name: Queue(self.queue, dim) for name in self.tellers(names)})

    def forward(self, z: Embeddings, *, present: dict[str, Tensor] | None = None, progress: float = 1.0) -> Tensor:
        there, ways = self.ways(z, present)
        if not ways:
            return zero_loss(z)
        scores = self.of_names(z, there, self.at(progress))
        codes = {b: self.codes(b, z[b][there[b]].detach(), scores[b].detach(), progress) for b in self.tellers(z)}
        return self.told(codes, scores, ways)

    @torch.no_grad()
    def codes(self, name: str, rows: Tensor, scores: Tensor, progress: float) -> Tensor:
        """Of rows `[N, W]` of a name with these scores, both `[N, K]`, beside the rows of its queue where that is full;
        then the rows are put into it."""
        codes = balanced(scores, self.epsilon, self.rounds)
        if not self.queue:
            return codes
        queue = self.queues[name]
        assert isinstance(queue, Queue)
        if progress >= self.queue_from:
            old, _ = queue.now(rows)
            every = torch.cat([*self.scores([old], self.directions), scores])
            codes = torch.where(queue.full, balanced(every, self.epsilon, self.rounds)[len(old) :], codes)
        if self.training and self.remembers:
            queue.put(unit(rows), torch.zeros_like(rows[:, 0], dtype=torch.long))
        return codes


@register("dino")
@dataclass(eq=False, kw_only=True)
class DINO(WithPrototypes):
    """Each view tells the prototypes of another view's key, by a momentum copy (`train.second`), centred and sharpened.

    The copy's softmax is of scores less their running mean, `center_momentum` a step, which keeps it from one prototype
    for all, with a lower temperature, which keeps it from all alike. The prototypes, in the paper the last layer of the
    head, belong to the loss; the copy's follow by `prototype_momentum`. The paper has 65,536 of them, `frozen` in the
    first epoch; its copy's temperature rises in 30 epochs (`warmup`) from 0.04 (`first_teacher_temperature`) to 0.07;
    and it shows small crops to the student alone: another input like the first, with `crop`, which is `local`.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> loss = DINO(prototypes=4)
        >>> loss.setup(["image/0", "image/1"], 16)
        >>> views = {"image/0": torch.randn(8, 16), "image/1": torch.randn(8, 16)}
        >>> 0 < loss(views, keys=views).item() < 12
        True
        >>> loss.center.shape  # what is taken off the scores of the next batch
        torch.Size([4])
    """

    paper = "Caron et al. 2021, arXiv 2104.14294"
    formula = "mean over a != b of -mean_i sum_k softmax_k((k_b,i.d_k - m_k) / t') log softmax_k(u_a,i.c_k / t)"
    use = "views of one modality, as byol; with train.second: {momentum: 0.996, schedule: cosine}"
    fits = ("one modality",)
    sharpness = "1 / temperature, and 1 / teacher_temperature of the copy"
    ours = "the momentum of the copy's prototypes is a setting of its own"

    prototypes: Annotated[int, Ge(2)] = 4096
    teacher_temperature: Annotated[float, Gt(0)] = 0.04
    first_teacher_temperature: Annotated[float, Gt(0)] | None = None
    warmup: Annotated[float, Ge(0), Lt(1)] = 0.0  # share of the run's steps in which it changes, evenly
    center_momentum: Annotated[float, Interval(ge=0, lt=1)] = 0.9
    prototype_momentum: Annotated[float, Interval(ge=0, lt=1)] = 0.996
    center: Tensor = field(init=False, repr=False)  # [K]
    slow: Tensor = field(init=False, repr=False)  # [K, D], the copy's prototypes

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.first_teacher_temperature is None) != (self.warmup == 0):
            raise ValueError("first_teacher_temperature and warmup go together: from where it changes, and how long")

    def of_teacher(self, progress: float) -> float:
        """The copy's temperature."""
        last, first = self.teacher_temperature, self.first_teacher_temperature
        return last if first is None or progress >= self.warmup else first + (last - first) * progress / self.warmup

    def setup(self, names: Sequence[str], dim: int, classes: Sequence[str] = (), rows: int = 0) -> None:
        super().setup(names, dim, classes, rows)
        self.register_buffer("center", torch.zeros(self.prototypes))
        self.register_buffer("slow", self.directions.detach().clone())

    def forward(
        self,
        z: Embeddings,
        *,
        keys: Embeddings,
        present: dict[str, Tensor] | None = None,
        progress: float = 1.0,
    ) -> Tensor:
        there, ways = self.ways(z, present)
        if not ways:
            return zero_loss(z)
        learns = self.training and self.remembers
        with torch.no_grad():
            if learns:  # before the keys, as the copy's weights have moved
                self.slow.lerp_(self.directions.to(self.slow), 1 - self.prototype_momentum)
            told = self.of_names({name: keys[name] for name in self.tellers(z)}, there, self.slow)
            t = self.of_teacher(progress)
            codes = {name: ((each - self.center) / t).softmax(1) for name, each in told.items()}
            if learns:
                mean = torch.cat(list(told.values())).mean(0)
                self.center.lerp_(mean.to(self.center), 1 - self.center_momentum)
        scores = self.of_names(z, there, self.at(progress))
        return self.told(codes, scores, ways)
