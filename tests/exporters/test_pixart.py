"""PixArt-alpha and -sigma against diffusers' pipelines: same seed, same steps."""

import shutil

import diffusers
import numpy as np
import PIL.Image
import pytest
import torch

import diffrt
import exporters
from diffrt.components.tokenizer import Tokenizer
from diffrt.errors import CheckpointError, InvalidArgument
from diffrt.own_sizes import covering, nearest_of
from diffrt.stable_diffusion import tokenizer_entry
from exporters.checkpoint import open_checkpoint
from exporters.families.pixart_sizes import SIZES
from exporters.files import copy_texts
from tests.checkpoints import VAE
from tests.conftest import kept
from tests.exporters.mini import edit
from tests.exporters.steps import assert_steps_draw_the_same
from tests.exporters.test_pictures import assert_same
from tests.exporters.test_transformers import stirred, t5
from tests.runtime.test_sentence_pieces import EXPECTED, MODEL

TRANSFORMER = {
    "num_attention_heads": 2, "attention_head_dim": 12, "num_layers": 2, "cross_attention_dim": 24,
    "caption_channels": 40,
}  # fmt: skip
KINDS = {
    "alpha": {"sample_size": 128},  # told of sizes
    "sigma": {"sample_size": 32, "interpolation_scale": 0.5, "use_additional_conditions": False},
    "alpha without sizes": {"sample_size": 64, "out_channels": 4},
}
PIPELINES = {"alpha": diffusers.PixArtAlphaPipeline, "sigma": diffusers.PixArtSigmaPipeline}
PROMPT = "  A red Apple, very red "
SHORT, LONG = "apple", "a very red apple, " * 4


def write(folder, kind):
    torch.manual_seed(list(KINDS).index(kind))
    tokenizer, text = t5()
    PIPELINES[kind.split()[0]](
        tokenizer=tokenizer,
        text_encoder=text,
        vae=diffusers.AutoencoderKL(**VAE).eval(),
        transformer=stirred(diffusers.PixArtTransformer2DModel(**TRANSFORMER | KINDS[kind]), 0.05),  # as Flux's
        scheduler=diffusers.DPMSolverMultistepScheduler(),
    ).save_pretrained(folder)


@pytest.fixture(scope="module", params=["alpha", "sigma", pytest.param("alpha without sizes", marks=pytest.mark.slow)])
def pair(request, tmp_path_factory):
    def make(folder):
        write(folder / "checkpoint", request.param)
        static = (64, 96) if "without" in request.param else None
        exporters.export(folder / "checkpoint", folder / "bundle", static=static, verify=request.param == "alpha")

    folder = kept(f"pixart-{request.param}".replace(" ", "-"), tmp_path_factory, make)
    reference = diffusers.DiffusionPipeline.from_pretrained(folder / "checkpoint")
    reference.set_progress_bar_config(disable=True)
    return diffrt.load(folder / "bundle"), reference


def drawn(pair, prompt=PROMPT, binning=False, **arguments):
    """The pictures as diffrt and as diffusers draw them."""
    pipe, reference = pair
    call = {"num_inference_steps": 4, "guidance_scale": 3.5, "output_type": "np"} | arguments
    count = (len(prompt) if isinstance(prompt, list) else 1) * call.get("num_images_per_prompt", 1)
    generators = [torch.Generator("cpu").manual_seed(11 + i) for i in range(count)]
    expected = reference(prompt, generator=generators, use_resolution_binning=binning, **call).images
    sizing = {} if binning else {"use_resolution_binning": False}
    return pipe(prompt, seed=11, **sizing, **call).images, expected


@pytest.mark.parametrize(
    "arguments",
    [
        {"prompt": [LONG, SHORT], "negative_prompt": " A", "height": 64, "width": 96},
        {"height": 112, "width": 64, "num_inference_steps": 7, "guidance_scale": 1.0, "num_images_per_prompt": 2},
        {"prompt": "red " * 400, "height": 64, "width": 64, "num_inference_steps": 2},
    ],
    ids=["two prompts", "unguided", "longer than it reads"],
)
@pytest.mark.filterwarnings("ignore:a prompt is too long")
def test_pictures_equal(pair, arguments):
    assert_same(*drawn(pair, **arguments))


@torch.no_grad()
@pytest.mark.parametrize("size", [(8, 8), (14, 22), (6, 40)])
def test_transformer(pair, size):
    """At two times at once, with padding that differs, which in diffusers is not zero."""
    pipe, reference = pair
    rng = np.random.default_rng(0)
    x, words = (rng.standard_normal(shape, dtype=np.float32) for shape in ((2, 4, *size), (2, 30, 40)))
    read = np.arange(30) < np.array([[30], [4]])
    sized = reference.transformer.use_additional_conditions
    told = torch.tensor([[8.0 * side for side in size]] * 2), torch.tensor([[size[0] / size[1]]] * 2)
    expected = reference.transformer(
        torch.from_numpy(x), torch.from_numpy(words), torch.tensor([999, 3]),
        encoder_attention_mask=torch.from_numpy(read),
        added_cond_kwargs=dict(zip(("resolution", "aspect_ratio"), told if sized else (None, None), strict=True)),
    ).sample[:, :4].numpy()  # fmt: skip
    feeds = {"sample": x, "timestep": np.array([999, 3], np.float32)}
    session = pipe._parts.denoiser._graph.session()
    got = session.run(feeds | {"encoder_hidden_states": words * read[..., None]})["out_sample"]
    assert np.linalg.norm(got - expected) < 1e-5 * np.linalg.norm(expected)
    otherwise = session.run(feeds | {"encoder_hidden_states": words})["out_sample"]
    assert np.linalg.norm(otherwise[1] - got[1]) > 1e-2 * np.linalg.norm(got[1])


@torch.no_grad()
@pytest.mark.parametrize("prompts", [[SHORT, PROMPT, ""], [LONG], ["red " * 400]])
def test_text_encoder(pair, prompts):
    """What is padding is zero, and what is text does not depend on it."""
    pipe, reference = pair
    longest = {"pixart-alpha": 120, "pixart-sigma": 300}[pipe.bundle.manifest.family]
    expected, mask, *_ = reference.encode_prompt(prompts, False, max_sequence_length=longest)
    expected = (expected * mask.unsqueeze(-1)).numpy()
    encoded, _ = pipe._parts.text_encoder(prompts)
    got = encoded["encoder_hidden_states"]
    assert got.shape == expected.shape
    assert np.linalg.norm(got - expected) < 1e-5 * np.linalg.norm(expected)
    np.testing.assert_array_equal((got != 0).any(2), mask.numpy())


def test_padding_does_not_matter(pair):
    """Neither how much there is of it here, nor there."""
    pipe, reference = pair
    call = {"height": 64, "width": 64, "num_inference_steps": 4, "guidance_scale": 3.5, "output_type": "np"}
    call["use_resolution_binning"] = False
    plain = pipe(PROMPT, seed=11, **call).images
    few = reference(PROMPT, generator=torch.Generator("cpu").manual_seed(11), max_sequence_length=20, **call).images
    assert_same(plain, few)
    embeds = [pipe.embed(text) for text in (PROMPT, "")]
    longer, negative = (np.pad(each, ((0, 0), (0, 37), (0, 0))) for each in embeds)
    assert_same(pipe(prompt_embeds=longer, negative_prompt_embeds=negative, seed=11, **call).images, plain)
    read = pipe(prompt_embeds=longer + np.float32(1e-3), negative_prompt_embeds=negative, seed=11, **call).images
    assert np.abs(read - plain).max() > 0.02


@pytest.mark.parametrize("pair", ["sigma"], indirect=True)
@pytest.mark.parametrize("size", [(100, 150), (300, 220), (512, 128)])
def test_sizes_of_its_own(pair, size):
    """Drawn at the nearest of them, scaled and cropped."""
    height, width = size
    got, expected = drawn(pair, height=height, width=width, binning=True, num_inference_steps=2)
    assert got.shape[1:3] == size
    assert_same(got, expected)


@pytest.mark.parametrize("pair", ["sigma"], indirect=True)
def test_what_a_picture_says_of_its_size(pair):
    pipe, _ = pair
    call = {"num_inference_steps": 1, "seed": 11, "guidance_scale": 1.0}
    out = pipe(PROMPT, height=70, width=100, **call)
    assert out.images[0].size == (100, 70) and out.latents.shape[2:] == (26, 38)
    says = {"height": 70, "width": 100, "use_resolution_binning": True}
    assert says.items() <= out.parameters[0].items()
    again = pipe(PROMPT, latents=np.zeros_like(out.latents), output_type="np", **call)
    assert again.images.shape == (1, 208, 304, 3) and again.parameters[0]["use_resolution_binning"] is False
    with pytest.raises(InvalidArgument, match=r"of shape \[1, 4, 38, 26\]"):
        pipe(PROMPT, latents=out.latents, height=304, width=208, **call)


def test_its_usual_size(pair):
    """That of its graphs of a fixed size, where it has them."""
    usual = pair[0].bundle.manifest.defaults
    out = pair[0](PROMPT, num_inference_steps=1, guidance_scale=1.0, output_type="latent", seed=11)
    assert out.latents.shape[2:] == (usual.height // 8, usual.width // 8)
    assert (out.parameters[0]["height"], out.parameters[0]["width"]) == (usual.height, usual.width)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"height": 72, "width": 64, "use_resolution_binning": False}, "multiple of 16"),
        ({"height": 0}, "at least 1"),
        ({"height": 100_000, "width": 100_000}, "scaled up by at most 4"),
        ({"use_resolution_binning": 1}, "True or False"),
        ({"image": np.zeros((64, 64, 3), np.uint8), "use_resolution_binning": True}, "an image has a size of its own"),
        ({"image": np.zeros((64, 64, 3), np.uint8), "mask_image": np.zeros((64, 64), np.uint8)}, "a prompt alone"),
    ],
)
def test_what_is_asked_of_it(pair, arguments, says):
    with pytest.raises(InvalidArgument, match=says):
        pair[0](PROMPT, **arguments)


@torch.no_grad()
def test_pictures_from_pictures(pair):
    """diffusers has no pipeline for it: against a loop over its parts."""
    pipe, reference = pair
    image = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8))
    scheduler = diffusers.DDIMScheduler.from_config(reference.scheduler.config, clip_sample=False)
    scheduler.set_timesteps(5)
    words, read, negative, unread = reference.encode_prompt(PROMPT, True)
    words, read = torch.cat([negative, words]), torch.cat([unread, read])
    sizes = {"resolution": torch.tensor([[64.0, 96.0]] * 2), "aspect_ratio": torch.tensor([[64 / 96]] * 2)}
    sizes = sizes if reference.transformer.use_additional_conditions else dict.fromkeys(sizes)
    generator = torch.Generator("cpu").manual_seed(11)
    posterior = reference.vae.encode(reference.image_processor.preprocess(image)).latent_dist
    x = posterior.sample(generator) * reference.vae.config.scaling_factor
    noise = torch.randn(x.shape, generator=generator)
    x = scheduler.add_noise(x, noise, scheduler.timesteps[2:3])
    for t in scheduler.timesteps[2:]:
        without, m = reference.transformer(
            torch.cat([x, x]), words, t.expand(2), encoder_attention_mask=read, added_cond_kwargs=sizes
        ).sample[:, :4].chunk(2)  # fmt: skip
        x = scheduler.step(without + 3.5 * (m - without), t, x).prev_sample
    decoded = reference.vae.decode(x / reference.vae.config.scaling_factor).sample
    expected = (decoded / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    plain = pipe.scheduler
    try:
        pipe.scheduler = diffrt.schedulers.from_config(dict(scheduler.config))
        out = pipe(PROMPT, image=image, strength=0.6, num_inference_steps=5, guidance_scale=3.5, seed=11,
                   output_type="np")  # fmt: skip
    finally:
        pipe.scheduler = plain
    assert_same(out.images, expected)


def test_its_step_graph(pair, tmp_path):
    sizes = {"height": 64, "width": 96, "use_resolution_binning": False}
    assert_steps_draw_the_same(pair[0].bundle.root, tmp_path, PROMPT, guidance_scale=4.0, **sizes)


# --- its own sizes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sample_size", SIZES)
def test_the_sizes_are_those_of_diffusers(sample_size):
    from diffusers.pipelines.pixart_alpha import pipeline_pixart_alpha, pipeline_pixart_sigma

    source = pipeline_pixart_sigma if sample_size == 256 else pipeline_pixart_alpha
    ratios = getattr(source, f"ASPECT_RATIO_{8 * sample_size}_BIN")
    assert [tuple(map(int, size)) for size in ratios.values()] == list(SIZES[sample_size])
    find = diffusers.image_processor.PixArtImageProcessor.classify_height_width_bin
    for height in range(100, 900, 7):
        assert nearest_of(SIZES[sample_size], (height, 300)) == find(height, 300, ratios)


@pytest.mark.parametrize("asked", [(64, 96), (20, 31), (200, 100), (96, 96), (1, 1)])
def test_covering(asked):
    drawn = np.random.default_rng(0).standard_normal((2, 3, 64, 96), dtype=np.float32)
    resize = diffusers.image_processor.PixArtImageProcessor.resize_and_crop_tensor
    expected = resize(torch.from_numpy(drawn), asked[1], asked[0]).numpy()
    np.testing.assert_allclose(covering(drawn, asked), expected, atol=1e-5, strict=True)


# --- checkpoints and tokenizers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"caption_channels": 48}, "takes tokens 48 wide: it must take 40"),
        ({"out_channels": 6}, "gives 6 channels"),
        ({"cross_attention_dim": 32}, "cross_attention_dim is 32; allowed: 24"),
        ({"use_additional_conditions": True, "attention_head_dim": 8, "cross_attention_dim": 16}, "a multiple of 3"),
        ({"norm_type": "ada_norm_zero"}, "norm_type"),
    ],
)
def test_what_does_not_fit(tmp_path, config, says):
    write(tmp_path / "checkpoint", "sigma")
    edit(tmp_path / "checkpoint" / "transformer" / "config.json", **config)
    with pytest.raises(CheckpointError, match=says):
        exporters.export(tmp_path / "checkpoint", tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_a_tokenizer_of_sentence_pieces_alone(tmp_path):
    """As published checkpoints have it."""
    write(tmp_path / "checkpoint", "sigma")
    folder = tmp_path / "checkpoint" / "tokenizer"
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "spiece.model").write_bytes(MODEL)
    checkpoint = open_checkpoint(tmp_path / "checkpoint")
    (tmp_path / "bundle").mkdir()
    copy_texts(checkpoint, tmp_path / "bundle")
    entry = tokenizer_entry(checkpoint.root, 300, kind="t5")
    (ids,) = Tokenizer.of(tmp_path / "bundle", entry)(["a red apple"]).ids.tolist()
    said = EXPECTED["a red apple"]
    assert ids == [*said, 1] + [0] * (299 - len(said))
