"""The single graph: prompts in, pictures out.

    input_ids            i64 [N,L]   the tokens of a prompt for each picture
    negative_ids         i64 [N,L] or [1,L]
                         or, of a graph with the tokenizer's op, prompt str [N] and negative_prompt str [N] or [1]
    seed                 i64 [N]     as the run time's with rng="philox"
    guidance_scale       f32 []      at most 1: the negative prompt is not evaluated
    num_inference_steps  i64 []      one of those whose tables are in the graph
    -> images            u8  [N,H,W,3]
       latents           f32 [N,C,h,w]
       slots             f32 [S,N,C,h,w]  the sampler's whole state: slots[0] is latents

A graph of another task begins with a picture of its own size; it resizes nothing:

    image                u8  [N,H,W,3] or [1,H,W,3]
    mask                 u8  [N,H,W] or [1,H,W], to inpaint: what is 128 or more is painted anew
    strength             f64 []      the share of the steps that is run, rounded down to whole ones

A run may be made in segments of some evaluations, each of which goes on from the slots that the last one gave. The
pictures of a segment that does not end the run are a preview: a linear map of the clean picture that the model last
saw.

    start                i64 []      the first evaluation, from 0
    count                i64 []      how many, at most
    slots_before         f32 [S,N,C,h,w]  what the last segment gave; not read where start is 0

The sampler's tables are inputs too (diffrt.tables.arrays.single_inputs), and so is the noise:

    noise                f32 [D,N,C,h,w]  in the place of what the seeds give: the initial one, then that of each row
                         that takes any. With a picture, in the order of pictures.py

Only the first five must be given, the picture's, and what is `required` beside them. An unrolled graph draws from text
alone, has one table and runs all of it: it takes no num_inference_steps and no segments, and has no control flow.
"""

from collections.abc import Collection, Mapping

import numpy as np
import onnx_ir as ir

from ..loop import loop
from ..nodes import FLOAT, INT64, STRING, UINT8, ints
from . import pictures
from .assembly import Assembly
from .guided import guided
from .noise import randn
from .rows import Run, chosen, everything, last_steps
from .source import Source
from .tokenizer import DOMAIN, tokenized
from .unrolled import unroll

SEGMENT = ("start", "count", "slots_before")


def assemble(source: Source, required: Collection[str] = (), unrolled: bool = False) -> ir.Model:
    main = Assembly("pipeline")
    c, h, w = source.latent
    do = main.do
    state: list[int | str] = ["slots", "batch", c, h, w]
    nothing = np.zeros((1, 1, c, h, w), np.float32)

    def optional(name: str, dtype: ir.DataType, shape: list[int | str], default: np.ndarray) -> ir.Value:
        return main.input(name, dtype, shape, None if name in required else default)

    if source.op:
        texts = [main.input("prompt", STRING, ["batch"]), main.input("negative_prompt", STRING, ["negatives"])]
        ids, negative_ids = (tokenized(main, text, source.vocabulary) for text in texts)
    else:
        ids = main.input("input_ids", INT64, ["batch", source.vocabulary.tokens])
        negative_ids = main.input("negative_ids", INT64, ["negatives", source.vocabulary.tokens])
    seed = main.input("seed", INT64, ["batch"])
    scale = main.input("guidance_scale", FLOAT, [])
    batch = do("Shape", ids, end=1)
    if not unrolled:
        steps = main.input("num_inference_steps", INT64, [])
    picture = None if source.encoder is None else pictures.inputs(main, source, batch)
    if not unrolled:
        start = optional("start", INT64, [], np.array(0))
        count = optional("count", INT64, [], np.array(np.iinfo(np.int64).max))
        before = optional("slots_before", FLOAT, [*state], nothing)
        later = do("Greater", start, np.int64(0))
    table = {}
    for name, shape in source.table.items():
        shape = [source.evals if unrolled and axis == "rows" else axis for axis in shape]
        if not (unrolled and name == "table_steps"):
            default = source.tables[name]
            table[name] = optional(name, INT64 if default.dtype == np.int64 else FLOAT, shape, default)
    noise = optional("noise", FLOAT, ["draws", *state[1:]], nothing)

    if unrolled:
        run = everything(main, table, source.evals)
    elif picture is None:
        run = chosen(main, table, steps, start, count, source.steps)
    else:
        ran = last_steps(main, table, steps, picture.strength, source.steps)
        partial = do("Less", ran, steps)
        opening = pictures.opening(main, source, partial)
        run = chosen(main, table, steps, start, count, source.steps, ran, opening)
    seed = do("Reshape", seed, batch, name="seed must have one entry for each row of input_ids")
    drawn = draw(main, run, seed, noise, source.latent)
    if picture is None:
        begun = pictures.Start(from_noise(main, run, table, drawn))
    else:
        begun = pictures.begin(main, source, picture, run, table, drawn, later, partial)
    slots = fresh(main, table, begun.x)
    if not unrolled:
        slots = resumed(main, slots, before, later)

    passes = do("Add", do("Cast", do("Greater", scale, np.float32(1)), to=INT64), np.int64(1))  # 2 where it is guided
    passes = do("Unsqueeze", passes, ints(0))
    embeds = main.inline(source.text_encoder, words(main, ids, negative_ids, passes, batch, source.vocabulary.tokens))

    columns = [do("Gather", table[f"table_{name}"], run.rows) for name in ("t", "c_in", "p", "q", "W")]
    z = do("Gather", drawn, run.place)
    columns += [z, *(pictures.levels_after(main, run, table) if begun.keep else ())]
    looped = loop(guided(source.unet, source.latent), keep=bool(begun.keep))
    repeats = do("Concat", passes, ints(1, 1, 1), axis=0)
    halves = do("Concat", passes, ints(-1, c, h, w), axis=0)
    rows = unroll(looped, source.evals) if unrolled else looped
    beside = () if begun.beside is None else (do("Tile", begun.beside, repeats),)
    told = (embeds, scale, passes, repeats, halves, *beside)
    slots = main.inline(rows, slots, *columns, table["table_clip"], *begun.keep, *told)
    latents = do("Gather", slots, np.int64(0))

    decoded = main.inline(source.decoder, latents) if unrolled else finish(main, run, source, slots, latents)
    main.output("images", to_uint8(main, decoded), UINT8, ["batch", *source.pixels, 3])
    main.output("latents", latents, FLOAT, state[1:])
    main.output("slots", slots, FLOAT, state)
    for model in filter(None, (source.text_encoder, looped, source.decoder, source.encoder)):
        main.graph.opset_imports.update(model.graph.opset_imports)
    if source.op:
        main.graph.opset_imports[DOMAIN] = 1
    return ir.Model(main.graph, ir_version=10)


def draw(main: Assembly, run: Run, seed: ir.Value, noise: ir.Value, latent: tuple[int, int, int]) -> ir.Value:
    """f32 [D+M,N,C,h,w] unit noise."""
    do = main.do
    count = do("Shape", noise, end=1)
    given = do("Gather", noise, do("Min", run.draws, do("Sub", count, ints(1))))
    return do("Where", do("Greater", count, ints(1)), given, randn(main, run.draws, seed, latent))


def from_noise(main: Assembly, run: Run, table: Mapping[str, ir.Value], drawn: ir.Value) -> ir.Value:
    """x at the start, [N,C,h,w]."""
    sigma = main.do("Gather", table["table_init_sigma"], main.do("Gather", run.rows, np.int64(0)))
    return main.do("Mul", main.do("Gather", drawn, np.int64(0)), sigma)


def fresh(main: Assembly, table: Mapping[str, ir.Value], x: ir.Value) -> ir.Value:
    """The slots that a run begins with: [S,N,C,h,w]."""
    do, x = main.do, main.do("Unsqueeze", x, ints(0))
    others = do("Sub", do("Shape", table["table_W"], start=1, end=2), ints(1))
    zeros = do("ConstantOfShape", do("Concat", others, do("Shape", x, start=1), axis=0))
    return do("Concat", x, zeros, axis=0)


def resumed(main: Assembly, slots: ir.Value, before: ir.Value, later: ir.Value) -> ir.Value:
    """The slots that were before, in a segment after the first."""
    do = main.do
    flat = [do("Reshape", each, ints(-1)) for each in (slots, before)]
    size, end = do("Shape", flat[0]), ints(np.iinfo(np.int64).max)
    begin, end = do("Where", later, size, ints(0)), do("Where", later, end, size)
    picked = do("Slice", do("Concat", *flat, axis=0), begin, end)
    return do("Reshape", picked, do("Shape", slots), name="slots_before must be the slots that the last segment gave")


def words(
    main: Assembly, ids: ir.Value, negative_ids: ir.Value, passes: ir.Value, batch: ir.Value, tokens: int
) -> ir.Value:
    """The ids to encode: [passes*N,L], the negative ones first where it is guided."""
    do = main.do
    away = main.for_each(negative_ids, batch, [tokens], "negative_ids must have one row, or as many as input_ids")
    unused = do("Mul", do("Sub", ints(2), passes), batch)
    return do("Slice", do("Concat", away, ids, axis=0), unused, ints(np.iinfo(np.int64).max))


def finish(main: Assembly, run: Run, source: Source, slots: ir.Value, latents: ir.Value) -> ir.Value:
    """[N,3,H,W], nominally in [-1,1]: decoded where the run ends, else a preview."""
    decode, preview = Assembly("decode"), Assembly("preview")
    decode.graph.outputs.append(decode.inline(source.decoder, latents))
    known = source.preview or {"matrix": np.zeros((source.latent[0], 3)), "bias": np.zeros(3)}  # else grey
    weight = np.asarray(known["matrix"], np.float32).T[:, :, None, None]
    small = preview.do("Conv", preview.do("Gather", slots, np.int64(-1)), weight, np.asarray(known["bias"], np.float32))
    sizes = preview.constant(ints(*source.pixels))
    large = ir.node("Resize", [small, None, None, sizes], {"mode": "linear", "axes": [2, 3]})
    preview.graph.append(large)
    preview.graph.outputs.append(large.outputs[0])
    return main.do("If", run.ends, then_branch=decode.graph, else_branch=preview.graph)


def to_uint8(main: Assembly, decoded: ir.Value) -> ir.Value:
    """As diffrt.image.to_uint8: [N,3,H,W] -> [N,H,W,3]."""
    do, half = main.do, np.float32(0.5)
    unit = do("Clip", do("Add", do("Mul", decoded, half), half), np.float32(0), np.float32(1))
    return do("Transpose", do("Cast", do("Round", do("Mul", unit, np.float32(255))), to=UINT8), perm=[0, 2, 3, 1])
