"""One file per story: one generator function each. A task is chosen by what a call gives."""

from diffrt.tasks.edit import edit
from diffrt.tasks.from_noise import from_noise
from diffrt.tasks.image_to_image import image_to_image
from diffrt.tasks.inpaint import inpaint
from diffrt.tasks.latent_upscale import latent_upscale
from diffrt.tasks.upscale import upscale

TASKS = {
    "text_to_image": from_noise,
    "class_to_image": from_noise,
    "unconditional": from_noise,
    "image_to_image": image_to_image,
    "variation": from_noise,
    "inpaint": inpaint,
    "edit": edit,
    "depth_to_image": image_to_image,
    "upscale": upscale,
    "latent_upscale": latent_upscale,
}
