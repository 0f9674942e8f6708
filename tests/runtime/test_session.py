"""Sessions: outputs as ONNX Runtime gives them, and an error that names what is wrong for everything else."""

import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest

from diffrt.errors import BundleError, InvalidArgument, NumericalError, ProviderError
from diffrt.providers import PROVIDERS, provider
from diffrt.session import Session, available

CPU = PROVIDERS["cpu"]


def feeds(batch=2, h=9, w=11):
    rng = np.random.default_rng(0)
    return {
        "sample": rng.standard_normal((batch, 4, h, w), np.float32),
        "timestep": np.full(batch, 999.5, np.float32),
        "encoder_hidden_states": rng.standard_normal((batch, 77, 32), np.float32),
    }


@pytest.fixture(scope="module")
def session(sd1_bundle):
    return Session(sd1_bundle / "unet" / "model.onnx", CPU, "unet")


def test_runs(session, sd1_bundle):
    direct = onnxruntime.InferenceSession(sd1_bundle / "unet" / "model.onnx", providers=["CPUExecutionProvider"])
    for shape in ((1, 8, 8), (2, 9, 11)):
        out = session.run(feeds(*shape))["out_sample"]
        np.testing.assert_array_equal(out, direct.run(None, feeds(*shape))[0])
        assert out.dtype == np.float32


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"sample": np.zeros((2, 4, 8, 8))}, "sample is float64"),
        ({"sample": np.zeros((2, 3, 8, 8), np.float32)}, r"sample is float32 \[2, 3, 8, 8\]"),
        ({"sample": np.zeros((4, 8, 8), np.float32)}, "sample"),
        ({"timestep": np.zeros(3, np.float32)}, "timestep"),
        ({"extra": np.zeros(1, np.float32)}, "takes sample, timestep, encoder_hidden_states; got"),
    ],
)
def test_feeds_are_checked(session, change, says):
    with pytest.raises(InvalidArgument, match=f"unet.*{says}"):
        session.run(feeds() | change)


def test_what_the_runtime_refuses_is_one_line(session):
    odd = feeds() | {"encoder_hidden_states": np.zeros((2, 77, 31), np.float32)}
    with pytest.raises((InvalidArgument, ProviderError)) as caught:
        session.run(odd)
    assert "\n" not in str(caught.value)


def test_nan_names_the_component(sd1_bundle, tmp_path):
    copy = shutil.copytree(sd1_bundle, tmp_path / "bundle")
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-4000:] = np.full(1000, np.nan, np.float32).tobytes()
    weights.write_bytes(content)
    for precision, fix in (("fp16", "export again, .* or with --precision fp32"), ("fp32", "diffrt verify")):
        broken = Session(copy / "unet" / "model.onnx", CPU, "unet", precision)
        with pytest.raises(NumericalError, match=rf"unet \({precision}\) gave NaN.*{fix}"):
            broken.run(feeds())


def test_infinity_is_no_number_either(session):
    with pytest.raises(NumericalError, match="unet"):
        session.run(feeds() | {"sample": np.full((2, 4, 8, 8), np.inf, np.float32)})


@pytest.mark.parametrize("content", [b"", b"no graph", b"\x08\x0a" * 50])
def test_bad_graphs(tmp_path, content):
    (tmp_path / "x.onnx").write_bytes(content)
    with pytest.raises(BundleError, match=r"unet: x\.onnx cannot be loaded") as caught:
        Session(tmp_path / "x.onnx", CPU, "unet")
    assert "\n" not in str(caught.value)


def test_providers(sd1_bundle):
    assert available()["cpu"] is True
    with pytest.raises(ProviderError, match="unknown provider 'cpi': did you mean 'cpu'"):
        provider("cpi")
    missing = replace(CPU, name="cuda", runtime_name="CUDAExecutionProvider", extra="cuda")
    with pytest.raises(ProviderError, match=r"'cuda' is not installed.*CPUExecutionProvider.*diffrt\[cuda\]"):
        Session(sd1_bundle / "unet" / "model.onnx", missing)


def test_without_onnxruntime_the_extra_is_named():
    code = (
        "import sys; sys.modules['onnxruntime'] = None\n"
        "from diffrt.cli import run; sys.exit(run(['generate', 'a', '-o', 'x.png']))"
    )  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("diffrt: ")
    assert "pip install 'diffrt[cpu]'" in done.stderr
    assert done.stderr.count("\n") == 1


def test_what_cuda_cannot_capture_runs_uncaptured(monkeypatch, sd1_bundle):
    """ONNX Runtime's refusal is told as it was seen on a GPU; the session that is then opened is a real one."""
    real, asked = onnxruntime.InferenceSession, []

    def refusing(graph, options, providers, **more):
        asked.append(providers[0][1])
        if "enable_cuda_graph" in asked[-1]:
            raise RuntimeError(
                "[ONNXRuntimeError] : 1 : FAIL : This session cannot use the graph capture feature as requested by the "
                "user  as all compute graph nodes have not been partitioned to the CUDAExecutionProvider"
            )
        return real(graph, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "InferenceSession", refusing)
    record = replace(CPU, held={"enable_cuda_graph": "1"})
    session = Session(sd1_bundle / "unet" / "model.onnx", record, "unet", held=True)
    assert asked == [{"enable_cuda_graph": "1"}, {}]
    assert session.run(feeds())["out_sample"].shape == (2, 4, 9, 11)
