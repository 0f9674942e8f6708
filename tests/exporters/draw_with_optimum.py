"""Run in an environment of its own: python draw_with_optimum.py FOLDER OUT.npy draws one picture with optimum."""

import sys

import numpy as np
import torch
from optimum.onnxruntime import ORTDiffusionPipeline

pipe = ORTDiffusionPipeline.from_pretrained(sys.argv[1], export=False)
pipe.set_progress_bar_config(disable=True)
drawn = pipe(
    prompt="a red apple", num_inference_steps=2, guidance_scale=4.0, output_type="np",
    generator=torch.Generator("cpu").manual_seed(3),
)  # fmt: skip
np.save(sys.argv[2], drawn.images)
