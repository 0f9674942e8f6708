"""Models of pixels have no autoencoder: what they draw is the picture."""

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]


class Pixels:
    """Stands where others have a decoder."""

    def __init__(self, low: float) -> None:
        """Black, of which white is 1."""
        self._low = low

    def __call__(self, latents: F32) -> F32:  # [B,C,H,W] from low to 1 -> [B,C,H,W] in [-1,1]
        return latents if self._low == -1 else (latents - self._low) * np.float32(2 / (1 - self._low)) - 1

    def close(self) -> None:
        pass
