"""Batches of rows that the model finds alike: its embeddings of the training rows, looked at anew every so often."""

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from clx.pipelines.batches.dataset import BatchDataset
from clx.pipelines.batches.loader import batches, once
from clx.pipelines.batches.nearby import Near
from clx.pipelines.batches.passes import Passes, Rows
from clx.pipelines.model.build import Run
from clx.pipelines.runs.checkpoint import random_state, restore_random
from clx.pipelines.system.errors import BadInput
from clx.pipelines.system.phases import phase
from clx.pipelines.training.step import Learner

ROWS = 256
"""Rows that are embedded, or compared with all, at a time: the same on any number of ranks, and so their embeddings."""


class Renewing:
    """What `train.batches.then: similar` does between steps. Its state is which rows the steps of a period have."""

    def __init__(self, run: Run, rule: Near, rows: BatchDataset, learner: Learner) -> None:
        config = run.config
        if config.train.shard:
            raise BadInput(
                "train.batches.then: similar embeds all training rows, and train.shard keeps a part of each tower: "
                "leave one out"
            )
        self.rule, self.rows, self.learner = rule, rows, learner
        names = config.inputs_of(config.objective[0])
        self.asks, self.asked = names[0], names[min(1, len(names) - 1)]
        for name in (self.asks, self.asked):
            if name not in rows.modalities:
                raise BadInput(
                    f"train.batches.then: similar compares the first inputs of the first objective, and {name} is of "
                    "several columns"
                )

    def until(self, step: int, end: int) -> int:
        """The step before which rows are looked at again, at most `end`; those of this step's period are known."""
        turn = step // self.rule.per_pass
        if turn and self.rule.held[0] != turn:
            with phase("looking for similar rows", rare=True):
                self.renew(turn)
        return min(end, (turn + 1) * self.rule.per_pass)

    @torch.no_grad()
    def renew(self, turn: int) -> None:
        """Draw the batches of a period from what the model finds alike now; rank 0's, where there are several."""
        streams, ranks = random_state(), self.learner.ranks
        z, there = self.embedded()
        restore_random(streams)
        if ranks is None or ranks.group.rank == 0:
            found = self.rule.renew(turn, self.neighbours(z, there))
        if ranks is not None:
            shape = (self.rule.per_pass, self.rule.batch_size)
            told = torch.zeros(shape, dtype=torch.int32) if ranks.group.rank else torch.from_numpy(found).contiguous()
            ranks.group.from_first(told)
            self.rule.hold(turn, told.numpy())

    def embedded(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Unit embeddings `[N, D]` of all training rows as they are, without variation, by the two inputs, and which
        rows have these."""
        learner, ranks = self.learner, self.learner.ranks
        plain = copy.copy(self.rows)
        plain.augment, plain.neighbours, plain.drop, plain.on_bad = False, None, {}, "skip"
        place = np.argsort(plain.manifest.rows)
        keys = once(len(plain), ROWS)
        mine = keys if ranks is None else keys[ranks.group.rank :: ranks.group.size]
        names = list(dict.fromkeys([self.asks, self.asked]))
        width = learner.model.embed_dim
        z = {name: torch.zeros(len(plain), width, device=learner.device) for name in names}
        there = {name: torch.zeros(len(plain), device=learner.device) for name in names}
        learner.model.eval()
        for batch in batches(plain, mine, learner.settings.workers):
            moved = batch.to(learner.device)
            with learner.autocast():
                made = learner.model(
                    {name: moved.inputs[name] for name in names if name in moved.inputs},
                    {name: moved.present[name] for name in names},
                )
            at = place[np.searchsorted(plain.manifest.rows, batch.sample_id.numpy(), sorter=place)]
            rows = torch.from_numpy(at).to(learner.device)
            for name in names:
                z[name][rows] = normalize(made[name].float(), dim=1)
                there[name][rows] = moved.present[name].float()
        learner.model.train()
        if ranks is not None:
            for part in (z, there):
                for name in names:  # each row is one rank's, and zero on the others
                    ranks.group.sum(part[name])
        return z, there

    def neighbours(self, z: dict[str, Tensor], there: dict[str, Tensor]) -> Rows:
        """The rows `[N, K]` whose embedding is nearest to each row's, but those that may not meet it; -1 behind the
        last."""
        count, device = len(z[self.asks]), self.learner.device
        few = min(self.rule.reach, count - 1)
        apart = [torch.from_numpy(np.ascontiguousarray(codes)).to(device) for codes in self.rule.apart]
        absent, ids = there[self.asked] == 0, torch.arange(count, device=device)
        found = []
        for rows in ids.split(ROWS):
            near = z[self.asks][rows] @ z[self.asked].T
            never = absent | (ids == rows[:, None]) | (there[self.asks][rows, None] == 0)
            for codes in apart:
                never |= (codes == codes[rows, None]) & (codes >= 0)
            best = near.masked_fill(never, -torch.inf).topk(few, dim=1)
            found.append(torch.where(best.values == -torch.inf, -1, best.indices).int().cpu())
        return torch.cat(found).numpy()

    def state(self) -> dict[str, Any]:
        """The period and its batches, where the model has decided them."""
        turn, held = self.rule.held
        return {} if turn < 1 else {"turn": turn, "batches": torch.from_numpy(np.ascontiguousarray(held))}

    def take(self, state: dict[str, Any], where: str) -> None:
        """Take up what `state` gave. Raises `BadInput`, naming `where` it is from."""
        if not state:
            return
        turn, found = state.get("turn"), state.get("batches")
        if isinstance(turn, int) and isinstance(found, Tensor) and found.dtype == torch.int32:
            rows, count = found.numpy(), len(self.rows)
            if rows.shape == (self.rule.per_pass, self.rule.batch_size) and ((rows >= 0) & (rows < count)).all():
                self.rule.hold(turn, rows)
                return
        raise BadInput(f"{where}/trainer.pt: its batches do not fit this run's rows")


def renewing(run: Run, meetings: Passes | None, rows: BatchDataset, learner: Learner) -> Renewing | None:
    """What has to be done between steps for batches that the model decides; None where it does not."""
    if isinstance(meetings, Near) and meetings.renewed:
        return Renewing(run, meetings, rows, learner)
    return None
