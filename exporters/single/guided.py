"""The denoiser with classifier-free guidance around it: see diffrt/guidance.py."""

import numpy as np
import onnx_ir as ir

from ..nodes import FLOAT, INT64, Nodes, value


def guided(unet: ir.Model, latent: tuple[int, int, int]) -> ir.Model:
    """sample, timestep, encoder_hidden_states -> out_sample, becomes

    x [N,C,h,w] and t [N], embeds [P*N,S,D], scale [], passes [P], repeats [P,1,1,1], halves [P,-1,C,h,w] -> [N,C,h,w]

    With P = 2 the first half of the embeddings is what to guide away from, with P = 1 there is no guidance. The last
    three inputs say P as the nodes take it: they are made once, outside of the loop.
    """
    graph = unet.graph
    sample, timestep, embeds = graph.inputs
    (m,) = graph.outputs
    x, t = value("x", FLOAT, ["batch", *latent]), value("t", FLOAT, ["batch"])
    scale = value("scale", FLOAT, [])
    passes, repeats, halves = value("passes", INT64, [1]), value("repeats", INT64, [4]), value("halves", INT64, [5])
    tiles = [ir.node("Tile", [x, repeats]), ir.node("Tile", [t, passes])]
    for old, tile in zip((sample, timestep), tiles, strict=True):
        old.replace_all_uses_with(tile.outputs[0])
    graph.insert_before(graph[0], tiles)
    graph.inputs[:] = [x, t, embeds, scale, passes, repeats, halves]

    do = Nodes(graph).do
    both = do("Reshape", m, halves)
    away, toward = do("Gather", both, np.int64(0)), do("Gather", both, np.int64(-1))
    out = do("Add", away, do("Mul", do("Sub", toward, away), scale))
    out.name, out.type, out.shape = "guided", m.type, ir.Shape(["batch", *latent])
    graph.outputs[:] = [out]
    return unet
