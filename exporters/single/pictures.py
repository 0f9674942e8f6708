"""What image-to-image and inpainting add to the graph: the stories of diffrt/tasks, for pictures of the graph's size.

A seed's draws are those of the run time, in its order: the posterior of the picture, the initial noise, the posterior
of what the mask leaves of the picture, and then the noise of rows. A picture that only the beginning is made of is not
encoded again in later segments.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ..nodes import DOUBLE, FLOAT, INT64, UINT8, ints
from .assembly import Assembly
from .rows import LAST, Opening, Run
from .source import Source


@dataclass(frozen=True, eq=False)
class Given:
    image: ir.Value  # f32 [N,3,H,W] in [-1,1]
    mask: ir.Value | None  # f32 [N,1,H,W], 1 where to paint anew
    strength: ir.Value  # f64 []


@dataclass(frozen=True, eq=False)
class Start:
    x: ir.Value  # f32 [N,C,h,w]
    beside: ir.Value | None = None  # f32 [N,1+C,h,w] for a model that is told of the mask and the rest
    keep: tuple[ir.Value, ...] = ()  # mask f32 [N,1,h,w], original and noise [N,C,h,w], where that is put back


def inputs(main: Assembly, source: Source, batch: ir.Value) -> Given:
    """As diffrt/pictures.py makes numbers of bytes, one picture for all or one each."""
    do, (height, width) = main.do, source.pixels
    image = main.input("image", UINT8, ["pictures", height, width, 3])
    image = main.for_each(image, batch, [height, width, 3], "image must have one picture, or as many as input_ids")
    unit = do("Div", do("Cast", image, to=FLOAT), np.float32(255))
    image = do("Transpose", do("Sub", do("Mul", unit, np.float32(2)), np.float32(1)), perm=[0, 3, 1, 2])
    mask = None
    if source.task == "inpaint":
        mask = main.input("mask", UINT8, ["masks", height, width])
        mask = main.for_each(mask, batch, [height, width], "mask must have one picture, or as many as input_ids")
        covered = do("GreaterOrEqual", do("Div", do("Cast", mask, to=FLOAT), np.float32(255)), np.float32(0.5))
        mask = do("Unsqueeze", do("Cast", covered, to=FLOAT), ints(1))
    return Given(image, mask, main.input("strength", DOUBLE, []))


def opening(main: Assembly, source: Source, partial: ir.Value) -> Opening:
    """The draws of the picture, of the initial noise and, where the model is told of it, of the rest of the picture. A
    model that is not told of the rest draws for it all the same; one that is draws for the picture only where the run
    begins with it."""
    if source.beside:
        encoded = main.do("Unsqueeze", main.do("Cast", partial, to=INT64), ints(0))
        rest = main.do("Add", encoded, ints(1))
        return Opening((ints(0), encoded, rest), main.do("Add", encoded, ints(2)))
    return Opening((ints(0), ints(1)), ints(2) if source.task == "image_to_image" else ints(3))


def begin(
    main: Assembly,
    source: Source,
    given: Given,
    run: Run,
    table: Mapping[str, ir.Value],
    drawn: ir.Value,
    later: ir.Value,
    partial: ir.Value,
) -> Start:
    """What a run begins with. later: bool [], whether it goes on from another segment; partial: bool [], whether steps
    are left out."""
    do, first = main.do, main.do("Gather", run.rows, np.int64(0))
    own, z = (do("Gather", drawn, np.int64(i)) for i in (0, 1))
    alpha, sigma, whole = (do("Gather", table[f"table_{name}"], first) for name in ("alpha", "sigma", "init_sigma"))
    if given.mask is None:
        return Start(noised(main, once(main, source, given.image, own, later), alpha, z, sigma))
    # a whole run begins with noise alone
    alpha, sigma = do("Where", partial, alpha, np.float32(0)), do("Where", partial, sigma, whole)
    ends, every = ints(*[LAST[0]] * 2), ints(source.factor, source.factor)
    small = do("Slice", given.mask, ints(0, 0), ends, ints(2, 3), every)
    if source.beside:
        needed = do("And", partial, do("Not", later))
        original, rest = both(main, source, given, own, do("Gather", drawn, np.int64(2)), needed)
        return Start(noised(main, original, alpha, z, sigma), beside=do("Concat", small, rest, axis=1))
    original = posterior(main, source, given.image, own)
    return Start(noised(main, original, alpha, z, sigma), keep=(small, original, z))


def once(main: Assembly, source: Source, image: ir.Value, z: ir.Value, later: ir.Value) -> ir.Value:
    """The picture's latents; in a later segment anything of their shape."""
    encode, skip = Assembly("encode"), Assembly("skip")
    encode.graph.outputs.append(posterior(encode, source, image, z))
    skip.graph.outputs.append(skip.do("Identity", z))
    return main.do("If", later, then_branch=skip.graph, else_branch=encode.graph)


def both(
    main: Assembly, source: Source, given: Given, own: ir.Value, rests: ir.Value, needed: ir.Value
) -> tuple[ir.Value, ir.Value]:
    """The latents of the picture, or anything of their shape where they are not needed, and those of what the mask does
    not cover. The encoder is there once: they are a batch."""
    do = main.do
    assert given.mask is not None
    rest = do("Mul", given.image, do("Sub", np.float32(1), given.mask))
    count = do("Shape", rest, end=1)
    end = do("Mul", count, do("Add", do("Cast", needed, to=INT64), np.int64(1)))
    pictures, z = (
        do("Slice", do("Concat", *pair, axis=0), ints(0), end, ints(0)) for pair in ((rest, given.image), (rests, own))
    )
    latents = posterior(main, source, pictures, z)
    return do("Slice", latents, do("Neg", count), LAST, ints(0)), do("Slice", latents, ints(0), count, ints(0))


def posterior(into: Assembly, source: Source, pictures: ir.Value, z: ir.Value) -> ir.Value:
    """A draw from what the encoder says: [N,3,H,W] and noise [N,C,h,w] -> [N,C,h,w]."""
    assert source.encoder is not None
    mean, std = into.inline_all(source.encoder, pictures)
    return into.do("Add", mean, into.do("Mul", std, z))


def noised(main: Assembly, image: ir.Value, alpha: ir.Value, z: ir.Value, sigma: ir.Value) -> ir.Value:
    return main.do("Add", main.do("Mul", image, alpha), main.do("Mul", z, sigma))


def levels_after(main: Assembly, run: Run, table: Mapping[str, ir.Value]) -> list[ir.Value]:
    """alpha and sigma of x once each row is done, f32 [E]: those of the next row, and no noise after the last."""
    do, ends = main.do, {"table_alpha": 1, "table_sigma": 0}
    columns = (do("Concat", table[name], np.array([end], np.float32), axis=0) for name, end in ends.items())
    return [do("Gather", column, run.following) for column in columns]
