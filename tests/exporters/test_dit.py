"""Diffusion transformers that draw a class, against diffusers' DiTPipeline: same seed, same steps."""

import json

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

import diffrt
import exporters
from diffrt.cli import run
from diffrt.errors import InvalidArgument
from tests.checkpoints import SCHEDULER, VAE
from tests.conftest import kept
from tests.exporters.steps import assert_steps_draw_the_same
from tests.exporters.test_pictures import assert_same

TRANSFORMER = {
    "num_attention_heads": 2, "attention_head_dim": 8, "in_channels": 4, "out_channels": 8, "num_layers": 2,
    "sample_size": 8, "num_embeds_ada_norm": 1000,
}  # fmt: skip
NAMES = {0: "tench, Tinca tinca", 1: "goldfish", 2: "white shark"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    def make(folder):
        torch.manual_seed(0)
        transformer = diffusers.DiTTransformer2DModel(**TRANSFORMER)
        for parameter in transformer.parameters():
            parameter.data += torch.randn_like(parameter) * 0.1
        vae, scheduler = diffusers.AutoencoderKL(**VAE), diffusers.DDIMScheduler.from_config(SCHEDULER)
        diffusers.DiTPipeline(transformer, vae, scheduler).save_pretrained(folder / "checkpoint")
        index = folder / "checkpoint" / "model_index.json"  # where published ones have the names
        index.write_text(json.dumps(json.loads(index.read_text()) | {"id2label": NAMES}))
        exporters.export(folder / "checkpoint", folder / "bundle", verify=False)

    return kept("dit", tmp_path_factory, make)


@pytest.fixture(scope="module")
def pair(folder):
    reference = diffusers.DiTPipeline.from_pretrained(folder / "checkpoint")
    reference.set_progress_bar_config(disable=True)
    return diffrt.load(folder / "bundle"), reference


@pytest.mark.parametrize("guidance", [4.0, 1.0])
def test_pictures_equal(pair, guidance):
    pipe, reference = pair
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in (11, 12)]
    arguments = {"num_inference_steps": 5, "guidance_scale": guidance, "output_type": "np"}
    expected = reference([2, 0], generator=generators, **arguments).images
    assert_same(pipe(class_labels=["white shark", "Tinca tinca"], seed=11, **arguments).images, expected)
    out = pipe(class_labels=[2, 0], seed=11, **arguments)
    assert_same(out.images, expected)
    assert [each["class_label"] for each in out.parameters] == [2, 0]


def test_a_larger_grid_than_it_was_trained_on(pair):
    """Positions are those of a grid of the trained width. diffusers' own model puts patches together as a square."""
    pipe, reference = pair
    x = np.random.default_rng(0).standard_normal((2, 4, 12, 12), dtype=np.float32)
    labels = np.array([2, 1000])
    with torch.no_grad():
        expected = reference.transformer(torch.from_numpy(x), torch.full((2,), 300), torch.from_numpy(labels)).sample
    got, expected = pipe._parts.denoiser(x, 300.0, {"class_labels": labels}), expected[:, :4].numpy()
    assert np.linalg.norm(got - expected) < 1e-5 * np.linalg.norm(expected)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({}, "give class_labels"),
        ({"class_labels": [1], "batch_size": 2}, "no batch_size"),
        ({"prompt": "a shark"}, "call it with class_labels"),
        ({"class_labels": 1000}, "0 to 999"),
        ({"class_labels": "whte shark"}, "did you mean 'white shark'"),
        ({"class_labels": []}, "at least one"),
    ],
)
def test_what_is_asked_of_it(pair, arguments, says):
    with pytest.raises(InvalidArgument, match=says):
        pair[0](**arguments)


def test_from_the_command_line(folder, pair, tmp_path, capsys):
    command = [
        "generate",
        "--model",
        str(folder / "bundle"),
        "--steps",
        "2",
        "--seed",
        "7",
        "-o",
        str(tmp_path / "a.png"),
    ]
    for label in ("white shark", "2"):
        assert run([*command, "--class", label]) == 0
        expected = pair[0](class_labels=2, num_inference_steps=2, seed=7).images[0]
        np.testing.assert_array_equal(np.array(Image.open(tmp_path / "a.png")), np.array(expected))
    capsys.readouterr()
    assert run([*command, "--class", "whte shark"]) == 2
    assert "did you mean 'white shark'" in capsys.readouterr().err


def test_its_step_graph(folder, tmp_path):
    assert_steps_draw_the_same(folder / "bundle", tmp_path, class_labels=[2, 0], guidance_scale=4.0)
