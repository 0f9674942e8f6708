"""What a call of a pipeline asks for: checked once, with every default filled in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Resampling

from diffrt.arguments import F32, array_of, interval_of, number, positive, share_of, shown, texts_of, whole_number
from diffrt.classes import numbers
from diffrt.depth import depths
from diffrt.errors import InvalidArgument, nearest
from diffrt.further_prompts import further_prompts, matching
from diffrt.guidance import Conditions, is_guided
from diffrt.manifest import Manifest
from diffrt.micro_conditions import told
from diffrt.noise import RNGS, Stream, generators, resolve_seeds
from diffrt.picture_tasks import PARTIAL, PICTURED, check_guidance, check_owners, of_picture, times
from diffrt.pictures import as_list, colours, masks, whole
from diffrt.prompting import Condition, Text, checked_chunks, parsed, read
from diffrt.sizes import Given, checked_binning, drawn_size
from diffrt.told import checked, open_inputs

Seen = tuple[NDArray[np.uint8], ...]  # pictures [H,W,3]

OUTPUT_TYPES = ("pil", "np", "latent")
DEFAULT_STRENGTH = {False: 0.8, True: 1.0}  # by whether there is a mask
DEFAULT_IMAGE_GUIDANCE = 1.5
DEFAULT_NOISE_LEVEL, MOST_NOISE = 20, 350  # that a picture to be upscaled is seen with; it was trained with no more
ALWAYS = (0.0, 1.0)
RESAMPLING = {False: Resampling.LANCZOS, True: Resampling.BICUBIC}  # by whether a picture is to be upscaled
WITHOUT_PROMPT = {
    "class_labels": "classes: give class_labels, as many as pictures, and no batch_size",
    "batch_size": "without being told what: leave out class_labels",
    "image": "variations of a picture: give an image, or several, and neither class_labels nor batch_size",
}


@dataclass(frozen=True, eq=False)
class Request:
    """P prompts, each drawn as often as asked: B pictures, those of one prompt side by side."""

    task: str
    prompts: tuple[str, ...] | None  # [P]; None where prompt_embeds are given
    conditions: tuple[tuple[Condition, ...], ...]  # [K][P] what the prompts say; K > 1 where one holds AND
    negative_prompts: tuple[str, ...]  # [P]
    negative_texts: tuple[Text, ...]  # [P] the same, parsed
    further: Mapping[str, tuple[str, ...]]  # prompt_2, prompt_3 and their negatives, where they are given: [P] each
    weighting: str | None  # how weighted text acts; None: all text is plain
    chunks: int | str  # of text, or "auto"
    prompt_embeds: F32 | None  # [P,S,D]
    negative_prompt_embeds: F32 | None  # [P,S,D]
    pooled_prompt_embeds: F32 | None  # [P,D] of the whole prompt
    negative_pooled_prompt_embeds: F32 | None  # [P,D]
    latents: F32 | None  # [B,C,h,w] unit noise
    seen: Seen  # [P] in place of prompts
    image: F32 | None  # [1 or P,3,H,W] in [-1,1]: what to start from
    image_latents: F32 | None  # [B,C,h,w] the same, encoded
    mask: F32 | None  # [1 or P,1,H,W], 1 where to paint anew
    depth: F32 | None  # [1 or P,1,h,w] in [-1,1]
    noise_level: int  # of a picture to be upscaled, as a training time
    strength: float  # share of the steps that are run, 0 to 1
    latent_shape: tuple[int, int, int]  # C,h,w
    height: int
    width: int
    asked_size: tuple[int, int] | None  # height and width that pictures are scaled to; None: as they are drawn
    has_sizes: bool  # the model has sizes of its own, and draws of words alone
    num_inference_steps: int
    guidance_scale: float
    image_guidance_scale: float  # of models that are guided toward a picture as well
    guidance_rescale: float  # 0 to 1
    guidance_interval: tuple[float, float]  # shares of the steps that are run
    cfg_plus_plus: bool
    num_images_per_prompt: int
    seeds: tuple[int, ...]  # [B]
    rng: str
    eta: float
    output_type: str
    even_sigmas: bool  # as in the manifest
    strength_rounds_up: bool  # as in the manifest
    patch: int  # latent pixels of a transformer's token, each way
    class_labels: tuple[int, ...]  # [P] in place of prompts
    classes: int  # how many the model draws
    told: tuple[Conditions, Conditions]  # what the denoiser is told beside the words, and its negative half: [1,...]
    given: tuple[Conditions, Conditions]  # the same, of what the call gives as arrays: [P,...]
    takes_sigma: bool  # the denoiser is told sigma and gives the picture: see diffrt/levels.py
    zero_negative: bool  # nothing is said of the negative half, which is zero
    denoising_start: float | None  # share of the whole run at which this part of it begins
    denoising_end: float | None  # and at which it ends
    generator: Stream | None  # one source of noise for all pictures, which draw from it in turn; None: their seeds

    def streams(self) -> list[Stream]:
        """The source of each picture's noise: [B]."""
        return generators(self.seeds, self.rng) if self.generator is None else [self.generator] * len(self.seeds)

    @property
    def guided(self) -> bool:
        """Whether there is a negative half; a distilled model is told of the guidance instead."""
        return "guidance" not in self.told[0] and (self.cfg_plus_plus or is_guided(self.guidance_scale))

    def parameters(self, scheduler: str, model: str, chunks: int) -> list[dict[str, Any]]:
        """What made each picture, as JSON values: [B]. chunks: as many as the prompts filled."""
        extra: dict[str, Any] = {"task": self.task} if self.task in PICTURED else {}
        extra |= {"strength": self.strength} if self.task in PARTIAL else {}
        extra |= {"image_guidance_scale": self.image_guidance_scale} if self.task == "edit" else {}
        extra |= {"noise_level": self.noise_level} if self.task == "upscale" else {}
        extra |= {} if self.weighting is None else {"weighting": self.weighting}
        extra |= {} if chunks == 1 else {"chunks": chunks}
        extra |= {"guidance_rescale": self.guidance_rescale} if self.guidance_rescale else {}
        extra |= {"guidance_interval": list(self.guidance_interval)} if self.guidance_interval != ALWAYS else {}
        labels = [{"class_label": each} for each in self.class_labels for _ in range(self.num_images_per_prompt)]
        extra |= {"cfg_plus_plus": True} if self.cfg_plus_plus else {}
        extra |= {"use_resolution_binning": self.asked_size is not None} if self.has_sizes else {}
        height, width = self.asked_size or (self.height, self.width)
        further = {k: texts for k, texts in self.further.items() if self.guided or not k.startswith("negative")}
        return [
            {
                "prompt": self.prompts[i // self.num_images_per_prompt] if self.prompts else None,
                "negative_prompt": self.negative_prompts[i // self.num_images_per_prompt] if self.guided else "",
                "num_inference_steps": self.num_inference_steps,
                "scheduler": scheduler,
                "guidance_scale": self.guidance_scale,
                "seed": seed if self.generator is None else None,
                "rng": self.rng,
                "eta": self.eta,
                "height": height,
                "width": width,
                "model": model,
                **{name: texts[i // self.num_images_per_prompt] for name, texts in further.items()},
                **extra,
                **(labels[i] if labels else {}),
            }
            for i, seed in enumerate(self.seeds)
        ]


def check(
    manifest: Manifest,
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
    guidance_interval: Sequence[float] = ALWAYS,
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
    generator: Stream | None = None,
    **sizes: Any,
) -> Request:
    """The request, or InvalidArgument: what was got, what is allowed. The scheduler checks steps and eta further."""
    prompts, embeds = texts_of("prompt", prompt), _embeds("prompt_embeds", prompt_embeds)
    if embeds is not None and weighting is not None:
        raise InvalidArgument("weighting is given with prompt_embeds: weigh them with pipe.embed(..., weighting=...)")
    said = any(each is not None for each in (prompts, embeds, negative_prompt, negative_prompt_embeds))
    labels: tuple[int, ...] = ()
    seen: Seen = ()
    if manifest.tokenizers:
        count = _count_of_words(prompts, embeds, batch_size, class_labels)
    else:
        count, labels, seen = _without_words(manifest, said, image, batch_size, class_labels)
    negative_embeds = _embeds("negative_prompt_embeds", negative_prompt_embeds)
    if negative_embeds is not None:
        if negative_prompt is not None:
            raise InvalidArgument("give either a negative_prompt or negative_prompt_embeds, not both")
        if len(negative_embeds) != count or (embeds is not None and negative_embeds.shape != embeds.shape):
            raise InvalidArgument(
                f"negative_prompt_embeds has the shape {list(negative_embeds.shape)}; it must fit "
                + (f"prompt_embeds, {list(embeds.shape)}" if embeds is not None else f"{count} prompts")
            )
    inputs = _inputs(manifest)
    pooled = [
        _pooled(name, value, beside, "text_embeds" in inputs)
        for name, value, beside in (
            ("pooled_prompt_embeds", pooled_prompt_embeds, embeds),
            ("negative_pooled_prompt_embeds", negative_pooled_prompt_embeds, negative_embeds),
        )
    ]
    images = positive("num_images_per_prompt", num_images_per_prompt) * count
    encoded = image if _encoded(image) else None
    if encoded is not None and latents is not None:
        raise InvalidArgument("image is latents [B,C,h,w]: leave out latents, or give a picture")
    task = _task(manifest, image is not None, mask_image is not None and not seen, labels)
    factor = manifest.latents["scale_factor"]
    larger = times(task, factor)
    pictures, masked = ([], []) if seen else _pictures(image, mask_image, strength, count)
    if task == "upscale" and encoded is not None:
        raise InvalidArgument("image is latents, and this model upscales pictures: give a picture")
    check_owners(
        task,
        mask_image=mask_image,
        strength=strength,
        denoising_start=denoising_start,
        image_guidance_scale=image_guidance_scale,
        depth_map=depth_map,
        noise_level=noise_level,
    )
    level = whole_number("noise_level", DEFAULT_NOISE_LEVEL if noise_level is None else noise_level, MOST_NOISE)
    has_sizes = "sizes" in manifest.latents and image is None
    binned = checked_binning(has_sizes, use_resolution_binning, image is not None)
    sized = Given(pictures, masked, encoded, latents)
    (height, width), asked_size = drawn_size(manifest, task, height, width, sized, binned)
    latent_shape = (manifest.latents["channels"], height // factor, width // factor)
    encoded_shape = (images, latent_shape[0], latent_shape[1] // larger, latent_shape[2] // larger)
    if output_type not in OUTPUT_TYPES:
        raise InvalidArgument(f"unknown output_type {output_type!r}: {nearest(str(output_type), OUTPUT_TYPES)}")
    if rng not in RNGS:
        raise InvalidArgument(f"unknown rng {rng!r}: {nearest(str(rng), RNGS)}")
    given: Mapping[str, Any] = {"num_inference_steps": num_inference_steps, "guidance_scale": guidance_scale}
    steps, guidance = (getattr(manifest.defaults, k) if v is None else v for k, v in given.items())
    guidance, rescale = number("guidance_scale", guidance), share_of("guidance_rescale", guidance_rescale)
    interval = interval_of("guidance_interval", guidance_interval)
    if not isinstance(cfg_plus_plus, bool):
        raise InvalidArgument(f"cfg_plus_plus is {shown(cfg_plus_plus)}: give True or False")
    image_guidance = number(
        "image_guidance_scale", DEFAULT_IMAGE_GUIDANCE if image_guidance_scale is None else image_guidance_scale
    )
    if image_guidance < 1:
        raise InvalidArgument(f"image_guidance_scale is {image_guidance:g}: give at least 1")
    if cfg_plus_plus and not 0 <= guidance <= 1:
        raise InvalidArgument(f"guidance_scale is {guidance:g}, and cfg_plus_plus takes 0 to 1: give for instance 0.6")
    if cfg_plus_plus and rescale:
        raise InvalidArgument("guidance_rescale scales down what cfg_plus_plus does not scale up: give one of them")
    start, end = (
        None if share is None else share_of(name, share)
        for name, share in (("denoising_start", denoising_start), ("denoising_end", denoising_end))
    )
    if start is not None and image is None:
        raise InvalidArgument("denoising_start is given without an image: give the latents of the part before it")
    if start is not None and end is not None and start >= end:
        raise InvalidArgument(f"denoising_start is {start:g} and denoising_end {end:g}: the start must come first")
    negatives = matching(texts_of("negative_prompt", negative_prompt), count)
    rows = tuple(zip_longest(*parsed(prompts or (), weighting), fillvalue=Condition("", 0.0)))
    if len(rows) > 1 and not (cfg_plus_plus or is_guided(guidance)):
        raise InvalidArgument(f"AND composes by guidance and guidance_scale is {guidance:g}: give more than 1")
    if len(rows) > 1 and (rescale or interval != ALWAYS):
        raise InvalidArgument("AND has no one prompt to fall back on: leave out guidance_rescale and guidance_interval")
    further = further_prompts(
        len(manifest.tokenizers),
        {"prompt": prompt, "negative_prompt": negative_prompt},
        {
            "prompt_2": prompt_2,
            "prompt_3": prompt_3,
            "negative_prompt_2": negative_prompt_2,
            "negative_prompt_3": negative_prompt_3,
        },
        count,
        weighting,
    )
    if len(rows) > 1 and further:
        raise InvalidArgument(f"AND composes what all text encoders read: leave out {', '.join(further)}")
    check_guidance(
        task,
        guidance_rescale=rescale > 0,
        guidance_interval=interval != ALWAYS,
        cfg_plus_plus=cfg_plus_plus,
        AND=len(rows) > 1,
    )
    return Request(
        task=task,
        prompts=prompts,
        conditions=rows,
        negative_prompts=negatives,
        negative_texts=read(negatives, weighting),
        further=further,
        weighting=weighting,
        chunks=checked_chunks(chunks),
        prompt_embeds=embeds,
        negative_prompt_embeds=negative_embeds,
        pooled_prompt_embeds=pooled[0],
        negative_pooled_prompt_embeds=pooled[1],
        latents=None if latents is None else array_of("latents", latents, (images, *latent_shape)),
        latent_shape=latent_shape,
        seen=seen,
        image=colours(pictures, height // larger, width // larger, RESAMPLING[larger > 1]) if pictures else None,
        image_latents=None if encoded is None else array_of("image", encoded, encoded_shape),
        mask=masks(masked, height, width) if masked else None,
        noise_level=level,
        depth=depths(depth_map, count, latent_shape[1:]) if task == "depth_to_image" else None,
        strength=share_of(
            "strength",
            DEFAULT_STRENGTH[bool(masked)] if strength is None else strength,
            (" (nothing changes)", " (all is drawn anew)"),
        ),
        height=height,
        width=width,
        has_sizes=has_sizes,
        asked_size=asked_size,
        num_inference_steps=positive("num_inference_steps", steps),
        guidance_scale=guidance,
        image_guidance_scale=image_guidance,
        guidance_rescale=rescale,
        guidance_interval=interval,
        cfg_plus_plus=cfg_plus_plus,
        num_images_per_prompt=images // count,
        seeds=tuple(resolve_seeds(seed, images)),
        rng=rng,
        eta=number("eta", eta),
        output_type=output_type,
        even_sigmas=manifest.even_sigmas,
        strength_rounds_up=manifest.strength_rounds_up,
        patch=manifest.latents.get("patch", 1),
        class_labels=labels,
        classes=len(manifest.classes),
        told=told(inputs, sizes, (height, width), image is not None, guidance, level),
        given=_given(manifest, conditions, negative_conditions, count, cfg_plus_plus or is_guided(guidance)),
        takes_sigma="sigma" in inputs,
        zero_negative=manifest.zero_negative and negative_prompt is None and negative_embeds is None,
        denoising_start=start,
        denoising_end=end,
        generator=generator,
    )


def _count_of_words(prompts: Any, embeds: Any, batch_size: Any, class_labels: Any) -> int:
    """How many prompts there are, as texts or embedded."""
    if batch_size is not None or class_labels is not None:
        raise InvalidArgument(
            "batch_size and class_labels are for models that take no prompt: give a prompt and num_images_per_prompt"
        )
    if (prompts is None) == (embeds is None):
        raise InvalidArgument("give either a prompt or prompt_embeds" + (", not both" if prompts else ""))
    return len(embeds if prompts is None else prompts)


def _without_words(
    manifest: Manifest, said: bool, image: Any, batch_size: Any, class_labels: Any
) -> tuple[int, tuple[int, ...], Seen]:
    """How many pictures a model draws that takes no prompt, of which classes, or of what it sees."""
    looks = "variation" in manifest.tasks
    instead = "image" if looks else "class_labels" if manifest.classes else "batch_size"
    if said:
        raise InvalidArgument(f"a prompt is given, and this model takes none: call it with {instead} alone")
    if (class_labels is None) == bool(manifest.classes) or (manifest.classes and batch_size is not None):
        raise InvalidArgument(f"this model draws {WITHOUT_PROMPT[instead]}")
    if looks and (image is None or batch_size is not None):
        raise InvalidArgument(f"this model draws {WITHOUT_PROMPT[instead]}")
    seen = whole(as_list(image)) if looks else ()
    labels = numbers(manifest.classes, class_labels) if manifest.classes else ()
    return len(labels) or len(seen) or (1 if batch_size is None else positive("batch_size", batch_size)), labels, seen


def _task(manifest: Manifest, pictured: bool, masked: bool, labels: tuple[int, ...]) -> str:
    """What is asked for, by what is given."""
    if pictured:
        return "inpaint" if masked else of_picture(manifest.tasks)
    if labels:
        return "class_to_image"
    return "text_to_image" if manifest.tokenizers else "unconditional"


def _inputs(manifest: Manifest) -> dict[str, tuple[int | str, ...]]:
    """The shapes of the denoiser's inputs; of a manifest without graphs none."""
    component = manifest.components.get(manifest.denoiser)
    return {} if component is None else {spec.name: spec.shape for spec in component.inputs}


def _given(
    manifest: Manifest, conditions: Any, negative: Any, count: int, guided: bool
) -> tuple[Conditions, Conditions]:
    """What is given as arrays, and its negative half: of a model that is guided away from words or classes the same."""
    inputs = open_inputs(manifest)
    said = checked("conditions", conditions, inputs, count)
    if negative is not None:
        return said, checked("negative_conditions", negative, inputs, count)
    if guided and inputs and not (manifest.tokenizers or manifest.classes):
        raise InvalidArgument("guidance_scale is above 1 and leads away from nothing: give negative_conditions as well")
    return said, said


def to_embed(prompts: Any, weighting: str | None, chunks: int | str) -> tuple[list[Text], int | str]:
    """The same checks for texts that are only embedded."""
    texts = parsed(texts_of("prompts", [] if prompts is None else prompts) or (), weighting)
    if any(len(conditioned) > 1 for conditioned in texts):
        raise InvalidArgument("AND makes several conditions, which have no embedding in common: embed each of them")
    return [condition.text for (condition,) in texts], checked_chunks(chunks)


def _encoded(image: Any) -> bool:
    """Whether it is latents [B,C,h,w]."""
    return isinstance(image, np.ndarray) and image.ndim == 4


def _pictures(image: Any, mask_image: Any, strength: Any, count: int) -> tuple[list[Any], list[Any]]:
    """The pictures to start from, none where there are latents, and the masks: one for all prompts, or one each."""
    if image is None:
        for name, value in (("mask_image", mask_image), ("strength", strength)):
            if value is not None:
                raise InvalidArgument(f"{name} is given without an image: give both")
        return [], []
    pictures = [] if _encoded(image) else as_list(image)
    masked = [] if mask_image is None else as_list(mask_image)
    for name, given in (("image", pictures), ("mask_image", masked)):
        if given and len(given) not in (1, count):
            raise InvalidArgument(f"{name}: {len(given)} pictures for {count} prompts: give one, or one each")
    return pictures, masked


def _embeds(name: str, value: Any) -> F32 | None:
    if value is None:
        return None
    if not isinstance(value, np.ndarray) or value.ndim != 3:
        raise InvalidArgument(f"{name} is {shown(value)}: give a float32 array of shape [prompts, tokens, channels]")
    return array_of(name, value, value.shape)


def _pooled(name: str, value: Any, beside: F32 | None, taken: bool) -> F32 | None:
    """What is said of whole prompts, which goes with the embeddings `beside` of their tokens."""
    plain = name.replace("pooled_", "")
    if value is None:
        if beside is not None and taken:
            raise InvalidArgument(f"{plain} is given without {name}, which this model is told as well: give both")
        return None
    if beside is None or not taken:
        why = f" without {plain}: give both" if taken else ", and this model is not told of whole prompts: leave it out"
        raise InvalidArgument(f"{name} is given{why}")
    return array_of(name, value, (len(beside), *np.shape(value)[1:2]))
