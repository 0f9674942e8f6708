"""What is drawn with: a bundle, or any checkpoint folder in diffusers layout that has safetensors. Here its configs are
read; weights.py reads the tensors."""

import os
import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from diffrt import __version__, hub
from diffrt.bundle import Bundle
from diffrt.components.tokenizer import Tokenizer
from diffrt.configs import read_json
from diffrt.errors import CheckpointError, HubError
from diffrt.flax import weights
from diffrt.flax.clip import clip_text
from diffrt.flax.parameters import Network, declared
from diffrt.flax.unet import unet
from diffrt.flax.vae import decode, encode
from diffrt.manifest import MANIFEST, Defaults, Manifest
from diffrt.model_configs import TextConfig, UNetConfig, VAEConfig
from diffrt.pipeline import BUNDLES, SCHEDULER_CONFIG
from diffrt.schedulers import Scheduler, from_config
from diffrt.stable_diffusion import CONDITIONS, asks_for_checking, defaults, latents, tasks, tokenizer_entry

INDEX = "model_index.json"
CLASSES = {"text_encoder": "CLIPTextModel", "unet": "UNet2DConditionModel", "vae": "AutoencoderKL"}
Params = dict[str, dict[str, Array]]  # part -> tensor name -> values


@dataclass(frozen=True)
class Networks:
    """The shapes of all that is computed: equal ones share their compiled programs."""

    text: TextConfig
    unet: UNetConfig
    vae: VAEConfig

    @property
    def parts(self) -> dict[str, tuple[Network, tuple[Any, ...]]]:
        """Each part as one function that reads all its parameters, and inputs of the smallest shapes."""
        c, shape = self, partial(jax.ShapeDtypeStruct, dtype=jnp.float32)
        factor = 2 ** (len(c.vae.block_out_channels) - 1)
        size = (1, factor, factor, c.unet.in_channels)
        return {
            "text_encoder": (partial(clip_text, c.text), (jax.ShapeDtypeStruct((1, 1), jnp.int32),)),
            "unet": (partial(unet, c.unet), (shape(size), shape((1,)), shape((1, 1, c.unet.cross_attention_dim)))),
            "vae": (
                lambda p, x: decode(c.vae, p, encode(c.vae, p, x)[0]),
                (shape((1, factor, factor, c.vae.in_channels)),),
            ),
        }


@dataclass(frozen=True)
class Checkpoint:
    root: Path
    manifest: Manifest  # of a bundle; else what one would hold
    networks: Networks
    scheduler: Scheduler
    unchecked: bool  # it has a safety checker, wants it run, and that is not done here

    def warn(self, safety_checker: object) -> None:
        """Unless the caller says None or False, and so wants none."""
        if self.unchecked and safety_checker not in (None, False):
            warnings.warn(
                "the safety checker is not run: pictures are as the model draws them; export the checkpoint and draw "
                "with diffrt.load, or say safety_checker=None",
                stacklevel=3,
            )

    def tokenizer(self) -> Tokenizer:
        return Tokenizer.of(self.root, self.manifest.tokenizers["text_encoder"])

    def load(self, dtype: Any, place: Callable[[str], weights.Place]) -> Params:
        """All parameters, each put by place(part) on its devices. CheckpointError where files do not fit configs."""
        return {
            part: weights.load(self.root / part, declared(network, *inputs), dtype, place(part))
            for part, (network, inputs) in self.networks.parts.items()
        }


def find(model: str | os.PathLike[str], revision: str | None = None) -> Path:
    """The folder of a named bundle, of a path, or of an id on the hub, whose files are fetched into its cache."""
    if hub.is_id(model):
        no_index = HubError(f"{model} has no {INDEX}")
        repo = hub.open_repo(str(model), revision, (INDEX,), lambda names: None if INDEX in names else no_index)
        return hub.fetch(str(model), revision) if MANIFEST in repo.names else repo.fetch(wanted(repo.names))
    if revision is not None:
        raise CheckpointError(f"revision is {revision!r}: only a model on the hub, org/name, has one; {model} is not")
    return BUNDLES.get(str(model), Path(model))


def wanted(names: Collection[str]) -> list[str]:
    """Of a repository's files: configs, tokenizer and, of each part, the full weights or else their fp16 variant."""
    chosen = [n for n in names if n == INDEX or n.endswith("_config.json") or n.startswith("tokenizer/")]
    for part in CLASSES:
        inside = [n for n in names if n.startswith(f"{part}/")]
        stored = [n for n in inside if n.endswith((".safetensors", ".index.json"))]
        full = [n for n in stored if ".fp16." not in n and "non_ema" not in n]
        chosen += [n for n in inside if n == f"{part}/config.json"] + (full or stored)
        if not stored:
            raise CheckpointError(f"{part}/ has no safetensors: try the main revision, or convert the checkpoint")
    return sorted(chosen)


def open_checkpoint(root: Path) -> Checkpoint:
    """Raises CheckpointError for a folder that cannot be used, BundleError for a damaged bundle."""
    if not (root / INDEX).is_file():
        raise CheckpointError(f"{root} is neither a bundle nor a checkpoint in diffusers layout: it has no {INDEX}")
    index = read_json(root / INDEX)
    for part, name in CLASSES.items():
        declaration = index.get(part)
        if not isinstance(declaration, list) or declaration[1:] != [name]:
            raise CheckpointError(f"{root}: {INDEX} declares {part} as {declaration!r}; allowed: {name}")
        if not (root / part / "config.json").is_file():
            raise CheckpointError(f"{root}: there is no {part}/config.json")
    configs = {part: read_json(root / part / "config.json") for part in CLASSES}
    configs["text_encoder"] = configs["text_encoder"].get("text_config", configs["text_encoder"])
    networks = Networks(
        TextConfig.read(configs["text_encoder"]), UNetConfig.read(configs["unet"]), VAEConfig.read(configs["vae"])
    )
    for key in ("addition_embed_type", "time_cond_proj_dim", "num_class_embeds", "only_cross_attention"):
        if getattr(networks.unet, key):
            raise CheckpointError(f"{root}: diffrt.flax has no UNet with {key}: export it, and load the bundle")
    takes, channels = networks.unet.in_channels, networks.vae.latent_channels
    if takes not in (channels, 2 * channels + 1):
        raise CheckpointError(f"{root}: diffrt.flax has no UNet of {takes} channels: export it, and load the bundle")
    if any(layers != 1 for layers in networks.unet.transformers):
        raise CheckpointError(
            f"{root}: diffrt.flax has one transformer block per attention: export it, and load the bundle"
        )
    scheduler = read_json(root / SCHEDULER_CONFIG)
    if (root / MANIFEST).is_file():
        manifest = Bundle.open(root).manifest
    else:
        manifest = _manifest(root, networks, configs, scheduler)
    sampler = from_config(scheduler, manifest.defaults.scheduler)
    return Checkpoint(root, manifest, networks, sampler, asks_for_checking(index))


def _manifest(root: Path, networks: Networks, configs: Mapping[str, Any], scheduler: Mapping[str, Any]) -> Manifest:
    """What the manifest of a bundle exported from a checkpoint would say, without graphs."""
    tokenizer = tokenizer_entry(root, networks.text.max_position_embeddings)
    return Manifest(
        generator=f"diffrt {__version__}",
        family="stable-diffusion",
        tasks=tasks(configs),
        defaults=Defaults(**defaults(configs), scheduler=scheduler.get("_class_name", "DDIMScheduler")),
        latents=latents(configs),
        denoiser="unet",
        conditions=CONDITIONS,
        tokenizers={"text_encoder": tokenizer},
        classes=(),
        even_sigmas=False,
        zero_negative=False,
        preview=None,
        files={},
        components={},
        certificate=None,
        probe=None,
    )
