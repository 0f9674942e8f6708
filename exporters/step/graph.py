"""The step graph: the denoiser, classifier-free guidance and one row of a table (diffrt/tables/table.py).

    slots     f32 [S,B,C,h,w]  the state, x first
    z         f32 [B,C,h,w]    unit noise
    timestep  f32 [N]          the row's time, for each of the N evaluations of the denoiser
    pictures  i64 [N]          of which of the B pictures each of them is
    weights   f32 [B,N]        guidance: a picture's output is the sum of the evaluations, times these
    c_in, p, q, clip  f32 []   the row's numbers; an infinite clip is none
    W         f32 [S,S+3]
    ...                        all else that the denoiser is told, [N,...]
    -> slots_after  f32 [S,B,C,h,w]

CUDA can capture it: there is no control flow, a static graph computes no shapes, and what is guided and what is not are
runs of one graph with another N. Every operator beside the denoiser's takes what is no shape from the device.
"""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import NameFixPass

from diffrt.errors import ExportError
from diffrt.manifest import TensorSpec

from ..nodes import FLOAT, INT64, Nodes, ints, value
from ..row import Do, prediction, weighted

AFTER = "slots_after"


def boundary(told: Sequence[TensorSpec], latent: Sequence[int | str]) -> tuple[list[TensorSpec], TensorSpec]:
    """The inputs and the output of a step graph, around a denoiser that is told these; latent: C,h,w."""
    state = ("slots", "batch", *latent)
    others = [
        TensorSpec(spec.name, spec.dtype, tuple("evaluations" if axis == "batch" else axis for axis in spec.shape))
        for spec in told
        if spec.name != "sample"
    ]
    inputs = [
        TensorSpec("slots", "float32", state),
        TensorSpec("z", "float32", state[1:]),
        TensorSpec("pictures", "int64", ("evaluations",)),
        TensorSpec("weights", "float32", ("batch", "evaluations")),
        *(TensorSpec(name, "float32", ()) for name in ("c_in", "p", "q", "clip")),
        TensorSpec("W", "float32", ("slots", "terms")),
        *others,
    ]
    return inputs, TensorSpec(AFTER, "float32", state)


def step(model: ir.Model) -> ir.Model:
    """The step graph around a denoiser, which is used up. ExportError where `sample` is more than the latents."""
    graph = model.graph
    network = {str(v.name): v for v in graph.inputs}
    (m,) = graph.outputs
    told = {name: _spec(v) for name, v in network.items()}
    _, *latent = _spec(m).shape
    if (given := told["sample"].shape[1]) != latent[0]:
        raise ExportError(
            f"the denoiser takes {given} channels and gives {latent[0]}: a step graph is of one that takes the latents "
            "alone; export with --form components"
        )
    specs, after = boundary(list(told.values()), latent)
    values = {
        spec.name: value(spec.name, FLOAT if spec.dtype == "float32" else INT64, spec.shape) for spec in (*specs, after)
    }
    for name in network.keys() - {"sample"}:
        network[name].replace_all_uses_with(values[name])

    nodes, do, slots = list(graph), Nodes(graph).do, values["slots"]
    graph.outputs.clear()
    graph.remove(nodes)
    now = do("Gather", slots, np.int64(0))
    network["sample"].replace_all_uses_with(do("Gather", do("Mul", now, values["c_in"]), values["pictures"]))
    graph.extend(nodes)
    m.shape, m.type = None, None
    mixed = do("MatMul", values["weights"], do("Reshape", m, ints(0, -1)))
    m = do("Reshape", mixed, _shape(do, now, latent, 0))
    y = prediction(do, now, m, values["p"], values["q"], values["clip"])
    flat = weighted(do, values["W"], slots, y, m, values["z"])
    result = do("Reshape", flat, _shape(do, slots, latent, 0, -1))
    result.name, result.type, result.shape = AFTER, values[AFTER].type, values[AFTER].shape
    graph.inputs[:] = [values[spec.name] for spec in specs]
    graph.outputs[:] = [result]
    NameFixPass()(model)  # the denoiser may have used our names
    return model


def _spec(v: ir.Value) -> TensorSpec:
    assert v.shape is not None
    dtype = "float32" if v.dtype == FLOAT else "int64"
    return TensorSpec(str(v.name), dtype, tuple(axis if isinstance(axis, int) else str(axis.value) for axis in v.shape))


def _shape(do: Do, like: ir.Value, latent: Sequence[int | str], *leading: int) -> ir.Value | np.ndarray:
    """What a Reshape takes to give the shape of `like`: known, but for the leading axes, where the size is fixed."""
    sizes = [axis for axis in latent if isinstance(axis, int)]
    return ints(*leading, *sizes) if len(sizes) == len(latent) else do("Shape", like)
