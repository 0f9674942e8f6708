"""optimum's pipelines for ONNX Runtime. Their arguments are those of diffusers' pipelines for PyTorch, and so is the
noise: a seed, or a torch.Generator, gives the picture it gives there. Arguments not named go to diffrt's own call.
"""

from typing import Any

from diffrt.compat.base import Callback, Compat
from diffrt.compat.streams import from_any


class ORTStableDiffusionPipeline(Compat):
    def __call__(
        self,
        prompt: Any = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 50,
        *,
        guidance_scale: float = 7.5,
        eta: float = 0.0,
        generator: Any = None,
        return_dict: bool = True,
        callback: Callback | None = None,
        callback_steps: int = 1,
        **arguments: Any,
    ) -> Any:
        arguments |= {"height": height, "width": width, "num_inference_steps": num_inference_steps}
        arguments |= {"guidance_scale": guidance_scale, "eta": self._eta(eta), **from_any(generator)}
        return self._drawn(self.pipeline.stream(prompt, **arguments), callback, callback_steps, return_dict)


class ORTStableDiffusionImg2ImgPipeline(Compat):
    def __call__(
        self,
        prompt: Any = None,
        image: Any = None,
        strength: float = 0.8,
        num_inference_steps: int = 50,
        *,
        guidance_scale: float = 7.5,
        eta: float = 0.0,
        generator: Any = None,
        return_dict: bool = True,
        callback: Callback | None = None,
        callback_steps: int = 1,
        **arguments: Any,
    ) -> Any:
        arguments |= {"image": image, "strength": strength, "num_inference_steps": num_inference_steps}
        arguments |= {"guidance_scale": guidance_scale, "eta": self._eta(eta), **from_any(generator)}
        return self._drawn(self.pipeline.stream(prompt, **arguments), callback, callback_steps, return_dict)


class ORTStableDiffusionInpaintPipeline(Compat):
    def __call__(
        self,
        prompt: Any = None,
        image: Any = None,
        mask_image: Any = None,
        *,
        height: int | None = None,
        width: int | None = None,
        strength: float = 1.0,
        num_inference_steps: int = 50,
        guidance_scale: float = 7.5,
        eta: float = 0.0,
        generator: Any = None,
        return_dict: bool = True,
        callback: Callback | None = None,
        callback_steps: int = 1,
        **arguments: Any,
    ) -> Any:
        arguments |= {"image": image, "mask_image": mask_image, "height": height, "width": width}
        arguments |= {"strength": strength, "num_inference_steps": num_inference_steps}
        arguments |= {"guidance_scale": guidance_scale, "eta": self._eta(eta), **from_any(generator)}
        return self._drawn(self.pipeline.stream(prompt, **arguments), callback, callback_steps, return_dict)


class ORTStableDiffusionXLPipeline(Compat):
    mends = False

    def __call__(
        self,
        prompt: Any = None,
        *,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float = 5.0,
        eta: float = 0.0,
        generator: Any = None,
        return_dict: bool = True,
        callback: Callback | None = None,
        callback_steps: int = 1,
        **arguments: Any,
    ) -> Any:
        arguments |= {"height": height, "width": width, "num_inference_steps": num_inference_steps}
        arguments |= {"guidance_scale": guidance_scale, "eta": self._eta(eta), **from_any(generator)}
        return self._drawn(self.pipeline.stream(prompt, **arguments), callback, callback_steps, return_dict)
