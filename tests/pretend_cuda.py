"""CUDA on a machine without one: CPU data in tensors that say `cuda`, checked at every operation, in backward too.

Within `pretending()` whatever is made on or moved to `cuda` is a `Pretended`: computed on the CPU, but an operation of
it with a tensor of the CPU raises `Mismatch`, as CUDA would, in forward, in C++'s backward and in that of a custom
`autograd.Function`. Reads for which the host would wait for the device are counted in `Pretence.reads`.

How it knows what CUDA would say:

- Each call from Python passes through `Pretence.__torch_function__` (a function mode), which handles devices, and where
  a plain tensor is among the arguments has the operations inside checked. A plain tensor that turns up where there was
  none among the arguments was born in C++, as zeros for an undefined gradient are: it is taken to be on the device.
- The mode is active in Python's functions of torch, whose own hand-over to modes is switched off, and so in backward,
  which on a CPU runs in the thread that calls it.
- `autograd.Function.apply` is wrapped: gradients that C++ made for `backward` are put on the device of the output, and
  those that it returns must be on that of the input.
"""

import contextlib
import functools
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.overrides import TorchFunctionMode
from torch.utils._mode_utils import no_dispatch
from torch.utils._pytree import tree_map

aten = torch.ops.aten
CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)

INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
"""Their indices may be on the CPU, from which they are copied."""
NO_SCALAR = {"cat", "stack", "mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "dot", "vdot", "linalg_vecdot", "gather"}
NO_SCALAR |= {"scatter", "scatter_add", "scatter_reduce", "index_add", "index_copy", "index_select", "embedding"}
"""Operations that do not take a CPU tensor of no dimension beside those of the device; all others are taken to do so,
as elementwise ones do."""
WAIT = {
    "_local_scalar_dense": "item",
    "nonzero": "nonzero",
    "masked_select": "boolean index",
    "_unique2": "unique",
    "unique_dim": "unique",
    "unique_consecutive": "unique",
    "bincount": "bincount",
    "equal": "equal",
}
"""Operations whose result, or its size, the host waits for."""
FACTORIES = {"tensor", "as_tensor", "scalar_tensor", "from_numpy"}
"""Those that copy from the host's memory, and wait until that is done."""
HAND_OVER = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")
READS_OUT = {"tolist", "numpy", "__array__"}


class Mismatch(RuntimeError):
    """What CUDA would raise: tensors on two devices in one operation."""


class Stream:
    """A queue of work. What another one made may be used after waiting for it."""

    current: "Stream"

    def __init__(self, device: object = None) -> None:
        self.clock = 0
        self.seen: dict[int, int] = {}

    def wait_stream(self, other: "Stream") -> None:
        self.seen[id(other)] = other.clock
        other.clock += 1

    def may_use(self, x: "Pretended") -> bool:
        stream, clock = x.made
        return stream is self or self.seen.get(id(stream), -1) >= clock


@contextlib.contextmanager
def on_stream(stream: Stream) -> Iterator[None]:
    """`torch.cuda.stream`."""
    with mock.patch.object(Stream, "current", stream):
        yield


Stream.current = Stream()


class Pretended(Tensor):
    """A tensor on the CPU that says it is on CUDA."""

    inner: Tensor
    made: tuple["Stream", int]
    """On which stream, and when."""

    @staticmethod
    def __new__(cls, inner: Tensor) -> "Pretended":
        made: Pretended = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device=CPU,
        )
        made.inner = inner
        return made

    def __init__(self, inner: Tensor) -> None:
        stream = Stream.current
        self.made = stream, stream.clock

    device = property(lambda self: CUDA)  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]
    is_cpu = property(lambda self: False)  # type: ignore[assignment]

    def get_device(self) -> int:
        return 0

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Pretended({self.inner})"

    def __deepcopy__(self, memo: dict[int, Any]) -> "Pretended":
        copied = self.detach().clone().requires_grad_(self.requires_grad)
        if isinstance(self, nn.Parameter):
            copied._is_param = True  # type: ignore[attr-defined]
        memo[id(self)] = copied
        return copied  # type: ignore[return-value]

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        pretence = Pretence.active
        name = func._schema.name.removeprefix("aten::").rstrip("_")
        if pretence is not None:
            pretence.check(func, name, args, kwargs)
        if func is aten.mm.dtype:  # CPUs have no products of bfloat16 with results in float32
            return on_cuda(bare(args[0]).to(args[2]) @ bare(args[1]).to(args[2]))
        out = func(*each(bare, args), **each(bare, kwargs))
        if "out" in kwargs:
            return kwargs["out"]
        if out is None:
            return None
        if func._schema.name.endswith("_"):
            if torch.Tag.inplace_view in func.tags:  # the shape that the outside shows changes as well
                with no_dispatch():
                    func(*args, **kwargs)
            return args[0]
        return each(on_cuda, out)


def each(do: Callable[[Any], Any], x: Any) -> Any:
    """`tree_map`, of which most time goes here otherwise: what operations are given and give is hardly ever nested."""
    kind = type(x)
    if kind is tuple or kind is list:
        return kind([each(do, part) for part in x])
    if kind is dict:
        return {key: each(do, part) for key, part in x.items()}
    return tree_map(do, x) if isinstance(x, tuple | list | dict) else do(x)


def leaves(x: Any) -> list[Any]:
    """What is in lists, tuples and dicts."""
    if isinstance(x, tuple | list):
        return [leaf for part in x for leaf in (leaves(part) if isinstance(part, tuple | list | dict) else (part,))]
    return leaves([*x.values()]) if isinstance(x, dict) else [x]


def bare(x: Any) -> Any:
    return x.inner if isinstance(x, Pretended) else x


def on_cuda(x: Any) -> Any:
    return Pretended(x) if isinstance(x, Tensor) and not isinstance(x, Pretended) else x


def is_plain(x: Any) -> bool:
    return isinstance(x, Tensor) and not isinstance(x, Pretended)


class _Up(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return Pretended(x.detach())

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return bare(g)  # type: ignore[no-any-return]


class _Down(Function):
    @staticmethod
    def forward(ctx: Any, x: Pretended) -> Tensor:
        return x.inner.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return on_cuda(g)  # type: ignore[no-any-return]


@functools.cache
def checked(cls: type[Function]) -> type[Function]:
    """The same function, whose backward is given and has to return gradients on the devices that CUDA has them on."""
    if not isinstance(cls.__dict__.get("forward", cls.forward), staticmethod) and "setup_context" in cls.__dict__:
        return cls

    class Checked(cls):  # type: ignore[valid-type, misc]
        @staticmethod
        def forward(ctx: Any, *args: Any, **kwargs: Any) -> Any:
            out = cls.forward(ctx, *args, **kwargs)
            ctx.pretended_in = [isinstance(a, Tensor) and isinstance(a, Pretended) for a in args]
            ctx.pretended_out = [isinstance(o, Pretended) for o in (out if isinstance(out, tuple) else (out,))]
            return out

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            placed = [on_cuda(g) if up else g for g, up in zip(grads, ctx.pretended_out, strict=True)]
            result = cls.backward(ctx, *placed)
            several = result if isinstance(result, tuple | list) else (result,)
            for n, (g, up) in enumerate(zip(several, ctx.pretended_in, strict=False)):
                if isinstance(g, Tensor) and g.dim() and isinstance(g, Pretended) != up:
                    raise Mismatch(f"{cls.__name__}.backward: gradient {n} is on {g.device}, its input is not")
            return result

    Checked.__name__ = cls.__name__
    return Checked


class Here(threading.local):
    """What holds in one thread."""

    strict = False
    """Whether the call from Python in which operations run has a plain tensor among its arguments."""


class Pretence(TorchFunctionMode):
    """The function mode of `pretending`, and what it counts."""

    active: "Pretence | None" = None

    def __init__(self) -> None:
        super().__init__()
        self.reads = Counter[str]()
        """How often the host waited for the device, by what for."""
        self.here = Here()
        self.recorded: list[Stream] = []
        """The streams of all calls of `record_stream`."""

    @property
    def waits(self) -> int:
        """Number of all `reads`."""
        return self.reads.total()

    def check(self, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Raise `Mismatch` where CUDA would; count what the host waits for."""
        flat = leaves((args, kwargs))
        if any(isinstance(t, Pretended) and not Stream.current.may_use(t) for t in flat):
            raise Mismatch(f"{name}: a tensor of another stream, which this one has not waited for")
        if name in WAIT:
            self.reads[WAIT[name]] += 1
        if name == "repeat_interleave" and kwargs.get("output_size") is None:
            self.reads["repeat_interleave"] += 1
        if func in INDEXING:
            self.check_index(name, args)
            return
        if func is aten.copy_.default:  # between devices
            blocking = not (args[2:] and args[2]) and not kwargs.get("non_blocking")
            between = isinstance(args[0], Pretended) != isinstance(args[1], Pretended)
            if self.here.strict and between and blocking and args[1].dim():
                self.reads["copy"] += 1
            return
        if not self.here.strict:
            return
        plain = [t for t in flat if is_plain(t) and (t.dim() or name in NO_SCALAR)]
        if plain:
            raise Mismatch(f"{name}: a tensor on cuda beside one of shape {[*plain[0].shape]} on cpu")
        generator = kwargs.get("generator")
        if generator is not None and generator.device.type != "cuda":
            raise Mismatch(f"{name}: expected a generator on cuda, got one on {generator.device}")

    def check_index(self, name: str, args: tuple[Any, ...]) -> None:
        target, indices = args[0], [t for t in args[1] if t is not None]
        rest = [t for t in args[2:] if isinstance(t, Tensor)]
        fills = rest and rest[0].numel() == 1 and not (args[3:] and args[3])  # CUDA takes `masked_fill` for it
        if not isinstance(target, Pretended) or any(is_plain(t) and t.dim() for t in rest):
            if self.here.strict:
                raise Mismatch(f"{name}: {target.device}, indices {[str(t.device) for t in indices]}")
        elif any(t.dtype in (torch.bool, torch.uint8) for t in indices) and not fills:
            self.reads["boolean index"] += 1
        elif self.here.strict and any(is_plain(t) and t.dim() for t in indices):
            self.reads["index from the host"] += 1

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name, kwargs = getattr(func, "__name__", ""), dict(kwargs or {})
        if name == "to" or name in ("cuda", "cpu"):
            return self.move(name, args, kwargs)
        if name == "__get__" and isinstance(args[0], Pretended):
            return self.attribute(func, args[0])
        if name in READS_OUT and isinstance(args[0], Pretended):
            return self.read_out(name, args[0])
        if name == "pin_memory":
            return args[0]
        asked = kwargs.get("device")
        if asked is not None:
            kwargs["device"] = CPU
        up = asked is not None and torch.device(asked).type == "cuda"
        source = args[0] if args else None
        if name in ("new_tensor", *FACTORIES) and (up or (asked is None and isinstance(source, Pretended))):
            self.reads["copy"] += 1
            if name == "new_tensor":
                up, args = True, (bare(source), *args[1:])
            elif isinstance(source, Pretended):
                self.reads["copy"] -= 1
        if up and isinstance(kwargs.get("generator"), torch.Generator) and kwargs["generator"].device.type != "cuda":
            raise Mismatch(f"{name}: expected a generator on cuda, got one on {kwargs['generator'].device}")
        before, self.here.strict = self.here.strict, any(map(is_plain, leaves((args, kwargs))))
        try:
            out = func(*args, **kwargs)
        finally:
            self.here.strict = before
        if up:
            return each(self.raised, out)
        if asked is not None:
            return each(self.lowered, out)
        return out

    def move(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """`x.to(...)`, `x.cuda()`, `x.cpu()`."""
        x, rest = args[0], list(args[1:])
        want: Any = None if name == "to" else name
        if kwargs.get("device") is not None:
            want = kwargs.pop("device")
        for n, value in enumerate(rest):
            if isinstance(value, torch.device | str):
                want = rest.pop(n)
                break
            if isinstance(value, Tensor):
                want, rest[n] = value.device, value.dtype
                break
        if name != "to":
            kwargs.pop("memory_format", None)
            rest = []
        to = torch.device(want).type if want is not None else x.device.type
        waits = not kwargs.get("non_blocking") and not (rest and isinstance(rest[0], bool) and rest[0])
        if to != x.device.type and waits:
            self.reads["copy"] += 1
        x = self.raised(x) if to == "cuda" else self.lowered(x)
        rest = [value for value in rest if not isinstance(value, bool)]
        return x.to(*rest, **kwargs) if rest or kwargs.get("dtype") or kwargs.get("copy") else x

    def raised(self, x: Any) -> Any:
        """`x` on the device, with its gradient."""
        if not is_plain(x):
            return x
        return _Up.apply(x) if x.requires_grad and torch.is_grad_enabled() else Pretended(x.detach())

    def lowered(self, x: Any) -> Any:
        if not isinstance(x, Pretended):
            return x
        return _Down.apply(x) if x.requires_grad and torch.is_grad_enabled() else x.inner.clone()

    def attribute(self, func: Any, x: Pretended) -> Any:
        value = func(x)
        if is_plain(value):  # a gradient that C++ made
            value = Pretended(value)
            if getattr(func, "__self__", None) is Tensor.grad:
                x.grad = value
        return value

    def read_out(self, name: str, x: Pretended) -> Any:
        if name == "tolist":
            self.reads["tolist"] += 1
            return x.inner.tolist()
        raise TypeError(f"{name} of a tensor on cuda: copy it to the host first")


def _with(mode: Pretence, run: Callable[..., None]) -> Callable[..., None]:
    """Threads in the mode of the one that starts them."""

    def within(self: threading.Thread) -> None:
        with mode:
            run(self)

    return within


def _tied(to: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """`Module.to`, after which places that held the same parameter do so again."""

    def moved(self: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
        places: dict[int, list[tuple[nn.Module, str]]] = {}
        for module in self.modules():
            for name, parameter in module._parameters.items():
                places.setdefault(id(parameter), []).append((module, name))
        to(self, *args, **kwargs)
        for (module, name), *others in places.values():
            for other, its_name in others:
                other._parameters[its_name] = module._parameters[name]
        return self

    return moved


def _nothing_overrides(*_: object) -> bool:
    return False


@contextlib.contextmanager
def pretending() -> Iterator[Pretence]:
    """A machine with one CUDA device, until the end of the block."""
    mode, apply = Pretence(), Function.apply.__func__  # type: ignore[attr-defined]

    def checked_apply(cls: type[Function], *args: Any, **kwargs: Any) -> Any:
        return apply(cls if cls in (_Up, _Down) else checked(cls), *args, **kwargs)

    with contextlib.ExitStack() as stack:
        for module in [m for n, m in list(sys.modules.items()) if n.partition(".")[0] == "torch" and m is not None]:
            for name in HAND_OVER:
                if name in vars(module) and module not in (torch.overrides, torch._C):
                    stack.enter_context(mock.patch.object(module, name, _nothing_overrides))
        there: dict[str, Callable[..., Any]] = {
            "is_available": lambda: True,
            "device_count": lambda: 1,
            "is_bf16_supported": lambda *_, **__: True,
            "is_current_stream_capturing": lambda: False,
            "Stream": Stream,
            "stream": on_stream,
            "current_stream": lambda device=None: Stream.current,
            "get_rng_state_all": list,
            "set_rng_state_all": lambda states: None,
        }
        for name, answer in there.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, answer))
        stack.enter_context(mock.patch.object(torch.backends.cudnn, "is_acceptable", _nothing_overrides))
        stack.enter_context(mock.patch.object(Tensor, "record_stream", lambda _, stream: mode.recorded.append(stream)))
        grouped = torch._C._group_tensors_by_device_and_dtype

        def by_device(tensors: list[list[Tensor | None]], *rest: bool) -> Any:
            """As torch does for its optimisers and norms, but by the device that the tensors say."""
            found = grouped(tensors, *rest).items()
            return {(held[0][0][0].device, dtype): held for (_, dtype), held in found}

        stack.enter_context(mock.patch.object(torch._C, "_group_tensors_by_device_and_dtype", by_device))
        # a parameter that is moved becomes a new object: one made on the CPU cannot turn into another class
        overwrite = torch.__future__.get_overwrite_module_params_on_conversion()
        stack.callback(torch.__future__.set_overwrite_module_params_on_conversion, overwrite)
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        stack.enter_context(mock.patch.object(nn.Module, "to", _tied(nn.Module.to)))
        stack.enter_context(mock.patch.object(Function, "apply", classmethod(checked_apply)))
        stack.enter_context(mock.patch.object(Pretence, "active", mode))
        stack.enter_context(mock.patch.object(threading.Thread, "run", _with(mode, threading.Thread.run)))
        stack.enter_context(mode)
        yield mode
