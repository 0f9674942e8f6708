"""torch's CUDA generator in NumPy: what torch.randn draws from torch.Generator("cuda").manual_seed(seed), in float32.

- Words: Philox4x32-10 (Salmon et al. 2011, doi:10.1145/2063384.2063405), four words of 32 bits from a counter of four
  and a key of two. The key is the seed; the counter is how far the stream has come (two words) and the thread (two).
- Normals: curand's, from each pair of words sqrt(-2 ln u) times the sine, then the cosine, of 2 pi v. The words are
  equal to a GPU's. The normals differ from it in their last digits: curand computes sine and cosine by an instruction
  of the GPU that is right to 2^-21 or so, here they are right to the last bit or two.
- Layout: torch starts one thread for each element, but at most as many as the GPU runs at once, and each of those makes
  four normals at a time. Element e is the work of thread e mod T, which fills e = thread, thread + T, thread + 2T, ...
  Up to T elements, the first normal of every thread is all that is used, and nothing depends on the GPU. Above, T is
  that of an A100, 108 processors with 2048 threads each; 4x128x128 latents are 65,536 elements, T is 221,184.

To repeat it elsewhere: a round needs two products of 32 x 32 bits to 64, their halves, and xor; the keys of the ten
rounds are constants for a seed. ONNX Runtime has all of these for uint64 on the CPU (Mul, BitShift, BitwiseAnd,
BitwiseXor, Cast). Without 64-bit integers, as in JAX by default, the upper half of a product a * b is
    ah bh + (ah bl >> 16) + (al bh >> 16) + ((ah bl & F) + (al bh & F) + (al bl >> 16) >> 16)
with h and l the upper and lower 16 bits and F = 0xFFFF. The angle takes one rounding (fma), as a GPU does; two move it
by at most 2^-22.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from diffrt.float32 import F32, cos_sin, f32, fma, log

U64 = NDArray[np.uint64]

MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
WEYL = 0x9E3779B9, 0xBB67AE85  # added to the key from round to round
LOW, HALF = np.uint64(0xFFFFFFFF), np.uint64(32)
BLOCK = 256  # threads are started in blocks
THREADS = 108 * 2048  # of an A100; 82 * 1536 of an RTX 3090, 128 * 1536 of an RTX 4090, 132 * 2048 of an H100
TURN = f32(2 * math.pi) * f32(2**-32)


def philox(counter: Sequence[U64 | int], key: Sequence[int]) -> tuple[U64, U64, U64, U64]:
    """Four counter words, which broadcast, and two key words -> four words. All below 2^32."""
    a, b, c, d = (np.asarray(word, np.uint64) for word in counter)
    for turn in range(10):
        k, m = (np.uint64((word + turn * weyl) & 0xFFFFFFFF) for word, weyl in zip(key, WEYL, strict=True))
        left, right = a * MULTIPLIERS[0], c * MULTIPLIERS[1]
        a, b, c, d = (right >> HALF) ^ b ^ k, right & LOW, (left >> HALF) ^ d ^ m, left & LOW
    return a, b, c, d


def normals(x: U64, y: U64) -> tuple[F32, F32]:
    """Two unit normals from two words each."""
    u = x.astype(f32) * f32(2**-32) + f32(2**-33)  # 0 < u <= 1, and 0 < theta <= 2 pi
    theta = fma(y.astype(f32), TURN, TURN / 2)
    radius = np.sqrt(f32(-2) * log(u))
    cos, sin = cos_sin(theta)
    return radius * sin, radius * cos


class Philox:
    """The generator at its start, for a seed from -2^63 to 2^64-1. `threads`: how many the GPU runs at once."""

    def __init__(self, seed: int, threads: int = THREADS) -> None:
        self._key = seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF
        self._blocks = threads // BLOCK
        self._drawn = 0

    def randn(self, shape: Sequence[int]) -> F32:
        """[*shape] f32, mean 0 and variance 1."""
        size = math.prod(shape)
        if not size:
            return np.zeros(shape, f32)
        threads = BLOCK * min(self._blocks, math.ceil(size / BLOCK))
        each = math.ceil(size / threads)  # normals that a thread makes, four at a time
        turns = self._drawn + np.arange(math.ceil(each / 4), dtype=np.uint64)[:, None]
        self._drawn += len(turns)
        thread = np.arange(min(size, threads), dtype=np.uint64)
        words = philox((turns & LOW, turns >> HALF, thread, 0), self._key)
        pairs = [normals(*words[:2])] if each <= 2 else [normals(*words[:2]), normals(*words[2:])]
        z = np.stack([each for pair in pairs for each in pair], axis=1)  # [turns, 2 or 4, threads]
        return z.reshape(-1)[:size].reshape(shape)
