"""The registry: pipeline class named in model_index.json -> family."""

from ..spec import Family
from .stable_diffusion import STABLE_DIFFUSION
from .unconditional import UNCONDITIONAL

FAMILIES: dict[str, Family] = {
    "StableDiffusionPipeline": STABLE_DIFFUSION,
    "StableDiffusionImg2ImgPipeline": STABLE_DIFFUSION,
    "StableDiffusionInpaintPipeline": STABLE_DIFFUSION,
    "StableDiffusionInpaintPipelineLegacy": STABLE_DIFFUSION,
    "DDPMPipeline": UNCONDITIONAL,
    "DDIMPipeline": UNCONDITIONAL,
    "PNDMPipeline": UNCONDITIONAL,
}
