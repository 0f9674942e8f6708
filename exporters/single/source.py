"""What a single graph is made of."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from .tokenizer import Vocabulary

TABLE: dict[str, list[int | str]] = {
    "table_t": ["rows"], "table_c_in": ["rows"], "table_p": ["rows"], "table_q": ["rows"],
    "table_W": ["rows", "slots", "terms"], "table_init_sigma": ["rows"], "table_steps": ["rows"], "table_clip": [],
}  # fmt: skip
# and of a graph that begins with a picture
PICTURED: dict[str, list[int | str]] = {"table_alpha": ["rows"], "table_sigma": ["rows"], "table_run": ["rows"]}
TASKS = ("text_to_image", "image_to_image", "inpaint")


@dataclass(frozen=True, eq=False)
class Source:
    """The models are used up."""

    text_encoder: ir.Model  # input_ids -> last_hidden_state
    unet: ir.Model  # sample, timestep, encoder_hidden_states -> out_sample
    decoder: ir.Model  # latent_sample -> sample
    tables: Mapping[str, np.ndarray]  # the inputs of TABLE, with an encoder also of PICTURED
    preview: Mapping[str, Any] | None  # matrix [C][3] and bias [3], from latents to the decoder's output
    vocabulary: Vocabulary
    op: bool  # prompts are strings
    latent: tuple[int, int, int]  # C,h,w
    factor: int  # pixels of a latent pixel along one axis
    task: str = TASKS[0]
    encoder: ir.Model | None = None  # sample -> mean, std; of the tasks that begin with a picture
    beside: bool = False  # the unet is also given a mask and what is outside of it

    @property
    def evals(self) -> int:
        """Of all tables together."""
        return len(self.tables["table_t"])

    @property
    def steps(self) -> list[int]:
        """The numbers of inference steps that have a table."""
        return list(dict.fromkeys(self.tables["table_steps"].tolist()))

    @property
    def pixels(self) -> tuple[int, int]:
        """H,W"""
        return self.latent[1] * self.factor, self.latent[2] * self.factor

    @property
    def table(self) -> dict[str, list[int | str]]:
        """The inputs that are tables, with their shapes."""
        return TABLE if self.encoder is None else TABLE | PICTURED
