"""For the tests of each family: its step graph draws what its components draw."""

import numpy as np

import diffrt
from exporters import step


def assert_steps_draw_the_same(bundle, folder, *prompt, **arguments):
    made = step.export(bundle, folder / "steps")
    call = {"seed": 7, "num_inference_steps": 4, "output_type": "latent"} | arguments
    got, expected = (diffrt.load(made, loop=loop)(*prompt, **call).latents for loop in ("step", "host"))
    assert got.shape == expected.shape and expected.std() > 0.1
    assert np.linalg.norm(got - expected) / np.linalg.norm(expected) <= 1e-4
