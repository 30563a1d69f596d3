"""`train.shard`: towers of which each rank keeps a part, by FSDP2, whole only while they encode and learn.

A tower is gathered before its first view is encoded, kept while views of it follow, and given up for the next one. In
backward towers take their turns the other way round; after its own a tower's gradient is summed over ranks, of which
each keeps its part, and the tower is given up. So a parameter crosses at most once forward and once backward, and its
gradient once, whatever the number of chunks, and no turn depends on the rows that a rank has. What the optimiser and
the average of weights keep is of this rank's part. `state_dict` of a model gathers: all ranks have to ask for it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, Shard

from clx.pipelines.config.schema import Train
from clx.pipelines.model.lora import OURS
from clx.pipelines.model.towers import Embedder, Tower
from clx.pipelines.system.errors import BadInput
from clx.pipelines.system.process_group import Group, of_this_rank


def refuse_shard(settings: Train, group: Group | None) -> None:
    """Raise `BadInput` where `train.shard` is asked for and there is nobody to share a tower with."""
    if settings.shard and group is None:
        raise BadInput(
            "train.shard: true splits towers over several processes, and this is one: --processes N, torchrun or srun "
            "start more; else -s train.shard=false"
        )
    if settings.shard and settings.second is not None:
        raise BadInput("train.shard: true does not go with train.second: leave one of them out")
    if settings.shard and settings.compile:
        raise BadInput("train.shard: true does not go with train.compile: leave one of them out")


class Sharded:
    """The towers of some models, each split over the ranks."""

    def __init__(self, group: Group, device: torch.device, dtype: torch.dtype, *models: Embedder) -> None:
        """Split the towers, whose weights are the same on all ranks now. Raises `BadInput`."""
        if dtype == torch.float16:
            raise BadInput("train.shard: true does not go with train.precision = fp16: use bf16 or fp32")
        self.group, self.mesh = group, init_device_mesh(device.type, (group.size,))
        self.models, self.device = models, device
        self.parts: dict[int, nn.Parameter] = {}
        """By the `id` of a parameter that is split, this rank's rows of it, in the same memory, for the optimiser."""
        self.shapes: dict[int, torch.Size] = {}
        """By the `id` of such a part, the shape of the whole."""
        self.now: Tower | None = None
        """The tower that is whole."""
        for model in models:
            for name in model.towers:
                self._split(name, model.tower(name))
            model.turn = self.turn

    def _split(self, name: str, tower: Tower) -> None:
        if tower.view is not None:
            raise BadInput(f"train.shard: modalities.{name} learns its views, which sharded towers do not: no shard")
        if any(each.rpartition(".")[2] in OURS for each, _ in tower.named_parameters()):
            raise BadInput(f"train.shard: modalities.{name} has lora, whose changes are small as they are: no shard")
        scalars = {p for p in tower.parameters() if not p.ndim}
        if len(scalars) == len(list(tower.parameters())):
            return
        fully_shard(tower, mesh=self.mesh, reshard_after_forward=False, ignored_params=scalars)
        tower.register_load_state_dict_pre_hook(self._taken_apart)  # type: ignore[no-untyped-call]
        tower.register_state_dict_post_hook(partial(self._put_together))  # type: ignore[no-untyped-call]
        for p in tower.parameters():
            if isinstance(p, DTensor):
                part = nn.Parameter(of_this_rank(p.detach()), requires_grad=p.requires_grad)
                self.parts[id(p)], self.shapes[id(part)] = part, p.shape

    def local(self, p: nn.Parameter) -> nn.Parameter:
        """What this rank keeps of a parameter: all of one that is not split."""
        return self.parts.get(id(p), p)

    def kept(self, groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Groups of parameters with what this rank keeps of them."""
        return [{**each, "params": [self.local(p) for p in each["params"]]} for each in groups]

    def turn(self, tower: Tower | None) -> None:
        """Make a tower whole, and no other. All ranks have to call it alike."""
        if tower is self.now:
            return
        if self.now is not None:
            _reshard(self.now)
        self.now = tower
        if isinstance(tower, FSDPModule):
            self.group.calls += 1
            self.group.bytes += sum(p.numel() * p.element_size() for p in self._kept(tower))
            tower.unshard()

    def _kept(self, tower: Tower) -> list[Tensor]:
        return [of_this_rank(p) for p in tower.parameters() if isinstance(p, DTensor)]

    @contextmanager
    def whole(self) -> Iterator[None]:
        """All towers whole at once."""
        self.turn(None)
        towers = [model.tower(name) for model in self.models for name in model.towers]
        for tower in towers:
            if isinstance(tower, FSDPModule):
                tower.unshard()
        try:
            yield
        finally:
            for tower in towers:
                _reshard(tower)

    def sum_gradients(self, tower: Tower) -> None:
        """Give this rank's parts of the tower that is whole the sums of their gradients; the whole ones are dropped.

        One reduce-scatter for each type of number. A parameter that no rank has a gradient of stays without.
        """
        learned = {name: p for name, p in tower.named_parameters() if p.requires_grad}
        gradients = {name: p.grad for name, p in learned.items()}
        for p in learned.values():
            if p.ndim:
                p.grad = None
        self.turn(None)
        split = {name: p for name, p in tower.named_parameters() if isinstance(p, DTensor) and p.requires_grad}
        for kind in dict.fromkeys(p.dtype for p in split.values()):
            some = {name: p for name, p in split.items() if p.dtype == kind}
            self._scatter(some, [gradients.pop(name) for name in some])

    def _scatter(self, split: dict[str, Any], gradients: list[Tensor | None]) -> None:
        """Of whole gradients, of which this rank may lack some, the sums of its rows."""
        size, first = self.group.size, next(iter(split.values())).to_local()
        rows = [-(-p.shape[0] // size) for p in split.values()]  # of a rank; the last ones may have fewer
        widths = [n * p[:1].numel() for n, p in zip(rows, split.values(), strict=True)]
        sent = first.new_zeros(size, sum(widths) + len(split))
        for place, found in zip(sent[:, : sum(widths)].split(widths, 1), gradients, strict=True):
            if found is not None:
                for rank, part in enumerate(found.chunk(size)):
                    place[rank, : part.numel()] = part.flatten()
        absent = [number for number, found in enumerate(gradients) if found is None]
        sent[:, sum(widths) :] = 1
        sent[:, [sum(widths) + number for number in absent]] = 0
        gradients.clear()
        mine = self.group.scattered(sent)
        any_has = mine[sum(widths) :].tolist() if absent else []
        for number, (p, place) in enumerate(zip(split.values(), mine[: sum(widths)].split(widths), strict=True)):
            part = self.parts[id(p)]
            if number not in absent or any_has[number]:
                part.grad = place[: part.numel()].view_as(part)

    def norm(self, parameters: list[nn.Parameter]) -> Tensor:
        """The norm `[]` of the gradients of what the optimiser has, each rank's part counted and all else once."""
        learned = [p for p in parameters if p.grad is not None]
        split, same = list[Tensor](), [torch.zeros((), device=self.device)]
        for p in learned:
            (split if id(p) in self.shapes else same).append(torch.linalg.vector_norm(p.grad).square())
        own = torch.stack([*split, torch.zeros_like(same[0])])
        return (self.group.sum(own.sum()) + torch.stack(same).sum()).sqrt()

    def gathered(self, part: Tensor, shape: torch.Size) -> Tensor:
        """All rows, on the CPU, of what is of the shape of a split parameter; on rank 0, of which others have none."""
        most = -(-shape[0] // self.group.size)
        counts = [max(0, min(most, shape[0] - rank * most)) for rank in range(self.group.size)]
        found = self.group.gathered(part.detach().reshape(len(part), shape[1:].numel()), counts)
        return found.view(shape).cpu() if self.group.rank == 0 else torch.empty(0, dtype=part.dtype)

    def part(self, whole: Tensor) -> Tensor:
        """This rank's rows."""
        parts = whole.chunk(self.group.size)
        return parts[self.group.rank] if self.group.rank < len(parts) else whole[:0]

    def _put_together(self, tower: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
        for name, value in state.items():
            if name.startswith(prefix) and isinstance(value, DTensor):
                state[name] = self.gathered(value.to_local(), value.shape)

    def _taken_apart(self, tower: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
        """Before a tower loads whole weights. Those of another shape are left to be refused."""
        for name, p in tower.named_parameters(remove_duplicate=False):
            value = state.get(prefix + name)
            if isinstance(p, DTensor) and value is not None and value.shape == p.shape:
                local = self.part(value).to(p.dtype).to(p.device)
                state[prefix + name] = DTensor.from_local(
                    local, self.mesh, [Shard(0)], shape=p.shape, stride=p.stride(), run_check=False
                )

    def moments(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """The state of an optimiser as one process would have it, on rank 0."""
        state = optimizer.state_dict()
        shapes = [self.shapes.get(id(p)) for group in optimizer.param_groups for p in group["params"]]
        for number, kept in state["state"].items():
            shape = shapes[number]
            if shape is not None:
                made = {name: self.gathered(value, shape) if value.ndim else value for name, value in kept.items()}
                state["state"][number] = made
        return state

    def moments_of(self, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        """This rank's part of such a state."""
        shapes = [self.shapes.get(id(p)) for group in optimizer.param_groups for p in group["params"]]
        parts = {
            number: {name: self.part(value) if value.ndim and shapes[number] else value for name, value in kept.items()}
            for number, kept in state["state"].items()
        }
        return {**state, "state": parts}


def _reshard(tower: Tower) -> None:
    if isinstance(tower, FSDPModule):
        tower.reshard()
