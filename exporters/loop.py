"""The ONNX interpreter of tables (see diffrt/tables/table.py): one Scan whose body runs a model and one row.

The table's arrays are inputs, as diffrt.tables.arrays gives them: any scheduler and number of steps runs through
the one graph. The model's weights are in the body itself: ONNX Runtime packs those for its convolutions, and does not
pack weights that a body takes from around it.

    slots     [S,B,...] f32   x first; the others start at 0
    t, c_in, p, q [E], W [E,S,S+3], clip [] f32
    z         [E,B,...] f32   the unit noise of every row, 0 where it is not noisy
    threshold [2] f32         only of a graph made with threshold=True
    calls     [E] bool        only of a graph made with a spread, log_std [E,2] f32 with "range"
    alpha_after, sigma_after [E], mask [B,1,...], original, noise [B,...] f32   only of a graph made with keep=True:
                              after a row x becomes mask x + (1 - mask) (alpha_after original + sigma_after noise)
    -> slots after all rows

Every row calls the model, also one that does not read its output (a Table's `calls`).
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import NameFixPass

from diffrt.errors import ExportError

from .nodes import BOOL, FLOAT, INT64, Nodes, ints, value
from .row import prediction, weighted


def loop(
    model: ir.Model,
    threshold: bool = False,
    spread: Literal["variance", "range"] | None = None,
    keep: bool = False,
) -> ir.Model:
    """The loop around a model, which is used up. Its inputs are x [B,...] and the time [B], both float32, and any
    others, which become inputs of the loop; its output is m. `threshold`, `spread`: as in the tables to be run; `keep`:
    what a mask does not cover is put back after every row."""
    graph = model.graph
    x, t, *others = graph.inputs
    if x.shape is None or t.shape is None or len(t.shape) != 1 or len(graph.outputs) != 1:
        raise ExportError("a model in a loop takes x and t [B] and gives one output: declare their shapes")
    latents = list(x.shape)
    slots = value("slots", FLOAT, ["slots", *latents])
    columns = {
        "t": value("t", FLOAT, []),
        "c_in": value("c_in", FLOAT, []),
        "p": value("p", FLOAT, []),
        "q": value("q", FLOAT, []),
        "W": value("W", FLOAT, ["slots", "terms"]),
        "z": value("z", FLOAT, latents),
    }
    if spread is not None:
        columns["calls"] = value("calls", BOOL, [])
    if spread == "range":
        columns["log_std"] = value("log_std", FLOAT, [2])
    kept: list[ir.Value] = []
    if keep:
        columns |= {name: value(name, FLOAT, []) for name in ("alpha_after", "sigma_after")}
        shapes = {"mask": [latents[0], 1, *latents[2:]], "original": latents, "noise": latents}
        kept = [value(name, FLOAT, shape) for name, shape in shapes.items()]
    clip = value("clip", FLOAT, [])
    fixed = [clip, value("threshold", FLOAT, [2])] if threshold else [clip]
    body = Body(model, slots, columns)
    body.run(x, t, fixed, spread, kept)

    state = value("slots", FLOAT, ["slots", *latents])
    stacked = [value(name, column.dtype, ["rows", *column.shape]) for name, column in columns.items()]  # type: ignore[misc]
    after = value("slots_after", FLOAT, ["slots", *latents])
    scan = ir.node("Scan", [state, *stacked], {"body": body.graph, "num_scan_inputs": len(stacked)}, outputs=[after])
    result = ir.Graph(
        [state, *stacked, *fixed, *kept, *others],
        [after],
        nodes=[scan],
        opset_imports=graph.opset_imports.copy(),
        name="loop",
    )
    looped = ir.Model(result, ir_version=model.ir_version, functions=list(model.functions.values()))
    NameFixPass()(looped)  # the model may have used our names
    return looped


class Body(Nodes):
    """The body of the Scan: the model's nodes and weights, and one row around them."""

    def __init__(self, model: ir.Model, slots: ir.Value, columns: dict[str, ir.Value]) -> None:
        graph = model.graph
        self.model_output = graph.outputs[0]
        nodes, weights = list(graph), list(graph.initializers.values())
        for part in (graph.inputs, graph.outputs, graph.initializers):
            part.clear()
        graph.remove(nodes)
        self.slots, self.columns = slots, columns
        self.model_nodes = nodes
        super().__init__(ir.Graph([slots, *columns.values()], [], nodes=[], initializers=weights, name="row"))

    def run(
        self, x: ir.Value, t: ir.Value, fixed: Sequence[ir.Value], spread: str | None, kept: Sequence[ir.Value]
    ) -> None:
        """[slots; y; m; z] -> slots."""
        row = self.columns
        now = self.do("Gather", self.slots, np.array(0), axis=0)
        batch = self.do("Shape", now, end=1)
        x.replace_all_uses_with(self.do("Mul", now, row["c_in"]))
        t.replace_all_uses_with(self.do("Expand", row["t"], batch))
        self.graph.extend(self.model_nodes)
        m, z = self.model_output, row["z"]
        if spread is not None:
            m, v = self.do("Split", m, axis=1, num_outputs=2, outputs=2)
            z = self.do("Mul", z, self.do("Where", row["calls"], self.width(v, spread), np.float32(1)))
        y = prediction(self.do, now, m, row["p"], row["q"], fixed[0])
        if len(fixed) > 1:
            y = self.thresholded(y, fixed[1], len(x.shape or ()))
        flat = weighted(self.do, row["W"], self.slots, y, m, z)
        after = self.do("Reshape", flat, self.do("Shape", self.slots))
        if kept:
            after = self.put_back(after, *kept)
        after.name, after.type, after.shape = "slots_next", self.slots.type, self.slots.shape
        self.graph.outputs.append(after)

    def put_back(self, slots: ir.Value, mask: ir.Value, original: ir.Value, noise: ir.Value) -> ir.Value:
        """The slots with the original, as noisy as x now is, where the mask is 0."""
        alpha, sigma = self.columns["alpha_after"], self.columns["sigma_after"]
        known = self.do("Add", self.do("Mul", original, alpha), self.do("Mul", noise, sigma))
        covered = self.do("Mul", mask, self.do("Gather", slots, np.array(0), axis=0))
        x = self.do("Add", self.do("Mul", self.do("Sub", np.float32(1), mask), known), covered)
        others = self.do("Slice", slots, ints(1), ints(np.iinfo(np.int64).max))
        return self.do("Concat", self.do("Unsqueeze", x, ints(0)), others, axis=0)

    def width(self, v: ir.Value, spread: str) -> ir.Value:
        """By how much the network says that z is widened."""
        if spread == "variance":
            return self.do("Sqrt", v)
        low, high = (self.do("Gather", self.columns["log_std"], np.array(i)) for i in (0, 1))
        share = self.do("Div", self.do("Add", v, np.float32(1)), np.float32(2))
        return self.do("Exp", self.do("Add", low, self.do("Mul", share, self.do("Sub", high, low))))

    def thresholded(self, y: ir.Value, threshold: ir.Value, rank: int) -> ir.Value:
        """Dynamic thresholding: the quantile lies between two of the sorted magnitudes of one image."""
        quantile, limit = (self.do("Gather", threshold, np.array(i)) for i in (0, 1))
        magnitudes = self.do("Reshape", self.do("Abs", y), ints(0, -1))
        count = self.do("Shape", magnitudes, start=1)
        ascending, _ = self.do("TopK", magnitudes, count, largest=0, outputs=2)
        last = self.do("Sub", self.do("Squeeze", count, ints(0)), np.array(1))
        position = self.do("Mul", quantile, self.do("Cast", last, to=FLOAT))
        below = self.do("Floor", position)
        lower = self.do("Cast", below, to=INT64)
        upper = self.do("Min", self.do("Add", lower, np.array(1)), last)
        a, b = (self.do("Gather", ascending, index, axis=1) for index in (lower, upper))
        s = self.do("Add", a, self.do("Mul", self.do("Sub", b, a), self.do("Sub", position, below)))
        s = self.do("Min", self.do("Max", s, np.float32(1)), limit)
        s = self.do("Unsqueeze", s, ints(*range(1, rank)))
        return self.do("Div", self.do("Min", self.do("Max", y, self.do("Neg", s)), s), s)
