"""The registry: pipeline class named in model_index.json -> family."""

from ..spec import Family
from .depth import DEPTH
from .dit import DIT
from .flux import FLUX
from .flux_fill import FLUX_FILL
from .image_variation import IMAGE_VARIATION
from .instruct_pix2pix import INSTRUCT_PIX2PIX
from .latent_upscaler import LATENT_UPSCALER
from .ldm import LDM
from .ldm_text import LDM_TEXT
from .pixart import PIXART_ALPHA, PIXART_SIGMA
from .score_sde import SCORE_SDE
from .stable_diffusion import STABLE_DIFFUSION
from .stable_diffusion_3 import STABLE_DIFFUSION_3
from .stable_diffusion_xl import STABLE_DIFFUSION_XL
from .unconditional import UNCONDITIONAL
from .upscaler import UPSCALER

FAMILIES: dict[str, Family] = {
    "StableDiffusionPipeline": STABLE_DIFFUSION,
    "StableDiffusionImg2ImgPipeline": STABLE_DIFFUSION,
    "StableDiffusionInpaintPipeline": STABLE_DIFFUSION,
    "StableDiffusionInpaintPipelineLegacy": STABLE_DIFFUSION,
    "StableDiffusionInstructPix2PixPipeline": INSTRUCT_PIX2PIX,
    "StableDiffusionDepth2ImgPipeline": DEPTH,
    "StableDiffusionImageVariationPipeline": IMAGE_VARIATION,
    "StableDiffusionUpscalePipeline": UPSCALER,
    "StableDiffusionLatentUpscalePipeline": LATENT_UPSCALER,
    "StableDiffusionXLPipeline": STABLE_DIFFUSION_XL,
    "StableDiffusionXLImg2ImgPipeline": STABLE_DIFFUSION_XL,
    "StableDiffusionXLInpaintPipeline": STABLE_DIFFUSION_XL,
    "LatentConsistencyModelPipeline": STABLE_DIFFUSION,
    "LatentConsistencyModelImg2ImgPipeline": STABLE_DIFFUSION,
    "StableDiffusion3Pipeline": STABLE_DIFFUSION_3,
    "StableDiffusion3Img2ImgPipeline": STABLE_DIFFUSION_3,
    "StableDiffusion3InpaintPipeline": STABLE_DIFFUSION_3,
    "FluxPipeline": FLUX,
    "FluxImg2ImgPipeline": FLUX,
    "FluxInpaintPipeline": FLUX,
    "FluxFillPipeline": FLUX_FILL,
    "PixArtAlphaPipeline": PIXART_ALPHA,
    "PixArtSigmaPipeline": PIXART_SIGMA,
    "DiTPipeline": DIT,
    "DDPMPipeline": UNCONDITIONAL,
    "DDIMPipeline": UNCONDITIONAL,
    "PNDMPipeline": UNCONDITIONAL,
    "ScoreSdeVePipeline": SCORE_SDE,
    "LDMPipeline": LDM,
    "LDMTextToImagePipeline": LDM_TEXT,
}
