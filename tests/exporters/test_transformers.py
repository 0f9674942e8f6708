"""Stable Diffusion 3 and Flux against diffusers' pipelines: same seed, same steps."""

import diffusers
import numpy as np
import PIL.Image
import pytest
import tokenizers
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

import diffrt
import exporters
from diffrt.components.tokenizer import Tokenizer
from diffrt.errors import InvalidArgument
from diffrt.stable_diffusion import tokenizer_entry
from tests.checkpoints import VAE, write_tokenizer
from tests.conftest import kept
from tests.exporters.steps import assert_steps_draw_the_same
from tests.exporters.test_image_tasks import mask, picture
from tests.exporters.test_pictures import assert_same

TEXT = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4, "projection_dim": 12,
    "eos_token_id": 2,
}  # fmt: skip
T5 = {"d_model": 40, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "feed_forward_proj": "gated-gelu"}
KINDS = ("sd3", "sd3.5 without T5", "flux dev", "flux schnell", "flux fill")
PROMPT = "a red apple, very red"


def stirred(module, amount=0.1):
    """Far from transformers' initialisation near zero, with which a test could not see a mistake."""
    for parameter in module.parameters():
        parameter.data += torch.randn_like(parameter) * amount
    return module.eval()


def clip(folder, projected):
    words = write_tokenizer(folder, "<|endoftext|>")
    config = CLIPTextConfig(vocab_size=words, bos_token_id=words - 2, pad_token_id=1, **TEXT)
    return CLIPTokenizer.from_pretrained(folder), stirred(
        (CLIPTextModelWithProjection if projected else CLIPTextModel)(config)
    )


def t5():
    pieces = [
        "<pad>",
        "</s>",
        "<unk>",
        "▁a",
        "▁red",
        "▁",
        "▁app",
        "le",
        ",",
        "▁ver",
        "y",
        *"abcdefghijklmnopqrstuvwxyz",
    ]
    raw = tokenizers.Tokenizer(tokenizers.models.Unigram([(piece, -float(i)) for i, piece in enumerate(pieces)], 2))
    raw.pre_tokenizer, raw.decoder = tokenizers.pre_tokenizers.Metaspace(), tokenizers.decoders.Metaspace()
    raw.post_processor = tokenizers.processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
    special = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    tokenizer = T5TokenizerFast(tokenizer_object=raw, extra_ids=0, model_max_length=512, **special)
    return tokenizer, stirred(T5EncoderModel(T5Config(vocab_size=len(pieces), **T5)))


def write(folder, kind):
    torch.manual_seed(KINDS.index(kind))
    scratch = folder.with_name(f"{folder.name}-tokenizers")
    channels = 16 if kind.startswith("sd3") else 4  # with other than 16 the reference's inpainting is none
    own = {"latent_channels": channels, "shift_factor": 0.1, "use_quant_conv": False, "use_post_quant_conv": False}
    parts = {"vae": diffusers.AutoencoderKL(**VAE | own).eval()}
    if kind.startswith("sd3"):
        for i, name in enumerate(("", "_2")):
            parts[f"tokenizer{name}"], parts[f"text_encoder{name}"] = clip(scratch / str(i), True)
        parts["tokenizer_3"], parts["text_encoder_3"] = (None, None) if "without" in kind else t5()
        more = {"qk_norm": "rms_norm", "dual_attention_layers": (0,)} if "3.5" in kind else {}
        parts["transformer"] = stirred(
            diffusers.SD3Transformer2DModel(
                sample_size=8, in_channels=16, out_channels=16, num_layers=2, attention_head_dim=8,
                num_attention_heads=2, joint_attention_dim=40, caption_projection_dim=16, pooled_projection_dim=24,
                pos_embed_max_size=12, **more,
            )
        )  # fmt: skip
        parts["scheduler"] = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
        pipe = diffusers.StableDiffusion3Pipeline(**parts)
    else:
        parts["tokenizer"], parts["text_encoder"] = clip(scratch / "0", False)
        parts["tokenizer_2"], parts["text_encoder_2"] = t5()
        dev, fill = kind != "flux schnell", kind == "flux fill"
        parts["transformer"] = stirred(
            diffusers.FluxTransformer2DModel(
                in_channels=16 + fill * (16 + 4 * 64), out_channels=16, num_layers=1, num_single_layers=1,
                attention_head_dim=16, num_attention_heads=2, joint_attention_dim=40, pooled_projection_dim=16,
                guidance_embeds=dev, axes_dims_rope=(4, 6, 6),
            ),
            0.05,  # its sinusoids turn a thousand times: with more, rounding alone comes to 1e-5
        )  # fmt: skip
        shifting = {"shift": 3.0, "use_dynamic_shifting": True} if dev else {"shift": 1.0}
        parts["scheduler"] = diffusers.FlowMatchEulerDiscreteScheduler(**shifting)
        pipe = (diffusers.FluxFillPipeline if fill else diffusers.FluxPipeline)(**parts)
    pipe.save_pretrained(folder)
    for file in folder.glob("*/*.safetensors") if kind == "flux dev" else ():  # as published ones are
        tensors = {name: t.bfloat16() if t.is_floating_point() else t for name, t in load_file(file).items()}
        save_file(tensors, file, {"format": "pt"})


SLOW = pytest.mark.slow  # an export each


@pytest.fixture(
    scope="module", params=["sd3", "flux dev", pytest.param(KINDS[1], marks=SLOW), pytest.param(KINDS[3], marks=SLOW)]
)
def pair(request, tmp_path_factory):
    return both(request.param, tmp_path_factory)


def both(kind, factory):
    def make(folder):
        write(folder / "checkpoint", kind)
        exporters.export(folder / "checkpoint", folder / "bundle", verify=kind in ("flux dev", "flux fill"))

    folder = kept(kind.replace(" ", "-"), factory, make)
    absent = {"text_encoder_3": None, "tokenizer_3": None} if "without" in kind else {}
    reference = diffusers.DiffusionPipeline.from_pretrained(folder / "checkpoint", dtype=torch.float32, **absent)
    reference.set_progress_bar_config(disable=True)
    return diffrt.load(folder / "bundle"), reference


def tells_guidance(pipe):
    """Of the guidance it is told, or there is a negative half."""
    return pipe.bundle.manifest.family == "stable-diffusion-3" or "guidance" in pipe._parts.denoiser.inputs


def test_pictures_equal(pair):
    pipe, reference = pair
    arguments = {
        "prompt": [PROMPT, "apple"], "num_inference_steps": 4, "guidance_scale": 3.5, "height": 64, "width": 96,
        "output_type": "np",
    }  # fmt: skip
    guided = pipe.bundle.manifest.family == "stable-diffusion-3"
    if guided:
        arguments["negative_prompt"] = "a"
    elif "guidance" not in pipe._parts.denoiser.inputs:
        arguments["guidance_scale"] = 1.0
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in (11, 12)]
    expected = reference(generator=generators, **arguments).images
    assert_same(pipe(seed=11, **arguments).images, expected)


def test_a_prompt_for_each_encoder(pair):
    pipe, reference = pair
    encoders = len(pipe.bundle.manifest.tokenizers)
    texts = {"prompt": PROMPT, "prompt_2": "apple", "prompt_3": "red, very red"}
    arguments = {name: text for name, text in list(texts.items())[:encoders]}
    if pipe.bundle.manifest.family == "stable-diffusion-3":
        negative = {"negative_prompt": "a", "negative_prompt_2": "the", "negative_prompt_3": "apple"}
        arguments |= dict(list(negative.items())[:encoders])
    arguments |= {"guidance_scale": 3.5 if tells_guidance(pipe) else 1.0, "num_inference_steps": 3}
    arguments |= {"height": 64, "width": 96, "output_type": "np"}
    expected = reference(generator=torch.Generator("cpu").manual_seed(11), **arguments).images
    assert_same(pipe(seed=11, **arguments).images, expected)


@pytest.mark.parametrize("strength", [0.6, 1.0, 0.2])
def test_pictures_from_pictures_equal(pair, strength):
    """Of 4 steps at a strength of 0.6, 3 are run: the share that is left out is rounded down."""
    pipe, reference = pair
    kind = {"stable-diffusion-3": "StableDiffusion3Img2ImgPipeline", "flux": "FluxImg2ImgPipeline"}
    from_pictures = getattr(diffusers, kind[pipe.bundle.manifest.family])(**reference.components)
    from_pictures.set_progress_bar_config(disable=True)
    image = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8))
    ask = {"image": image, "strength": strength, "num_inference_steps": 4, "guidance_scale": 3.5, "output_type": "np"}
    if "flux" in pipe.bundle.manifest.family and "guidance" not in pipe._parts.denoiser.inputs:
        ask["guidance_scale"] = 1.0
    generator = torch.Generator("cpu").manual_seed(11)
    expected = from_pictures(PROMPT, generator=generator, height=64, width=96, **ask).images
    steps = []
    stream = pipe.stream(PROMPT, seed=11, **ask)
    steps.extend(stream)
    assert_same(stream.result().images, expected)
    assert len(steps) == {0.6: 3, 1.0: 4, 0.2: 1}[strength]


@pytest.mark.parametrize("strength", [0.6, 1.0])
def test_inpainting(pair, strength):
    """The reference decodes what Stable Diffusion 3 inpaints without the autoencoder's shift, by a slip: latents are
    compared, and the picture of them that its own parts make."""
    pipe, reference = pair
    kind = {"stable-diffusion-3": "StableDiffusion3InpaintPipeline", "flux": "FluxInpaintPipeline"}
    filling = getattr(diffusers, kind[pipe.bundle.manifest.family])(**reference.components)
    filling.set_progress_bar_config(disable=True)
    ask = {"image": picture(64, 96), "mask_image": mask("part", 64, 96), "strength": strength, "num_inference_steps": 4}
    ask |= {"guidance_scale": 3.5 if tells_guidance(pipe) else 1.0}
    for seed in (11, 12):
        generator = torch.Generator("cpu").manual_seed(seed)
        latents = filling(PROMPT, generator=generator, height=64, width=96, output_type="latent", **ask).images
        if isinstance(filling, diffusers.FluxInpaintPipeline):
            latents = filling._unpack_latents(latents, 64, 96, 8)
        out = pipe(PROMPT, seed=seed, output_type="np", **ask)
        np.testing.assert_allclose(out.latents, latents.numpy(), rtol=1e-3, atol=1e-4)
        config = filling.vae.config
        with torch.no_grad():
            decoded = filling.vae.decode(latents / config.scaling_factor + config.shift_factor).sample
        assert_same(out.images, filling.image_processor.postprocess(decoded, output_type="np"))


@pytest.fixture(scope="module")
def fill(tmp_path_factory):
    return both("flux fill", tmp_path_factory)


@pytest.mark.parametrize("strength", [0.6, 1.0])
def test_filling(fill, strength):
    pipe, reference = fill
    ask = {"prompt": PROMPT, "image": picture(64, 96), "mask_image": mask("part", 64, 96), "strength": strength,
           "num_inference_steps": 4, "guidance_scale": 20.0, "output_type": "np"}  # fmt: skip
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in (11, 12)]
    expected = [reference(generator=each, height=64, width=96, **ask).images for each in generators]
    out = pipe(seed=[11, 12], num_images_per_prompt=2, **ask)
    assert_same(out.images, np.concatenate(expected))


@pytest.mark.parametrize("size", [(8, 8), (10, 14)])
def test_what_fills(fill, size):
    """Latents, the pixels of the mask, the picture around it. Its sinusoids turn a thousand times for each unit of
    guidance: of more, rounding alone comes to 1e-5."""
    pipe, reference = fill
    rng = np.random.default_rng(0)
    x, covered, seen = (rng.standard_normal((2, channels, *size), np.float32) for channels in (4, 64, 4))
    words, pooled = rng.standard_normal((2, 45, 40), np.float32), rng.standard_normal((2, 16), np.float32)

    def packed(array):
        return reference._pack_latents(torch.from_numpy(array), 2, array.shape[1], *size)

    with torch.no_grad():
        expected = reference.transformer(
            torch.cat([packed(x), packed(seen), packed(covered)], dim=2), torch.from_numpy(words),
            torch.from_numpy(pooled), torch.full((2,), 0.25), reference._prepare_latent_image_ids(
                2, size[0] // 2, size[1] // 2, "cpu", torch.float32
            ), torch.zeros(45, 3), torch.full((2,), 2.0),
        ).sample  # fmt: skip
    expected = reference._unpack_latents(expected, size[0] * 8, size[1] * 8, 8).numpy()
    told = {"encoder_hidden_states": words, "text_embeds": pooled, "guidance": np.full(2, 2, np.float32)}
    got = pipe._parts.denoiser(np.concatenate([x, covered, seen], axis=1), 250.0, told)
    assert np.linalg.norm(got - expected) < 1e-5 * np.linalg.norm(expected)


def test_filling_needs_a_mask(fill):
    with pytest.raises(InvalidArgument, match="give it an image and a mask_image"):
        fill[0](PROMPT, image=picture())


def test_sizes(pair):
    with pytest.raises(InvalidArgument, match="multiple of 16"):
        pair[0](PROMPT, height=72, width=64)


@pytest.mark.parametrize("text", ["a red apple", "", "an  odd\tone ü", "apple " * 40])
def test_t5_tokens(text, tmp_path):
    reference, _ = t5()
    reference.save_pretrained(tmp_path / "tokenizer")
    tokenizer = Tokenizer.of(tmp_path, tokenizer_entry(tmp_path, 30, kind="t5"))
    expected = reference(text, padding="max_length", max_length=30, truncation=True).input_ids
    tokens = tokenizer([text])
    np.testing.assert_array_equal(tokens.ids[0], expected)
    assert bool(tokens.truncated[0]) == (len(reference(text).input_ids) > 30)


def test_its_step_graph(pair, tmp_path):
    assert_steps_draw_the_same(pair[0].bundle.root, tmp_path, PROMPT, guidance_scale=4.0)


@pytest.mark.slow  # an export of its own
def test_graphs_of_a_fixed_size_are_fed(pair, tmp_path):
    """They are for prompts as long as the tokenizer makes them."""
    pipe, _ = pair
    checkpoint = pipe.bundle.root.parent / "checkpoint"
    fixed = diffrt.load(exporters.export(checkpoint, tmp_path / "fixed", static=(64, 96), verify=False))
    arguments = {"height": 64, "width": 96, "num_inference_steps": 2, "guidance_scale": 3.5, "seed": 3}
    expected = pipe(PROMPT, **arguments, output_type="np").images
    assert_same(fixed(PROMPT, **arguments, output_type="np").images, expected)
    files = [each.file for each in fixed.bundle.component("transformer").variants if each.static == "64x96"]
    assert fixed._parts.denoiser._graph._open[0].file in files
