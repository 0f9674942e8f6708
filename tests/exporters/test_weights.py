"""Weights in place: a graph reads from the checkpoint's own files exactly the bytes of the tensor it names."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import diffrt
from diffrt.bundle import Bundle
from diffrt.errors import CheckpointError
from diffrt.weight_files import OLD_ATTENTION, spellings
from exporters.checkpoint import open_checkpoint
from exporters.trace import check_fit
from exporters.weights import attach, open_weights

from .conftest import shard
from .mini import contents, write_mini

DTYPES = {"fp32": torch.float32, "fp16": torch.float16}
PARTS = ("text_encoder", "unet", "vae")


def stored(folder: Path) -> dict[str, tuple[Path, torch.Tensor]]:
    """Every float32 tensor of a part, read by the safetensors library: name -> (file, tensor)."""
    found = {}
    for file in folder.glob("*[!6].safetensors"):  # all but *.fp16.safetensors
        with safe_open(file, "pt") as tensors:
            found |= {name: (file, tensors.get_tensor(name)) for name in tensors.keys()}  # noqa: SIM118
    return found


def raw(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


# Names.


@pytest.mark.parametrize(
    ("name", "old"),
    [
        ("embeddings.token_embedding.weight", "text_model.embeddings.token_embedding.weight"),
        ("text_model.final_layer_norm.bias", "final_layer_norm.bias"),
        ("encoder.mid_block.attentions.0.to_q.weight", "encoder.mid_block.attentions.0.query.weight"),
        ("encoder.mid_block.attentions.0.to_k.bias", "encoder.mid_block.attentions.0.key.bias"),
        ("decoder.mid_block.attentions.0.to_v.weight", "decoder.mid_block.attentions.0.value.weight"),
        ("decoder.mid_block.attentions.0.to_out.0.bias", "decoder.mid_block.attentions.0.proj_attn.bias"),
    ],
)
def test_spellings(name, old):
    """Today's name comes first; the old one is known."""
    names = list(spellings(name))
    assert names[0] == name
    assert old in names


@pytest.mark.parametrize("form", ["2022", "2026"])
def test_both_ages_fit(tmp_path, form):
    """Every tensor of both folder forms is found, none twice; one named otherwise is missed and named."""
    checkpoint = open_checkpoint(write_mini(tmp_path / "checkpoint", form))
    for component in checkpoint.components:
        weights = checkpoint.weights(component.part, "fp32")
        check_fit(component, checkpoint.configs[component.part], weights)
        module = component.build(checkpoint.configs[component.part])
        names = [weights.stored_name(n) for n, _ in module.named_parameters()]
        assert sorted(names) == sorted(weights.tensors)
    vae = open_weights(checkpoint.root / "vae", "fp32").tensors
    assert any(old in name for name in vae for old in OLD_ATTENTION.values()) == (form == "2022")
    assert open_weights(checkpoint.root / "unet", "fp32").stored_name("conv_out.wait") is None


# Which files.


@pytest.fixture
def folder(tmp_path):
    tensors = {"a.weight": torch.randn(3, 5), "b.bias": torch.randn(7)}
    save_file(tensors, tmp_path / "model.safetensors")
    save_file({k: v.half() for k, v in tensors.items()}, tmp_path / "model.fp16.safetensors")
    return tmp_path


@pytest.mark.parametrize(("precision", "file"), [("fp32", "model.safetensors"), ("fp16", "model.fp16.safetensors")])
def test_variant(folder, precision, file):
    weights = open_weights(folder, precision)
    assert [f.name for f in weights.files] == [file]
    weights.check({"a.weight": (3, 5), "b.bias": (7,)})


def test_fp16_without_a_variant_takes_the_plain_file(folder):
    (folder / "model.fp16.safetensors").replace(folder / "model.safetensors")
    weights = open_weights(folder, "fp16")
    assert [f.name for f in weights.files] == ["model.safetensors"]
    weights.check({"a.weight": (3, 5), "b.bias": (7,)})


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_sharded_variant(folder, precision):
    """diffusers writes the variant's mark before .safetensors in shards and before .json in their index."""
    (folder / "model.safetensors").rename(folder / "diffusion_pytorch_model.safetensors")
    shard(folder / "diffusion_pytorch_model.safetensors")
    tensors = load_file(folder / "model.fp16.safetensors")
    (folder / "model.fp16.safetensors").unlink()
    names = {n: f"diffusion_pytorch_model-{i}-of-2.fp16.safetensors" for i, n in enumerate(tensors)}
    for name, file in names.items():
        save_file({name: tensors[name]}, folder / file)
    index = folder / "diffusion_pytorch_model.safetensors.index.fp16.json"
    index.write_text(json.dumps({"weight_map": names}))
    weights = open_weights(folder, precision)
    assert weights.index == (index if precision == "fp16" else index.with_name(index.name.replace(".fp16", "")))
    assert all((".fp16." in f.name) == (precision == "fp16") for f in weights.files)
    weights.check({"a.weight": (3, 5), "b.bias": (7,)})


def test_position_ids_are_not_asked_for(folder):
    save_file(load_file(folder / "model.safetensors") | {"text_model.embeddings.position_ids": torch.arange(4)},
              folder / "model.safetensors")  # fmt: skip
    open_weights(folder, "fp32").check({"a.weight": (3, 5), "b.bias": (7,)})


@pytest.mark.parametrize(
    ("expected", "word"),
    [
        ({"a.weight": (3, 5)}, "'b.bias' does not fit"),
        ({"a.weight": (5, 3), "b.bias": (7,)}, r"'a.weight' has shape \[3, 5\]; its config.json asks for \[5, 3\]"),
        ({"a.weight": (3, 5), "b.bias": (7,), "c": (1,)}, "'c' is missing"),
    ],
)
def test_misfits(folder, expected, word):
    with pytest.raises(CheckpointError, match=word):
        open_weights(folder, "fp32").check(expected)


def test_a_link_is_followed(folder, tmp_path):
    """As in a hub cache, where a snapshot's files are links to blobs."""
    (folder / "blob").mkdir()
    (folder / "model.safetensors").rename(folder / "blob" / "0123")
    (folder / "model.safetensors").symlink_to("blob/0123")
    assert [f.name for f in open_weights(folder, "fp32").files] == ["model.safetensors"]


# Bytes.


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("precision", DTYPES)
def test_attach(tmp_path, precision, sharded):
    """Graphs with placeholders named in today's way, on files that name in the old way: each gets its own bytes."""
    dtype = DTYPES[precision]
    names = ["x.to_q.weight", "x.to_k.weight", "x.to_out.0.bias", "conv.weight", "scalar"]
    shapes = [(6, 5), (6, 5), (6,), (2, 3, 3, 3), ()]
    tensors = {n: torch.randn(s).to(dtype) for n, s in zip(names, shapes, strict=True)}
    old = {list(spellings(n))[-1]: t for n, t in tensors.items()}
    assert {"x.query.weight", "x.key.weight", "x.proj_attn.bias"} < set(old)
    save_file(old, tmp_path / "model.safetensors", {"format": "pt"})
    if sharded:
        shard(tmp_path / "model.safetensors")
    weights = open_weights(tmp_path, precision)
    values = [ir.Value(name=n, shape=ir.Shape(s), const_value=ir.tensor(np.zeros(s, np.float32)))
              for n, s in zip(names, shapes, strict=True)]  # fmt: skip
    model = ir.Model(ir.Graph([], [], nodes=[], initializers=values, opset_imports={"": 23}), ir_version=10)
    attach(model, weights)
    assert set(model.graph.initializers) == set(old)
    ir.save(model, tmp_path / "graph.onnx")
    read = onnx.load(tmp_path / "graph.onnx")
    assert {t.name for t in read.graph.initializer} == set(old)
    for tensor in read.graph.initializer:
        assert onnx.numpy_helper.to_array(tensor).tobytes() == raw(old[tensor.name].reshape(-1))
        assert list(tensor.dims) == list(old[tensor.name].shape)


def test_attach_to_a_tensor_that_is_not_there(folder):
    values = [ir.Value(name="gone.weight", shape=ir.Shape([1]), const_value=ir.tensor(np.zeros(1, np.float32)))]
    model = ir.Model(ir.Graph([], [], nodes=[], initializers=values, opset_imports={"": 23}), ir_version=10)
    with pytest.raises(CheckpointError, match=r"'gone\.weight'"):
        attach(model, open_weights(folder, "fp32"))


# A whole export, of a checkpoint with every peculiarity.


def test_source_is_unchanged(awkward):
    assert contents(awkward.source) == awkward.before


def test_copied_weights_share_nothing(awkward):
    copies = [f.relative_to(awkward.bundle) for f in awkward.bundle.rglob("*.safetensors")]
    assert len(copies) == 5
    for file in copies:
        assert not (awkward.bundle / file).samefile(awkward.source / file)
        assert (awkward.bundle / file).read_bytes() == (awkward.source / file).read_bytes()


def test_every_graph_reads_the_checkpoints_bytes(awkward):
    """Location, offset and length of each initializer give the source tensor of its name, bit for bit."""
    manifest = Bundle.open(awkward.bundle).manifest
    files = {graph for c in manifest.components.values() for graph in c.graphs}
    assert files == {f.relative_to(awkward.bundle).as_posix() for f in awkward.bundle.rglob("*.onnx")}
    used = {part: set() for part in PARTS}
    for path in files:
        part = path.split("/")[0]
        source = stored(awkward.source / part)
        graph = onnx.load(awkward.bundle / path, load_external_data=False).graph
        for tensor in graph.initializer:
            place = {entry.key: entry.value for entry in tensor.external_data}
            file, expected = source[tensor.name]
            data = (awkward.bundle / part / place["location"]).read_bytes()
            assert place["location"] == file.name
            assert data[int(place["offset"]) :][: int(place["length"])] == raw(expected.reshape(-1))
            assert (tensor.data_type, list(tensor.dims)) == (onnx.TensorProto.FLOAT, list(expected.shape))
            used[part].add(tensor.name)
    for part in PARTS:
        assert {n for n in stored(awkward.source / part) if not n.endswith("position_ids")} == used[part]


def test_what_is_left_behind(awkward):
    """Parts that are not exported are reported; they and what is not used are not in the bundle."""
    said = "\n".join(awkward.lines)
    assert "skipping safety_checker" in said
    assert "skipping feature_extractor" in said
    names = {f.relative_to(awkward.bundle).as_posix() for f in awkward.bundle.rglob("*")}
    assert not {"safety_checker", "feature_extractor"} & names
    assert not [n for n in names if "fp16" in n]
    assert "LICENSE" in names
    assert "unet/diffusion_pytorch_model.safetensors.index.json" in names


def test_unknown_scheduler(awkward):
    """The fallback is said, and is what loads; the checkpoint's own config stays for diffusers."""
    assert [line for line in awkward.lines if "KarrasVeScheduler" in line and "DDIMScheduler" in line]
    assert diffrt.load(awkward.bundle).scheduler.config["_class_name"] == "DDIMScheduler"


def test_diffusers_loads_the_bundle(awkward):
    pipe = StableDiffusionPipeline.from_pretrained(awkward.bundle)
    assert pipe.safety_checker is None
    assert type(pipe.scheduler).__name__ == "KarrasVeScheduler"
    for part in PARTS:
        weights = open_weights(awkward.source / part, "fp32")
        source = stored(awkward.source / part)
        for name, tensor in getattr(pipe, part).named_parameters():
            assert torch.equal(tensor, source[weights.stored_name(name)][1])
