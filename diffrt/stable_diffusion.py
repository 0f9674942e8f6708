"""What the configs of a Stable Diffusion checkpoint say of the whole: what an exported bundle's manifest then holds."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffrt.components.tokenizer import END, FILES, Tokenizer
from diffrt.configs import read_json
from diffrt.errors import BundleError, CheckpointError

Config = Mapping[str, Any]

CONDITIONS = {"encoder_hidden_states": ("text_encoder.last_hidden_state",)}  # input of the UNet -> what it is
LOW_RES = "low_res_scheduler/scheduler_config.json"  # of a picture that an upscaler is told of

# A kind of tokenizer -> its special tokens, but for padding where a folder names another.
TOKENIZERS: Mapping[str, dict[str, Any]] = {
    "clip": {"pad": END},
    "t5": {"pad": "<pad>", "start": None, "end": "</s>"},
    "bert": {"pad": "[PAD]", "start": "[CLS]", "end": "[SEP]"},
}
UNCASED = {"do_lower_case": True, "tokenize_chinese_chars": True, "strip_accents": None}  # as a list of words is read


def scale_factor(vae: Config) -> int:
    return 2 ** (len(vae["block_out_channels"]) - 1)


def defaults(configs: Mapping[str, Config]) -> dict:
    size = configs["unet"].get("sample_size") or 64
    height, width = size if isinstance(size, (list, tuple)) else (size, size)
    factor = scale_factor(configs["vae"])
    return {
        "height": height * factor,
        "width": width * factor,
        "num_inference_steps": 50,
        "guidance_scale": 7.5,
    }


def latents(configs: Mapping[str, Config]) -> dict:
    return {"channels": configs["vae"]["latent_channels"], "scale_factor": scale_factor(configs["vae"])}


def tasks(configs: Mapping[str, Config]) -> tuple[str, ...]:
    """A UNet with channels for a mask and a masked picture can do nothing without them."""
    told = configs["unet"]["in_channels"] > configs["vae"]["latent_channels"]
    return ("inpaint",) if told else ("text_to_image", "image_to_image", "inpaint")


def asks_for_checking(index: Config) -> bool:
    """Whether a model_index.json has a safety checker and wants it run; where it has one and says nothing it does."""
    there = index.get("safety_checker") not in (None, [None, None])
    return there and index.get("requires_safety_checker", True) is True


def tokenizer_entry(root: Path, longest: int, name: str = "tokenizer", kind: str = "clip") -> dict[str, Any]:
    """What the run time must know beyond the vocabulary in the folder `name`: the prompt's length in tokens, at most
    `longest`, the padding token and, of any but CLIP's, which start (T5's has none) and end a text has."""
    folder = root / name
    settings: dict[str, Any] = {}
    for file in ("special_tokens_map.json", "tokenizer_config.json"):
        if (folder / file).is_file():
            settings |= read_json(folder / file)
    special = dict(TOKENIZERS[kind])
    pad = settings.get("pad_token") or special["pad"]
    special["pad"] = str(pad.get("content") if isinstance(pad, dict) else pad)
    for key, read in UNCASED.items() if kind == "bert" and not (folder / FILES[0]).is_file() else ():
        if settings.get(key, read) != read:
            raise CheckpointError(
                f"{name}/tokenizer_config.json: {key} is {settings[key]!r}, and of {FILES[3]} alone {read!r} is "
                f"implemented: save the tokenizer again with today's transformers, which writes {FILES[0]}"
            )
    length = settings.get("model_max_length", longest)
    if not isinstance(length, (int, float)) or not length >= 3:
        raise CheckpointError(f"{name}/tokenizer_config.json: model_max_length is {length!r}; at least 3 is needed")
    length = int(min(length, longest))
    try:
        Tokenizer(folder, length, **special)
    except BundleError as error:
        raise CheckpointError(str(error)) from error
    return {"folder": name, "max_length": length, **special}
