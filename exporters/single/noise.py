"""diffrt/philox.py as ONNX nodes: the same bits on every processor, as all of it is integers and sums and products of
float32 and float64. One thing is not: which power of two is below a word is read from its logarithm in float64, with
room to spare, so that it comes out the same by any C library.
"""

import math

import numpy as np
import onnx_ir as ir

from diffrt import float32, philox
from diffrt.float32 import f32

from ..nodes import DOUBLE, FLOAT, INT32, UINT64, Nodes, ints

WORD = np.uint64(0xFFFFFFFF)
# added to log2(u): 2^-k times the float32 below sqrt(1/2) must go down, and that float32 itself up
HALF_TURN = 0.5 + 8e-8


def randn(main: Nodes, draws: ir.Value, seed: ir.Value, shape: tuple[int, int, int]) -> ir.Value:
    """What the generator of each seed draws at its draws: int64 [D] and [N] -> f32 [D,N,*shape]. The first draw is 0,
    and all are of one shape."""
    do, size = main.do, math.prod(shape)
    threads = philox.BLOCK * min(philox.THREADS // philox.BLOCK, math.ceil(size / philox.BLOCK))
    each = math.ceil(size / threads)
    turns = math.ceil(each / 4)
    # [D,1,turns,1], [1,N,1,1] and [threads]
    first = do("Mul", do("Cast", do("Unsqueeze", draws, ints(1, 2, 3)), to=UINT64), np.uint64(turns))
    turn = do("Add", first, np.arange(turns, dtype=np.uint64)[:, None])
    seed = do("Cast", do("Unsqueeze", seed, ints(1, 2)), to=UINT64)
    key = do("BitwiseAnd", seed, WORD), do("BitShift", seed, philox.HALF, direction="RIGHT")
    thread = main.constant(np.arange(min(size, threads), dtype=np.uint64))
    zero = main.constant(np.array(0, np.uint64))
    high = do("BitShift", turn, philox.HALF, direction="RIGHT")
    words = rounds(main, (do("BitwiseAnd", turn, WORD), high, thread, zero), key)
    parts = normals(main, *words[:2])
    if each > 2:
        parts += normals(main, *words[2:])
    if each == 1:
        parts = parts[:1]
    normal = do("Concat", *(do("Unsqueeze", part, ints(3)) for part in parts), axis=3)  # [D,N,turns,2 or 4,threads]
    flat = do("Slice", do("Reshape", normal, ints(0, 0, -1)), ints(0), ints(size), ints(2))
    return do("Reshape", flat, ints(0, 0, *shape))


def rounds(
    main: Nodes, counter: tuple[ir.Value, ir.Value, ir.Value, ir.Value], key: tuple[ir.Value, ir.Value]
) -> tuple[ir.Value, ir.Value, ir.Value, ir.Value]:
    """Philox4x32-10. All below 2^32, and they broadcast."""
    do = main.do
    low, half = (main.constant(np.asarray(number)) for number in (WORD, philox.HALF))
    multipliers = [main.constant(np.asarray(multiplier)) for multiplier in philox.MULTIPLIERS]
    a, b, c, d = counter
    for turn in range(10):
        weyl = [np.uint64(turn * step & 0xFFFFFFFF) for step in philox.WEYL]
        k, m = (do("BitwiseAnd", do("Add", word, step), low) for word, step in zip(key, weyl, strict=True))
        left, right = do("Mul", a, multipliers[0]), do("Mul", c, multipliers[1])
        upper = [do("BitShift", product, half, direction="RIGHT") for product in (right, left)]
        a, c = (
            do("BitwiseXor", do("BitwiseXor", upper[0], b), k),
            do("BitwiseXor", do("BitwiseXor", upper[1], d), m),
        )
        b, d = do("BitwiseAnd", right, low), do("BitwiseAnd", left, low)
    return a, b, c, d


def normals(main: Nodes, x: ir.Value, y: ir.Value) -> list[ir.Value]:
    """Two unit normals, f32, from two words each."""
    do = main.do
    u = do("Add", do("Mul", do("Cast", x, to=FLOAT), f32(2**-32)), f32(2**-33))
    theta = fma(main, do("Cast", y, to=FLOAT), philox.TURN, philox.TURN / 2)
    radius = do("Sqrt", do("Mul", log(main, u), f32(-2)))
    cos, sin = cos_sin(main, theta)
    return [do("Mul", radius, sin), do("Mul", radius, cos)]


def fma(main: Nodes, a: ir.Value, b: ir.Value | f32, c: ir.Value | f32) -> ir.Value:
    """a * b + c, rounded as diffrt.float32.fma rounds. f32"""
    wide = [main.do("Cast", i, to=DOUBLE) if isinstance(i, ir.Value) else np.float64(i) for i in (a, b, c)]
    return main.do("Cast", main.do("Add", main.do("Mul", wide[0], wide[1]), wide[2]), to=FLOAT)


def horner(main: Nodes, coefficients: np.ndarray, x: ir.Value) -> ir.Value:
    y = main.constant(coefficients[0])
    for c in coefficients[1:]:
        y = fma(main, y, x, c)
    return y


def log(main: Nodes, u: ir.Value) -> ir.Value:
    """ln u of 2^-33 <= u <= 1, f32."""
    do = main.do
    log2 = do("Mul", do("Log", do("Cast", u, to=DOUBLE)), np.float64(1 / math.log(2)))
    exponent = do("Floor", do("Add", log2, np.float64(HALF_TURN)))
    lift = do("Cast", do("Neg", exponent), to=UINT64)  # 0 to 33
    power = do("Cast", do("BitShift", np.uint64(1), lift, direction="LEFT"), to=FLOAT)
    x = do("Sub", do("Mul", u, power), f32(1))  # 1 + x in [sqrt(1/2), sqrt(2))
    e = do("Cast", exponent, to=FLOAT)
    z = do("Mul", x, x)
    series = do("Mul", horner(main, float32.LOG_P, x), x)
    y = do("Sub", fma(main, series, z, do("Mul", e, float32.LN2_LOW)), do("Mul", z, f32(0.5)))
    return do("Add", do("Add", x, y), do("Mul", e, float32.LN2_HIGH))


def cos_sin(main: Nodes, theta: ir.Value) -> tuple[ir.Value, ir.Value]:
    """cos and sin of 0 <= theta <= 2 pi, f32."""
    do, (most, more, rest) = main.do, float32.HALF_PI
    eighth = do("Cast", do("Mul", theta, f32(4 / math.pi)), to=INT32)
    quarter = do("Div", do("Add", eighth, np.int32(1)), np.int32(2))
    q = do("Cast", quarter, to=FLOAT)
    nearly = do("Sub", do("Sub", theta, do("Mul", q, most)), do("Mul", q, more))
    x = fma(main, q, -rest, nearly)
    z = do("Mul", x, x)
    cosine = do("Mul", horner(main, float32.COS_P, z), z)
    cosine = do("Add", fma(main, cosine, z, do("Mul", z, f32(-0.5))), f32(1))
    sine = fma(main, do("Mul", horner(main, float32.SIN_P, z), z), x, x)
    odd = bit(main, quarter, 1)
    cos, sin = do("Where", odd, sine, cosine), do("Where", odd, cosine, sine)
    turned = do("Add", quarter, np.int32(1))
    return signed(main, bit(main, turned, 2), cos), signed(main, bit(main, quarter, 2), sin)


def bit(main: Nodes, number: ir.Value, which: int) -> ir.Value:
    return main.do("Equal", main.do("BitwiseAnd", number, np.int32(which)), np.int32(which))


def signed(main: Nodes, negative: ir.Value, x: ir.Value) -> ir.Value:
    return main.do("Where", negative, main.do("Neg", x), x)
