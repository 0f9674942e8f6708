"""What a call may ask for: defaults from the manifest, and a line for each thing that does not fit."""

import json

import numpy as np
import pytest

from diffrt.errors import InvalidArgument
from diffrt.manifest import Manifest
from diffrt.request import check
from tests.runtime.test_manifest import GOOD

MANIFEST = Manifest.loads(json.dumps(GOOD))
EMBEDS = np.zeros((2, 77, 32), np.float32)
LATENTS = np.zeros((1, 4, 64, 64), np.float32)

BAD = [
    ({"prompt": None}, "either a prompt or prompt_embeds"),
    ({"prompt": "a", "prompt_embeds": EMBEDS}, "not both"),
    ({"prompt": 3}, "prompt is 3"),
    ({"prompt": []}, "prompt is"),
    ({"prompt": ["a", None]}, "prompt is"),
    ({"prompt": "a\udcff"}, "no UTF-8 text"),
    ({"negative_prompt": 1}, "negative_prompt is 1"),
    ({"prompt": ["a", "b"], "negative_prompt": ["x", "y", "z"]}, "3 negative prompts for 2 prompts"),
    ({"height": 60}, "height is 60: give a multiple of 8, for instance 64"),
    ({"width": 1}, "width is 1: give a multiple of 8, for instance 8"),
    ({"height": 0}, "height is 0"),
    ({"height": -8}, "height is -8"),
    ({"width": 64.0}, "width is 64.0"),
    ({"width": True}, "width is True"),
    ({"num_inference_steps": 0}, "num_inference_steps is 0"),
    ({"num_inference_steps": 2.5}, "num_inference_steps is 2.5"),
    ({"guidance_scale": float("nan")}, "guidance_scale is nan"),
    ({"guidance_scale": float("inf")}, "guidance_scale is inf"),
    ({"guidance_scale": "7"}, "guidance_scale is '7'"),
    ({"guidance_rescale": -0.1}, "guidance_rescale is -0.1: give a number from 0 to 1"),
    ({"guidance_rescale": float("nan")}, "guidance_rescale is nan"),
    ({"guidance_interval": 0.5}, "guidance_interval is 0.5: give two shares"),
    ({"guidance_interval": (0.1, 0.2, 0.3)}, "give two shares of the run, such as (0.2, 0.8)"),
    ({"guidance_interval": (0.8, 0.2)}, "the first one first"),
    ({"guidance_interval": (0.0, float("nan"))}, "must lie from 0 to 1"),
    ({"cfg_plus_plus": 1}, "cfg_plus_plus is 1: give True or False"),
    ({"cfg_plus_plus": True}, "guidance_scale is 7.5, and cfg_plus_plus takes 0 to 1: give for instance 0.6"),
    ({"cfg_plus_plus": True, "guidance_scale": 0.6, "guidance_rescale": 0.5}, "give one of them"),
    ({"prompt": "a AND b", "weighting": "scale", "guidance_rescale": 0.5}, "AND has no one prompt"),
    ({"prompt": "a AND b", "weighting": "scale", "guidance_interval": (0, 0.5)}, "leave out guidance_rescale and"),
    ({"eta": float("nan")}, "eta is nan"),
    ({"num_images_per_prompt": 0}, "num_images_per_prompt is 0"),
    ({"seed": 1.5}, "seed is 1.5"),
    ({"seed": [1, 2]}, "2 seeds for 1 images"),
    ({"weighting": "scales"}, "did you mean 'scale'"),
    ({"weighting": True}, "unknown weighting True: known: empty, mean, scale"),
    ({"prompt": None, "prompt_embeds": EMBEDS, "weighting": "scale"}, "weighting is given with prompt_embeds"),
    ({"prompt": "(a:1e9)", "weighting": "scale"}, "the weight 1e+09"),
    ({"negative_prompt": "(a:nan)", "weighting": "scale"}, "the weight nan"),
    ({"prompt": "a AND ", "weighting": "scale"}, "nothing on one side of AND"),
    ({"prompt": "a AND b", "weighting": "scale", "guidance_scale": 1}, "guidance_scale is 1: give more than 1"),
    ({"chunks": 0}, "chunks is 0: give a whole number from 1 to 16, or 'auto'"),
    ({"chunks": 17}, "chunks is 17"),
    ({"chunks": 1.0}, "chunks is 1.0"),
    ({"chunks": True}, "chunks is True"),
    ({"chunks": "many"}, "chunks is 'many'"),
    ({"rng": "torch-cpuu"}, "did you mean 'torch-cpu'"),
    ({"output_type": "pill"}, "did you mean 'pil'"),
    ({"latents": LATENTS[:, :3]}, "latents is a float32 array of shape"),
    ({"latents": LATENTS, "num_images_per_prompt": 2}, r"of shape [2, 4, 64, 64]"),
    ({"latents": LATENTS, "height": 64}, "latents"),
    ({"latents": LATENTS[0]}, "latents"),
    ({"latents": LATENTS.tolist()}, "latents"),
    ({"latents": LATENTS.astype(np.int32)}, "latents"),
    ({"latents": LATENTS + np.float32("nan")}, "NaN"),
    ({"prompt": None, "prompt_embeds": EMBEDS[0]}, "prompt_embeds"),
    ({"prompt": None, "prompt_embeds": EMBEDS[:0]}, "prompt_embeds"),
    ({"prompt": None, "prompt_embeds": "a"}, "prompt_embeds"),
    ({"negative_prompt_embeds": EMBEDS}, "must fit 1 prompts"),
    ({"negative_prompt": "x", "negative_prompt_embeds": EMBEDS[:1]}, "not both"),
    ({"prompt": None, "prompt_embeds": EMBEDS, "negative_prompt_embeds": EMBEDS[:, :5]}, "must fit prompt_embeds"),
]


@pytest.mark.parametrize(("arguments", "says"), BAD, ids=[says for _, says in BAD])
def test_what_does_not_fit_is_named(arguments, says):
    with pytest.raises(InvalidArgument) as caught:
        check(MANIFEST, **{"prompt": "a red apple", **arguments})
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250


def test_unknown_arguments_are_pythons_own_error():
    with pytest.raises(TypeError, match="stepz"):
        check(MANIFEST, "a", stepz=3)


def test_defaults_are_the_manifests():
    request = check(MANIFEST, "a")
    assert (request.height, request.width, request.num_inference_steps, request.guidance_scale) == (512, 512, 50, 7.5)
    assert request.latent_shape == (4, 64, 64)
    assert request.negative_prompts == ("",)
    assert len(request.seeds) == 1
    assert request.guided


def test_counts():
    request = check(MANIFEST, ["a", "b"], negative_prompt="no", num_images_per_prompt=3, seed=np.int64(7))
    assert request.negative_prompts == ("no", "no")
    assert request.seeds == (7, 8, 9, 10, 11, 12)
    prompts = [each["prompt"] for each in request.parameters("DDIMScheduler", "m", 1)]
    assert prompts == ["a", "a", "a", "b", "b", "b"]
    assert json.dumps(request.parameters("DDIMScheduler", "m", 1))


def test_latents_say_their_own_size():
    request = check(MANIFEST, "a", latents=np.zeros((1, 4, 7, 9), np.float64))
    assert (request.height, request.width) == (56, 72)
    assert request.latents.dtype == np.float32


def test_small_scale_factors_still_need_multiples_of_eight():
    record = json.loads(json.dumps(GOOD))
    record["latents"]["scale_factor"] = 4
    with pytest.raises(InvalidArgument, match="multiple of 8"):
        check(Manifest.loads(json.dumps(record)), "a", height=60)
    record["latents"]["scale_factor"] = 32
    with pytest.raises(InvalidArgument, match="multiple of 32"):
        check(Manifest.loads(json.dumps(record)), "a", height=72)


def test_numpy_numbers_are_numbers():
    request = check(MANIFEST, "a", height=np.int64(64), guidance_scale=np.float32(2), num_inference_steps=np.int32(4))
    assert json.dumps(request.parameters("DDIMScheduler", "m", 1))


def test_guidance_extras_are_recorded_where_they_are_asked_for():
    extras = {"guidance_rescale", "guidance_interval", "cfg_plus_plus"}
    assert not extras & set(check(MANIFEST, "a").parameters("DDIMScheduler", "m", 1)[0])
    asked = check(MANIFEST, "a", guidance_rescale=0.7, guidance_interval=[0, 0.5])
    (record,) = asked.parameters("DDIMScheduler", "m", 1)
    assert {key: record[key] for key in extras & set(record)} == {
        "guidance_rescale": 0.7, "guidance_interval": [0.0, 0.5],
    }  # fmt: skip
    asked = check(MANIFEST, "a", guidance_scale=0.6, cfg_plus_plus=True)
    assert asked.guided
    assert asked.parameters("DDIMScheduler", "m", 1)[0]["cfg_plus_plus"] is True
