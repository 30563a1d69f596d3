"""Which tensor of a step is the first that is not finite: forward by module and loss, then gradients backward."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor, nn

from clx.losses.base import Loss
from clx.pipelines.model.objective import Objective
from clx.pipelines.training.step import Learner

Kind = Literal["input", "weight", "forward", "loss", "gradient"]


@dataclass
class Found:
    """A tensor that is not finite."""

    kind: Kind
    name: str
    """Of the tensor, such as `output of image.encoder.layers.0 (Linear)`."""
    tensor: Tensor

    def told(self) -> dict[str, Any]:
        """As JSON: `kind`, `tensor`, `shape`, how many are `nan` and `inf`, and the `places` along the first axis."""
        value = self.tensor.detach()
        wrong = ~value.isfinite()
        rows = wrong.flatten(1).any(1) if value.dim() > 1 else wrong
        return {
            "kind": self.kind,
            "tensor": self.name,
            "shape": list(value.shape),
            "nan": int(value.isnan().sum()),
            "inf": int(value.isinf().sum()),
            "places": rows.nonzero()[:, 0].tolist() if value.dim() else [],
        }


def spoilt(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and not bool(value.isfinite().all())


def tensors(value: Any) -> Iterator[Tensor]:
    """All that are in what a module is given or gives."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from tensors(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from tensors(each)


@dataclass
class Watch:
    """What was seen in the order in which it was computed."""

    forward: list[Found] = field(default_factory=list)
    """Weights, then what modules and losses are given and give."""
    backward: list[Found] = field(default_factory=list)
    losses: dict[str, float] = field(default_factory=dict)
    """Value of each loss by its name."""
    users: dict[int, str] = field(default_factory=dict)
    """Which module was given a tensor, by its `id`."""
    held: list[Tensor] = field(default_factory=list)
    """So that no `id` is given twice."""
    batch: set[int] = field(default_factory=set)
    """The `id` of each tensor of the batch: some inputs have NaN where nothing was measured, by intent."""

    def first(self) -> Found | None:
        """The first tensor that is not finite; None where all are."""
        return next(iter([*self.forward, *self.backward]), None)

    def before(self, name: str, given: Any) -> None:
        """Hear of what a module is given."""
        for each in tensors(given):
            self.users.setdefault(id(each), name)
            self.held.append(each)
            if id(each) not in self.batch and spoilt(each):
                self.forward.append(Found("forward", f"input of {name}", each))

    def after(self, name: str, kind: Kind, output: Any) -> None:
        """Hear of what a module gives; its gradient is heard of later."""
        for each in tensors(output):
            if spoilt(each):
                self.forward.append(Found(kind, f"loss {name}" if kind == "loss" else f"output of {name}", each))
            if each.requires_grad and kind != "loss":
                self.held.append(each)
                each.register_hook(self.gradient(f"the output of {name}", id(each)))

    def gradient(self, name: str, user: int | None = None) -> Callable[[Tensor], None]:
        """A hook that hears of the gradient by a tensor."""

        def hear(gradient: Tensor) -> None:
            if spoilt(gradient):
                used = self.users.get(user) if user is not None else None
                said = f"gradient by {name}" + (f", which {used} is given" if used else "")
                self.backward.append(Found("gradient", said, gradient))

        return hear


@contextmanager
def watching(learner: Learner) -> Iterator[Watch]:
    """Hear of every module of a learner's model, and every loss, while the block runs."""
    watch, hooks = Watch(), []
    named = {f"{name} ({type(part).__name__})": part for name, part in parts_of(learner.model)}
    for name, part in named.items():
        hooks += [
            part.register_forward_pre_hook(
                lambda _, args, kwargs, name=name: watch.before(name, (args, kwargs)), with_kwargs=True
            ),
            part.register_forward_hook(lambda _, args, output, name=name: watch.after(name, "forward", output)),
        ]
    hooks += [hook for name, loss in losses_of(learner.objective) for hook in watch_loss(watch, name, loss)]
    for name, weight in learner.both.named_parameters():
        if spoilt(weight):
            watch.forward.append(Found("weight", f"weight {plain(name)}", weight))
        if weight.requires_grad:
            hooks.append(weight.register_hook(watch.gradient(f"the weight {plain(name)}")))
    try:
        yield watch
    finally:
        for hook in hooks:
            hook.remove()


def watch_loss(watch: Watch, name: str, loss: nn.Module) -> Iterator[Any]:
    """Hear of a loss, and of its gradient by each of its inputs, apart from those of other losses."""

    def before(_: nn.Module, args: Any, kwargs: Any) -> Any:
        z, *others = args
        own = {view: rows.view_as(rows) for view, rows in z.items()}
        for view, rows in own.items():
            if rows.requires_grad:
                rows.register_hook(watch.gradient(f"the embeddings {view} of loss {name}"))
        return (own, *others), kwargs

    yield loss.register_forward_pre_hook(before, with_kwargs=True)

    def after(_: nn.Module, args: Any, output: Tensor) -> None:
        watch.losses[name] = output.item()
        watch.after(name, "loss", output)

    yield loss.register_forward_hook(after)


def parts_of(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every module below a model, by a name such as `image.encoder.layers.0`."""
    for name, part in model.named_modules():
        if name and not isinstance(part, nn.ModuleDict | nn.ModuleList):
            yield plain(name), part


def losses_of(objective: Objective) -> Iterator[tuple[str, nn.Module]]:
    """Every loss by its name."""
    for term, loss in zip(objective.terms, objective.losses, strict=True):
        assert isinstance(loss, Loss)
        yield term.name, loss


def plain(name: str) -> str:
    """A name of a module or weight as one says it.

    >>> plain("model.towers.image.encoder.stem.weight")
    'image.encoder.stem.weight'
    """
    return name.removeprefix("model.").removeprefix("towers.")
