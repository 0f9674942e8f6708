"""Parameters of a network: a flat dict of arrays, keyed by the checkpoint's tensor names.

A network is a function of `p`, which gives a parameter by name and shape: `lookup` in a dict, or `declared`, which
writes down what the function asks for. So the function itself says what a checkpoint must hold, and nothing says it
twice. That is why these are plain functions and not flax modules: a module would have names and shapes of its own, and
a map between those and the checkpoint's.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

Shape = tuple[int, ...]
Parameters = Callable[[str, Shape], Array]
Network = Callable[..., Any]  # (p, *arrays) -> arrays


def lookup(tensors: Mapping[str, Array]) -> Parameters:
    return lambda name, shape: tensors[name]


def declared(network: Network, *inputs: Any) -> dict[str, Shape]:
    """The names and shapes of all that a network reads, given the shapes of its inputs. Computes nothing."""
    shapes: dict[str, Shape] = {}

    def read(name: str, shape: Shape) -> Array:
        shapes[name] = shape
        return jnp.zeros(shape)

    jax.eval_shape(lambda *arrays: network(read, *arrays), *inputs)
    return shapes
