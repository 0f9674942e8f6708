"""Single-file checkpoints become the folder that diffusers would make of them, without their bytes passing twice."""

import contextlib
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline
from diffusers.loaders import single_file_utils as reference
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel

import diffrt
import exporters
from diffrt.errors import CheckpointError, InvalidArgument
from diffrt.safetensors_header import ITEMSIZE, read_header
from exporters import exporting, safetensors_writer
from exporters.checkpoint import open_checkpoint
from exporters.safetensors_writer import Stored
from exporters.sources import opened, tensors
from exporters.sources.single_file import convert

from . import ldm
from .mini import contents

TINY = ("sd1", "sd2", "sd1-inpainting", "sd1-edit")
MADE_FOR = {  # pipeline class and first task
    "sd1-inpainting": ("StableDiffusionInpaintPipeline", "inpaint"),
    "sd1-edit": ("StableDiffusionInstructPix2PixPipeline", "edit"),
}
FULL = ("sd1-full", "sd2-full", "sd2-inpainting-full")
FILES = {
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
}
DTYPES = {v: k for k, v in tensors.TORCH_DTYPES.items()}


def prefixed(state):
    """A text encoder's tensors as the world's folders name them, whatever the version of transformers."""
    return {f"text_model.{n.removeprefix('text_model.')}": t for n, t in state.items()}


@pytest.fixture(scope="module", params=TINY)
def tiny(request, tmp_path_factory):
    """(kind, single file, its modules by part)"""
    made = ldm.modules(request.param)
    file = tmp_path_factory.mktemp(request.param) / "model.safetensors"
    save_file(ldm.single_file(request.param, *made), file)
    return request.param, file, dict(zip(FILES, made, strict=True))


@contextlib.contextmanager
def unpacked(file, prediction_type=None, precision="fp32", say=lambda line: None):
    """The folder in diffusers layout that an export makes and works from."""
    with opened(file, file.with_name("dest"), precision, prediction_type, False, say) as source:
        source.fill(say)
        yield source.root
    assert [f.name for f in file.parent.glob("dest*")] == []


def test_tensors(tiny):
    """Bit for bit those of the modules the file was made from."""
    _, file, modules = tiny
    with unpacked(file) as folder:
        for part, module in modules.items():
            got = load_file(folder / part / FILES[part])
            state = prefixed(module.state_dict()) if part == "text_encoder" else module.state_dict()
            assert got.keys() == state.keys()
            assert all(torch.equal(got[name], state[name]) for name in state)


def test_diffusers_own_conversion(tiny):
    """The same file through diffusers' converters."""
    kind, file, modules = tiny
    with unpacked(file) as folder:
        got = {part: load_file(folder / part / name) for part, name in FILES.items()}
    for part, expected in by_reference(kind, load_file(file), modules).items():
        assert got[part].keys() == expected.keys()
        assert all(torch.equal(got[part][name], expected[name]) for name in expected)


def by_reference(kind, single, modules):
    text = reference.convert_open_clip_checkpoint if kind.startswith("sd2") else None
    words = text(modules["text_encoder"], single) if text else reference.convert_ldm_clip_checkpoint(single)
    return {
        "unet": reference.convert_ldm_unet_checkpoint(single, modules["unet"].config),
        "vae": reference.convert_ldm_vae_checkpoint(single, modules["vae"].config),
        "text_encoder": {n: t for n, t in words.items() if not n.endswith("position_ids")},
    }


def test_diffusers_loads_it(tiny):
    """With the modules' own configs: the same outputs."""
    kind, file, modules = tiny
    with unpacked(file) as folder:
        checkpoint = open_checkpoint(folder)
        pipe = DiffusionPipeline.from_pretrained(folder)
    name, task = MADE_FOR.get(kind, ("StableDiffusionPipeline", "text_to_image"))
    assert type(pipe).__name__ == name
    for part in ("unet", "vae"):
        ours, theirs = (dict(p.config) for p in (getattr(pipe, part), modules[part]))
        assert {k: v for k, v in ours.items() if k[0] != "_"} == {k: v for k, v in theirs.items() if k[0] != "_"}
    ids = pipe.tokenizer(["a photo of a cat", ""], padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        assert torch.equal(pipe.text_encoder(ids)[0], modules["text_encoder"](ids)[0])
        assert torch.equal(pipe.text_encoder(ids)[1], modules["text_encoder"](ids)[1])
    assert ids[1, 5] == (0 if kind == "sd2" else 49407)
    assert pipe.scheduler.config.prediction_type == ("v_prediction" if kind == "sd2" else "epsilon")
    assert checkpoint.family.tasks(checkpoint.configs)[0] == task


# Full size: names and shapes alone.


@pytest.mark.parametrize("kind", FULL)
def test_full_size(kind):
    """Every tensor's name and shape, and every config key that diffusers' own module has."""
    with torch.device("meta"):
        modules = dict(zip(FILES, ldm.modules(kind), strict=True))
        single = ldm.single_file(kind, *modules.values())
    unread = {n: Stored(tensors.TORCH_DTYPES[t.dtype], tuple(t.shape), None) for n, t in single.items()}
    configs, found = convert(unread)
    for part, expected in by_reference(kind, single, modules).items():
        shapes = {n: (DTYPES[t.dtype], t.shape) for n, t in found[part].items()}
        assert shapes == {n: (t.dtype, tuple(t.shape)) for n, t in expected.items()}
    for part in ("unet", "vae"):
        theirs = json.loads(modules[part].to_json_string())
        assert {k: v for k, v in configs[part].items() if theirs.get(k) != v} == {}
    words = CLIPTextConfig(**configs["text_encoder"])
    with torch.device("meta"):
        assert CLIPTextModel(words).state_dict().keys() == modules["text_encoder"].state_dict().keys()
    assert words.hidden_act == modules["text_encoder"].config.hidden_act
    assert words.num_attention_heads == modules["text_encoder"].config.num_attention_heads


@pytest.mark.parametrize(
    ("layers", "projection", "used"), [(24, True, 23), (24, False, 23), (23, False, 23), (3, True, 2)]
)
def test_layers_of_open_clip(layers, projection, used, monkeypatch):
    """The last is not used; a file saved again from diffusers no longer has it, nor the projection."""
    monkeypatch.setitem(ldm.CONFIGS, "sd2", (*ldm.CONFIGS["sd2"][:2], ldm.text(64, 128, layers - 1, "gelu")))
    with torch.device("meta"):
        single = ldm.single_file("sd2", *ldm.modules("sd2"))
    if not projection:
        single.pop("cond_stage_model.model.text_projection")
    configs, _ = convert({n: Stored("F32", tuple(t.shape), None) for n, t in single.items()})
    assert configs["text_encoder"]["num_hidden_layers"] == used


# What the file does not say.


@pytest.fixture(scope="module")
def second():
    return ldm.single_file("sd2", *ldm.modules("sd2"))


@pytest.mark.parametrize(
    ("step", "given", "chosen", "size"),
    [
        (None, None, "v_prediction", 768),
        (875000, None, "epsilon", 512),
        (140000, None, "v_prediction", 768),
        (None, "epsilon", "epsilon", 512),
        (875000, "v_prediction", "v_prediction", 768),
    ],
)
def test_prediction_type_of_sd2(second, tmp_path, step, given, chosen, size):
    file, lines = tmp_path / "model.safetensors", []
    save_file(second | ({} if step is None else {"global_step": torch.tensor(step)}), file)
    with unpacked(file, given, say=lines.append) as folder:
        checkpoint = open_checkpoint(folder)
    assert checkpoint.scheduler["prediction_type"] == chosen
    assert checkpoint.scheduler["_class_name"] == {"epsilon": "PNDMScheduler"}.get(chosen, "DDIMScheduler")
    assert checkpoint.configs["unet"]["sample_size"] == size // 2
    assert f"Stable Diffusion 2, prediction type {chosen}, {size}x{size}" in lines[0]
    assert ("the other" in lines[0]) == (given is None)


def test_prediction_type_is_for_single_files(checkpoint, tmp_path):
    with pytest.raises(InvalidArgument, match=r"prediction_type.*scheduler_config\.json"):
        exporters.export(checkpoint, tmp_path / "dest", prediction_type="epsilon")
    with pytest.raises(InvalidArgument, match=r"'v'.*known: epsilon, v_prediction"):
        exporters.export(checkpoint, tmp_path / "dest", prediction_type="v")


# Forms.


@pytest.mark.parametrize("form", ["ckpt", "nested", "bare", "linear", "fp16"])
def test_other_forms(tmp_path, form):
    """A pickle of tensors; text encoder names without text_model.; attention without 1x1; half precision."""
    made = ldm.modules("sd1")
    single = ldm.single_file("sd1", *made)
    file = tmp_path / ("model.ckpt" if form in ("ckpt", "nested") else "model.safetensors")
    if form == "bare":
        single = {n.replace("transformer.text_model.", "transformer."): t for n, t in single.items()}
    if form == "linear":
        single = {n: t[:, :, 0, 0].contiguous() if "attn_1" in n and t.ndim == 4 else t for n, t in single.items()}
    if form == "fp16":
        single = {n: t.half() if n.startswith(("model.", "first", "cond")) else t for n, t in single.items()}
    if file.suffix == ".ckpt":
        torch.save({"state_dict": single, "global_step": 7, "epoch": 1} if form == "nested" else single, file)
    else:
        save_file(single, file)
    with unpacked(file) as folder:
        got = {part: load_file(folder / part / name) for part, name in FILES.items()}
    for part, module in zip(FILES, made, strict=True):
        state = prefixed(module.state_dict()) if part == "text_encoder" else module.state_dict()
        assert got[part].keys() == state.keys()
        for name, tensor in state.items():
            assert torch.equal(got[part][name], tensor.half() if form == "fp16" else tensor)


# Writing.


@pytest.mark.parametrize("reader", ["safetensors", "pickle"])
def test_written_tensors(tmp_path, reader):
    """As the safetensors library reads them: every dtype, empty and scalar ones, shared and strided ones."""
    torch.manual_seed(0)
    base = torch.randn(6, 8)
    some = {str(dtype): (base * 9).to(dtype) for dtype in tensors.TORCH_DTYPES}
    some |= {"empty": torch.zeros(0, 3), "scalar": torch.tensor(2.5), "strided": base.T[1::2], "shared": base[2:4]}
    if reader == "safetensors":
        save_file({n: t.contiguous().clone() for n, t in some.items()}, tmp_path / "in.safetensors")
        unread = tensors.from_safetensors(tmp_path / "in.safetensors")
    else:
        torch.save(some, tmp_path / "in.bin")
        unread = tensors.from_pickle(tmp_path / "in.bin")
    safetensors_writer.write_header(tmp_path / "out.safetensors", unread)
    size = (tmp_path / "out.safetensors").stat().st_size
    safetensors_writer.write_tensors(tmp_path / "out.safetensors", unread)
    assert (tmp_path / "out.safetensors").stat().st_size == size
    got = load_file(tmp_path / "out.safetensors")
    assert got.keys() == some.keys()
    for name, tensor in some.items():
        assert got[name].dtype == tensor.dtype
        assert torch.equal(got[name], tensor)
    for entry in read_header(tmp_path / "out.safetensors").values():
        assert entry.offset % ITEMSIZE[entry.dtype] == 0


MEMORY = """
import resource, sys
from pathlib import Path
from exporters import safetensors_writer
from exporters.sources import tensors
unread = tensors.from_safetensors(Path(sys.argv[1]))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
safetensors_writer.write_header(Path(sys.argv[2]), unread)
safetensors_writer.write_tensors(Path(sys.argv[2]), unread)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory(tmp_path):
    """That of one tensor: 16 of 4 MB."""
    save_file({str(i): torch.full((1 << 20,), float(i)) for i in range(16)}, tmp_path / "in.safetensors")
    command = [sys.executable, "-c", MEMORY, tmp_path / "in.safetensors", tmp_path / "out.safetensors"]
    grown = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert grown * (1 if sys.platform == "darwin" else 1024) < 3 * (4 << 20)
    assert load_file(tmp_path / "out.safetensors").keys() == load_file(tmp_path / "in.safetensors").keys()


# A whole export.


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """(modules, bundle, what was said): a single file, exported whole."""
    folder, lines = tmp_path_factory.mktemp("exported"), []
    made = dict(zip(FILES, ldm.modules("sd2-mini"), strict=True))
    save_file(ldm.single_file("sd2-mini", *made.values()), folder / "model.safetensors")
    bundle = exporters.export(
        folder / "model.safetensors", folder / "bundle", attention="portable", verify=False, copy_weights=True,
        defaults={"height": 32, "width": 32}, progress=lines.append,
    )  # fmt: skip
    return made, bundle, lines


@pytest.mark.slow
def test_export(exported):
    _, bundle, lines = exported
    assert sorted(f.name for f in bundle.parent.iterdir()) == ["bundle", "model.safetensors"]
    converted = [line.rpartition(" ")[2] for line in lines if "converting" in line]
    assert converted == ["text_encoder", "unet", "vae"]
    assert not [line for line in lines if "copying" in line]
    for file in bundle.rglob("*.safetensors"):
        assert file.stat().st_nlink == 1
    manifest = diffrt.load(bundle).bundle.manifest
    assert manifest.tokenizers == {"text_encoder": {"folder": "tokenizer", "max_length": 77, "pad": "!"}}
    assert manifest.defaults.scheduler == "DDIMScheduler"


@pytest.mark.slow
def test_picture(exported):
    """That of diffusers' pipeline over the modules that the file was made from."""
    modules, bundle, _ = exported
    pipe = StableDiffusionPipeline.from_pretrained(bundle, **modules)
    pipe.set_progress_bar_config(disable=True)
    settings = {"num_inference_steps": 3, "height": 32, "width": 32, "output_type": "np"}
    expected = pipe("a photo of a cat", generator=torch.Generator().manual_seed(3), **settings).images
    got = diffrt.load(bundle)("a photo of a cat", seed=3, **settings).images
    assert np.abs(got - expected).max() < 1e-4


def test_the_certificate_reads_the_converted_folder(tmp_path, monkeypatch):
    """It exists until the last, holds the bytes, and the bundle shares them."""
    seen = []

    def certify(folder, checkpoint, components, manifest, *_):
        weights = checkpoint.root / "vae" / FILES["vae"]
        seen.append(load_file(weights)["quant_conv.bias"].clone())
        assert weights.samefile(folder / "vae" / FILES["vae"])
        return manifest

    for name in ("trace", "attach", "write_tiles"):
        monkeypatch.setattr(exporting, name, lambda *_: None)
    monkeypatch.setattr(exporting, "write_graphs", lambda *_: [])
    monkeypatch.setattr(exporting, "fit_preview", lambda *_: {"matrix": [], "bias": []})
    monkeypatch.setattr(exporting, "certify", certify)
    made = ldm.modules("sd1")
    save_file(ldm.single_file("sd1", *made), tmp_path / "model.safetensors")
    exporters.export(tmp_path / "model.safetensors", tmp_path / "bundle")
    assert torch.equal(seen[0], made[1].quant_conv.bias)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["bundle", "model.safetensors"]


# What is refused.


@pytest.fixture(scope="module")
def single():
    return ldm.single_file("sd1", *ldm.modules("sd1"))


def refused(folder, state, *words, name="model.safetensors", **options):
    """One line, and nothing left behind."""
    if isinstance(state, dict):
        save_file(state, folder / name)
    else:
        (folder / name).write_bytes(state)
    before = contents(folder)
    with pytest.raises(CheckpointError) as caught:
        exporters.export(folder / name, folder / "dest", verify=False, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 700
    for word in words:
        assert word in message
    assert contents(folder) == before


def without(*names):
    return lambda state: {n: t for n, t in state.items() if not n.startswith(names)}


UNET, VAE, TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer.text_model."


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without(UNET), ("holds no unet", UNET)),
        (without(VAE), ("holds no vae", VAE)),
        (without("cond_stage"), ("holds no text_encoder",)),
        (without(UNET + "input_blocks.0.0.weight"), ("'input_blocks.0.0.weight' is missing",)),
        (without(UNET + "out.2.weight"), ("'out.2.weight' is missing",)),
        (without(UNET + "middle_block.1.proj_in"), ("unet/", "'mid_block.attentions.0.proj_in.weight' is missing")),
        (without(VAE + "decoder.up.0.block.1.conv1.bias"), ("vae/", "'decoder.up_blocks.2.resnets.1.conv1.bias' is m")),
        (without(VAE + "encoder.down"), ("'decoder.up.0.block.0.conv1.bias'", "vae")),
        (without(TEXT + "encoder.layers.0"), ("'text_model.encoder.layers.0.mlp.fc1.weight' is missing",)),
        (without(TEXT + "embeddings"), ("token_embedding.weight' is missing",)),
        (lambda s: s | {"optimizer.step": torch.zeros(1)}, ("'optimizer.step' belongs to no Stable Diffusion",)),
        (lambda s: s | {UNET + "middle_block.3.x": torch.zeros(1)}, ("'middle_block.3.x'", "unet")),
        (lambda s: s | {VAE + "encoder.mid.attn_2.q.bias": torch.zeros(1)}, ("'encoder.mid.attn_2.q.bias'", "vae")),
        (lambda s: s | {UNET + "input_blocks.1.0.op.weight": torch.zeros(1, 1, 3, 3)}, ("missing",)),
        (lambda s: s | {UNET + "out.2.bias": torch.zeros(4).half()}, ("'model.diffusion_model.out.2.bias' is F16",)),
        (lambda s: s | {UNET + "out.2.bias": torch.zeros(5)}, ("unet/", "shape [5]", "[4]")),
        (lambda s: s | {UNET + "out.2.weight": torch.zeros(5)}, ("'out.2.weight'", "shape [5]")),
        (lambda s: s | {TEXT + "embeddings.token_embedding.weight": torch.zeros(9, 64)}, ("9 tokens", "49408")),
        (lambda s: s | {"cond_stage_model.model.ln_final.bias": torch.zeros(1)}, ("two text encoders",)),
        (lambda s: {n: t.double() for n, t in s.items()}, ("F64", "float32 or float16")),
        (lambda s: {n: t.half() for n, t in s.items()}, ("F16", "--precision fp16")),
        (lambda s: {"lora_unet_mid_block_attentions_0.lora_down.weight": torch.zeros(1)}, ("looks like a LoRA",)),
        (lambda s: s | {"conditioner.embedders.0.x": torch.zeros(1)}, ("looks like Stable Diffusion XL",)),
        (lambda s: s | {"control_model.zero_convs.0.0.bias": torch.zeros(1)}, ("looks like a ControlNet",)),
        (lambda s: {"down_blocks.0.resnets.0.conv1.bias": torch.zeros(1)}, ("diffusers layout", "whole folder")),
        (lambda s: {"x": torch.zeros(1)}, ("'x' belongs to no",)),
        (lambda s: {}, ("holds no unet",)),
    ],
    ids=lambda v: v[0] if isinstance(v, tuple) else "",
)  # fmt: skip
def test_tensors_that_do_not_fit(single, tmp_path, change, words):
    refused(tmp_path, change(single), *words)


@pytest.mark.parametrize(
    ("raw", "name", "words"),
    [
        (b"", "model.safetensors", ("truncated",)),
        (b"\x08" + b"\0" * 7 + b"{}      ", "model.safetensors", ("holds no unet",)),
        (b"PK\x03\x04" + bytes(60), "model.safetensors", ("is a pickle", "save_file")),
        (b"version https://git-lfs.github.com/spec/v1\n", "model.safetensors", ("git lfs pull",)),
        (b"version https://git-lfs.github.com/spec/v1\n", "model.ckpt", ("git lfs pull",)),
        (b"PK\x03\x04" + bytes(60), "model.ckpt", ("is a pickle", "save_file")),
        (b"cos\nsystem\n(S'false'\ntR.", "model.ckpt", ("pickle of an old form", "save_file")),
        (b"", "model.pt", ("damaged",)),
        (b"GGUF", "model.gguf", ("no folder", ".safetensors, .ckpt")),
        (b"weights", "model", ("no folder", ".safetensors")),
    ],
)  # fmt: skip
def test_files_of_another_kind(tmp_path, raw, name, words):
    refused(tmp_path, raw, name, *words, name=name)


def test_truncated(single, tmp_path):
    save_file(single, tmp_path / "x.safetensors")
    raw = (tmp_path / "x.safetensors").read_bytes()[:-1]
    (tmp_path / "x.safetensors").unlink()
    refused(tmp_path, raw, "truncated")


def test_source_that_changes(single, tmp_path):
    """Shortened between the checks and the copy."""
    save_file(single, tmp_path / "model.safetensors")
    with opened(tmp_path / "model.safetensors", tmp_path / "d", "fp32", None, False, lambda line: None) as source:
        (tmp_path / "model.safetensors").write_bytes(b"gone")
        with pytest.raises(CheckpointError, match="the source has changed"):
            source.fill(lambda line: None)
