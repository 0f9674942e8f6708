"""diffusers' ONNX pipelines. Noise is what NumPy's RandomState draws: a seed gives the picture that it gave there."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from PIL.Image import Image

from diffrt import request
from diffrt.compat.base import Callback, Compat
from diffrt.compat.onnx_pictures import covered, floored
from diffrt.compat.onnx_tasks import image_to_image, inpaint
from diffrt.compat.streams import from_random_state

Text = str | Sequence[str] | None


class OnnxStableDiffusionPipeline(Compat):
    def __call__(
        self,
        prompt: Text = None,
        height: int | None = 512,
        width: int | None = 512,
        num_inference_steps: int = 50,
        guidance_scale: float = 7.5,
        negative_prompt: Text = None,
        num_images_per_prompt: int = 1,
        eta: float = 0.0,
        generator: Any = None,
        latents: np.ndarray | None = None,
        prompt_embeds: np.ndarray | None = None,
        negative_prompt_embeds: np.ndarray | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback: Callback | None = None,
        callback_steps: int = 1,
    ) -> Any:
        """generator is a numpy.random.RandomState, by default NumPy's own, which numpy.random.seed seeds. What fresh
        noise the steps draw (eta, ancestral samplers) comes from it as well, where it came from torch before."""
        stream = self.pipeline.stream(
            prompt,
            height=height,
            width=width,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            negative_prompt=negative_prompt,
            num_images_per_prompt=num_images_per_prompt,
            eta=self._eta(eta),
            latents=latents,
            prompt_embeds=prompt_embeds,
            negative_prompt_embeds=negative_prompt_embeds,
            output_type="pil" if output_type == "pil" else "np",
            **from_random_state(generator),
        )
        return self._drawn(stream, callback, callback_steps, return_dict)


class OnnxStableDiffusionImg2ImgPipeline(Compat):
    def __call__(
        self,
        prompt: Text,
        image: Image | Sequence[Image],
        strength: float = 0.8,
        num_inference_steps: int = 50,
        guidance_scale: float = 7.5,
        negative_prompt: Text = None,
        num_images_per_prompt: int = 1,
        eta: float = 0.0,
        generator: Any = None,
        prompt_embeds: np.ndarray | None = None,
        negative_prompt_embeds: np.ndarray | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback: Callback | None = None,
        callback_steps: int = 1,
    ) -> Any:
        """The picture's size is floored to multiples of 64 pixels."""
        asked = request.check(
            self.pipeline.bundle.manifest,
            prompt,
            image=floored(image),
            strength=strength,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            negative_prompt=negative_prompt,
            num_images_per_prompt=num_images_per_prompt,
            eta=self._eta(eta),
            prompt_embeds=prompt_embeds,
            negative_prompt_embeds=negative_prompt_embeds,
            output_type="pil" if output_type == "pil" else "np",
            **from_random_state(generator),
        )
        return self._drawn(self.pipeline.run(image_to_image, asked), callback, callback_steps, return_dict)


class OnnxStableDiffusionInpaintPipeline(Compat):
    def __call__(
        self,
        prompt: Text,
        image: Image,
        mask_image: Image,
        height: int = 512,
        width: int = 512,
        num_inference_steps: int = 50,
        guidance_scale: float = 7.5,
        negative_prompt: Text = None,
        num_images_per_prompt: int = 1,
        eta: float = 0.0,
        generator: Any = None,
        latents: np.ndarray | None = None,
        prompt_embeds: np.ndarray | None = None,
        negative_prompt_embeds: np.ndarray | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback: Callback | None = None,
        callback_steps: int = 1,
    ) -> Any:
        """For UNets made for inpainting. The picture and the mask are resized to height and width."""
        asked = request.check(
            self.pipeline.bundle.manifest,
            prompt,
            height=height,
            width=width,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            negative_prompt=negative_prompt,
            num_images_per_prompt=num_images_per_prompt,
            eta=self._eta(eta),
            latents=latents,
            prompt_embeds=prompt_embeds,
            negative_prompt_embeds=negative_prompt_embeds,
            output_type="pil" if output_type == "pil" else "np",
            **from_random_state(generator),
        )
        beside = covered(image, mask_image, (asked.height, asked.width), asked.latent_shape[1:])
        return self._drawn(self.pipeline.run(partial(inpaint, *beside), asked), callback, callback_steps, return_dict)
