"""What a picture is to a model: most go on from it, others are told of it. And which arguments go with which task."""

from collections.abc import Collection
from typing import Any

from diffrt.errors import InvalidArgument

# of these a model has one, which an image without a mask is for
ALONE = ("image_to_image", "edit", "depth_to_image", "variation", "upscale", "latent_upscale")
PARTIAL = ("image_to_image", "inpaint", "depth_to_image")  # those that run a part of the steps
PICTURED = (*ALONE, "inpaint")
OWNERS = {
    "mask_image": ("inpaint",),
    "strength": PARTIAL,
    "denoising_start": PARTIAL,
    "image_guidance_scale": ("edit",),
    "depth_map": ("depth_to_image",),
    "noise_level": ("upscale",),
}
DOUBLED = 2  # times the image's size is the result's of models that upscale latents
ONE_SCALE = ("guidance_rescale", "guidance_interval", "cfg_plus_plus", "AND")  # what guides by one scale alone


def of_picture(tasks: Collection[str]) -> str:
    """The task that a model of these does with an image alone."""
    return next((task for task in ALONE if task in tasks), ALONE[0])


def times(task: str, factor: int) -> int:
    """The image's size is the result's; factor: pixels of a latent."""
    return {"upscale": factor, "latent_upscale": DOUBLED}.get(task, 1)


def check_owners(task: str, **given: Any) -> None:
    """InvalidArgument for one that is given and that the task does not take."""
    for name, value in given.items():
        if value is not None and task not in OWNERS[name]:
            raise InvalidArgument(
                f"{name} is given, and goes with {_spelled(OWNERS[name])}; this is {_spelled([task])}: leave it out"
            )


def check_guidance(task: str, **asked: bool) -> None:
    """InvalidArgument for a kind of guidance that the task has no one scale for."""
    for name in (name for name in ONE_SCALE if asked[name] and task == "edit"):
        raise InvalidArgument(f"{name} is for guidance by one scale, and editing is guided by two: leave it out")


def _spelled(tasks: Collection[str]) -> str:
    return " or ".join(task.replace("_", "-") for task in tasks)
