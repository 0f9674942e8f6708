"""The safety checker that Stable Diffusion checkpoints bring along: exported where they ask for it."""

from torch import Tensor

from diffrt.components.clip_pixels import SETTINGS as PIXELS
from diffrt.components.safety import CONCEPTS, INPUT, NAME, SPECIAL
from diffrt.errors import CheckpointError
from diffrt.manifest import TensorSpec

from ..models.clip_vision import CONCEPTS as MANY
from ..models.clip_vision import SPECIAL as FEW
from ..models.clip_vision import StableDiffusionSafetyChecker, VisionConfig
from ..spec import TOLERANCE, Component, Config

PARTS = {NAME: ("StableDiffusionSafetyChecker",)}
REQUESTED = {NAME: "requires_safety_checker"}
SETTINGS = {NAME: PIXELS}


def look(module: StableDiffusionSafetyChecker, pixels: Tensor) -> tuple[Tensor, Tensor]:
    special, concepts = module(pixels.to(next(module.parameters()).dtype))
    return special.float(), concepts.float()


def safety_checker(config: Config) -> Component:
    vision = config["vision_config"]
    if not isinstance(vision, dict):
        raise CheckpointError("safety_checker/config.json: vision_config is no object")
    side = VisionConfig.read(vision).image_size
    return Component(
        name=NAME,
        part=NAME,
        build=StableDiffusionSafetyChecker,
        call=look,
        inputs=(TensorSpec(INPUT, "float32", ("batch", 3, side, side)),),
        outputs=(
            TensorSpec(SPECIAL, "float32", ("batch", FEW)),
            TensorSpec(CONCEPTS, "float32", ("batch", MANY)),
        ),
        axes={"batch": 2},
        tolerance=TOLERANCE,
    )
