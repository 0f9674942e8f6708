"""Stable Diffusion in JAX: on a TPU, a GPU or the CPU. The only place that imports jax. Needs the extra `flax`."""

from diffrt.errors import DiffrtError

try:
    import jax as _  # noqa: F401
except ModuleNotFoundError as error:
    raise DiffrtError(f"diffrt.flax needs {error.name}: pip install 'diffrt[flax]'") from None

from diffrt.flax.classic import (
    FlaxStableDiffusionImg2ImgPipeline,
    FlaxStableDiffusionInpaintPipeline,
    FlaxStableDiffusionPipeline,
)
from diffrt.flax.pipeline import Pipeline, load

__all__ = [
    "FlaxStableDiffusionImg2ImgPipeline",
    "FlaxStableDiffusionInpaintPipeline",
    "FlaxStableDiffusionPipeline",
    "Pipeline",
    "load",
]
