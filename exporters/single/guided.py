"""The denoiser with classifier-free guidance around it: see diffrt/guidance.py."""

import numpy as np
import onnx_ir as ir

from ..nodes import FLOAT, INT64, Nodes, value


def beside_latents(unet: ir.Model, latent: tuple[int, int, int]) -> int:
    """How many channels it takes beside the latents': those of a mask and of a masked picture, or none."""
    shape = unet.graph.inputs[0].shape
    assert shape is not None and isinstance(shape[1], int)
    return shape[1] - latent[0]


def guided(unet: ir.Model, latent: tuple[int, int, int]) -> ir.Model:
    """sample, timestep, encoder_hidden_states -> out_sample, becomes

    x [N,C,h,w] and t [N], embeds [P*N,S,D], scale [], passes [P], repeats [P,1,1,1], halves [P,-1,C,h,w] -> [N,C,h,w]

    With P = 2 the first half of the embeddings is what to guide away from, with P = 1 there is no guidance. The last
    three inputs say P as the nodes take it: they are made once, outside of the loop. A model that takes B channels
    beside the latents' has one input more, beside [P*N,B,h,w].
    """
    graph = unet.graph
    sample, timestep, embeds = graph.inputs
    channels = beside_latents(unet, latent)
    (m,) = graph.outputs
    x, t = value("x", FLOAT, ["batch", *latent]), value("t", FLOAT, ["batch"])
    scale = value("scale", FLOAT, [])
    passes, repeats, halves = value("passes", INT64, [1]), value("repeats", INT64, [4]), value("halves", INT64, [5])
    tiles = [ir.node("Tile", [x, repeats]), ir.node("Tile", [t, passes])]
    whole, times = (tile.outputs[0] for tile in tiles)
    graph.inputs[:] = [x, t, embeds, scale, passes, repeats, halves]
    if channels:
        beside = value("beside", FLOAT, ["all", channels, *latent[1:]])
        tiles.append(ir.node("Concat", [whole, beside], {"axis": 1}))
        whole = tiles[-1].outputs[0]
        graph.inputs.append(beside)
    sample.replace_all_uses_with(whole)
    timestep.replace_all_uses_with(times)
    graph.insert_before(graph[0], tiles)

    do = Nodes(graph).do
    both = do("Reshape", m, halves)
    away, toward = do("Gather", both, np.int64(0)), do("Gather", both, np.int64(-1))
    out = do("Add", away, do("Mul", do("Sub", toward, away), scale))
    out.name, out.type, out.shape = "guided", m.type, ir.Shape(["batch", *latent])
    graph.outputs[:] = [out]
    return unet
