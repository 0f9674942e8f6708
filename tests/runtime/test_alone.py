"""A lone denoiser's graph with a declaration of what its inputs are: D(x; sigma) = x / (1 + sigma^2) + kind / 8."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import diffrt
from diffrt.errors import BundleError, InvalidArgument
from diffrt.schedulers import EDMEulerScheduler

INT32 = TensorProto.INT32
DECLARATION = {"graph": "net.onnx", "inputs": {"sample": "noisy", "sigma": "level"}, "output": "clean"}


def write(folder, *, level=("n",), sides=("y", "x"), floats=TensorProto.FLOAT, channels=1, **changes):
    """The folder, its graph with another form of time, size or type, or its declaration changed."""
    tensor, shape, dtype = (
        helper.make_tensor_value_info,
        ["n", channels, *sides],
        helper.tensor_dtype_to_np_dtype(floats),
    )
    constants = {"8": np.array(8, dtype), "1": np.array(1, dtype), "places": np.array([-1, 1, 1, 1])}
    nodes = [("Mul", ["level", "level"], "s2"), ("Add", ["s2", "1"], "s3"), ("Reshape", ["s3", "places"], "s4"),
             ("Div", ["noisy", "s4"], "shrunk"), ("Reshape", ["kind.f", "places"], "k"), ("Div", ["k", "8"], "k8"),
             ("Add", ["shrunk", "k8"], "clean")]  # fmt: skip
    cast = helper.make_node("Cast", ["kind"], ["kind.f"], to=floats)
    graph = helper.make_graph(
        [cast, *(helper.make_node(op, inputs, [output]) for op, inputs, output in nodes)], "net",
        [tensor("noisy", floats, shape), tensor("level", floats, list(level)), tensor("kind", INT32, ["n"])],
        [tensor("clean", floats, shape)], [numpy_helper.from_array(a, name) for name, a in constants.items()],
    )  # fmt: skip
    (folder / "scheduler").mkdir(parents=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)]), folder / "net.onnx")
    (folder / "denoiser.json").write_text(json.dumps({**DECLARATION, "size": [4, 6], **changes}))
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps({"_class_name": "EDMEulerScheduler"}))
    return folder


FORMS = [
    {},
    {"level": ()},
    {"level": (1,)},
    {"sides": (4, 6), "size": [4, 6]},
    {"floats": TensorProto.DOUBLE},
    {"channels": 3},
]


@pytest.mark.parametrize("form", FORMS)
def test_runs_as_it_is(tmp_path, form):
    pipe = diffrt.load(write(tmp_path / "net", **form))
    channels = form.get("channels", 1)
    z = np.random.default_rng(0).standard_normal((2, channels, 4, 6)).astype(np.float32)
    kind = np.array([0, 3])
    out = pipe(conditions={"kind": kind}, batch_size=2, latents=z, num_inference_steps=5, output_type="latent").images
    table = EDMEulerScheduler().table(5)
    x = z.astype(float) * table.init_sigma
    for sigma, below in zip(table.sigma, [*table.sigma[1:], 0], strict=True):
        x0 = x / (1 + sigma**2) + kind[:, None, None, None] / 8
        x = x0 + below / sigma * (x - x0)
    np.testing.assert_allclose(out, x, rtol=1e-4, atol=1e-5)
    assert pipe(conditions={"kind": [1]}, seed=0, num_inference_steps=2).images[0].size == (6, 4)


def test_told_a_timestep(tmp_path):
    """The same graph as a network of noise, told the scheduler's own time."""
    folder = write(tmp_path / "net", inputs={"sample": "noisy", "timestep": "level"})
    scheduler = {"_class_name": "DDIMScheduler", "clip_sample": False}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    pipe = diffrt.load(folder)
    z = np.random.default_rng(0).standard_normal((1, 1, 4, 6)).astype(np.float32)
    out = pipe(conditions={"kind": [2]}, latents=z, num_inference_steps=4, output_type="latent").images
    table, x = pipe.scheduler.table(4), z.astype(float)
    alphas, sigmas = [*table.alpha[1:], pipe.scheduler.marginal(np.zeros(1))[0][0]], [*table.sigma[1:], 0]
    for i, t in enumerate(table.t):
        eps = x / (1 + t**2) + 2 / 8
        x0 = (x - table.sigma[i] * eps) / table.alpha[i]
        x = x0 if i == 3 else alphas[i] * x0 + sigmas[i] * eps
    np.testing.assert_allclose(out, x, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("form", "says"),
    [
        ({"inputs": {"sample": "noisy"}}, "it must name sample, and timestep or sigma"),
        ({"inputs": {"sample": "x", "sigma": "level"}}, "names 'x', which net.onnx has not; it has noisy, level, kind"),
        ({"output": "dirty"}, "names 'dirty', which net.onnx has not; it has clean"),
        ({"channels": "c"}, "it must take"),
        ({"graph": "../net.onnx"}, "a relative path inside"),
        ({"graph": "other.onnx"}, "other.onnx is missing"),
        ({"steps": 3}, "unknown key 'steps'"),
        ({"size": [4]}, "a list of 2 to 2 items"),
    ],
)
def test_what_is_refused(tmp_path, form, says):
    with pytest.raises(BundleError, match=says):
        diffrt.load(write(tmp_path / "net", **form))


def test_it_needs_a_size_where_the_graph_has_none(tmp_path):
    folder = write(tmp_path / "net")
    (folder / "denoiser.json").write_text(json.dumps(DECLARATION))
    with pytest.raises(BundleError, match=r"has no size, and net\.onnx fixes none"):
        diffrt.load(folder)
    with pytest.raises(InvalidArgument, match="this model is told of kind int64"):
        diffrt.load(write(tmp_path / "whole"))()
