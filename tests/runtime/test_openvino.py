"""OpenVINO as a provider: the same pictures in float32, near ones in bfloat16, and errors of one line."""

import shutil
import subprocess
import sys

import numpy as np
import onnx
import pytest

import diffrt
from diffrt.engines import open_vino
from diffrt.errors import BundleError, InvalidArgument
from diffrt.providers import PROVIDERS
from diffrt.session import Session, chosen
from diffrt.verify import GraphCheck, verify

from .test_session import feeds

EXACT = PROVIDERS["openvino-fp32"]


def pictures(provider):
    pipe = diffrt.load("emoji", provider=provider)
    return pipe(["a red apple", "a blue heart"], seed=7, num_inference_steps=4, output_type="np").images


def test_float32_pictures_are_the_cpu_providers():
    assert np.abs(pictures("openvino-fp32") - pictures("cpu")).max() <= 1 / 255


def test_every_graph_is_within_its_providers_tolerance():
    for name, tolerance in (("openvino-fp32", 1e-3), ("openvino", 0.1)):
        checks = [c for c in verify(diffrt.load("emoji").bundle, name) if isinstance(c, GraphCheck)]
        assert len(checks) == 6  # portable graphs of four components, and both halves of the autoencoder in tiles
        assert all(check.relative_l2 <= tolerance for check in checks)


@pytest.mark.skipif(not open_vino.computes_in_bf16(), reason="the processor has no bfloat16")
def test_bfloat16_is_what_it_computes_in():
    difference = np.abs(pictures("openvino") - pictures("cpu")).max()
    assert 1 / 255 < difference < 0.3


def test_a_session_checks_and_copies(sd1_bundle):
    session = Session(sd1_bundle / "unet" / "model.onnx", EXACT, "unet")
    cpu = Session(sd1_bundle / "unet" / "model.onnx", PROVIDERS["cpu"], "unet")
    assert (session.inputs, session.outputs) == (cpu.inputs, cpu.outputs)
    first = session.run(feeds(2, 9, 11))["out_sample"]
    kept = first.copy()
    np.testing.assert_allclose(first, cpu.run(feeds(2, 9, 11))["out_sample"], rtol=1e-4, atol=1e-4)
    session.run(feeds(2, 9, 11) | {"timestep": np.full(2, 3.0, np.float32)})
    np.testing.assert_array_equal(first, kept)  # the next run did not write over it
    assert session.run(feeds(1, 8, 8))["out_sample"].shape == (1, 4, 8, 8)  # another size
    with pytest.raises(InvalidArgument, match="unet: sample is float32"):
        session.run(feeds() | {"sample": np.zeros((2, 3, 8, 8), np.float32)})


def test_a_graph_of_one_size_takes_any_batch_and_answers_the_same_again(sd1_bundle, tmp_path):
    shutil.copytree(sd1_bundle / "unet", tmp_path / "unet")
    model = onnx.load(tmp_path / "unet" / "model.onnx", load_external_data=False)
    sizes = {"h": 9, "w": 11, "sequence": 77}
    for value in model.graph.input:
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_param in sizes:
                axis.dim_value = sizes[axis.dim_param]
    onnx.save(model, tmp_path / "unet" / "model.9x11.onnx")
    session = Session(tmp_path / "unet" / "model.9x11.onnx", EXACT, "unet")
    cpu = Session(sd1_bundle / "unet" / "model.onnx", PROVIDERS["cpu"], "unet")
    assert [shape[0] for _, shape in session.inputs.values()] == ["batch"] * 3
    answers = [session.run(feeds(batch))["out_sample"] for batch in (2, 1, 2)]
    for batch, answer in zip((2, 1, 2), answers, strict=True):
        np.testing.assert_allclose(answer, cpu.run(feeds(batch))["out_sample"], rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(answers[0], answers[2])


def test_a_graph_it_refuses_is_one_line(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"not a graph")
    with pytest.raises(BundleError, match=r"model\.onnx cannot be loaded") as caught:
        Session(tmp_path / "model.onnx", EXACT, "unet")
    assert "\n" not in str(caught.value)


def test_auto_is_the_fastest_that_is_here():
    assert chosen("auto").name == ("openvino" if open_vino.computes_in_bf16() else "cpu")


def test_without_openvino_the_error_says_what_to_install():
    code = (
        "import sys; sys.modules['openvino'] = None\n"
        "from diffrt.session import available, chosen\n"
        "assert available() == {'cpu': True, 'openvino': False, 'openvino-fp32': False, 'cuda': False}\n"
        "assert chosen('auto').name == 'cpu'\n"
        "from diffrt.cli import run; print(run(['generate', 'a', '--provider', 'openvino', '-o', 'x.png']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "2\n"
    assert (
        done.stderr.startswith("diffrt: openvino cannot be imported")
        and "pip install 'diffrt[openvino]'" in done.stderr
    )
