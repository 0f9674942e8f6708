"""T5's encoder as a component: what it says of each token of a prompt."""

from torch import Tensor

from diffrt.manifest import TensorSpec

from ..models.t5 import T5EncoderModel
from ..spec import TOLERANCE, Component, Config


def encode(module: T5EncoderModel, input_ids: Tensor) -> Tensor:
    return module(input_ids).float()


def t5_encoder(name: str, config: Config, tokens: int) -> Component:
    return Component(
        name=name,
        part=name,
        graph="model",
        build=T5EncoderModel,
        call=encode,
        inputs=(TensorSpec("input_ids", "int64", ("batch", "sequence")),),
        outputs=(TensorSpec("last_hidden_state", "float32", ("batch", "sequence", config["d_model"])),),
        axes={"batch": 2, "sequence": min(77, tokens)},
        tolerance=TOLERANCE,
        high=config["vocab_size"],
    )
