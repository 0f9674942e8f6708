"""T5's encoder as a component: what it says of each token of a prompt."""

import torch
from torch import Tensor

from diffrt.manifest import TensorSpec

from ..models.t5 import PAD, T5EncoderModel
from ..spec import TOLERANCE, Component, Config


def encode(module: T5EncoderModel, input_ids: Tensor) -> Tensor:
    return module(input_ids).float()


def encode_text(module: T5EncoderModel, input_ids: Tensor) -> Tensor:
    """Padding is not read, and zero: a denoiser then knows it. It is what follows the last token that is another, the
    text's end."""
    place = torch.arange(input_ids.shape[1])
    kept = place <= (place * (input_ids != PAD)).amax(1, keepdim=True)
    return torch.where(kept.unsqueeze(-1), module(input_ids, kept).float(), 0.0)


def t5_encoder(name: str, config: Config, tokens: int, masked: bool = False) -> Component:
    """``masked``: padding is told apart from text."""
    return Component(
        name=name,
        part=name,
        graph="model",
        build=T5EncoderModel,
        call=encode_text if masked else encode,
        inputs=(TensorSpec("input_ids", "int64", ("batch", "sequence")),),
        outputs=(TensorSpec("last_hidden_state", "float32", ("batch", "sequence", config["d_model"])),),
        axes={"batch": 2, "sequence": min(77, tokens)},
        tolerance=TOLERANCE,
        high=config["vocab_size"],
    )
