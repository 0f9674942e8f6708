"""Pipelines: load a bundle, then call it."""

import os
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from diffrt import hub, request
from diffrt.bundle import Bundle
from diffrt.components.denoiser import Denoiser
from diffrt.components.image_encoder import ImageEncoder
from diffrt.components.pixels import Pixels
from diffrt.components.safety import NAME as SAFETY
from diffrt.components.safety import SafetyChecker
from diffrt.components.step import StepGraph
from diffrt.components.text_encoder import TextEncoders
from diffrt.components.vae import Decoder, Encoder
from diffrt.denoise import Step
from diffrt.errors import BundleError, InvalidArgument, ProviderError, nearest
from diffrt.manifest import IMAGE_ENCODER, STEP
from diffrt.request import F32
from diffrt.schedulers import Scheduler, from_config
from diffrt.session import chosen, require
from diffrt.stable_diffusion import LOW_RES
from diffrt.tasks import TASKS
from diffrt.tasks.shared import EMBEDS, Output, Parts, whole_chunks

BUNDLES = {"emoji": Path(__file__).parent / "bundles" / "emoji"}  # shipped with the package
MEMORY = {"keep": 128 * 128, "low": 64 * 64}  # and the latent pixels above which the autoencoder works in tiles
LOAD = ("full", "fast")
LOOP = ("auto", "host", "step")
NEEDS = {
    "text_to_image": "a prompt alone",
    "image_to_image": "an image and no mask_image",
    "inpaint": "an image and a mask_image",
    "variation": "an image alone",
    "upscale": "an image, a prompt that says what is in it, and no mask_image",
    "latent_upscale": "an image or latents, a prompt that says what is in it, and no mask_image",
    "depth_to_image": "an image and its depth_map",
    "edit": "an image and a prompt that says what to change, and no mask_image",
    "unconditional": "neither prompt nor image",
    "class_to_image": "class_labels alone",
}
SCHEDULER_CONFIG = "scheduler/scheduler_config.json"
Task = Callable[[request.Request, Scheduler, Parts], Generator[Step, None, Output]]


def find(model: str | os.PathLike[str], revision: str | None = None) -> Path:
    """The folder of a named bundle, else an existing path ("./emoji" forces the path), else of a bundle on the hub.

    Raises BundleError for none of them, HubError for what the hub does not give.
    """
    if hub.is_id(model):
        return hub.fetch(str(model), revision)
    if revision is not None:
        raise InvalidArgument(f"revision is {revision!r}: only a model on the hub, org/name, has one; {model!r} is not")
    if isinstance(model, str) and model in BUNDLES:
        return BUNDLES[model]
    path = Path(model)
    if not path.is_dir():
        what = "a file, not a bundle's folder" if path.exists() else "neither a bundle's name nor an existing folder"
        raise BundleError(f"{str(model)!r} is {what}; named bundles: {', '.join(BUNDLES)}; on the hub: org/name")
    return path


def load(
    model: str | os.PathLike[str],
    *,
    revision: str | None = None,
    provider: str = "cpu",
    memory: str = "keep",
    load: str = "full",
    loop: str = "auto",
    safety_checker: bool | None = True,
) -> "Pipeline":
    """A pipeline from the name of a bundle, the path of one, or its id on the Hugging Face Hub, org/name.

    revision is the branch, tag or commit of an id. What is fetched stays in the hub's cache.

    memory is "keep", graphs stay open from call to call, or "low": each is freed when its part of a call is over,
    so that a call never holds more than one and the next opens them again.

    provider is what computes: a name that `diffrt providers` lists, or "auto", the fastest that is here for the bundle.

    load is "full", or "fast": weights are used where they lie in the bundle's files, instead of copied into the order
    that kernels like best. A full-size model is then ready in a ninth of the time, and draws some 6 % more slowly.

    loop is what runs the sampler's steps: "host", arrays of NumPy around the denoiser; "step", a bundle's step graph,
    whose state stays on the device; or "auto", the step graph where there is one, the provider prefers it and it does
    what is asked. It does neither inpainting, guidance_rescale, dynamic thresholding nor a learned variance.

    safety_checker is None, or False, to leave out the one that a bundle has. It makes pictures black, and says which.

    Raises BundleError for a bundle that is missing or damaged, and for a raw checkpoint, which must be exported
    first; HubError for what the hub does not give; ProviderError for a provider that is unknown or not installed.
    """
    name = str(model) if hub.is_id(model) else None
    return Pipeline(
        Bundle.open(find(model, revision)),
        provider=provider,
        memory=memory,
        load=load,
        loop=loop,
        name=name,
        safety_checker=safety_checker,
    )


class Pipeline:
    """A bundle with a scheduler, on a provider. Graphs are opened on first use; close() frees them.

    `pipe.scheduler` may be replaced: by `diffrt.schedulers.LMSDiscreteScheduler.from_config(pipe.scheduler.config)`.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        provider: str = "cpu",
        memory: str = "keep",
        load: str = "full",
        loop: str = "auto",
        name: str | None = None,
        safety_checker: bool | None = True,
    ) -> None:
        """`name` is what pictures say that they were drawn with, by default the folder's."""
        if memory not in MEMORY:
            raise InvalidArgument(f"unknown memory {memory!r}: {nearest(str(memory), MEMORY)}")
        if load not in LOAD:
            raise InvalidArgument(f"unknown load {load!r}: {nearest(str(load), LOAD)}")
        if loop not in LOOP:
            raise InvalidArgument(f"unknown loop {loop!r}: {nearest(str(loop), LOOP)}")
        self.bundle = bundle
        self.provider = replace(chosen(provider), fast_load=load == "fast")
        require(self.provider)
        if not set(TASKS) & set(bundle.manifest.tasks):
            raise BundleError(f"{bundle.root} is for {', '.join(bundle.manifest.tasks)}: pip install -U diffrt")
        self.scheduler = from_config(bundle.json(SCHEDULER_CONFIG), bundle.manifest.defaults.scheduler)
        preview, components = bundle.manifest.preview, bundle.manifest.components
        pixels = Pixels(bundle.manifest.latents.get("low", -1))
        denoiser = Denoiser(bundle, self.provider)
        stepping = loop == "step" or (loop == "auto" and self.provider.step and STEP in components)
        if loop == "step" and STEP not in components:
            raise BundleError(f"{bundle.root} has no step graph: diffrt export {bundle.root} DEST --form step")
        if loop == "step" and not self.provider.device:
            raise ProviderError(f"provider {self.provider.name!r} keeps no state of a loop: load with loop='host'")
        self._parts = Parts(
            text_encoder=TextEncoders(bundle, self.provider) if bundle.manifest.tokenizers else None,
            denoiser=denoiser,
            encoder=Encoder(bundle, self.provider, MEMORY[memory]) if "vae_encoder" in components else None,
            decoder=Decoder(bundle, self.provider, MEMORY[memory]) if "vae_decoder" in components else pixels,
            colours=(preview["matrix"], preview["bias"]) if preview else None,
            model=name or bundle.root.resolve().name,
            keep=memory == "keep",
            safety=SafetyChecker(bundle, self.provider) if safety_checker and SAFETY in components else None,
            low_res_scheduler=from_config(bundle.json(LOW_RES)) if "upscale" in bundle.manifest.tasks else None,
            image_encoder=ImageEncoder(bundle, self.provider) if IMAGE_ENCODER in components else None,
            step=StepGraph(bundle, self.provider, denoiser) if stepping else None,
            step_only=loop == "step",
        )

    @property
    def scheduler(self) -> Scheduler:
        return self._scheduler

    @scheduler.setter
    def scheduler(self, scheduler: Scheduler) -> None:
        if not isinstance(scheduler, Scheduler):
            raise InvalidArgument(f"scheduler is {scheduler!r:.60}: give an instance of a class of diffrt.schedulers")
        self._scheduler = scheduler

    @property
    def safety_checker(self) -> SafetyChecker | None:
        return self._parts.safety

    def leave_unchecked(self) -> None:
        """From now on without the safety checker, which is freed."""
        if self._parts.safety is not None:
            self._parts.safety.close()
        self._parts = replace(self._parts, safety=None)

    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        image: Any = None,
        mask_image: Any = None,
        depth_map: Any = None,
        strength: float | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        prompt_2: str | Sequence[str] | None = None,
        prompt_3: str | Sequence[str] | None = None,
        negative_prompt_2: str | Sequence[str] | None = None,
        negative_prompt_3: str | Sequence[str] | None = None,
        weighting: str | None = None,
        chunks: int | str = 1,
        height: int | None = None,
        width: int | None = None,
        use_resolution_binning: bool | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        image_guidance_scale: float | None = None,
        guidance_rescale: float = 0.0,
        guidance_interval: Sequence[float] = request.ALWAYS,
        cfg_plus_plus: bool = False,
        noise_level: int | None = None,
        num_images_per_prompt: int = 1,
        batch_size: int | None = None,
        class_labels: int | str | Sequence[int | str] | None = None,
        seed: int | Sequence[int] | None = None,
        rng: str = "torch-cpu",
        eta: float = 0.0,
        latents: F32 | None = None,
        prompt_embeds: F32 | None = None,
        negative_prompt_embeds: F32 | None = None,
        pooled_prompt_embeds: F32 | None = None,
        negative_pooled_prompt_embeds: F32 | None = None,
        conditions: Mapping[str, Any] | None = None,
        negative_conditions: Mapping[str, Any] | None = None,
        denoising_start: float | None = None,
        denoising_end: float | None = None,
        output_type: str = "pil",
        **sizes: Any,
    ) -> Output:
        """Draw pictures. Argument names and meanings are those of diffusers; None is the bundle's own default.

        prompt                  a text or a list of them, or None where prompt_embeds [P,S,D] f32 are given
        image                   a picture to start from, or one for each prompt: a path, a Pillow image or an array
                                [H,W,3], u8 or f32 in [0,1]. Its size is the output's, down to a multiple of 8.
                                Or latents [B,C,h,w] f32. Of a model that draws variations of it: in place of a prompt
        mask_image              with an image: white is drawn anew, black stays; of the image's size
        depth_map               with an image, of models that are told of depth: what is near is large, in any unit. An
                                array [H,W] or a grey picture, of any size, or one for each prompt
        strength                with an image: the share of the steps that are run, from 0 to 1 (0.8; with a mask 1)
        negative_prompt         what to keep away from: one text for all prompts or one each; unused without guidance
        prompt_2, prompt_3      what the second and the third text encoder read, as the third of Stable Diffusion 3 and
                                the second of Flux, T5; the prompt where they are left out. Each also as negative_...
        weighting               None: prompts are plain text. Else brackets weigh words, as in (word:1.3) and [word],
                                and AND joins prompts: see diffrt.prompting. "scale" multiplies the embedding of each
                                token by its weight, "mean" then restores the mean of all, "empty" scales the distance
                                from what the empty prompt gives
        chunks                  how many times the text encoder's length (75 tokens in Stable Diffusion) all prompts
                                fill, the rest is cut off; "auto": as many as the longest prompt of the call needs
        use_resolution_binning  of models with sizes of their own (PixArt), from words alone: draw at the one of the
                                nearest ratio, then scale and crop to the height and width that are given, which may
                                have any value; False: draw at these
        guidance_scale          1 or below: no guidance, and half the work
        image_guidance_scale    of models that edit by instruction: how closely to keep to the image, from 1 (1.5)
        guidance_rescale        against the over-exposure of much guidance: from 0, none, to 1
        guidance_interval       from which to which share of the steps guidance acts; the others are half the work
        cfg_plus_plus           the guided picture with the unguided noise, at a guidance_scale from 0 to 1: for
                                samplers without memory (ddim, euler, euler-a)
        noise_level             of models that upscale an image: with how much noise it is seen, from 0 to 350 (20)
        num_images_per_prompt   pictures of one prompt lie side by side in the output
        class_labels            in place of prompts, of a model that draws classes: numbers or names of them
        batch_size              how many pictures, of a model that takes no prompt (1)
        seed                    an int gives picture i the seed+i, a list gives one each, None draws one at random
        rng                     "torch-cpu": the noise of torch.Generator("cpu"); "philox": of torch.Generator("cuda")
        eta                     DDIM's share of fresh noise, from 0 to 1
        latents                 [B,C,h,w] f32 initial noise of unit variance, in place of the seed's
        pooled_prompt_embeds    [P,D] f32 of the whole prompts, beside prompt_embeds, of models that are told of both
        conditions              what a model that was brought along is told beside: arrays [1 or P,...] by the names of
                                its inputs, P being the number of prompts, of classes, or batch_size
        negative_conditions     the same, of what to guide away from; beside words or classes it may be left out
        denoising_end           the share of the run after which to stop and hand over, with output_type "latent"
        denoising_start         the share at which another model goes on, with those latents as its image
        sizes                   of models that are told of them (Stable Diffusion XL): original_size, target_size,
                                crops_coords_top_left, each also as negative_...; aesthetic_score of its refiner
        output_type             "pil", "np" (f32 in [0,1]) or "latent" (not decoded)

        Raises InvalidArgument for an argument outside what is allowed, NumericalError for NaN in a component.
        """
        return self.stream(
            prompt,
            image=image,
            mask_image=mask_image,
            depth_map=depth_map,
            strength=strength,
            negative_prompt=negative_prompt,
            prompt_2=prompt_2,
            prompt_3=prompt_3,
            negative_prompt_2=negative_prompt_2,
            negative_prompt_3=negative_prompt_3,
            weighting=weighting,
            chunks=chunks,
            height=height,
            width=width,
            use_resolution_binning=use_resolution_binning,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            image_guidance_scale=image_guidance_scale,
            guidance_rescale=guidance_rescale,
            guidance_interval=guidance_interval,
            cfg_plus_plus=cfg_plus_plus,
            noise_level=noise_level,
            num_images_per_prompt=num_images_per_prompt,
            batch_size=batch_size,
            class_labels=class_labels,
            seed=seed,
            rng=rng,
            eta=eta,
            latents=latents,
            prompt_embeds=prompt_embeds,
            negative_prompt_embeds=negative_prompt_embeds,
            pooled_prompt_embeds=pooled_prompt_embeds,
            negative_pooled_prompt_embeds=negative_pooled_prompt_embeds,
            conditions=conditions,
            negative_conditions=negative_conditions,
            denoising_start=denoising_start,
            denoising_end=denoising_end,
            output_type=output_type,
            **sizes,
        ).result()

    def stream(self, prompt: str | Sequence[str] | None = None, **arguments: Any) -> "Stream":
        """The same call, step by step: iterate over the steps, then ask for .result(). To cancel, stop iterating."""
        asked, tasks = request.check(self.bundle.manifest, prompt, **arguments), self.bundle.manifest.tasks
        if asked.task not in tasks:
            allowed = "; or ".join(NEEDS[task] for task in tasks if task in NEEDS)
            raise InvalidArgument(f"{self.bundle.root} has no {asked.task.replace('_', '-')}: give it {allowed}")
        channels = asked.latent_shape[0]
        if asked.output_type == "pil" and isinstance(self._parts.decoder, Pixels) and channels not in (1, 3):
            raise InvalidArgument(
                f"this model draws {channels} channels, and a picture has 1 or 3: give output_type 'np' or 'latent'"
            )
        return self.run(TASKS[asked.task], asked)

    def run(self, task: Task, asked: request.Request) -> "Stream":
        """A task over this pipeline's parts: one of diffrt.tasks, or another one of that form."""
        return Stream(task(asked, self.scheduler, self._parts))

    def embed(
        self, prompts: str | Sequence[str], *, weighting: str | None = None, chunks: int | str = 1
    ) -> F32:  # [P,S,D]
        """What the text encoder makes of prompts or negative prompts: to blend, and to pass in as prompt_embeds."""
        texts, chunks = request.to_embed(prompts, weighting, chunks)
        encoder = self._parts.text_encoder
        if encoder is None:
            raise InvalidArgument(f"{self.bundle.root} takes no prompt: there is nothing to embed")
        conditions, truncated = encoder(texts, whole_chunks(chunks, [(texts, ())], encoder), weighting)
        self._parts.done(encoder)
        _warn(truncated)
        return conditions[EMBEDS]

    def close(self) -> None:
        """Free the graphs; a later call opens them again."""
        for part in self._parts.all:
            part.close()


def _warn(truncated: Sequence[str]) -> None:
    for text in filter(None, truncated):
        warnings.warn(f"a prompt is too long; cut off: {text!r}", stacklevel=3)


class Stream(Iterator[Step]):
    """The steps of one call as they come, and its output."""

    def __init__(self, steps: Generator[Step, None, Output]) -> None:
        self._steps = steps
        self._output: Output | None = None

    def __next__(self) -> Step:
        try:
            return next(self._steps)
        except StopIteration as end:
            if end.value is not None:
                self._output = end.value
                _warn(end.value.truncated)
                if any(end.value.nsfw_content_detected or ()):
                    warnings.warn("the safety checker found something: that picture is black", stacklevel=3)
            raise StopIteration from None

    def result(self) -> Output:
        """The output; the steps not yet iterated over are run first. InvalidArgument after close()."""
        for _ in self:
            pass
        if self._output is None:
            raise InvalidArgument("the stream was closed before its last step: there is no result")
        return self._output

    def close(self) -> None:
        """Cancel."""
        self._steps.close()
