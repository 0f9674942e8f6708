"""Folders of other programs: they draw what the PyTorch pipeline of the same weights draws, and nothing in them can
make a graph read outside of its folder."""

import json
import shutil

import diffusers
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from PIL import Image

import diffrt
from diffrt.bundle import Bundle
from diffrt.cli import run
from diffrt.errors import BundleError
from diffrt.foreign.adapters import DTYPES
from diffrt.foreign.text import text_component
from diffrt.foreign.unet import unet_component
from diffrt.foreign.vae import affine, decoder_component, encoder_component
from diffrt.onnx_file import read_graph
from diffrt.verify import verify
from tests.foreign_folders import HALF, INT32, INT64, write_foreign

FORMS = {
    "optimum": {},
    "optimum of 2023": {"steps": "steps", "time": INT64},  # [1], 64-bit
    "optimum fp16": {"floats": HALF},
    "script": {"ids": INT32, "steps": "batch"},
}
CALL = {"prompt": "a red apple", "num_inference_steps": 2, "guidance_scale": 4.0, "output_type": "np"}


@pytest.fixture(scope="module")
def folders(sd1_bundle, tmp_path_factory):
    root = tmp_path_factory.mktemp("foreign")
    return {name: write_foreign(sd1_bundle, root / name, name.split()[0], **given) for name, given in FORMS.items()}


@pytest.fixture
def copy(folders, tmp_path):
    return shutil.copytree(folders["optimum"], tmp_path / "copy")


@pytest.fixture(scope="module")
def reference(sd1_checkpoint):
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(sd1_checkpoint, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def seeds(*each):
    return [torch.Generator("cpu").manual_seed(seed) for seed in each]


@pytest.fixture(scope="module")
def expected(reference):
    return reference(generator=seeds(3), height=64, width=72, **CALL).images


def assert_same(images, expected, allowed=1):
    assert expected.std() > 0.02
    assert np.abs(np.round(images * 255) - np.round(expected * 255)).max() <= allowed


@pytest.mark.parametrize("form", FORMS)
def test_text_to_image(folders, expected, form):
    images = diffrt.load(folders[form])(seed=3, height=64, width=72, **CALL).images
    assert_same(images, expected, 2 if "fp16" in form else 1)


def test_image_to_image(folders, reference):
    """The spread is that of latent_parameters."""
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)).resize((64, 64))
    torch_pipe = diffusers.StableDiffusionImg2ImgPipeline(**reference.components, requires_safety_checker=False)
    torch_pipe.set_progress_bar_config(disable=True)
    images = diffrt.load(folders["optimum"])(image=picture, strength=0.7, seed=5, **CALL).images
    assert_same(images, torch_pipe(image=picture, strength=0.7, generator=seeds(5), **CALL).images)


def test_what_is_read(folders):
    manifest = Bundle.open(folders["optimum"]).manifest
    assert manifest.defaults.height == 64
    assert manifest.tasks == ("text_to_image", "image_to_image", "inpaint")
    assert manifest.latents == {"channels": 4, "scale_factor": 8}
    assert manifest.components["unet"].variants[0].file == "unet/model.onnx"
    assert manifest.files["unet/model.onnx_data"].bytes > 1000
    script = Bundle.open(folders["script"]).manifest
    assert script.defaults.height == 512
    assert script.tokenizers["text_encoder"]["max_length"] == 77


def test_the_command_line(folders, tmp_path, capsys):
    out = tmp_path / "a.png"
    folder = str(folders["script"])
    asked = ["--steps", "2", "--height", "64", "--width", "64", "--quiet", "-o", str(out)]
    assert run(["generate", "a", "--model", folder, *asked]) == 0
    assert Image.open(out).size == (64, 64)
    assert run(["inspect", folder]) == 0
    assert "OnnxStableDiffusionPipeline" in capsys.readouterr().out
    assert run(["verify", folder]) == 2
    assert "was not exported by diffrt" in capsys.readouterr().err


def test_nothing_to_verify(folders):
    with pytest.raises(BundleError, match="was not exported by diffrt"):
        next(iter(verify(Bundle.open(folders["optimum"]))))


def refused(folder, *says):
    with pytest.raises(BundleError) as caught:
        Bundle.open(folder)
    assert "\n" not in str(caught.value)
    for each in says:
        assert each in str(caught.value)


@pytest.mark.parametrize(
    "missing",
    ["vae_decoder/model.onnx", "scheduler/scheduler_config.json", "tokenizer/merges.txt", "text_encoder/model.onnx",
     "unet/model.onnx_data"],
)  # fmt: skip
def test_what_is_missing(copy, missing):
    (copy / missing).unlink()
    refused(copy, missing.rpartition("/")[0])


@pytest.mark.parametrize("location", ["../vae_encoder/model.onnx_data", "/etc/passwd", "", "*/_ORT_MEM_ADDR_/*"])
@pytest.mark.parametrize("place", ["initializer", "constant"])
def test_graphs_that_read_elsewhere(copy, location, place):
    file = copy / "unet" / "model.onnx"
    model = onnx.load(file, load_external_data=False)
    tensors = [t for t in model.graph.initializer if t.external_data]
    if place == "constant":
        value = TensorProto(name="c", data_type=1, dims=[4], data_location=TensorProto.EXTERNAL)
        for key, text in (("location", location), ("offset", "0"), ("length", "16")):
            value.external_data.add(key=key, value=text)
        model.graph.node.append(helper.make_node("Constant", [], ["c"], value=value))
    else:
        next(e for e in tensors[0].external_data if e.key == "location").value = location
    file.write_bytes(model.SerializeToString())
    refused(copy, "unet/model.onnx", "outside of the graph's folder")


def test_data_that_is_cut_off(copy):
    file = copy / "unet" / "model.onnx_data"
    file.write_bytes(file.read_bytes()[:-8])
    refused(copy, "unet/model.onnx_data", "ends at")


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [("unet/config.json", "sample_size", -1), ("unet/config.json", "in_channels", 7),
     ("vae_decoder/config.json", "latent_channels", "x"), ("vae_decoder/config.json", "scaling_factor", 0),
     ("vae_decoder/config.json", "latents_mean", [1])],
)  # fmt: skip
def test_configs_that_cannot_be(copy, file, key, value):
    config = json.loads((copy / file).read_text())
    (copy / file).write_text(json.dumps(config | {key: value}))
    refused(copy, str(value)) if key != "latents_mean" else refused(copy, key)


def test_other_models(copy):
    (copy / "transformer").mkdir()
    shutil.copyfile(copy / "unet" / "model.onnx", copy / "transformer" / "model.onnx")
    refused(copy, "transformer", "not run from another program's graphs yet")


# What no whole folder here has: graphs of one boundary and no inside.


def graph_of(tmp_path, inputs, outputs):
    def values(side):
        return [helper.make_tensor_value_info(name, dtype, shape) for name, (dtype, shape) in side.items()]

    graph = helper.make_graph([], "g", values(inputs), values(outputs))
    (tmp_path / "g.onnx").write_bytes(helper.make_model(graph).SerializeToString())
    return read_graph(tmp_path / "g.onnx")


def test_the_boundary(folders):
    for file in folders["script"].rglob("*.onnx"):
        expected, found = onnx.load(file, load_external_data=False).graph, read_graph(file)
        for mine, theirs in ((found.inputs, expected.input), (found.outputs, expected.output)):
            assert list(mine) == [value.name for value in theirs]
            for value in theirs:
                kind = value.type.tensor_type
                assert mine[value.name].shape == tuple(d.dim_param or d.dim_value for d in kind.shape.dim)
                assert DTYPES[mine[value.name].dtype] == helper.tensor_dtype_to_np_dtype(kind.elem_type)


UNET = {"sample": (1, ["b", 4, "h", "w"]), "timestep": (1, []), "encoder_hidden_states": (1, ["b", "s", 32])}
OUT = {"out_sample": (1, ["b", 4, "h", "w"])}


def fed(part, **feeds):
    """What a graph is fed through an adapter."""
    got = {}

    def session(theirs, wanted):
        got.update(theirs)
        return {name: np.zeros((1, 4, 1, 1), np.float16) for name in wanted}

    out = part.adapter(session, feeds)
    assert all(array.dtype == np.float32 for array in out.values())
    return got


@pytest.mark.parametrize(
    ("dtype", "shape", "expected"),
    [(1, [], np.float32(700.5)), (7, [], np.int64(700)), (6, [1], np.array([700], np.int32)),
     (7, [2], np.array([700, 700])), (1, ["steps"], np.array([700.5], np.float32)),
     (1, ["b"], np.array([700.5] * 3, np.float32)), (11, [""], np.array([700.5]))],
)  # fmt: skip
def test_time(tmp_path, dtype, shape, expected):
    graph = graph_of(tmp_path, UNET | {"timestep": (dtype, shape)}, OUT)
    x = np.zeros((3, 4, 2, 2), np.float32)
    got = fed(unet_component(graph, {}, 4), sample=x, timestep=np.full(3, 700.5, np.float32), encoder_hidden_states=x)
    np.testing.assert_array_equal(got["timestep"], expected)
    assert got["timestep"].dtype == np.asarray(expected).dtype
    assert got["timestep"].shape == np.shape(expected)


def test_how_much_guidance_a_distilled_model_is_told(tmp_path):
    graph = graph_of(tmp_path, UNET | {"timestep_cond": (10, ["b", 256])}, OUT)
    part, scale, x = unet_component(graph, {}, 4), np.array([8.5, 1.0], np.float32), np.zeros((2, 4, 2, 2), np.float32)
    got = fed(part, sample=x, timestep=np.ones(2, np.float32), encoder_hidden_states=x, guidance=scale)
    embed = diffusers.LatentConsistencyModelPipeline.get_guidance_scale_embedding
    expected = embed(None, torch.from_numpy(scale) - 1, embedding_dim=256).numpy()
    assert got["timestep_cond"].dtype == np.float16
    np.testing.assert_allclose(got["timestep_cond"], expected, atol=1.5e-3)  # of fp16, and of sines of 7,500


def test_the_last_layer_but_one(tmp_path):
    ids = {"input_ids": (6, ["b", "s"])}
    hidden = {f"hidden_states.{i}": (1, ["b", "s", 8]) for i in range(4)}
    whole = {"text_embeds": (1, ["b", 6])}
    graph = graph_of(tmp_path, ids, whole | {"last_hidden_state": (1, ["b", "s", 8])} | hidden)
    for config in ({}, {"num_hidden_layers": 3}):
        part = text_component("text_encoder_2", graph, config, True)
        assert [name for name, _ in part.adapter.outputs.values()] == ["hidden_states.2", "text_embeds"]
    plain = text_component("text_encoder", graph, {}, False)
    assert [name for name, _ in plain.adapter.outputs.values()] == ["last_hidden_state"]
    with pytest.raises(BundleError, match="of the last layer but one"):
        text_component("text_encoder", graph_of(tmp_path, ids, {"last_hidden_state": (1, [1, 2, 8])}), {}, True)


def test_scales(tmp_path):
    """(z - shift) * scale, and with means and deviations as diffusers' XL pipeline undoes them."""
    vae = {"scaling_factor": 0.5, "shift_factor": 0.25}
    graph = graph_of(tmp_path, {"x": (1, ["b", 3, "H", "W"])}, {"y": (1, ["b", 8, "h", "w"])})
    encoder = encoder_component(graph, vae, 4)
    z = np.concatenate([np.full((1, 4, 1, 1), 1.25), np.full((1, 4, 1, 1), 2 * np.log(3))], axis=1).astype(np.float32)
    out = encoder.adapter(lambda feeds, wanted: {"y": z}, {"sample": np.zeros((1, 3, 8, 8), np.float32)})
    np.testing.assert_allclose(out["mean"], 0.5)
    np.testing.assert_allclose(out["std"], 1.5, rtol=1e-6)
    graph = graph_of(tmp_path, {"z": (1, ["b", 4, "h", "w"])}, {"x": (1, ["b", 3, "h", "w"])})
    decoder = decoder_component(graph, vae, 4)
    np.testing.assert_allclose(fed(decoder, latent_sample=out["mean"])["z"], 1.25)
    shift, scale = affine({"scaling_factor": 0.5, "latents_mean": [1, 2], "latents_std": [2, 4]}, 2)
    np.testing.assert_allclose(shift.ravel(), [1, 2])
    np.testing.assert_allclose(scale.ravel(), [0.25, 0.125])


def test_inputs_that_nothing_gives(tmp_path):
    with pytest.raises(BundleError, match="takes 'mask'; known"):
        unet_component(graph_of(tmp_path, UNET | {"mask": (1, ["b"])}, OUT), {}, 4)
    with pytest.raises(BundleError, match="takes no 'timestep'"):
        unet_component(graph_of(tmp_path, {"sample": UNET["sample"]}, OUT), {}, 4)
