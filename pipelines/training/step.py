"""One optimiser step: the loss of a batch, its gradients, and an update of all that learns."""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from clx.losses.base import Embeddings, Steps
from clx.pipelines.batches.batch import Batch
from clx.pipelines.batches.columns import mixed_views
from clx.pipelines.batches.decoded import mixed_seed
from clx.pipelines.batches.loader import batches
from clx.pipelines.config.schema import Train
from clx.pipelines.model.build import Run
from clx.pipelines.model.objective import Objective
from clx.pipelines.model.towers import Embedder, modality_of
from clx.pipelines.runs.checkpoint import random_state, restore_random
from clx.pipelines.system.devices import fetched, pick_device, pick_precision
from clx.pipelines.system.errors import BadInput, out_of_memory
from clx.pipelines.system.phases import phase
from clx.pipelines.system.process_group import Group
from clx.pipelines.system.signals import Signals
from clx.pipelines.training import augmenters
from clx.pipelines.training.averaging import averaged
from clx.pipelines.training.buffers import KeptBuffers, buffers_kept, undone_if_raised
from clx.pipelines.training.chunks import Chunks
from clx.pipelines.training.compiling import compile_encoders
from clx.pipelines.training.distributed import Ranks
from clx.pipelines.training.extras import Extras
from clx.pipelines.training.masked import masked_of, masked_states
from clx.pipelines.training.mixing import Mixed, mix
from clx.pipelines.training.originals import decoded_of, originals_of
from clx.pipelines.training.parameter_groups import parameter_groups
from clx.pipelines.training.schedule import Length
from clx.pipelines.training.second import second_of

MOST_OVERFLOWS = 30
"""Steps in a row that a half-precision scaler may spoil while it looks for its scale."""


class Contrast(NamedTuple):
    """What the objective makes of a batch."""

    loss: Tensor
    """`[]`."""
    counts: dict[str, float | Tensor]
    """What each loss counted, by `loss.count`; on a GPU scalars on it."""
    embeddings: dict[str, Tensor]
    """Without gradient, by view name, NaN in rows without the view."""
    batch: Batch
    """Of all ranks."""


class Update(NamedTuple):
    """What a step did."""

    figures: dict[str, Any]
    """For the log: loss, learning rate, gradient norm, counts, temperatures. The first three are numbers; the others
    stay on a GPU until `system.devices.fetched` gets them."""
    embeddings: dict[str, Tensor]
    """As in `Contrast`."""
    rows: Tensor
    """The `sample_id` of all rows that it learned from."""
    outcome: Literal["taken", "overflow", "spoiled"]
    """Whether the weights changed: not after an overflow, by which a half-precision scaler looks for its scale, nor
    after a non-finite loss or gradient, as which too many overflows in a row count."""


class Learner:
    """All that learns in a run, and how it takes a step. `resume.py` saves what is listed under `__init__` as state."""

    def __init__(self, run: Run, settings: Train, steps: int | None, group: Group | None = None) -> None:
        self.settings, self.length = settings, Length(settings, steps)
        self.device = pick_device(settings.device if group is None else group.device(settings.device))
        self.dtype = pick_precision(settings.precision, self.device)
        # state, with the random streams of torch, numpy and random
        self.step = 0
        self.overflows = 0
        """Steps in a row that only the half-precision scaler spoiled."""
        self.model = run.model.to(self.device)
        self.objective = run.objective.to(self.device)
        self.scaler = torch.amp.grad_scaler.GradScaler(self.device.type, enabled=self.dtype == torch.float16)
        self.ema = averaged(self.model, self.objective, settings.ema) if settings.ema else None
        self.second = second_of(run, self.device)
        beside = [] if self.second is None else [self.second.module]
        self.chunks = Chunks(settings, *dict.fromkeys([self.model, self.used[0], *beside]))
        self.ranks = None if group is None else Ranks(group, self.device, run, settings)
        self.sharded = None
        """The towers of which this rank keeps a part, which is what the optimiser has then."""
        if settings.shard and self.ranks is not None:
            self.sharded = self.ranks.shard(self.dtype, *dict.fromkeys([self.model, self.used[0]]))
        groups = parameter_groups(self.model, self.objective, settings.weight_decay, settings.layer_decay)
        self.optimizer = torch.optim.AdamW(
            groups if self.sharded is None else self.sharded.kept(groups),
            lr=settings.lr,
            fused=self.device.type in ("cpu", "cuda") or None,  # small parameters cost a fifth of a step on a CPU else
        )
        if settings.compile:
            compile_encoders(self.model, self.device)
        # what follows from these
        self.both = nn.ModuleDict({"model": self.model, "objective": self.objective})
        self.augmenters = self.model.augmenters()
        views = set(self.augmenters)
        self.learned = [p for group in self.optimizer.param_groups for p in group["params"] if p not in views]
        self.needs, self.decoded, self.mixed = self.objective.needs(), decoded_of(run), mixed_views(run.modalities)
        self.masked = masked_of(run)
        if self.mixed and group is not None:
            raise BadInput(
                f"modalities.{modality_of(next(iter(self.mixed)))}.mix mixes images of a whole batch, of which each of "
                "several processes has a part: train in one process, or without mix"
            )
        self.whole = nn.ModuleList([self.both, *beside])
        """All that a step may change."""
        self.buffers = KeptBuffers(self.whole)
        self.streams = torch.get_rng_state(), list[Tensor]()  # torch's and CUDA's before the newest step
        if self.second is not None and self.second.follows and self.ranks is not None:
            self.ranks.join(self.second.module)

    @property
    def used(self) -> tuple[Embedder, Objective]:
        """Model and objective to evaluate with: the averaged ones when there are any."""
        if self.ema is None:
            return self.model, self.objective
        both = self.ema.module
        return both["model"], both["objective"]  # type: ignore[index]

    def gathered(self) -> AbstractContextManager[None]:
        """All weights on this rank, to look at: those of towers that are split are else on others, too."""
        return nullcontext() if self.sharded is None else self.sharded.whole()

    def hear(self, signals: Signals) -> Signals:
        """What is to be heeded of what this process is asked for: of several, what all of them know."""
        if self.ranks is None:
            return signals
        self.ranks.heard = signals
        return self.ranks.signals

    def batches(self, *given: Any) -> Iterator[Batch]:
        """Batches as `loader.batches` gives them; of several ranks this one's part."""
        return (batches if self.ranks is None else self.ranks.batches)(*given)

    def autocast(self) -> AbstractContextManager[Any]:
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    def contrast(
        self, batch: Batch, model: Embedder, objective: Objective, *place: int, progress: float = 1.0
    ) -> Contrast:
        """The objective of one batch when `progress` of the steps is done; `place` is that of the batch in the run and
        seeds what losses draw."""
        generator = torch.Generator().manual_seed(mixed_seed(self.settings.seed, 4, *place))
        ranks, needs = self.ranks, self.needs
        with self.autocast():
            steps, keys, features = Steps(), Embeddings(), Embeddings()
            inputs = batch.inputs if ranks is None else ranks.inputs(batch, model)
            mixed: Mixed | None = None
            if self.mixed and model.training:
                inputs, mixed = mix(model, inputs, batch.present, self.mixed, self.settings.seed, 9, *place)
            originals = originals_of(self.decoded, inputs, batch)
            z = model(inputs, batch.present, steps if model.inner else None, features if "features" in needs else None)
            if self.masked:
                rank = 0 if ranks is None else ranks.group.rank
                steps |= masked_states(self.masked, model, inputs, batch, rank, self.settings.seed, 11, *place)
            if self.second is not None:
                with phase("second model", whole=True):
                    given = inputs if self.second.follows else batch.inputs
                    keys = self.second(given, batch.present, model.training, steps)
            if ranks is not None:
                with phase("gathering from ranks"):
                    features, originals = ranks.features(features, batch), ranks.rows(originals, batch)
                    both, steps, batch = ranks.gather(z | {f"key {name}": x for name, x in keys.items()}, steps, batch)
                    z, keys = {name: both[name] for name in z}, {name: both[f"key {name}"].detach() for name in keys}
            extras = Extras(batch, model, objective, z, steps, generator, progress, features, keys, originals, mixed)
            with phase("loss"), nullcontext() if ranks is None else ranks.sharing():
                loss, counts = objective(z, extras, progress)
        told = {n: torch.where(batch.present[n][:, None], rows.detach(), torch.nan) for n, rows in z.items()}
        return Contrast(loss, counts, told, batch)

    def update(self, batch: Batch) -> Update:
        """One optimiser step over a batch."""
        rate = self.length.rate(self.step)
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = rate * parameters.get("faster", 1.0)
        self.buffers.keep()
        for remembering in self.objective.remembering():
            remembering.begin_step()
        if self.ranks is not None:
            self.ranks.seed(self.settings.seed, self.step)
        self.streams = torch.get_rng_state(), torch.cuda.get_rng_state_all() if self.device.type == "cuda" else []
        with phase("moving"):
            batch = batch.to(self.device)
        (loss, counts, embeddings, of), relevance = self.gradients(batch)
        with phase("optimiser"):
            # the one time in a step that the host waits for a GPU
            told = fetched({"loss": loss.detach(), **self.clip()})
            value, norm, finite = told["loss"], told["norm"], math.isfinite(told["norm"] + told["of views"])
            outcome = self.apply(finite, math.isfinite(value))
        self.step += 1
        learned = self.objective.learned() | self.model.learned()
        figures = {"loss": value, "lr": rate, "grad_norm": norm, **counts, **relevance, **learned}
        return Update(figures, embeddings, of.sample_id, outcome)

    def gradients(self, batch: Batch) -> tuple[Contrast, dict[str, Tensor]]:
        """Gradients of everything that learns, and what the networks that make views are to lower, by view.

        With `chunk: auto`, where memory runs out, all of it again from the same random state, half as many rows at a
        time; on several ranks on all of them, also where it ran out on one.
        """
        if not self.chunks.automatic:
            return self.backward(batch)
        ranks, rows, bears = self.ranks, len(batch), out_of_memory
        if ranks is None:
            self.chunks.plan(batch)
        else:
            assert batch.counts is not None
            rows, bears = max(batch.counts.rows), ranks.all_know
            if not self.chunks.planned:
                with self.gathered():
                    self.chunks.plan(batch, ranks.beside())
                self.chunks.set(ranks.least(self.chunks.size))
        streams = random_state()
        while True:
            try:
                with undone_if_raised(self.whole):
                    return self.backward(batch)
            except Exception as error:
                if not bears(error) or not self.chunks.halve(rows):
                    raise
            restore_random(streams)  # outside of `except`, which holds on to what the step has made so far
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def backward(self, batch: Batch) -> tuple[Contrast, dict[str, Tensor]]:
        """As `gradients`, once."""
        self.optimizer.zero_grad(set_to_none=True)
        ranks, relevance = self.ranks, dict[str, Tensor]()
        with nullcontext() if ranks is None else ranks.bearing():
            found = self.contrast(batch, self.model, self.objective, self.step, 0, progress=self.length.done(self.step))
            with phase("backward", whole=True):
                self.scaler.scale(found.loss).backward()
                if ranks is not None:
                    ranks.backward()
            if self.augmenters and (self.step + 1) % augmenters.EVERY == 0:
                relevance = self.train_augmenters(batch)
        if ranks is not None:
            with phase("summing over ranks"):
                found = found._replace(loss=ranks.sum_gradients(found.loss.detach()))
        return found, relevance

    def apply(self, finite_gradient: bool, finite_loss: bool) -> Literal["taken", "overflow", "spoiled"]:
        """Change the weights, or, where something is not finite, nothing at all."""
        if finite_gradient and finite_loss:
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.overflows = 0
            if self.ema is not None:
                self.ema.update_parameters(self.both)
            if self.second is not None:
                self.second.follow(self.model, self.length.done(self.step + 1))
            return "taken"
        self.buffers.restore()
        for remembering in self.objective.remembering():
            remembering.take_back()
        self.scaler.update()
        self.overflows += 1
        searching = self.scaler.is_enabled() and finite_loss and self.overflows <= MOST_OVERFLOWS
        return "overflow" if searching else "spoiled"

    def train_augmenters(self, batch: Batch) -> dict[str, Tensor]:
        """Gradients of the networks that make views, and of nothing else; what they are to lower, by view."""
        with buffers_kept(self.model):
            ranks = self.ranks
            with self.autocast():
                if ranks is None:
                    terms = self.model.relevance(batch.inputs)
                else:
                    terms = self.model.relevance(ranks.inputs(batch, self.model), partial(partial, ranks.whole, batch))
            for term in terms.values():
                self.scaler.scale(term).backward(inputs=self.augmenters)
        return {f"{name}.relevance": term.detach() for name, term in terms.items()}

    def clip(self) -> dict[str, Tensor]:
        """Clip gradients; their norms `[]` before, which are finite if all gradients are.

        The networks that make views have a norm of their own: it is of another criterion, no measure for the others.
        """
        self.scaler.unscale_(self.optimizer)
        most = self.settings.clip or math.inf
        parts = {"norm": self.learned, "of views": self.augmenters}
        if self.sharded is None:
            return {name: nn.utils.clip_grad_norm_(each, most) for name, each in parts.items()}
        norms = {name: self.sharded.norm(each) for name, each in parts.items()}
        for name, each in parts.items():
            nn.utils.clip_grads_with_norm_(each, most, norms[name])
        return norms
