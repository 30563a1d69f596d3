"""An exported tower as an ONNX graph, and that graph as a function."""

import builtins
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clx.modalities.base import Input
from clx.pipelines.system.errors import BadInput
from clx.pipelines.use.exported import Exported, fitted, fixed_length


class Unfit(Exception):
    """An encoder that cannot be exported."""


def require_onnx() -> None:
    """Raises `BadInput` where the extra `onnx` is not installed."""
    lacking = [name for name in ("onnx", "onnxruntime", "onnxscript") if find_spec(name) is None]
    if lacking:
        raise BadInput(f"--format onnx needs {', '.join(lacking)}: pip install '.[onnx]'")


def to_onnx(module: Exported, inputs: list[Input], path: Path) -> None:
    """Write a graph whose batch, and length where it has one that varies, are free. Raises `Unfit`."""
    from torch.export import Dim

    length = fixed_length(module)
    example = fitted(inputs[1], length)
    free = {0: Dim.DYNAMIC}
    varies = "mask" in example and length is None
    shapes = tuple({**free, 1: Dim.DYNAMIC} if varies else dict(free) for _ in example)
    try:
        with quiet(), counted_by_shape():
            program = torch.onnx.export(
                module,
                tuple(example.values()),
                dynamo=True,
                dynamic_shapes=shapes,
                input_names=list(example),
                output_names=module.outputs,
                verbose=False,
            )
            assert program is not None
            results = program.model.graph.outputs
            for node in program.model.graph:
                for value in node.outputs:  # the exporter names values after operations, one of which is `embedding`
                    if value.name in module.outputs and value not in results:
                        value.name += "_inner"
            program.save(path)
    except Exception as error:  # the exporter fails in as many ways as there are operations
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        reason = " ".join(str(cause).split()) or type(cause).__name__
        raise Unfit(f"torch's exporter cannot trace it: {reason[:300]}") from None


@contextmanager
def counted_by_shape() -> Iterator[None]:
    """The attention of `ft-transformer`, a library's, asks for `len(rows)`, which the exporter takes for a constant;
    within, that is the size of the first axis."""
    library: Any = sys.modules.get("rtdl_revisiting_models")
    if library is not None:
        library.len = lambda rows: rows.shape[0] if isinstance(rows, Tensor) else builtins.len(rows)
    try:
        yield
    finally:
        if library is not None:
            del library.len


def to_int8(path: Path) -> None:
    """Let a graph multiply in 8 bits: weights once, what comes in as it comes. Raises `Unfit`."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    made = path.with_suffix(".int8")
    try:
        with quiet():
            quantize_dynamic(path, made, weight_type=QuantType.QUInt8)  # convolutions know no signed weights
    except Exception as error:  # the library fails in as many ways as there are operations
        raise Unfit(f"onnxruntime cannot make it int8: {' '.join(str(error).split())[:200]}") from None
    made.replace(path)


@contextmanager
def quiet() -> Iterator[None]:
    """Without the exporter's own talk."""
    with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()), torch.no_grad():
        warnings.simplefilter("ignore")
        yield


def session(path: Path) -> Any:
    """An exported graph as a function of a collated input."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        loaded = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions share no base
        raise Unfit(f"onnxruntime cannot load it: {' '.join(str(error).split())[:200]}") from None
    names = [one.name for one in loaded.get_inputs()]

    def call(**value: Tensor) -> tuple[Tensor, ...]:
        try:
            outputs = loaded.run(None, {name: value[name].numpy() for name in names})
        except Exception as error:
            raise Unfit(f"onnxruntime cannot run it: {' '.join(str(error).split())[:200]}") from None
        return tuple(torch.from_numpy(array) for array in outputs)

    return call
