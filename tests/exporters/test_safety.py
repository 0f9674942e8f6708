"""The safety checker against diffusers': the same scores, the same verdicts, the same black pictures."""

import json
import shutil
import warnings

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPImageProcessorPil

import diffrt
import exporters
from diffrt import compat, flax
from diffrt.components.clip_pixels import as_clip_sees
from diffrt.components.safety import found
from diffrt.errors import BundleError, CheckpointError, InvalidArgument
from diffrt.flax import stablehlo
from exporters import single
from exporters.checkpoint import open_checkpoint
from tests.conftest import kept
from tests.exporters.mini import edit, write_mini
from tests.exporters.test_pictures import assert_same

SIDE = 28
VISION = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
          "image_size": SIDE, "patch_size": 14}  # fmt: skip
TEXT = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}


def add_checker(checkpoint):
    """One of random weights that flags about half of all pictures, in the names of 2022, and its settings."""
    torch.manual_seed(3)
    checker = StableDiffusionSafetyChecker(CLIPConfig(projection_dim=16, vision_config=VISION, text_config=TEXT))
    for name, tensor in checker.named_parameters():
        tensor.data += torch.randn_like(tensor) * (0.0 if "weights" in name else 0.3)
        if "weights" in name:
            tensor.data = torch.full_like(tensor, 0.45)
    checker.save_pretrained(checkpoint / "safety_checker")
    file = checkpoint / "safety_checker" / "model.safetensors"
    old = {n.replace("vision_model.", "vision_model.vision_model.", 1): t for n, t in load_file(file).items()}
    old["vision_model.vision_model.embeddings.position_ids"] = torch.arange(5)[None]
    save_file(old, file, {"format": "pt"})
    size = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
    CLIPImageProcessorPil(**size).save_pretrained(checkpoint / "feature_extractor")
    edit(
        checkpoint / "model_index.json",
        safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"],
        feature_extractor=["transformers", "CLIPImageProcessor"],
        requires_safety_checker=True,
    )
    return checker.eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    def make(folder):
        add_checker(write_mini(folder / "checkpoint"))
        exporters.export(folder / "checkpoint", folder / "bundle", verify=False)

    return kept("safety", tmp_path_factory, make)


@pytest.fixture(scope="module")
def checker(folder, tmp_path_factory):
    """diffusers' own, from the same file."""
    return add_checker(shutil.copytree(folder / "checkpoint", tmp_path_factory.mktemp("again") / "checkpoint"))


@pytest.mark.parametrize("size", [(64, 64), (40, 96), (97, 33), (20, 24)])
@pytest.mark.parametrize("old", [False, True])
def test_pictures_are_prepared_as_transformers_does(size, old):
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    processor = CLIPImageProcessorPil(size={"shortest_edge": 24}, crop_size={"height": 22, "width": 22})
    settings = processor.to_dict() | ({"size": 24, "crop_size": 22} if old else {})
    expected = processor([picture], return_tensors="np").pixel_values
    np.testing.assert_allclose(as_clip_sees(picture, settings), expected, atol=1e-6)


def test_settings_of_other_kinds_are_refused():
    with pytest.raises(BundleError, match="CLIPImageProcessor"):
        as_clip_sees(np.zeros((8, 8, 3), np.uint8), {"size": {"max_height": 8}})


def test_scores_and_verdicts_equal(folder, checker):
    pictures = np.random.default_rng(1).integers(0, 256, (24, 6, 6, 3), dtype=np.uint8)
    pictures = pictures.repeat(5, axis=1).repeat(5, axis=2)
    processor = CLIPImageProcessorPil.from_pretrained(folder / "bundle" / "feature_extractor")
    pixels = processor(list(pictures), return_tensors="pt").pixel_values
    with torch.no_grad():
        seen = torch.nn.functional.normalize(checker.visual_projection(checker.vision_model(pixels)[1]))
        cosines = [
            seen @ torch.nn.functional.normalize(embeds).T - weights
            for embeds, weights in (
                (checker.special_care_embeds, checker.special_care_embeds_weights),
                (checker.concept_embeds, checker.concept_embeds_weights),
            )
        ]
        _, expected = checker(images=np.zeros((24, 2, 2, 3)), clip_input=pixels)
    safety = diffrt.load(folder / "bundle")._parts.safety
    got = safety._graph.run_all({"clip_input": pixels.numpy()})
    for name, scores in zip(("special_scores", "concept_scores"), cosines, strict=True):
        assert np.linalg.norm(got[name] - scores.numpy()) < 1e-5 * np.linalg.norm(scores)
    assert safety(pictures) == expected
    assert 4 < sum(expected) < 20


@pytest.mark.parametrize(
    ("special", "concepts", "verdict"),
    [
        ([-0.1] * 3, [-0.004] * 17, False),
        ([-0.1, 0.2, -0.1], [-0.004] * 17, True),  # all thresholds are lower
        ([-0.1, 0.2, -0.1], [-0.02] * 17, False),
        ([-0.1] * 3, [0.0004] * 17, False),  # to three digits it is none
        ([-0.1] * 3, [-0.1] * 16 + [0.0006], True),
    ],
)
def test_the_rule(special, concepts, verdict):
    assert found(np.array(special, np.float32), np.array(concepts, np.float32)) is verdict


def test_what_is_found_is_black(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reference = StableDiffusionPipeline.from_pretrained(folder / "checkpoint")
        reference.set_progress_bar_config(disable=True)
        generators = [torch.Generator().manual_seed(seed) for seed in range(8)]
        arguments = {"num_inference_steps": 3, "height": 32, "width": 32, "num_images_per_prompt": 8}
        expected = reference("a red apple", generator=generators, output_type="np", **arguments)
    pipe = diffrt.load(folder / "bundle")
    with pytest.warns(UserWarning, match="the safety checker found something"):
        out = pipe("a red apple", seed=0, output_type="np", **arguments)
    assert out.nsfw_content_detected == expected.nsfw_content_detected
    assert 0 < sum(out.nsfw_content_detected) < 8
    assert not out.images[out.nsfw_content_detected].any()
    assert_same(out.images, expected.images)
    bare = diffrt.load(folder / "bundle", safety_checker=None)("a red apple", seed=0, output_type="np", **arguments)
    assert bare.nsfw_content_detected is None and bare.images[out.nsfw_content_detected].any()
    assert pipe("a red apple", seed=0, output_type="latent", **arguments).nsfw_content_detected is None


def test_it_is_exported_where_it_is_asked_for(folder, tmp_path):
    checkpoint = shutil.copytree(folder / "checkpoint", tmp_path / "checkpoint")
    assert "safety_checker" in open_checkpoint(checkpoint).configs
    edit(checkpoint / "model_index.json", requires_safety_checker=False)
    found = open_checkpoint(checkpoint)
    assert "safety_checker" not in found.configs and found.skipped == ("safety_checker", "feature_extractor")
    edit(checkpoint / "model_index.json", requires_safety_checker=None)  # it says nothing
    assert "safety_checker" in open_checkpoint(checkpoint).configs
    shutil.rmtree(checkpoint / "feature_extractor")
    with pytest.raises(CheckpointError, match="feature_extractor is missing"):
        open_checkpoint(checkpoint)


# Where it is not run.


@pytest.mark.parametrize("given", [{}, {"safety_checker": True}, {"safety_checker": None}, {"safety_checker": False}])
def test_the_classes_of_before(folder, given):
    pipe = compat.ORTStableDiffusionPipeline.from_pretrained(folder / "bundle", **given)
    arguments = {"num_inference_steps": 3, "height": 32, "width": 32, "num_images_per_prompt": 8, "generator": 0}
    checked = given.get("safety_checker", True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = pipe("a red apple", **arguments).nsfw_content_detected
    assert (pipe.safety_checker is not None) == bool(checked)
    assert 0 < sum(found) < 8 if checked else found is None


def test_leaving_it_out_later(folder):
    pipe = compat.OnnxStableDiffusionPipeline.from_pretrained(folder / "bundle")
    for own in (lambda images, clip_input: (images, [False]), object()):
        with pytest.raises(InvalidArgument, match="give None to leave it out"):
            pipe.safety_checker = own
        with pytest.raises(InvalidArgument, match="give None to leave it out"):
            compat.OnnxStableDiffusionPipeline.from_pretrained(folder / "bundle", safety_checker=own)
    pipe.safety_checker = None
    out = pipe("a red apple", height=32, width=32, num_inference_steps=1, num_images_per_prompt=8)
    assert pipe.safety_checker is None and out.nsfw_content_detected is None


def test_a_single_graph_says_that_it_has_none(folder, tmp_path):
    lines = []
    single.export(folder / "bundle", tmp_path / "single", size=(32, 32), steps=[1], progress=lines.append)
    assert [line for line in lines if line.startswith("skipping safety_checker: a single graph has none; export the")]


@pytest.mark.slow  # an export
def test_a_folder_for_optimum_says_that_it_has_none(folder, tmp_path):
    lines = []
    made = exporters.export(folder / "checkpoint", tmp_path / "optimum", layout="optimum", progress=lines.append)
    assert [line for line in lines if line.startswith("skipping safety_checker: optimum runs none")]
    index = json.loads((made / "model_index.json").read_text("utf-8"))
    assert index["safety_checker"] == index["feature_extractor"] == [None, None]
    assert not (made / "safety_checker").exists() and not (made / "feature_extractor").exists()
    arguments = {"num_inference_steps": 3, "height": 32, "width": 32, "output_type": "np", "seed": 0}
    bare = diffrt.load(folder / "bundle", safety_checker=None)
    assert_same(*(pipe("a red apple", **arguments).images for pipe in (diffrt.load(made), bare)))


def test_jax_says_that_it_has_none(folder, tmp_path):
    asks = "the safety checker is not run"
    for source in (folder / "checkpoint", folder / "bundle"):
        with pytest.warns(UserWarning, match=asks):
            flax.load(source, data=1)
        with pytest.warns(UserWarning, match=asks):
            flax.FlaxStableDiffusionPipeline.from_pretrained(source)
    quiet = shutil.copytree(folder / "checkpoint", tmp_path / "checkpoint")
    edit(quiet / "model_index.json", requires_safety_checker=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        flax.load(folder / "bundle", data=1, safety_checker=None)
        flax.FlaxStableDiffusionPipeline.from_pretrained(folder / "bundle", safety_checker=None)
        flax.load(quiet, data=1)
    lines = []
    stablehlo.export(folder / "checkpoint", tmp_path / "programs", size=(16, 16), steps=[1], progress=lines.append)
    assert lines[0].startswith("skipping safety_checker: the programs have none")
