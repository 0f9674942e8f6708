"""A single-file Stable Diffusion 1 or 2 checkpoint as a folder in diffusers layout."""

import json
from collections.abc import Mapping
from pathlib import Path

from diffrt.errors import CheckpointError
from diffrt.folders import Say
from diffrt.weight_files import STEMS

from ..safetensors_writer import Stored, write_header
from .clip_tokenizer import END, VOCABULARY, write_tokenizer
from .configs import (
    EDIT,
    INPAINT,
    PLAIN,
    Json,
    count,
    model_index,
    pipeline_class,
    scheduler_config,
    text_config,
    unet_config,
    vae_config,
)
from .ldm import renamed, split
from .tensors import from_pickle, from_safetensors

PREDICTION_TYPES = ("epsilon", "v_prediction")
READERS = {".safetensors": from_safetensors, ".ckpt": from_pickle, ".pt": from_pickle, ".pth": from_pickle}
BASE_STEPS = 875_000  # training steps of Stable Diffusion 2's 512-base-ema, by which the ecosystem knows it
MADE_FOR = {INPAINT: " for inpainting", EDIT: " for editing by instruction"}
OPEN_CLIP_LAYERS = 24  # of the whole text encoder; Stable Diffusion 2 takes the output of the last but one

Tensors = Mapping[str, Stored]


def unpack(file: Path, folder: Path, prediction_type: str | None, say: Say) -> dict[Path, dict[str, Stored]]:
    """Write the folder but for its weights' bytes, and return where which tensors are to go. Raises CheckpointError."""
    if file.suffix not in READERS:
        raise CheckpointError(f"{file} is no folder, and no single-file checkpoint: those end in {', '.join(READERS)}")
    everything = READERS[file.suffix](file)
    try:
        configs, tensors = convert(everything)
    except CheckpointError as error:
        raise CheckpointError(f"{file}: {error}") from None
    unet, vae = configs["unet"], configs["vae"]
    second, pipeline = unet["use_linear_projection"], pipeline_class(unet, vae)
    chosen = prediction_type or predicts(everything, second and pipeline == PLAIN)
    size = 768 if chosen == "v_prediction" else 512
    unet["sample_size"], vae["sample_size"] = size // 2 ** (len(vae["block_out_channels"]) - 1), size
    kind = f"Stable Diffusion {2 if second else 1}{MADE_FOR.get(pipeline, '')}"
    hint = "" if prediction_type or not second else "; the file does not say: if pictures are bad, give the other type"
    say(f"{file.name}: {kind}, prediction type {chosen}, {size}x{size}{hint}")

    write_tokenizer(folder / "tokenizer", "!" if second else END)
    configs["scheduler"] = scheduler_config(chosen)
    for part, config in configs.items():
        (folder / part).mkdir()
        name = "scheduler_config.json" if part == "scheduler" else "config.json"
        (folder / part / name).write_text(json.dumps(config, indent=2) + "\n", "utf-8")
    index = model_index(pipeline, configs["scheduler"]["_class_name"])
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", "utf-8")
    converted = {}
    for part, found in tensors.items():
        weights = folder / part / f"{STEMS[1] if part == 'text_encoder' else STEMS[0]}.safetensors"
        write_header(weights, found)
        converted[weights] = found
    return converted


def convert(everything: Tensors) -> tuple[dict[str, Json], dict[str, dict[str, Stored]]]:
    """The configs and the tensors of each part, as in diffusers."""
    parts = split(everything)
    unet, vae, (naming, text) = parts["unet"][1], parts["vae"][1], parts["text_encoder"]
    configs = {"unet": unet_config(unet), "vae": vae_config(vae)}
    layers = count(text, "transformer.resblocks.")
    if layers == OPEN_CLIP_LAYERS or "cond_stage_model.model.text_projection" in everything:  # it is whole
        layers -= 1
        text = {n: t for n, t in text.items() if not n.startswith(f"transformer.resblocks.{layers}.")}
    tensors = {"text_encoder": renamed(naming, text, layers, 0)}
    for part, found in (("unet", unet), ("vae", vae)):
        config = configs[part]
        tensors[part] = renamed(part, found, len(config["block_out_channels"]), config["layers_per_block"])
    activation = "gelu" if configs["unet"]["use_linear_projection"] else "quick_gelu"
    configs["text_encoder"] = text_config(tensors["text_encoder"], activation)
    if configs["text_encoder"]["vocab_size"] != VOCABULARY:
        words = configs["text_encoder"]["vocab_size"]
        raise CheckpointError(f"its text encoder knows {words} tokens; CLIP's {VOCABULARY} are needed")
    return configs, tensors


def predicts(everything: Tensors, may_be_v: bool) -> str:
    """The prediction type where none is given: as diffusers guesses it, from the number of training steps."""
    step = everything.get("global_step")
    base = step is not None and int.from_bytes(step.read(), "little") == BASE_STEPS
    return "v_prediction" if may_be_v and not base else "epsilon"
