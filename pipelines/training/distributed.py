"""Training on several ranks: rows are shared out, their embeddings and extras gathered once, gradients summed once.

Every rank then has the whole loss and, of the objective, the whole gradient: of the gathered rows, of which a tower
takes those of its own rows back, and of what the objective and the head learn. The gradients of towers are summed.
"""

import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler

from clx.losses.base import Embeddings, Steps
from clx.losses.primitives.ranks import sharing
from clx.modalities.base import Input
from clx.pipelines.batches.batch import BadRow, Batch, Counts, Key
from clx.pipelines.batches.dataset import BatchDataset
from clx.pipelines.batches.decoded import mixed_seed
from clx.pipelines.batches.loader import batches
from clx.pipelines.config.schema import Train
from clx.pipelines.model.build import Run
from clx.pipelines.model.towers import Embedder, is_further, modality_of
from clx.pipelines.system.errors import BadInput, Failed, out_of_memory
from clx.pipelines.system.process_group import Group, of_this_rank
from clx.pipelines.system.signals import Signals
from clx.pipelines.training.cut import Cut
from clx.pipelines.training.gathered import counted, gather, views_of, whole
from clx.pipelines.training.rank_part import Part
from clx.pipelines.training.shared_norms import share_norms, shared_norms, trains_norms
from clx.pipelines.training.words_on_ranks import let_one_learn, refuse_whole_towers, split_names

if TYPE_CHECKING:
    from clx.pipelines.training.sharding import Sharded


class Short(MemoryError):
    """A rank had no memory for a step, and all ranks know."""


class Ranks:
    """What training does together with the other ranks."""

    def __init__(self, group: Group, device: torch.device, run: Run, settings: Train) -> None:
        self.group, self.device = group, device
        self.model, self.objective = run.model, run.objective
        self.heard, self.signals = Signals(), Signals()
        """What this process has been asked for, and what all ranks know that any has been: at the same batch."""
        self.fewest_pairs: int | None = None
        """From how many on; what `sharing` says when None."""
        self.alone = settings.chunk is not None and settings.chunk_statistics == "chunk"
        self.statistics: list[Tensor] = []
        """Those of batch norms that see a chunk of rows, and so those of a rank: the others take over rank 0's."""
        self.equalise([*self.objective.parameters(), *self.objective.buffers()])
        self.join(self.model)
        let_one_learn(self.model, group.rank)
        self.sharded: Sharded | None = None
        self.automatic = settings.chunk == "auto"
        self.short = False
        """Whether memory ran out on this rank, in a step that goes on so that all ranks hear of it at its end."""
        self.cut = Cut()
        """Between towers and loss, of the present step."""
        self.plain: dict[str, Input] = {}
        """Of views whose encoders have to run on no rows, too, inputs of some rows."""

    def join(self, model: Embedder) -> None:
        """Let a model be one on all ranks: rank 0's weights, and batch norms over the rows of all."""
        self.equalise([*model.parameters(), *model.buffers()])
        for name in model.towers:
            tower = model.tower(name)
            share_norms(tower.head if self.alone else tower, self.group)
        self.statistics += list(model.buffers()) if self.alone else []

    def shard(self, precision: torch.dtype, *models: Embedder) -> "Sharded":
        """Split the towers of some models over the ranks. Raises `BadInput`."""
        from clx.pipelines.training.sharding import Sharded  # FSDP2 takes two seconds to import

        refuse_whole_towers(self.model)
        self.sharded = Sharded(self.group, self.device, precision, *models)
        split_names(self.model, models, lambda by, rows: self.cut.names(by, rows))
        return self.sharded

    def batches(
        self,
        data: BatchDataset,
        keys: Sampler[Key] | Sequence[Key],
        workers: int = 0,
        pin: bool = False,
        report: Callable[[list[BadRow]], None] = lambda bad: None,
    ) -> Iterator[Batch]:
        """This rank's part of each batch, as `loader.batches` gives whole ones, with the counts of all.

        At each batch, one exchange of a few numbers, all ranks hear of what any has been asked for by a signal, of rows
        that it could not use, and of the error that ends its reading.
        """
        bad: list[BadRow] = []
        local = batches(data, Part(keys, self.group.rank, self.group.size), workers, pin, bad.extend, empty=True)
        views = views_of(data)
        while True:
            batch, error = None, None
            try:
                batch = next(local, None)
            except (BadInput, Failed) as found:
                error = found
            state = [error is not None, batch is None, bool(bad), self.heard.stop or 0, self.heard.save]
            self.heard.save = False
            numbers = [0] * (3 + 2 * len(views)) if batch is None else counted(batch, views)
            by_rank = self.group.exchange([*map(int, state), *numbers])
            failed, over, unusable, stop, save = (
                max(column) for column in list(zip(*by_rank, strict=True))[: len(state)]
            )
            if failed or unusable:
                self._tell(error, bad, report)
            if over:
                return
            self.signals.stop, self.signals.save = stop or self.signals.stop, bool(save) or self.signals.save
            counts = Counts.of([found[len(state) :] for found in by_rank], views)
            if sum(counts.rows):
                assert batch is not None
                batch.counts = counts
                yield batch

    def _tell(self, error: BadInput | Failed | None, bad: list[BadRow], report: Callable[[list[BadRow]], None]) -> None:
        """Report the bad rows of all ranks; raise the first error of any."""
        told = self.group.tell((None if error is None else (type(error), str(error)), bad))
        bad.clear()
        if found := [one for _, rows in told for one in rows]:
            report(found)
        for said in (said for said, _ in told if said is not None):
            raise said[0](said[1])

    def inputs(self, batch: Batch, model: Embedder) -> dict[str, Input]:
        """The inputs of this rank's rows; with inputs of no rows, where all ranks have to call a batch norm."""
        counts = batch.counts
        assert counts is not None
        inputs = dict(batch.inputs)
        for view in batch.present:
            here = inputs.get(view)
            if here is not None and counts.several[view] and "of" not in here:
                inputs[view] = {**here, "of": torch.arange(len(next(iter(here.values()))), device=self.device)}
            tower = model.tower(view)
            if here is None and any(counts.present[view]) and (trains_norms(tower) or tower.view is not None):
                if view in self.plain:
                    inputs[view] = {key: value[:0].to(self.device) for key, value in self.plain[view].items()}
                else:
                    kind = next(tower.parameters()).dtype
                    inputs[view] = {"features": torch.zeros(0, tower.width, dtype=kind, device=self.device)}
        return inputs

    def look(self, data: BatchDataset) -> None:
        """Remember some inputs of each view that has to be encoded on every rank, if of no rows."""
        for name in data.modalities:
            tower = self.model.tower(name)
            called = (
                trains_norms(tower.encoder) or "steps" in (self.model.inner or {}).get(name, ()) and trains_norms(tower)
            )
            if not called and tower.view is None:
                continue
            for row in range(len(data)):
                batch = data[Key(0, 0, np.array([row]))]
                found = {view: value for view, value in batch.inputs.items() if modality_of(view) == name}
                if found:
                    self.plain |= found
                    break

    def gather(self, z: Embeddings, steps: Steps, batch: Batch) -> tuple[Embeddings, Steps, Batch]:
        """Those of the rows of all ranks; see `gathered.gather`. With gradients, those of towers are `backward`'s."""
        if torch.is_grad_enabled():
            z, steps = self.cut.of(z, steps)
        elif self.sharded is not None:
            self.sharded.turn(None)
        return gather(self.group, z, steps, batch)

    def features(self, features: Embeddings, batch: Batch) -> Embeddings:
        """Those of the first views of the rows of all ranks, without gradient; one collective for each."""
        return self.rows({name: rows for name, rows in features.items() if not is_further(name)}, batch)

    def rows(self, local: Embeddings, batch: Batch) -> Embeddings:
        """Of numbers of this rank's rows those of all ranks, without gradient; one collective for each name."""
        assert batch.counts is not None
        return {name: self.group.gathered(rows.detach(), batch.counts.rows) for name, rows in local.items()}

    def whole(self, batch: Batch, view: str, *tensors: Tensor) -> list[Tensor]:
        """Of tensors `[N, W]` of this rank's rows that have a view, the rows of all ranks."""
        assert batch.counts is not None
        return whole(self.group, batch.counts.present[view], tensors)

    def least(self, size: int | None) -> int | None:
        """The smallest of the ranks' sizes of a chunk, None of them being the largest."""
        sizes = [size for (size,) in self.group.exchange([size or 0]) if size]
        return min(sizes, default=None)

    def beside(self) -> int:
        """How many of the ranks this machine has, which share its memory."""
        name = socket.gethostname()
        return self.group.tell(name).count(name)

    def first(self, value: float) -> float:
        """Rank 0's, by which all decide: another processor may round otherwise."""
        told = torch.tensor(value, dtype=torch.float64)
        self.group.from_first(told)
        return told.item()

    def sharing(self) -> AbstractContextManager[None]:
        """Let the losses' primitives share their pairs of rows out over the ranks, where these are many."""
        return sharing(fewest=self.fewest_pairs)

    def seed(self, seed: int, step: int) -> None:
        """Dropout, and what else draws from torch's own stream, follows from seed, step and rank."""
        torch.manual_seed(mixed_seed(seed, 8, step, self.group.rank))

    def sum_gradients(self, loss: Tensor) -> Tensor:
        """Give each parameter that is not split the sum of its gradients over ranks; the loss `[]` of rank 0.

        Every rank has the whole gradient of what the objective and the predicting heads learn. Rank 0's is taken, so
        that ranks on different processors stay equal to the last bit. One all-reduce for each type of number. A
        parameter that no rank has a gradient of stays without. Raises `Short` on all ranks where any has borne with it.
        """
        heads = [self.model.head(name) for name in self.model.heads]
        routers = [self.model.prompts_of(name).router for name in self.model.prompts]
        whole = {id(p) for part in (self.objective, *heads, *routers) if part is not None for p in part.parameters()}
        first = self.group.rank == 0
        every = [p for part in (self.model, self.objective) for p in part.parameters() if p.requires_grad]
        learned = [p for p in every if of_this_rank(p) is p]
        for kind in dict.fromkeys(p.dtype for p in learned) or [loss.dtype]:
            some = [p for p in learned if p.dtype == kind]
            ours = [None if id(p) in whole and not first else p.grad for p in some]
            parts = [p.new_zeros(p.numel()) if g is None else g.flatten() for p, g in zip(some, ours, strict=True)]
            there = torch.ones(len(some), dtype=kind, device=self.device)  # whether there is a gradient
            absent = [number for number, p in enumerate(some) if p.grad is None]
            if absent:
                there[absent] = 0
            last = torch.zeros(2, dtype=kind, device=self.device)  # the loss, and how many ranks were short of memory
            if first:
                last[0] = loss
            if self.short:
                last[1] = 1
            flat = self.group.sum(torch.cat([*parts, there, last]))
            any_has = flat[-2 - len(some) :].tolist() if absent else []
            places = flat[: -2 - len(some)].split([p.numel() for p in some])
            for number, (p, place) in enumerate(zip(some, places, strict=True)):
                if p.grad is not None or any_has[number]:
                    p.grad = place.view_as(p)
            loss, short = flat[-2], flat[-1]
        if self.automatic and short > 0:
            raise Short("memory ran out on a rank")
        self.equalise(self.statistics)
        return loss

    @contextmanager
    def bearing(self) -> Iterator[None]:
        """Bear that memory runs out while towers encode, or their gradients are computed, until `sum_gradients`.

        Not of towers whose encoders have batch norms of all ranks, which are called by all or by none.
        """
        towers = [self.model.tower(name) for name in self.model.towers]
        towers = [tower for tower in towers if self.automatic and not shared_norms(tower.encoder)]
        self.short, self.cut = False, Cut()
        for tower in towers:
            tower.short = partial(setattr, self, "short", True)
        try:
            yield
        finally:
            for tower in towers:
                tower.short = None

    def all_know(self, error: BaseException) -> bool:
        """Whether an error is that of all ranks, at the same place: a step of one alone cannot begin again."""
        return isinstance(error, Short)

    def backward(self) -> None:
        """The gradients of the towers, one after the other; of those that are split, summed over ranks."""
        cut = self.cut
        for tower in cut.towers(self.model):
            if self.sharded is not None:
                self.sharded.turn(tower)
            try:
                cut.backward(self.model, tower)
            except Exception as error:
                if tower.short is None or not out_of_memory(error):
                    raise
                self.short = True
            if self.sharded is not None:
                self.sharded.sum_gradients(tower)

    @torch.no_grad()
    def equalise(self, tensors: list[Tensor]) -> None:
        """Give every rank those of rank 0: one broadcast for each type of number."""
        for kind in dict.fromkeys(t.dtype for t in tensors):
            some = [t for t in tensors if t.dtype == kind]
            flat = torch.cat([t.flatten() for t in some])
            self.group.from_first(flat)
            for t, values in zip(some, flat.split([t.numel() for t in some]), strict=True):
                t.copy_(values.view_as(t))
