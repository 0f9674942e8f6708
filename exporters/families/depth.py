"""Stable Diffusion 2 for depth: a UNet that is told of a picture's depth in a fifth channel. What estimates depth is
another model: it is not exported, and a depth map is given.
"""

from collections.abc import Mapping
from dataclasses import replace

from ..spec import Component, Config
from . import stable_diffusion


def components(configs: Mapping[str, Config]) -> tuple[Component, ...]:
    return stable_diffusion.components(configs, {1: "depth"})


DEPTH = replace(
    stable_diffusion.STABLE_DIFFUSION,
    name="stable-diffusion-depth",
    title="Stable Diffusion 2 for depth, without what estimates it",
    tested="pictures and components against diffusers 0.42.1",
    all_tasks=("depth_to_image",),
    tasks=lambda configs: ("depth_to_image",),
    components=components,
    skipped=("depth_estimator", "feature_extractor"),
    forms=("components",),
    layouts=("diffrt",),
)
