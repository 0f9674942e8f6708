"""Seeded normal noise that equals torch's, one stream per image, in NumPy.

`torch-cpu` draws what torch.randn does from torch.Generator("cpu").manual_seed(seed), in float32:

- Words: the 32-bit Mersenne twister (Matsumoto & Nishimura 1998), seeded with the low 32 bits of the seed.
- Normals: sqrt(-2 ln u1) times the cosine and the sine of 2 pi u2 (Box & Muller 1958). A draw of 16 or more
  elements works in float32 on blocks of 16 words, 24 bits each: 8 u1, then 8 u2; when the size is no multiple
  of 16, the last 16 elements are drawn anew. A smaller draw works in float64 on pairs, 53 bits each, and an
  unused sine waits for the next small draw.
- Functions: those of diffrt/float32.py, as in torch's kernel for x86 with AVX2 (which AVX-512 machines run too):
  equal to it bit for bit. torch's kernel for other processors calls the C library instead and differs by up to
  2.1e-6; small draws are float64 on all.

`philox` draws what it does from torch.Generator("cuda"): see diffrt/philox.py.
"""

import math
import secrets
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from diffrt.errors import InvalidArgument, nearest
from diffrt.float32 import F32, cos_sin, f32, log
from diffrt.philox import Philox


class Stream(Protocol):
    """A seeded source of unit normals: each draw goes on where the last one ended."""

    def randn(self, shape: Sequence[int]) -> F32: ...


class TorchCPU:
    """torch's CPU generator. Seeds are as in `checked_seed`; those equal modulo 2^32 give the same stream."""

    def __init__(self, seed: int) -> None:
        # frozen by NumPy for good (NEP 19), and seeded by the twister's own init_genrand, as in torch
        self._words = np.random.RandomState(checked_seed(seed) & 0xFFFFFFFF)
        self._spare: float | None = None

    def randn(self, shape: Sequence[int]) -> F32:
        """[*shape] f32, mean 0 and variance 1."""
        size = math.prod(shape)
        flat = self._blocks(size) if size >= 16 else np.array([self._single() for _ in range(size)], f32)
        return flat.reshape(shape)

    def _draw(self, count: int) -> NDArray[np.uint32]:
        return self._words.randint(0, 1 << 32, count, dtype=np.uint32)

    def _blocks(self, size: int) -> F32:
        rest = size % 16
        words = self._draw(size + 16 if rest else size)
        words = np.concatenate([words[: size - rest], words[size:]])  # whole blocks, then the one drawn anew
        u = (words & 0xFFFFFF).astype(f32).reshape(-1, 2, 8) * f32(2**-24)
        radius = np.sqrt(f32(-2) * log(f32(1) - u[:, 0]))
        cos, sin = cos_sin(f32(2 * math.pi) * u[:, 1])
        z = np.stack([radius * cos, radius * sin], axis=1).ravel() + f32(0)  # no -0, as in torch
        return np.concatenate([z[: size - 16], z[-16:]]) if rest else z

    def _single(self) -> float:
        if self._spare is not None:
            value, self._spare = self._spare, None
            return value
        high, low = self._draw(4).reshape(2, 2).astype(np.uint64).T
        u1, u2 = ((high << 32 | low) & (2**53 - 1)) * 2.0**-53
        radius, theta = math.sqrt(-2 * math.log1p(-u2)), 2 * math.pi * u1
        self._spare = radius * math.sin(theta)
        return radius * math.cos(theta)


RNGS: dict[str, Callable[[int], Stream]] = {
    "torch-cpu": TorchCPU,
    "philox": lambda seed: Philox(checked_seed(seed)),
}


def checked_seed(seed: object) -> int:
    """The seed as an int: an integer from -2^63 to 2^64-1, as torch takes; else InvalidArgument."""
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not -(2**63) <= seed < 2**64:
        raise InvalidArgument(f"seed is {seed!r}: give an integer from -2**63 to 2**64-1, for instance 7")
    return int(seed)


def resolve_seeds(seed: int | Sequence[int] | None, images: int) -> list[int]:
    """One seed per image: an int gives image i the seed+i, a list names each, None draws one below 2^32."""
    if isinstance(seed, list | tuple | range):
        if len(seed) != images:
            raise InvalidArgument(f"{len(seed)} seeds for {images} images: give one each, or a single int")
        return [checked_seed(each) for each in seed]
    first = secrets.randbelow(2**32) if seed is None else checked_seed(seed)
    return [checked_seed(first + i) for i in range(images)]


def generators(seeds: Sequence[int], rng: str = "torch-cpu") -> list[Stream]:
    """One stream per seed. An unknown rng is InvalidArgument."""
    if rng not in RNGS:
        raise InvalidArgument(f"unknown rng {rng!r}: {nearest(rng, RNGS)}")
    return [RNGS[rng](seed) for seed in seeds]


def randn(streams: Sequence[Stream], shape: Sequence[int]) -> F32:
    """[len(streams), *shape] f32: one draw per stream, so that the batch size never changes a picture."""
    return np.stack([stream.randn(shape) for stream in streams])
