"""A torch module on fake tensors -> a clean ONNX graph whose initializers bear the checkpoint's names.

No weight is ever allocated: torch.export runs under FakeTensorMode.
"""

import contextlib
import logging
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping

import onnx_ir as ir
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from diffrt.errors import CheckpointError, ExportError

from .built import built
from .passes import clean
from .spec import Component, Config
from .weights import HARMLESS, Weights

OPSET = 23
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "int8": torch.float32}
# torch operators that must each become exactly one node, or a later fusion would silently not happen
WHOLE_OPS = {
    "aten.scaled_dot_product_attention.default": "Attention",
    "aten.group_norm.default": "GroupNormalization",
    "aten.layer_norm.default": "LayerNormalization",
}


class Called(torch.nn.Module):
    """A module with a component's ``call`` as its forward."""

    def __init__(self, component: Component, module: torch.nn.Module):
        super().__init__()
        self.module = module
        self._call = component.call

    def forward(self, *args):
        return self._call(self.module, *args)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the exporter's notes about itself from the user."""
    loggers = [logging.getLogger(n) for n in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    registry = logging.getLogger("torch.onnx._internal.exporter._registration")
    levels = [(logger, logger.level) for logger in (*loggers, registry)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger, _ in levels:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in levels:
                logger.setLevel(level)


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Modules are born in the dtype: ``.half()`` fails on fake tensors."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def check_fit(component: Component, config: Config, weights: Weights) -> None:
    """Build the module without memory and compare its tensors with the weights: before anything is traced.

    Raises CheckpointError naming the config key or the tensor that does not fit.
    """
    where = f"{component.part}/config.json"
    try:
        with quiet(), torch.device(component.device):
            state = component.build(config).state_dict()
    except CheckpointError as error:
        raise CheckpointError(f"{where}: {error}") from error
    except Exception as error:  # torch's and transformers' constructors raise what they like
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{where} describes no {component.part} that can be built: {reason:.200}") from error
    weights.check({n: tuple(t.shape) for n, t in state.items() if n.rpartition(".")[2] not in HARMLESS})


def trace(component: Component, config: Config, weights: Weights, fixed: Mapping[str, int] | None = None) -> ir.Model:
    """Trace one component, of which check_fit holds; ``fixed`` gives sizes of axes to be made static.

    The result's initializers are still placeholders: see weights.attach. Raises ExportError where the graph is not
    what the declaration says.
    """
    fixed = fixed or {}
    dtype = DTYPES[weights.precision]
    fake = contextlib.nullcontext() if component.real else FakeTensorMode(allow_non_fake_inputs=True)
    with quiet(), fake, default_dtype(dtype):
        module = built(component, config, weights, dtype) if component.real else component.build(config)
        called = Called(component, module).eval()
        example = {n: torch.from_numpy(a) for n, a in component.example({**component.axes, **fixed}).items()}
        shapes = tuple(
            {i: torch.export.Dim.AUTO for i, d in enumerate(spec.shape) if isinstance(d, str) and d not in fixed}
            for spec in component.inputs
        )
        try:
            program = torch.export.export(called, tuple(example.values()), dynamic_shapes=(shapes,), strict=False)
            wanted = Counter(WHOLE_OPS.get(str(node.target), "") for node in read(program.graph))
            exported = torch.onnx.export(
                program, args=(), opset_version=OPSET, dynamo=True, optimize=False, verbose=False
            )
        except Exception as error:  # torch raises what it likes, and wraps the reason
            raise ExportError(f"{component.name} cannot be traced: {reason(error)}") from error
    assert exported is not None
    model = exported.model
    name_boundary(model, component, fixed)
    clean(model)
    found = Counter(node.op_type for node in model.graph)
    for op in WHOLE_OPS.values():
        if found[op] != wanted[op]:
            raise ExportError(f"{component.name}: {wanted[op]} {op} operations became {found[op]} nodes")
    for name, value in list(model.graph.initializers.items()):
        value.name = name.removeprefix("module.")
    return model


def reason(error: BaseException) -> str:
    """What is at the bottom of an error, on one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {' '.join(str(error).split()):.300}"


def read(graph: torch.fx.Graph) -> set[torch.fx.Node]:
    """The nodes that outputs depend on: not those of a last layer where the last but one is asked for."""
    found: set[torch.fx.Node] = set()
    waiting = [node for node in graph.nodes if node.op == "output"]
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting += node.all_input_nodes
    return found


def name_boundary(model: ir.Model, component: Component, fixed: Mapping[str, int]) -> None:
    """Give inputs, outputs and their axes the declared names; an axis that tracing made static is an error."""
    graph = model.graph
    for values, specs in ((graph.inputs, component.inputs), (graph.outputs, component.outputs)):
        if len(values) != len(specs):
            raise ExportError(f"{component.name}: traced {len(values)} values for {[s.name for s in specs]}")
        for value, spec in zip(values, specs, strict=True):
            assert value.shape is not None
            for axis, size in zip(spec.shape, value.shape, strict=True):
                known = str(size if isinstance(size, int) else size.value).isdecimal()  # torch calls a fixed axis "2"
                if values is graph.inputs and isinstance(axis, str) and axis not in fixed and known:
                    raise ExportError(f"{component.name}: tracing fixed axis {axis!r} of {spec.name} at {size}")
            value.name = spec.name


def declare_shapes(model: ir.Model, component: Component, fixed: Mapping[str, int]) -> None:
    """Write the declared axis names on the boundary."""
    for values, specs in ((model.graph.inputs, component.inputs), (model.graph.outputs, component.outputs)):
        for value, spec in zip(values, specs, strict=False):  # a graph that is measured has further outputs
            assert value.shape is not None
            static = [size if isinstance(size, int) else None for size in value.shape]
            value.shape = ir.Shape(
                fixed.get(a, s if s is not None else a) if isinstance(a, str) else a
                for a, s in zip(spec.shape, static, strict=True)
            )
