"""The generators that those pipelines are called with, as sources of noise."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffrt.errors import InvalidArgument
from diffrt.noise import F32, RNGS


@dataclass(frozen=True)
class FromRandomState:
    """Drawn picture by picture, the noise is that of one draw for all."""

    state: Any  # numpy.random.RandomState, or the module

    def randn(self, shape: Sequence[int]) -> F32:
        return self.state.randn(*shape).astype(np.float32)


def from_random_state(generator: Any) -> dict[str, Any]:
    """Arguments of a stream. None is NumPy's own state."""
    state = np.random if generator is None else generator
    if not callable(getattr(state, "randn", None)):
        raise InvalidArgument(f"generator is {generator!r:.60}: give a RandomState of numpy.random")
    ahead = np.random.RandomState()
    ahead.set_state(state.get_state())  # a seed for solvers that ask for one, without a draw from the state itself
    return {"generator": FromRandomState(state), "seed": int(ahead.randint(2**31 - 1))}


def from_any(generator: Any) -> dict[str, Any]:
    """Arguments of a stream, from None, an int, a RandomState, a torch.Generator, or a list of one for each picture. Of
    torch's the seed is read, and not how much it has drawn since."""
    if generator is None or isinstance(generator, int):
        return {"seed": generator}
    if isinstance(generator, list | tuple):
        found = [_seed(each) for each in generator]
        rngs = {rng for _, rng in found}
        if len(rngs) != 1:
            raise InvalidArgument("generator is a list of generators of several devices: give those of one")
        return {"seed": [seed for seed, _ in found], "rng": rngs.pop()}
    if callable(getattr(generator, "randn", None)):
        return from_random_state(generator)
    seed, rng = _seed(generator)
    return {"generator": RNGS[rng](seed), "seed": seed, "rng": rng}


def _seed(generator: Any) -> tuple[int, str]:
    """The seed of an int or a torch.Generator, and the rng that it seeds."""
    if isinstance(generator, int):
        return generator, "torch-cpu"
    try:
        return int(generator.initial_seed()), "philox" if generator.device.type == "cuda" else "torch-cpu"
    except AttributeError:
        allowed = "give a seed, a torch.Generator or a RandomState"
        raise InvalidArgument(f"generator is {generator!r:.60}: {allowed}") from None
