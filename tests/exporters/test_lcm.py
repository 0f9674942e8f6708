"""A UNet that is told how much guidance to act as if it had, against diffusers' LatentConsistencyModelPipeline."""

import json

import diffusers
import pytest
import torch

import diffrt
import exporters
from tests.checkpoints import SCHEDULER, UNETS, write_checkpoint
from tests.conftest import kept
from tests.exporters.test_pictures import assert_same


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    def make(folder):
        checkpoint = write_checkpoint(folder / "checkpoint", "sd1", "2026")
        unet = diffusers.UNet2DConditionModel(**UNETS["inpaint"] | {"in_channels": 4, "time_cond_proj_dim": 12})
        unet.save_pretrained(checkpoint / "unet")
        diffusers.LCMScheduler(**SCHEDULER).save_pretrained(checkpoint / "scheduler")
        index = json.loads((checkpoint / "model_index.json").read_text())
        index |= {"_class_name": "LatentConsistencyModelPipeline", "scheduler": ["diffusers", "LCMScheduler"]}
        (checkpoint / "model_index.json").write_text(json.dumps(index))
        exporters.export(checkpoint, folder / "bundle")

    return kept("lcm", tmp_path_factory, make)


@pytest.mark.slow  # an export of its own
@pytest.mark.parametrize("guidance", [8.5, 1.0])
def test_pictures_equal(folder, guidance):
    pipe = diffrt.load(folder / "bundle")
    reference = diffusers.LatentConsistencyModelPipeline.from_pretrained(folder / "checkpoint")
    reference.set_progress_bar_config(disable=True)
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in (11, 12)]
    arguments = {"num_images_per_prompt": 2, "num_inference_steps": 4, "guidance_scale": guidance, "output_type": "np"}
    expected = reference("a red apple", generator=generators, **arguments).images
    out = pipe("a red apple", negative_prompt="not read", seed=11, **arguments)
    assert_same(out.images, expected)
    assert out.negative_prompt_embeds is None and out.parameters[0]["guidance_scale"] == guidance
