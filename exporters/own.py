"""A denoiser that someone brought: any torch module, with its weights in a safetensors file, to a bundle.

It becomes a checkpoint in diffusers layout of a family made for it, beside the target as long as the export runs.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from diffrt.errors import CheckpointError, InvalidArgument
from diffrt.folders import Say, building, link
from diffrt.manifest import TensorSpec
from diffrt.schedulers import Scheduler
from diffrt.stable_diffusion import latents as latents_of
from diffrt.weight_files import STEMS

from .exporting import check_target, checked_options, write_bundle
from .families.latent import autoencoder
from .sources import Source
from .spec import Component, Config, Family

VAE_CLASS = "AutoencoderKL"
CONTRACT = (
    'its inputs are "sample", float32 ("batch", C, "h", "w") with numbers in place of h and w where the net takes one '
    'size alone, then "timestep" or "sigma", float32 ("batch",), then what it is told beside'
)


def export_module(
    component: Component,
    weights: str | os.PathLike,
    dest: str | os.PathLike,
    *,
    scheduler: Scheduler,
    config: Config | None = None,
    size: tuple[int, int] | None = None,
    steps: int = 50,
    vae: str | os.PathLike | None = None,
    name: str = "own",
    precision: str = "fp32",
    attention: str = "auto",
    verify: bool = True,
    copy_weights: bool = False,
    force: bool = False,
    progress: Say | None = None,
) -> Path:
    """Export a denoiser of any kind to the bundle folder ``dest``: see docs/bring-your-own.md.

    component     how the module is built, what it takes and what it is called with. Told "timestep" it gives what the
                  scheduler's prediction_type says; told "sigma" it gives x0 of x0 + sigma eps, whatever the scheduler.
    weights       a safetensors file with the tensors of its state_dict, in float32 (for fp16 in either).
    scheduler     the bundle's own sampler; a pipeline may take another.
    config        what ``component.build`` is called with: JSON values.
    size          (height, width) in pixels of a picture; not needed where the declared inputs have numbers for it.
    vae           the folder of an AutoencoderKL of diffusers, for a denoiser of its latents: scaled, as it gives them.
    name          of the family, as the manifest has it.

    The rest is as in ``export``. The module is built with memory, so that tensors that are not in its state_dict come
    along. Returns the bundle's path. Raises InvalidArgument, CheckpointError or ExportError: then nothing is left at
    ``dest``.
    """
    say, target = progress or (lambda line: None), Path(dest).absolute()
    checked_options(precision, attention)
    component = declared(replace(component, real=True))
    if not isinstance(scheduler, Scheduler):
        raise InvalidArgument(f"scheduler is {scheduler!r:.60}: give an instance of a class of diffrt.schedulers")
    file = Path(weights)
    if not file.is_file() or file.suffix != ".safetensors":
        raise CheckpointError(
            f"{file} is no safetensors file: write one by safetensors.torch.save_file(state_dict, path)"
        )
    check_target(target, None, force)
    with checkpoint_of(component, file, target, scheduler, config or {}, vae, name, say) as folder:
        made = family(component, name, size, steps, vae is not None)
        write_bundle(Source(folder, family=made), target, precision, attention, None, verify, copy_weights, {}, say)
    say(f"wrote {target}")
    return target


def declared(component: Component) -> Component:
    """With its output, where none is declared. InvalidArgument where the inputs are no denoiser's."""
    sample, time = (*component.inputs, None, None)[:2]
    if (
        sample is None
        or time is None
        or (sample.name, time.name) not in (("sample", "timestep"), ("sample", "sigma"))
        or len(sample.shape) != 4
        or not isinstance(sample.shape[1], int)
        or time.shape != ("batch",)
    ):
        raise InvalidArgument(f"{component.name}: {CONTRACT}")
    if component.outputs:
        return component
    out = "denoised" if time.name == "sigma" else "out_sample"
    return replace(component, outputs=(TensorSpec(out, "float32", sample.shape),))


def family(component: Component, name: str, size: tuple[int, int] | None, steps: int, decoded: bool) -> Family:
    """Of this denoiser alone, or with an autoencoder."""
    _, channels, *sides = component.inputs[0].shape

    def components(configs: Mapping[str, Config]) -> tuple[Component, ...]:
        return (component, *autoencoder(configs["vae"])) if decoded else (component,)

    def latents(configs: Mapping[str, Config]) -> dict[str, Any]:
        made = latents_of(configs) if decoded else {"channels": channels, "scale_factor": 1}
        if made["channels"] != channels:
            raise CheckpointError(f"the denoiser takes {channels} channels, the autoencoder's have {made['channels']}")
        return made

    def defaults(configs: Mapping[str, Config]) -> dict[str, Any]:
        fixed = [side * latents(configs)["scale_factor"] for side in sides if isinstance(side, int)]
        if size is None and len(fixed) != 2:
            raise InvalidArgument(
                "size is not given, and the declared inputs have no numbers for it: give (height, width)"
            )
        height, width = size or fixed
        return {"height": height, "width": width, "num_inference_steps": steps, "guidance_scale": 1.0}

    return Family(
        name=name,
        all_tasks=("unconditional",),
        tasks=lambda configs: ("unconditional",),
        parts={component.part: (component.name,)} | ({"vae": (VAE_CLASS,)} if decoded else {}),
        components=components,
        defaults=defaults,
        latents=latents,
        denoiser=component.name,
    )


@contextmanager
def checkpoint_of(
    component: Component,
    weights: Path,
    target: Path,
    scheduler: Scheduler,
    config: Config,
    vae: str | os.PathLike | None,
    name: str,
    say: Say,
) -> Iterator[Path]:
    """A folder in diffusers layout whose weights are links to what was given."""
    kind = type(scheduler).__name__
    index: dict[str, Any] = {
        "_class_name": name,
        component.part: [name, component.name],
        "scheduler": ["diffusers", kind],
    }
    with building(target, "source-") as folder:
        for part in (component.part, "scheduler", *(("vae",) if vae is not None else ())):
            (folder / part).mkdir()
        if vae is not None:
            index["vae"] = ["diffusers", VAE_CLASS]
            for each in sorted(Path(vae).glob("*.safetensors*")):
                link(each.resolve(), folder / "vae" / each.name, False, say)
            if not (Path(vae) / "config.json").is_file():
                raise CheckpointError(f"{vae} is no part of a checkpoint in diffusers layout: it has no config.json")
            shutil.copyfile(Path(vae) / "config.json", folder / "vae" / "config.json")
        link(weights.resolve(), folder / component.part / f"{STEMS[0]}.safetensors", False, say)
        for file, record in (
            ("model_index.json", index),
            (f"{component.part}/config.json", dict(config)),
            ("scheduler/scheduler_config.json", {"_class_name": kind, **scheduler.config}),
        ):
            (folder / file).write_text(json.dumps(record, indent=2) + "\n", "utf-8")
        yield folder
