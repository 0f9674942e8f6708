"""One file per task: one generator function each. A task is chosen by what a call gives."""

from diffrt.tasks.class_to_image import class_to_image
from diffrt.tasks.image_to_image import image_to_image
from diffrt.tasks.inpaint import inpaint
from diffrt.tasks.text_to_image import text_to_image
from diffrt.tasks.unconditional import unconditional

TASKS = {
    "text_to_image": text_to_image,
    "image_to_image": image_to_image,
    "inpaint": inpaint,
    "unconditional": unconditional,
    "class_to_image": class_to_image,
}
