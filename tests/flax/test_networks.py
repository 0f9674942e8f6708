"""The networks against diffusers' and transformers' own modules, and what a checkpoint must hold to be loaded."""

import json
import shutil
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.numpy import load_file, save_file
from transformers import CLIPTextModel

import diffrt.flax
from diffrt.errors import CheckpointError, InvalidArgument
from diffrt.flax import weights
from diffrt.flax.checkpoint import open_checkpoint, wanted
from diffrt.flax.parameters import declared, lookup
from diffrt.flax.parts import channels_first, channels_last
from diffrt.flax.programs import Condition, denoise_program
from diffrt.flax.rows import SLOTS, bucket
from diffrt.flax.unet import unet

LIMIT = 1e-5  # relative L2 in fp32
UNET = "unet/diffusion_pytorch_model.safetensors"


def relative(got, expected):
    expected = expected.float().numpy()
    assert got.shape == expected.shape
    return np.linalg.norm(got - expected) / np.linalg.norm(expected)


def randn(*shape):
    return torch.from_numpy(np.random.default_rng(sum(shape)).standard_normal(shape, np.float32))


def outputs_of_the_network(pipe, sample, t, context):
    """By the program of the pictures, with a row that gives the network's output as x."""
    model, evals = pipe._model, bucket(4)
    W = np.zeros((evals, SLOTS, SLOTS + 3), np.float32)
    W[0, 0, -2] = 1
    W[1:, 0, 0] = 1
    fill = partial(np.full, evals, dtype=np.float32)
    rows = {"t": fill(t), "c_in": fill(1), "p": fill(0), "q": fill(0), "W": W, "clip": np.float32(np.inf)}
    rows |= {"calls": np.arange(evals) == 0, "alpha_after": fill(1), "sigma_after": fill(0)}
    rows |= {"guided": fill(1), "plain": fill(0), "rescale": np.float32(0)}
    placed = model.placement.padded
    last = channels_last(sample.numpy())
    slots = np.zeros((SLOTS, *last.shape[:-1], 4), np.float32)
    slots[0] = last[..., :4]
    beside = placed(last[..., 4:]) if last.shape[-1] > 4 else None
    condition = Condition(
        placed(np.stack([context.numpy()] * 2, 1)), placed(np.zeros((len(last), 1), np.float32)), beside
    )
    silence = jnp.zeros((evals, *slots.shape[1:]), device=model.placement.batch(1))
    out = denoise_program(
        model.networks, model.dtype, model.placement, model.part("unet"), model.placement.everywhere(rows),
        placed(slots, 1), condition, silence, None,
    )  # fmt: skip
    return channels_first(out[0])


@torch.no_grad()
@pytest.mark.parametrize("kind", ["sd1", "sd2", "inpaint"])
def test_unet(pipes, folders, kind):
    reference = UNet2DConditionModel.from_pretrained(folders(kind)[0] / "unet")
    sample, context = randn(1, reference.config.in_channels, 8, 12), randn(1, 77, 32)
    for t in (999.0, 0.5):
        expected = reference(sample, torch.tensor([t]), context).sample
        assert relative(outputs_of_the_network(pipes(kind)[0], sample, t, context), expected) < LIMIT


@torch.no_grad()
def test_vae(pipes, folders):
    reference = AutoencoderKL.from_pretrained(folders("sd1")[0] / "vae")
    scale, parts = reference.config.scaling_factor, pipes("sd1")[0]._parts
    latents, picture = randn(1, 4, 8, 12), randn(1, 3, 64, 96).clamp(-1, 1)
    posterior = reference.encode(picture).latent_dist
    mean, std = parts.encoder(picture.numpy())
    assert relative(mean, posterior.mean * scale) < LIMIT
    assert relative(std, posterior.std * scale) < LIMIT
    assert relative(parts.decoder(latents.numpy()), reference.decode(latents / scale).sample) < LIMIT


@torch.no_grad()
@pytest.mark.parametrize("kind", ["sd1", "sd2"])  # with the prefix text_model. and without, two activations
def test_text_encoder(pipes, folders, kind):
    reference = CLIPTextModel.from_pretrained(folders(kind)[0] / "text_encoder")
    encoder = pipes(kind)[0]._parts.text_encoder
    expected = reference(torch.from_numpy(encoder.tokenizer(["a red apple"]).ids)).last_hidden_state
    embeds, truncated = encoder(["a red apple"])
    assert relative(embeds["encoder_hidden_states"], expected) < LIMIT
    assert truncated == ("",)


@torch.no_grad()
@pytest.mark.parametrize(("dtype", "limit"), [(jnp.float32, LIMIT), (jnp.bfloat16, 2e-2)])
def test_odd_sizes_and_bfloat16(mini, dtype, limit):
    reference = UNet2DConditionModel.from_pretrained(mini[4] / "unet")
    checkpoint = open_checkpoint(mini[4])
    network, inputs = checkpoint.networks.parts["unet"]
    tensors = weights.load(mini[4] / "unet", declared(network, *inputs), dtype, weights.on_default_device)
    assert set(tensors) == {name for name, _ in reference.named_parameters()}
    sample, context, t = randn(2, 4, 9, 11), randn(2, 5, 16), torch.tensor([999.0, 0.5])
    run = jax.jit(lambda tensors, *arrays: unet(checkpoint.networks.unet, lookup(tensors), *arrays))
    given = jnp.asarray(channels_last(sample.numpy()), dtype)
    out = run(tensors, given, t.numpy(), jnp.asarray(context.numpy(), dtype))
    assert out.dtype == dtype
    assert relative(channels_first(np.asarray(out, np.float32)), reference(sample, t, context).sample) < limit


@pytest.fixture
def copy(mini, tmp_path):
    return shutil.copytree(mini[4], tmp_path / "checkpoint")


def load(folder):
    return open_checkpoint(folder).load(np.float32, lambda part: weights.on_default_device)


def test_tensors_that_do_not_fit_are_all_named(copy):
    tensors = load_file(copy / UNET)
    del tensors["conv_in.bias"], tensors["conv_out.bias"]
    tensors["conv_in.weight"] = np.zeros((8, 5, 3, 3), np.float32)
    tensors["lora.up"] = np.zeros(3, np.float32)
    tensors["conv_norm_out.bias"] = np.zeros(8, np.int64)
    save_file(tensors, copy / UNET)
    with pytest.raises(CheckpointError) as caught:
        load(copy)
    assert str(caught.value) == (
        "unet/ does not fit its config.json: tensors 2 missing: conv_in.bias, conv_out.bias; 1 unexpected: lora.up; "
        "1 of another shape: conv_in.weight [8, 5, 3, 3] for [8, 4, 3, 3]; 1 of another dtype: conv_norm_out.bias I64"
    )


def test_weights_that_cannot_be_read(copy):
    (copy / UNET).rename(copy / "unet/flax_model.msgpack")
    with pytest.raises(CheckpointError, match="msgpack weights: load the checkpoint's main revision"):
        load(copy)
    (copy / "unet/flax_model.msgpack").rename(copy / "unet/diffusion_pytorch_model.bin")
    with pytest.raises(CheckpointError, match="is a pickle"):
        load(copy)


@pytest.mark.parametrize("dtype", ["int8", np.int32, "half a byte"])
def test_dtypes_that_networks_have_not(copy, dtype):
    """In either face."""
    for call in (diffrt.flax.load, diffrt.flax.FlaxStableDiffusionPipeline.from_pretrained):
        with pytest.raises(InvalidArgument, match=r"give jnp\.float32, jnp\.bfloat16"):
            call(copy, dtype=dtype)


def test_half_precision_weights_are_read(copy):
    tensors = {name: tensor.astype(np.float16) for name, tensor in load_file(copy / UNET).items()}
    (copy / UNET).unlink()
    save_file(tensors, copy / "unet/diffusion_pytorch_model.fp16.safetensors")
    loaded = load(copy)["unet"]
    assert loaded["conv_in.bias"].dtype == np.float32
    assert (np.asarray(loaded["conv_in.weight"]) == tensors["conv_in.weight"].transpose(2, 3, 1, 0)).all()


@pytest.mark.parametrize(
    ("part", "key", "value", "words"),
    [
        ("unet", "act_fn", "mish", "'act_fn' is 'mish'"),
        ("unet", "down_block_types", ["DownBlock2D"], "down_block_types"),
        ("vae", "norm_num_groups", 3, "norm_num_groups"),
        ("text_encoder", "hidden_act", "relu", "hidden_act"),
    ],
)
def test_configs_that_are_not_implemented(copy, part, key, value, words):
    file = copy / part / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
    with pytest.raises(CheckpointError, match=words):
        open_checkpoint(copy)


def test_what_is_fetched_of_a_repository():
    stems = {"text_encoder": "model", "unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model"}
    plain = [f"{part}/{name}" for part, stem in stems.items() for name in ("config.json", f"{stem}.safetensors")]
    plain += ["model_index.json", "scheduler/scheduler_config.json", "tokenizer/vocab.json", "tokenizer/merges.txt"]
    halves = [f"{part}/{stem}.fp16.safetensors" for part, stem in stems.items()]
    others = ["v1-5.ckpt", "README.md", "unet/flax_model.msgpack", "unet/diffusion_pytorch_model.bin"]
    others += ["safety_checker/model.safetensors", "unet/diffusion_pytorch_model.non_ema.safetensors"]
    assert wanted([*plain, *halves, *others]) == sorted(plain)
    only = [name for name in plain if not name.endswith(".safetensors")] + halves
    assert wanted([*only, *others[:4]]) == sorted(only)
    with pytest.raises(CheckpointError, match="vae/ has no safetensors: try the main revision"):
        wanted([name for name in plain if not name.startswith("vae/d")])


def test_folders_that_are_no_checkpoint(copy, tmp_path):
    with pytest.raises(CheckpointError, match=r"it has no model_index\.json"):
        open_checkpoint(tmp_path)
    (copy / "vae" / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"no vae/config\.json"):
        open_checkpoint(copy)
