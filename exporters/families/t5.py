"""T5's encoder (Raffel et al. 2019, arXiv:1910.10683), from transformers."""

from torch import Tensor, nn

from diffrt.manifest import TensorSpec

from ..spec import TOLERANCE, Component, Config


def build(config: Config) -> nn.Module:
    from transformers import T5Config, T5EncoderModel

    known = {k: v for k, v in config.items() if k not in ("torch_dtype", "dtype", "transformers_version")}
    return T5EncoderModel(T5Config(**known))


def encode(module: nn.Module, input_ids: Tensor) -> Tensor:
    return module(input_ids=input_ids).last_hidden_state.float()


def t5_encoder(name: str, config: Config, tokens: int) -> Component:
    return Component(
        name=name,
        part=name,
        graph="model",
        build=build,
        call=encode,
        inputs=(TensorSpec("input_ids", "int64", ("batch", "sequence")),),
        outputs=(TensorSpec("last_hidden_state", "float32", ("batch", "sequence", config["d_model"])),),
        axes={"batch": 2, "sequence": min(77, tokens)},
        tolerance=TOLERANCE,
        high=config["vocab_size"],
    )
