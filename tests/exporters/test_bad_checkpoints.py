"""What export refuses: each with a named exception and one line that says what is wrong, before anything is traced."""

import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import exporters
from diffrt.errors import CheckpointError, InvalidArgument
from exporters import exporting

from .mini import contents, edit

UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(autouse=True)
def untraced(monkeypatch):
    """All of this must be found before the slow part begins."""

    def trace(*args):
        raise AssertionError("it was traced")

    monkeypatch.setattr(exporting, "trace", trace)


def refused(checkpoint, kind, *words, **options):
    """Export fails with exactly this kind, says all the words in one line, and leaves both folders as they were."""
    out = checkpoint.parent.with_name("out")
    out.mkdir(exist_ok=True)
    before = contents(checkpoint) if checkpoint.is_dir() else None
    dest = options.pop("dest", out / "bundle")
    with pytest.raises(kind) as caught:
        exporters.export(checkpoint, dest, verify=False, **options)
    message = str(caught.value)
    assert type(caught.value) is kind
    assert "\n" not in message
    assert len(message) < 1200
    for word in words:
        assert word in message
    assert list(out.iterdir()) == []
    assert (contents(checkpoint) if checkpoint.is_dir() else None) == before
    assert sorted(f.name for f in checkpoint.parent.iterdir()) == ([checkpoint.name] if checkpoint.exists() else [])


# The folder.


def test_no_folder(tmp_path):
    (tmp_path / "in").mkdir()
    refused(tmp_path / "in" / "nothing", CheckpointError, "nothing", "is not a folder")


def test_folder_without_index(tmp_path):
    (tmp_path / "in" / "checkpoint").mkdir(parents=True)
    refused(tmp_path / "in" / "checkpoint", CheckpointError, "no checkpoint in diffusers layout", "model_index.json")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '"StableDiffusionPipeline"', "[" * 100_000, "\ud800"], ids=repr
)
def test_index_is_no_object(checkpoint, text):
    (checkpoint / "model_index.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    refused(checkpoint, CheckpointError, "model_index.json", "JSON")


@pytest.mark.parametrize("name", ["StableDifusionPipeline", "CogVideoXPipeline", ["module", "Pipeline"], 3, None])
def test_pipeline_class(checkpoint, name):
    edit(checkpoint / "model_index.json", _class_name=name)
    refused(checkpoint, CheckpointError, repr(name), "known: DDIMPipeline")


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "scheduler", "tokenizer"])
def test_missing_component(checkpoint, part):
    shutil.rmtree(checkpoint / part)
    refused(checkpoint, CheckpointError, f"component {part} is missing", f"{part}/")


@pytest.mark.parametrize("entry", [None, [None, None], "UNet2DConditionModel", {"a": 1}])
def test_undeclared_component(checkpoint, entry):
    edit(checkpoint / "model_index.json", unet=entry)
    refused(checkpoint, CheckpointError, "model_index.json declares no unet" if entry != [None, None] else "unet")


def test_another_class_of_component(checkpoint):
    edit(checkpoint / "model_index.json", unet=["diffusers", "UNet3DConditionModel"])
    refused(checkpoint, CheckpointError, "unet is a UNet3DConditionModel", "UNet2DConditionModel")


@pytest.mark.parametrize("file", ["unet/config.json", "vae/config.json", "scheduler/scheduler_config.json"])
def test_config_is_not_json(checkpoint, file):
    (checkpoint / file).write_text("{'a': 1}")
    refused(checkpoint, CheckpointError, file, "not valid JSON")


# Configs.


@pytest.mark.parametrize(
    ("file", "changes", "words"),
    [
        ("unet/config.json", {"norm_num_group": 4}, ("'norm_num_group'", "did you mean 'norm_num_groups'")),
        ("unet/config.json", {"class_embed_type": "timestep"}, ("'class_embed_type'", "'timestep'", "None")),
        ("unet/config.json", {"act_fn": ["silu"]}, ("'act_fn'", "'silu'")),
        ("unet/config.json", {"block_out_channels": [8]}, ("down_block_types", "DownBlock2D")),
        ("unet/config.json", {"block_out_channels": [8, 17]}, ("block_out_channels[1] = 17", "norm_num_groups")),
        ("unet/config.json", {"block_out_channels": 8}, ("'block_out_channels'", "8")),
        ("unet/config.json", {"block_out_channels": []}, ("allowed: 0 of",)),
        ("unet/config.json", {"norm_num_groups": 0}, ("'norm_num_groups'", "0")),
        ("unet/config.json", {"norm_num_groups": "4"}, ("'norm_num_groups'", "'4'", "a whole number from 1")),
        ("unet/config.json", {"norm_eps": "x"}, ("'norm_eps'", "'x'", "float")),
        ("unet/config.json", {"layers_per_block": [1, 1, 1]}, ("layers_per_block", "3 values for 2 blocks")),
        ("unet/config.json", {"layers_per_block": -1}, ("layers_per_block", "-1")),
        ("unet/config.json", {"attention_head_dim": 3}, ("block_out_channels[0] = 8", "3 attention heads")),
        ("unet/config.json", {"attention_head_dim": 0}, ("'attention_head_dim'", "0")),
        ("unet/config.json", {"down_block_types": ["Down", "DownBlock2D"]}, ("'down_block_types'", "CrossAttn")),
        ("unet/config.json", {"use_linear_projection": 1}, ("'use_linear_projection'", "bool")),
        ("unet/config.json", {"in_channels": 8}, ("takes 8", "have 4", "9 (inpainting)")),
        ("unet/config.json", {"in_channels": None}, ("unet/config.json", "'in_channels'")),
        ("unet/config.json", {"cross_attention_dim": 64}, ("gives 32", "cross_attention_dim is 64")),
        ("vae/config.json", {"latent_channel": 4}, ("'latent_channel'", "did you mean 'latent_channels'")),
        ("vae/config.json", {"act_fn": "relu"}, ("'act_fn'", "'relu'", "'silu'")),
        ("vae/config.json", {"block_out_channels": None}, ("vae/config.json", "'block_out_channels'")),
        ("vae/config.json", {"block_out_channels": 8}, ("config.json holds a value of the wrong kind",)),
        ("vae/config.json", {"block_out_channels": [8, 9]}, ("[8, 9]", "norm_num_groups = 4")),
        ("vae/config.json", {"norm_num_groups": 0}, ("'norm_num_groups'", "0")),
        ("vae/config.json", {"scaling_factor": "big"}, ("'scaling_factor'", "'big'", "float")),
        ("text_encoder/config.json", {"hidden_size": None}, ("text_encoder/config.json", "'hidden_size'")),
        ("text_encoder/config.json", {"num_attention_heads": 5}, ("text_encoder/config.json", "attention heads (5)")),
        ("text_encoder/config.json", {"hidden_act": "gelou"}, ("text_encoder/config.json", "gelou")),
        ("scheduler/scheduler_config.json", {"beta_strt": 1.0}, ("scheduler_config.json", "beta_strt", "beta_start")),
        ("scheduler/scheduler_config.json", {"beta_schedule": "cube"}, ("scheduler_config.json", "beta_schedule")),
        ("tokenizer/tokenizer_config.json", {"model_max_length": "long"}, ("model_max_length", "'long'")),
        ("tokenizer/tokenizer_config.json", {"pad_token": "<pad>"}, ("tokenizer", "'<pad>'")),
    ],
    ids=lambda v: v if isinstance(v, str) else "-".join(v) if isinstance(v, dict) else "",
)  # fmt: skip
def test_config(checkpoint, file, changes, words):
    edit(checkpoint / file, **changes)
    refused(checkpoint, CheckpointError, *words)


@pytest.mark.parametrize(("file", "text"), [("vocab.json", "{"), ("vocab.json", "{}"), ("merges.txt", None)])
def test_tokenizer(checkpoint, file, text):
    (checkpoint / "tokenizer" / file).unlink()
    if text is not None:
        (checkpoint / "tokenizer" / file).write_text(text)
    refused(checkpoint, CheckpointError, "tokenizer")


# Tensors.


def rewrite(file, change):
    save_file(change(load_file(file)), file)


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        (UNET, lambda t: t.pop("conv_in.weight"), ("unet/", "'conv_in.weight' is missing")),
        (UNET, lambda t: t.update({"extra.weight": torch.zeros(1)}), ("unet/", "'extra.weight'", "config.json")),
        (UNET, lambda t: t.update({"conv_in.bias": torch.zeros(9)}), ("'conv_in.bias'", "shape [9]", "[8]")),
        (UNET, lambda t: t.update({"conv_in.bias": torch.zeros(8, 1)}), ("'conv_in.bias'", "shape [8, 1]")),
        (UNET, lambda t: t.update({"conv_in.bias": torch.zeros(8).half()}), ("is F16, not F32", "--precision fp16")),
        (UNET, lambda t: t.update({"conv_in.bias": torch.zeros(8).double()}), ("is F64", "float32 or float16")),
        ("vae/diffusion_pytorch_model.safetensors", lambda t: t.pop("quant_conv.bias"), ("vae/", "'quant_conv.bias'")),
        ("text_encoder/model.safetensors", lambda t: t.clear(), ("text_encoder/", "is missing")),
    ],
)  # fmt: skip
def test_tensors(checkpoint, file, change, words):
    rewrite(checkpoint / file, lambda tensors: (change(tensors), tensors)[1])
    refused(checkpoint, CheckpointError, *words)


def test_fp16_of_weights_beyond_it(checkpoint):
    rewrite(checkpoint / UNET, lambda tensors: tensors | {"conv_in.bias": torch.full((8,), 1e5)})
    words = ("unet/", "'conv_in.bias'", "1e+05", "at most 65504", "--precision fp32")
    refused(checkpoint, CheckpointError, *words, precision="fp16")


def halve(tensors):
    return {name: tensor.half() for name, tensor in tensors.items()}


def test_fp32_of_an_fp16_checkpoint(checkpoint):
    for file in checkpoint.rglob("*.safetensors"):
        rewrite(file, halve)
    refused(checkpoint, CheckpointError, "is F16, not F32", "--precision fp16")


def test_fp32_of_fp16_variant_files(checkpoint):
    for file in checkpoint.rglob("*.safetensors"):
        rewrite(file, halve)
        file.rename(file.with_suffix(".fp16.safetensors"))
    refused(checkpoint, CheckpointError, "holds only model.fp16.safetensors", "--precision fp16")


# Weight files.


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (lambda raw: b"", "truncated"),
        (lambda raw: raw[:5], "truncated"),
        (lambda raw: raw[:100], "truncated"),
        (lambda raw: raw[:-1], "truncated"),
        (lambda raw: raw + b"\0", "corrupt"),
        (lambda raw: b"\xff" * 8 + raw[8:], "truncated or no safetensors"),
        (lambda raw: raw[:8] + b"x" + raw[9:], "header is not JSON"),
        (lambda raw: raw.replace(b'"F32"', b'"Q32"', 1), "dtype 'Q32'"),
        (lambda raw: raw.replace(b'"data_offsets":[0,', b'"data_offsets":[4,', 1), "does not fit its"),
        (lambda raw: b"PK\x03\x04" + raw, "pickle"),
        (lambda raw: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
    ],
    ids=[
        "empty", "5 bytes", "100 bytes", "a byte less", "a byte more",
        "length", "json", "dtype", "offsets", "zip", "lfs",
    ],
)  # fmt: skip
def test_damaged_safetensors(checkpoint, damage, word):
    raw = (checkpoint / UNET).read_bytes()
    (checkpoint / UNET).write_bytes(damage(raw))
    assert (checkpoint / UNET).read_bytes() != raw
    refused(checkpoint, CheckpointError, UNET, word)


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("form", ["zip", "old"])
@pytest.mark.parametrize("name", ["diffusion_pytorch_model.bin", "diffusion_pytorch_model.fp16.bin"])
def test_pickle_that_runs_code(checkpoint, name, form):
    (checkpoint / UNET).unlink()
    made = checkpoint.parent.with_name("made")
    torch.save(
        {"conv_in.weight": torch.zeros(8, 4, 3, 3), "x": Evil(made)}, checkpoint / "unet" / name,
        _use_new_zipfile_serialization=form == "zip",
    )  # fmt: skip
    words = ("is a pickle", "posix.mkdir") if form == "zip" else ("pickle of an old form",)
    refused(checkpoint, CheckpointError, f"unet/{name} ", "run code", "safetensors.torch.save_file", *words,
            precision="fp16" if "fp16" in name else "fp32")  # fmt: skip
    assert not made.exists()


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([torch.zeros(1)], ("holds a list", "not tensors by name")),
        ({"conv_in.weight": torch.zeros(3).to_sparse()}, ("'conv_in.weight'", "not a plain array")),
        ({"conv_in.weight": torch.zeros(3, dtype=torch.complex64)}, ("'conv_in.weight'", "complex64")),
        ({"conv_in.weight": torch.zeros(3, device="meta")}, ("'conv_in.weight'", "not a plain array")),
        ({"conv_in.weight": torch.zeros(1).expand(10**15)}, ("'conv_in.weight'", "not a plain array")),
        ({"conv_in.weight": torch.zeros(8, 4, 3, 3)}, ("unet/", "is missing")),
        ({}, ("unet/", "is missing")),
    ],
)
def test_pickle_of_something_else(checkpoint, value, words):
    (checkpoint / UNET).unlink()
    torch.save(value, checkpoint / "unet" / "diffusion_pytorch_model.bin")
    refused(checkpoint, CheckpointError, *words)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_truncated_pickle(checkpoint, share):
    file = checkpoint / "unet" / "diffusion_pytorch_model.bin"
    torch.save(load_file(checkpoint / UNET), file)
    (checkpoint / UNET).unlink()
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    refused(checkpoint, CheckpointError, file.name, "save_file")


def test_pickle_of_another_name(checkpoint):
    (checkpoint / UNET).rename(checkpoint / "unet" / "model.ckpt")
    refused(checkpoint, CheckpointError, "unet/model.ckpt is a pickle", "safe_serialization=True")


def test_fp32_of_a_pickled_fp16_variant(checkpoint):
    (checkpoint / UNET).rename(checkpoint / "unet" / "diffusion_pytorch_model.fp16.bin")
    refused(checkpoint, CheckpointError, "holds only diffusion_pytorch_model.fp16.bin", "--precision fp16")


def test_no_weights(checkpoint):
    (checkpoint / UNET).unlink()
    refused(checkpoint, CheckpointError, "unet/ holds no weights", "diffusion_pytorch_model.safetensors")


@pytest.fixture
def index(checkpoint):
    """The UNet in two shards; the test spoils this index of them."""
    tensors = load_file(checkpoint / UNET)
    (checkpoint / UNET).unlink()
    names = sorted(tensors)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for shard, part in shards.items():
        save_file({name: tensors[name] for name in part}, checkpoint / "unet" / shard)
    index = checkpoint / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {name: shard for shard, part in shards.items() for name in part}}))
    return index


def point_at(index, name):
    edit(index, weight_map=json.loads(index.read_text())["weight_map"] | {"conv_in.weight": name})


@pytest.mark.parametrize(
    "name",
    ["../x", "../x.safetensors", "/etc/passwd", "a/b.safetensors", "x.bin", "", "..", 7, ["a.safetensors"], None],
)
def test_index_that_leaves_the_folder(checkpoint, index, name):
    outside = checkpoint / "x.safetensors"
    shutil.copyfile(checkpoint / "unet" / "a.safetensors", outside)
    point_at(index, name)
    refused(checkpoint, CheckpointError, "unet/", index.name)


def test_index_that_names_an_absent_file(checkpoint, index):
    point_at(index, "c.safetensors")
    refused(checkpoint, CheckpointError, "unet/c.safetensors is missing")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": 3}', '{"weight_map": []}', "[" * 100_000])
def test_index_that_is_none(checkpoint, index, text):
    index.write_text(text)
    refused(checkpoint, CheckpointError, index.name, "not an index")


def test_index_that_forgets_a_shard(checkpoint, index):
    forgetful = {n: s for n, s in json.loads(index.read_text())["weight_map"].items() if s == "a.safetensors"}
    edit(index, weight_map=forgetful)
    refused(checkpoint, CheckpointError, "unet/", "is missing")


def test_tensor_in_two_shards(checkpoint, index):
    save_file({"conv_in.weight": torch.zeros(8, 4, 3, 3), "x": torch.zeros(1)}, checkpoint / "unet" / "c.safetensors")
    point_at(index, "c.safetensors")
    refused(checkpoint, CheckpointError, "'conv_in.weight' is in", "c.safetensors")


# Arguments.


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"precision": "fp23"}, ("'fp23'", "did you mean 'fp32'", "fp16")),
        ({"precision": None}, ("None", "fp32")),
        ({"attention": "slices"}, ("'slices'", "did you mean 'sliced'", "portable")),
        ({"static": (15, 16)}, ("15x16", "multiples of 2")),
        ({"static": (16, 0)}, ("16x0", "multiples of 2")),
        ({"static": (-2, 16)}, ("-2x16",)),
        ({"static": (16.0, 16)}, ("16.0x16",)),
        ({"static": (16,)}, ("16", "height and width")),
        ({"defaults": {"steps": 3}}, ("'steps'", "num_inference_steps")),
        ({"defaults": {"height": 15}}, ("15x16", "multiples of 2")),
        ({"defaults": {"guidance_scale": "high"}}, ("'high'", "guidance_scale")),
        ({"defaults": {"scheduler": "Eulr"}}, ("'Eulr'", "did you mean 'euler'?")),
    ],
)
def test_arguments(checkpoint, options, words):
    refused(checkpoint, InvalidArgument, *words, **options)


# The target.


def test_parent_that_does_not_exist(checkpoint, tmp_path):
    refused(checkpoint, InvalidArgument, str(tmp_path / "none"), "does not exist", dest=tmp_path / "none" / "bundle")


@pytest.mark.parametrize("inner", [".", "bundle", "unet", "unet/bundle"])
@pytest.mark.parametrize("force", [False, True])
def test_target_inside_the_source(checkpoint, inner, force):
    refused(checkpoint, InvalidArgument, "the checkpoint itself or inside it", dest=checkpoint / inner, force=force)


def test_target_inside_the_source_through_a_link(checkpoint, tmp_path):
    (tmp_path / "link").symlink_to(checkpoint)
    dest = tmp_path / "link" / "bundle"
    refused(checkpoint, InvalidArgument, "the checkpoint itself or inside it", dest=dest)


def test_source_inside_the_target(pristine, tmp_path):
    """--force would delete the source with the bundle that it lies in."""
    bundle = tmp_path / "bundle"
    checkpoint = shutil.copytree(pristine, bundle / "checkpoint")
    (bundle / "diffrt.json").write_text("{}")
    before = contents(tmp_path)
    with pytest.raises(InvalidArgument, match="holds the checkpoint"):
        exporters.export(checkpoint, bundle, force=True)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("make", ["folder", "file", "link", "bundle"])
@pytest.mark.parametrize("force", [False, True])
def test_target_that_exists(pristine, tmp_path, make, force):
    """Only a bundle is replaced, and only when asked."""
    dest = tmp_path / "dest"
    if make == "file":
        dest.write_text("mine")
    elif make == "link":
        dest.symlink_to("nowhere")
    else:
        dest.mkdir()
        (dest / ("diffrt.json" if make == "bundle" else "thesis.tex")).write_text("mine")
    before = contents(tmp_path)
    if force and make == "bundle":
        with pytest.raises(AssertionError, match="it was traced"):
            exporters.export(pristine, dest, force=True)
    else:
        with pytest.raises(InvalidArgument, match="is not a bundle" if force else "exists") as caught:
            exporters.export(pristine, dest, force=force)
        assert "\n" not in str(caught.value)
    assert contents(tmp_path) == before
    assert os.listdir(tmp_path) == ["dest"]
