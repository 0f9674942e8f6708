"""The classic face: pipelines that are used as diffusers' Flax pipelines were, up to release 0.39.

With jit=True every array has a leading axis of devices, as flax's replicate and shard make it, and each device draws
its own part; with jit=False there is no such axis. Both are compiled: classic_program.py.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from PIL import Image

from diffrt import hub, pictures
from diffrt.errors import InvalidArgument
from diffrt.flax.checkpoint import Checkpoint, Params, find, open_checkpoint
from diffrt.flax.classic_program import Arrays, Draw, all_devices, one_device
from diffrt.flax.rows import bucket, rows_of, segment
from diffrt.flax.weights import checked_dtype, on_default_device
from diffrt.image import to_pil
from diffrt.schedulers import Table

f32 = jnp.float32


class FlaxStableDiffusionPipelineOutput(NamedTuple):
    images: Array  # [B,H,W,3] f32 in [0,1]; with jit=True [devices,B,H,W,3]
    nsfw_content_detected: None = None  # there is no safety checker


class FlaxPipeline:
    """Abstract: what the three have in common. `scheduler` may be replaced by another of diffrt.schedulers."""

    task: ClassVar[str]

    def __init__(self, checkpoint: Checkpoint, dtype: Any) -> None:
        self.checkpoint, self.dtype, self.scheduler = checkpoint, checked_dtype(dtype), checkpoint.scheduler
        self.tokenizer = checkpoint.tokenizer()
        told = checkpoint.networks.unet.in_channels > checkpoint.networks.vae.latent_channels
        if told != (self.task == "inpaint"):
            channels = checkpoint.networks.unet.in_channels
            fitting = "FlaxStableDiffusionInpaintPipeline" if told else "diffrt.flax.load, which inpaints with any UNet"
            raise InvalidArgument(f"{type(self).__name__} cannot use a UNet of {channels} channels: use {fitting}")

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike[str],
        *,
        revision: str | None = None,
        dtype: Any = f32,
        from_pt: bool = True,
        safety_checker: Any = True,
    ) -> tuple[Self, Params]:
        """(pipeline, params) from a checkpoint's folder, a bundle's name or path, or an id on the hub, which alone has
        revisions. params are those of each part, by the checkpoint's tensor names. from_pt changes nothing: weights are
        read from safetensors. There is no safety checker; unless None is given, a checkpoint that asks for one warns.
        """
        pipeline = cls(open_checkpoint(find(model, revision if hub.is_id(model) else None)), dtype)
        pipeline.checkpoint.warn(safety_checker)
        return pipeline, pipeline.checkpoint.load(pipeline.dtype, lambda part: on_default_device)

    def ids(self, prompt: str | Sequence[str]) -> Array:  # i32 [B,S]
        """Texts that are too long are cut off."""
        texts = [prompt] if isinstance(prompt, str) else list(prompt)
        return jnp.asarray(self.tokenizer(texts).ids, jnp.int32)

    def numpy_to_pil(self, images: Any) -> list[Image.Image]:  # [B,H,W,3] or [H,W,3] in [0,1]
        images = np.asarray(images, np.float32)
        images = images[None] if images.ndim == 3 else images
        return to_pil((images * 255).round().astype(np.uint8))

    def draw(
        self,
        params: Params,
        prompt_ids: Arrays,
        neg_prompt_ids: Arrays | None,
        prng_seed: Arrays,
        guidance_scale: Arrays | float,
        jit: bool,
        return_dict: bool,
        table: Table,
        size: tuple[int, int],
        start: Mapping[str, Arrays | None],
    ) -> Any:
        """Run the program. start: that of Draw; size: of the pictures, in pixels."""
        self._check(params, prompt_ids, jit)
        lead = prompt_ids.shape[:-1]  # (devices, B) or (B,)
        if neg_prompt_ids is None:
            neg_prompt_ids = np.broadcast_to(np.asarray(self.ids("")), prompt_ids.shape)
        guidance = np.asarray(guidance_scale, np.float32)
        guidance = np.broadcast_to(guidance.reshape(guidance.shape + (1,) * (len(lead) - guidance.ndim)), lead)
        latents = self.checkpoint.manifest.latents
        shape = (latents["channels"], *(side // latents["scale_factor"] for side in size))
        given = {name: value for name, value in start.items() if value is not None}
        draw = Draw(prompt_ids, neg_prompt_ids, prng_seed, guidance, given)
        ends = (table.alpha[0], table.sigma[0]) if self.task == "image_to_image" else (0, table.init_sigma)
        rows = segment(rows_of(table), 0, table.evals, bucket(table.evals))
        run: Callable[..., Array] = all_devices if jit else one_device
        networks = self.checkpoint.networks
        images = run(networks, self.dtype, shape, self.task, params, rows, np.array(ends, np.float32), draw)
        return FlaxStableDiffusionPipelineOutput(images) if return_dict else (images, None)

    def size(self, height: int | None, width: int | None) -> tuple[int, int]:
        default, multiple = self.checkpoint.manifest.defaults, 8
        size = (default.height if height is None else height, default.width if width is None else width)
        if any(side <= 0 or side % multiple for side in size):
            raise InvalidArgument(f"height and width are {size[0]} and {size[1]}: give multiples of {multiple}")
        return size

    def size_of(self, pictures: Any, height: int | None, width: int | None) -> tuple[int, int]:
        own = (pictures.shape[-2], pictures.shape[-1])
        asked = (height or own[0], width or own[1])
        if asked != own:
            raise InvalidArgument(
                f"height and width are {asked[0]} and {asked[1]} for prepared pictures of {own[0]}x{own[1]}: "
                "leave them out, or resize the pictures first"
            )
        return own

    def _check(self, params: Params, prompt_ids: Any, jit: bool) -> None:
        dims, devices = (3, jax.device_count()) if jit else (2, 1)
        if prompt_ids.ndim != dims or (jit and len(prompt_ids) != devices):
            fix = f"flax's shard() makes [{devices}, prompts, tokens]" if jit else "give [prompts, tokens]"
            raise InvalidArgument(f"prompt_ids has the shape {list(prompt_ids.shape)} with jit={jit}: {fix}")
        bias = params["unet"]["conv_in.bias"]
        if bias.ndim != 1 + jit:
            fix = "replicate(params) first" if jit else "pass them as from_pretrained gave them"
            raise InvalidArgument(f"params are {'not ' if jit else ''}replicated with jit={jit}: {fix}")


class FlaxStableDiffusionPipeline(FlaxPipeline):
    task = "text_to_image"

    def prepare_inputs(self, prompt: str | Sequence[str]) -> Array:  # i32 [B,S]
        return self.ids(prompt)

    def __call__(
        self,
        prompt_ids: Any,
        params: Params,
        prng_seed: Any,
        num_inference_steps: int = 50,
        height: int | None = None,
        width: int | None = None,
        guidance_scale: Any = 7.5,
        latents: Any = None,
        neg_prompt_ids: Any = None,
        return_dict: bool = True,
        jit: bool = False,
    ) -> Any:
        """latents: unit noise [B,C,h,w] in place of the key's. guidance_scale: one, or one for each picture."""
        table = self.scheduler.table(num_inference_steps)
        size = self.size(height, width)
        start = {"noise": latents}
        return self.draw(
            params, prompt_ids, neg_prompt_ids, prng_seed, guidance_scale, jit, return_dict, table, size, start
        )


class FlaxStableDiffusionImg2ImgPipeline(FlaxPipeline):
    task = "image_to_image"

    def prepare_inputs(self, prompt: str | Sequence[str], image: Any) -> tuple[Array, Array]:
        """i32 [B,S], and f32 [B,3,H,W] in [-1,1]: pictures are resized to a multiple of 32 at or below their size."""
        images = [image] if isinstance(image, Image.Image) else list(image)
        height, width = (side - side % 32 for side in pictures.common_size("image", images))
        return self.ids(prompt), jnp.asarray(pictures.colours(images, height, width))

    def __call__(
        self,
        prompt_ids: Any,
        image: Any,
        params: Params,
        prng_seed: Any,
        strength: float = 0.8,
        num_inference_steps: int = 50,
        height: int | None = None,
        width: int | None = None,
        guidance_scale: Any = 7.5,
        noise: Any = None,
        neg_prompt_ids: Any = None,
        return_dict: bool = True,
        jit: bool = False,
    ) -> Any:
        """noise: unit noise [B,C,h,w] in place of the key's. Pictures keep their size."""
        if not 0 <= strength <= 1:
            raise InvalidArgument(f"strength is {strength}: give a number from 0 to 1")
        skip = num_inference_steps - int(num_inference_steps * strength)
        if skip == num_inference_steps:
            raise InvalidArgument(f"strength {strength:g} of {num_inference_steps} steps leaves none: give more")
        table = self.scheduler.table(num_inference_steps, skip=skip)
        size = self.size_of(image, height, width)
        start = {"noise": noise, "picture": jnp.moveaxis(jnp.asarray(image), -3, -1)}
        return self.draw(
            params, prompt_ids, neg_prompt_ids, prng_seed, guidance_scale, jit, return_dict, table, size, start
        )


class FlaxStableDiffusionInpaintPipeline(FlaxPipeline):
    task = "inpaint"

    def prepare_inputs(self, prompt: str | Sequence[str], image: Any, mask: Any) -> tuple[Array, Array, Array]:
        """i32 [B,S], the pictures without what the mask covers f32 [B,3,H,W] in [-1,1], and masks f32 [B,1,H,W]."""
        images, masked = ([each] if isinstance(each, Image.Image) else list(each) for each in (image, mask))
        height, width = (side - side % 32 for side in pictures.common_size("image", images))
        masks = pictures.masks(masked, height, width)
        rest = pictures.colours(images, height, width) * (masks < 0.5)
        return self.ids(prompt), jnp.asarray(rest), jnp.asarray(masks)

    def __call__(
        self,
        prompt_ids: Any,
        mask: Any,
        masked_image: Any,
        params: Params,
        prng_seed: Any,
        num_inference_steps: int = 50,
        height: int | None = None,
        width: int | None = None,
        guidance_scale: Any = 7.5,
        latents: Any = None,
        neg_prompt_ids: Any = None,
        return_dict: bool = True,
        jit: bool = False,
    ) -> Any:
        """latents: unit noise [B,C,h,w] in place of the key's. Pictures keep their size."""
        table = self.scheduler.table(num_inference_steps)
        size = self.size_of(masked_image, height, width)
        factor = self.checkpoint.manifest.latents["scale_factor"]
        small = jnp.asarray(mask)[..., ::factor, ::factor]
        start = {
            "noise": latents,
            "picture": jnp.moveaxis(jnp.asarray(masked_image), -3, -1),
            "mask": jnp.moveaxis(small, -3, -1),
        }
        return self.draw(
            params, prompt_ids, neg_prompt_ids, prng_seed, guidance_scale, jit, return_dict, table, size, start
        )
