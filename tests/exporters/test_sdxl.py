"""Stable Diffusion XL, its refiner and the hand-over, against diffusers' pipelines: same seed, same steps."""

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

import diffrt
import exporters
from diffrt.cli import run
from diffrt.errors import InvalidArgument
from tests.checkpoints import SCHEDULER, VAE, write_tokenizer
from tests.conftest import kept
from tests.exporters.steps import assert_steps_draw_the_same
from tests.exporters.test_image_tasks import Side, mask, picture
from tests.exporters.test_pictures import assert_same

UNET = {
    "sample_size": 8, "block_out_channels": (16, 32), "norm_num_groups": 4, "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": [2, 4], "transformer_layers_per_block": [1, 2], "use_linear_projection": True,
    "addition_embed_type": "text_time", "addition_time_embed_dim": 8,
}  # fmt: skip
TEXT = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4, "projection_dim": 12,
    "eos_token_id": 2,
}  # fmt: skip
KINDS = ("base", "refiner", "inpaint")
PROMPT = {"prompt": "a red apple, very red", "num_images_per_prompt": 2}


def write(folder, kind):
    """The refiner has the second text encoder alone and is told of a score, not of the target's size."""
    refiner = kind == "refiner"
    torch.manual_seed(KINDS.index(kind))
    names = {"tokenizer": "<|endoftext|>", "tokenizer_2": "!"}
    size = max(write_tokenizer(folder.with_name(f"{folder.name}-{name}"), pad) for name, pad in names.items())
    first, second = (CLIPTokenizer.from_pretrained(folder.with_name(f"{folder.name}-{name}")) for name in names)
    config = CLIPTextConfig(vocab_size=size, bos_token_id=size - 2, pad_token_id=1, **TEXT)
    encoders = CLIPTextModel(config).eval(), CLIPTextModelWithProjection(config).eval()
    for encoder in encoders:
        for parameter in encoder.parameters():  # transformers' initialisation is near zero
            parameter.data += torch.randn_like(parameter) * 0.1
    numbers = 5 if refiner else 6
    unet = diffusers.UNet2DConditionModel(
        **UNET,
        in_channels=9 if kind == "inpaint" else 4,
        cross_attention_dim=16 if refiner else 32,
        projection_class_embeddings_input_dim=12 + 8 * numbers,
    )
    scheduler = diffusers.EulerDiscreteScheduler.from_config(SCHEDULER | {"timestep_spacing": "leading"})
    parts = {"text_encoder_2": encoders[1], "tokenizer_2": second, "unet": unet.eval(), "scheduler": scheduler}
    vae = diffusers.AutoencoderKL(**VAE).eval()
    if refiner:
        pipe = diffusers.StableDiffusionXLImg2ImgPipeline(
            vae=vae, text_encoder=None, tokenizer=None, requires_aesthetics_score=True,
            force_zeros_for_empty_prompt=False, add_watermarker=False, **parts,
        )  # fmt: skip
    else:
        pipeline = {"base": diffusers.StableDiffusionXLPipeline, "inpaint": diffusers.StableDiffusionXLInpaintPipeline}
        pipe = pipeline[kind](vae=vae, text_encoder=encoders[0], tokenizer=first, add_watermarker=False, **parts)
    pipe.save_pretrained(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    def make(folder):
        for name in KINDS:
            write(folder / name, name)
            exporters.export(folder / name, folder / f"{name}-bundle", verify=name == "base")

    return kept("sdxl", tmp_path_factory, make)


def reference(folder, kind, name="base"):
    pipe = getattr(diffusers, f"StableDiffusionXL{kind}Pipeline").from_pretrained(folder / name, add_watermarker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def generators():
    return [torch.Generator("cpu").manual_seed(seed) for seed in (11, 12)]


@pytest.fixture(scope="module")
def base(folder):
    return diffrt.load(folder / "base-bundle"), reference(folder, "")


SIZES = {
    "as it is": {},
    "a negative prompt": {"negative_prompt": "the apple"},
    "a prompt for each encoder": {"prompt_2": "the apple", "negative_prompt": "a", "negative_prompt_2": "le"},
    "told of sizes": {"original_size": (700, 300), "target_size": (64, 96), "crops_coords_top_left": (5, 9)},
    "told of other sizes": {
        "original_size": (700, 300), "negative_original_size": (64, 64), "negative_target_size": (9, 9),
        "negative_crops_coords_top_left": (1, 2), "negative_prompt": "",
        "num_images_per_prompt": 1,  # of several the reference tells the first half what is for every other one
    },
    "unguided": {"guidance_scale": 1.0},
}  # fmt: skip


@pytest.mark.parametrize("name", SIZES)
def test_pictures_equal(base, name):
    pipe, theirs = base
    arguments = {**PROMPT, "num_inference_steps": 4, "guidance_scale": 6.0, "height": 64, "width": 88, **SIZES[name]}
    out = pipe(seed=11, output_type="np", **arguments)
    theirs = theirs(generator=generators()[: len(out.images)], output_type="np", **arguments)
    assert_same(out.images, theirs.images)


def test_embeddings_in(base):
    pipe, theirs = base
    rng = np.random.default_rng(0)
    embeds = {
        "prompt_embeds": rng.standard_normal((1, 77, 32), np.float32),
        "negative_prompt_embeds": rng.standard_normal((1, 77, 32), np.float32),
        "pooled_prompt_embeds": rng.standard_normal((1, 12), np.float32),
        "negative_pooled_prompt_embeds": rng.standard_normal((1, 12), np.float32),
    }
    arguments = {"num_inference_steps": 2, "guidance_scale": 4.0, "output_type": "np", "height": 64, "width": 64}
    out = pipe(seed=11, **embeds, **arguments)
    expected = theirs(
        generator=generators()[0], **{name: torch.from_numpy(array) for name, array in embeds.items()}, **arguments
    )
    assert_same(out.images, expected.images)
    again = pipe(seed=11, prompt_embeds=out.prompt_embeds, pooled_prompt_embeds=out.pooled_prompt_embeds,
                 negative_prompt_embeds=out.negative_prompt_embeds,
                 negative_pooled_prompt_embeds=out.negative_pooled_prompt_embeds, **arguments)  # fmt: skip
    np.testing.assert_array_equal(again.images, out.images)
    with pytest.raises(InvalidArgument, match="without pooled_prompt_embeds"):
        pipe(prompt_embeds=embeds["prompt_embeds"])
    with pytest.raises(InvalidArgument, match="not told of whole prompts"):
        diffrt.load("emoji")(prompt_embeds=np.zeros((1, 32, 160), np.float32), pooled_prompt_embeds=np.zeros((1, 9)))


def test_handing_over_to_the_refiner(folder, base):
    pipe, theirs = base
    arguments = {**PROMPT, "num_inference_steps": 10, "guidance_scale": 6.0}
    refine, their_refine = diffrt.load(folder / "refiner-bundle"), reference(folder, "Img2Img", "refiner")
    size = {"height": 64, "width": 88}
    begun = pipe(seed=11, denoising_end=0.7, output_type="latent", **size, **arguments)
    expected = theirs(generator=generators(), denoising_end=0.7, output_type="latent", **size, **arguments).images
    np.testing.assert_allclose(begun.latents, expected.numpy(), rtol=1e-3, atol=1e-4)
    scores = {"aesthetic_score": 7.5, "negative_aesthetic_score": 1.5}
    out = refine(seed=3, image=begun.latents, denoising_start=0.7, output_type="np", **scores, **arguments)
    expected = their_refine(
        image=expected, generator=generators(), denoising_start=0.7, output_type="np", **scores, **arguments
    )
    assert_same(out.images, expected.images)


def test_from_a_picture(folder, base):
    pipe, theirs = base[0], reference(folder, "Img2Img")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 88, 3), np.uint8))
    arguments = {**PROMPT, "num_inference_steps": 5, "strength": 0.6, "guidance_scale": 6.0, "negative_prompt": "apple",
                 "crops_coords_top_left": (5, 9)}  # fmt: skip
    out = pipe(image=image, seed=11, output_type="np", **arguments)
    expected = theirs(image=image, generator=generators(), output_type="np", **arguments)
    assert_same(out.images, expected.images)


@pytest.fixture(scope="module", params=KINDS)
def filling(request, folder):
    theirs = reference(folder, "Inpaint", request.param)
    return Side(diffrt.load(folder / f"{request.param}-bundle"), theirs, folder / request.param)


@pytest.mark.parametrize("strength", [0.4, 1.0])
@pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "DPMSolverMultistepScheduler"])
def test_inpainting(filling, name, strength):
    filling.sample(name)
    filling.check(picture(64, 88), size={"height": 64, "width": 88}, mask_image=mask("part", 64, 88), strength=strength)


TOLD = {
    "unguided": {"guidance_scale": 1.0},
    "without a negative prompt": {"negative_prompt": None},
    "rescaled": {"guidance_rescale": 0.7},
    "stopped": {"denoising_end": 0.7, "strength": 1.0},
    "told of sizes": {
        "original_size": (700, 300), "target_size": (64, 96), "crops_coords_top_left": (5, 9),
        "negative_original_size": (64, 64), "negative_target_size": (9, 9),
    },
}  # fmt: skip


@pytest.mark.parametrize("told", TOLD)
def test_inpainting_told_of_more(filling, told):
    filling.sample("EulerDiscreteScheduler")
    filling.check(picture(), mask_image=mask(), **{"strength": 0.7, **TOLD[told]})


def test_inpainting_handed_over_to_the_refiner(folder, base):
    refine, theirs = diffrt.load(folder / "refiner-bundle"), reference(folder, "Inpaint")
    their_refine = reference(folder, "Inpaint", "refiner")
    ask = {"prompt": "a red apple", "mask_image": mask(), "num_inference_steps": 10, "guidance_scale": 6.0}
    ends = ({"denoising_end": 0.7, "output_type": "latent"}, {"denoising_start": 0.7, "output_type": "np"})
    begun = base[0](seed=11, image=picture(), **ends[0], **ask)
    out = refine(seed=3, image=begun.latents, **ends[1], **ask)
    ask |= {"generator": generators()[0], "strength": 1.0, "height": 64, "width": 64}
    expected = theirs(image=picture(), **ends[0], **ask).images
    np.testing.assert_allclose(begun.latents, expected.numpy(), rtol=1e-3, atol=1e-4)
    assert_same(out.images, their_refine(image=expected, **ends[1], **ask).images)


def test_latents_do_not_tell_what_is_around_a_mask(folder):
    pipe = diffrt.load(folder / "inpaint-bundle")
    with pytest.raises(InvalidArgument, match="told of the picture around the mask: give a picture"):
        pipe("a", image=np.zeros((1, 4, 8, 8), np.float32), mask_image=mask())
    with pytest.raises(InvalidArgument, match="give it an image and a mask_image"):
        pipe("a")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"original_size": 512}, "two whole numbers"),
        ({"prompt_2": ["a", "b"]}, "2 texts of prompt_2 for 1 prompts"),
        ({"prompt_3": "a"}, "prompt_3 is given, and this model has 2 text encoders: leave it out"),
        ({"negative_prompt_2": "a"}, "negative_prompt_2 is given without negative_prompt"),
        ({"denoising_start": 0.5}, "goes with image-to-image"),
        ({"denoising_end": 0.0}, "leaves no step"),
        ({"denoising_end": 1.5}, "from 0 to 1"),
        (
            {"image": np.zeros((1, 4, 8, 8), np.float32), "denoising_start": 0.5, "denoising_end": 0.5},
            "must come first",
        ),
    ],
)
def test_what_is_asked_of_it(base, arguments, says):
    with pytest.raises(InvalidArgument, match=says):
        base[0]("a red apple", num_inference_steps=2, **arguments)


def test_prompts_of_each_encoder(folder, base):
    """They are weighted and cut as the first one's are, and are in the parameters."""
    ask = {"num_inference_steps": 1, "guidance_scale": 2.0, "height": 64, "width": 64, "seed": 3, "weighting": "scale"}
    with pytest.warns(UserWarning, match="cut off: '.*app app"):
        out = base[0]("a", prompt_2="(a:1.5)" + " app" * 80, **ask)
    assert out.parameters[0]["prompt_2"].startswith("(a:1.5) app") and "negative_prompt_2" not in out.parameters[0]
    plain, same = base[0]("a", **ask), base[0]("a", prompt_2="a", **ask)
    np.testing.assert_array_equal(plain.latents, same.latents)
    assert np.abs(plain.latents - out.latents).max() > 0.01
    longer = base[0]("a", prompt_2="app " * 80, chunks="auto", **ask)
    assert longer.prompt_embeds.shape[1] == 231
    with pytest.raises(InvalidArgument, match="AND composes what all text encoders read: leave out prompt_2"):
        base[0]("a AND red", prompt_2="a", **ask)
    with pytest.raises(InvalidArgument, match="this model has 1 text encoder: leave it out"):
        diffrt.load(folder / "refiner-bundle")("a", prompt_2="a")


def test_prompts_of_each_encoder_from_the_command_line(folder, base, tmp_path):
    texts = ["--prompt-2", "red", "--negative", "le", "--negative-2", "app"]
    size, file = ["--height", "64", "--width", "64"], tmp_path / "a.png"
    command = [
        "generate",
        "a",
        "--model",
        str(folder / "base-bundle"),
        "--steps",
        "1",
        "--guidance",
        "2",
        "--seed",
        "7",
    ]
    assert run([*command, *size, *texts, "-o", str(file)]) == 0
    ask = {"num_inference_steps": 1, "guidance_scale": 2.0, "height": 64, "width": 64, "seed": 7}
    out = base[0]("a", prompt_2="red", negative_prompt="le", negative_prompt_2="app", **ask)
    np.testing.assert_array_equal(np.array(Image.open(file)), np.array(out.images[0]))


def test_a_name_that_is_none(base):
    with pytest.raises(TypeError, match="did you mean 'original_size'"):
        base[0]("a red apple", orginal_size=(1, 1))


def test_models_that_are_told_no_sizes():
    with pytest.raises(InvalidArgument, match="told of no sizes"):
        diffrt.load("emoji")("a red apple", original_size=(9, 9))


def test_its_step_graph(folder, tmp_path):
    assert_steps_draw_the_same(folder / "base-bundle", tmp_path, **PROMPT, guidance_scale=5.0)
