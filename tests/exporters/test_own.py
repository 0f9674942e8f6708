"""Models that diffrt has never heard of: the page's, one that is told sigma and a kind, one of latents, a family."""

import json
import re
import shutil
from dataclasses import replace

import diffusers
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import diffrt
import exporters
from diffrt.errors import CheckpointError, ExportError, InvalidArgument
from diffrt.schedulers import DDIMScheduler, EDMEulerScheduler
from exporters import Component, Family, TensorSpec
from tests.conftest import REPOSITORY, kept
from tests.exporters.mini import VAE
from tests.exporters.test_pictures import assert_same

LINEAR = {"clip_sample": False, "set_alpha_to_one": False}


class Net(nn.Module):
    """EDM's recipe around one convolution, told of a kind; with a constant that no state_dict holds."""

    def __init__(self, channels):
        super().__init__()
        self.data = torch.full((1,), 0.5)
        self.kinds = nn.Embedding(4, channels)
        self.mix = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x, sigma, kind):
        root = (sigma**2 + self.data**2).sqrt()[:, None, None, None]
        out = torch.tanh(self.mix(x / root) + self.kinds(kind)[:, :, None, None])
        return (self.data / root) ** 2 * x + sigma[:, None, None, None] * self.data / root * out


def told_sigma(channels, height, width):
    return Component(
        build=lambda config: Net(config["channels"]),
        inputs=(
            TensorSpec("sample", "float32", ("batch", channels, height, width)),
            TensorSpec("sigma", "float32", ("batch",)),
            TensorSpec("kind", "int64", ("batch",)),
        ),
        axes={"batch": 2} | ({"h": 9, "w": 11} if height == "h" else {}),
        high=4,
    )


def weights(folder, channels, seed=0):
    torch.manual_seed(seed)
    net = Net(channels)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(net.state_dict(), folder / "net.safetensors")
    return folder / "net.safetensors", net


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The names that the page's code leaves, and the folder that it ran in."""
    text = (REPOSITORY / "docs" / "bring-your-own.md").read_text("utf-8")
    code = "\n".join(re.findall(r"```python\n(.*?)```", text, re.S))
    names, folder = {"__name__": "page"}, tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        torch.manual_seed(0)
        exec(compile(code, "bring-your-own.md", "exec"), names)
    return names | {"folder": folder}


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    """A bundle of grey pictures of 16x8 by sigma and kind."""

    def make(folder):
        file, _ = weights(folder, 1)
        component = told_sigma(1, 16, 8)
        exporters.export_module(
            component, file, folder / "bundle", config={"channels": 1}, scheduler=EDMEulerScheduler()
        )

    return kept("own-kinds", tmp_path_factory, make) / "bundle"


def test_the_page_runs_and_draws_what_diffusers_loop_does(page):
    net = page["Net"](32)
    net.load_state_dict(load_file(page["folder"] / "net.safetensors"))
    depth = torch.from_numpy(page["depth"]).expand(4, -1, -1, -1)
    scheduler = diffusers.DDIMScheduler(beta_schedule="squaredcos_cap_v2", clip_sample=False)
    scheduler.set_timesteps(20)
    x = torch.cat([torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(seed)) for seed in range(7, 11)])
    with torch.no_grad():
        for t in scheduler.timesteps:
            x = scheduler.step(net(x, t.float().expand(4), depth), t, x).prev_sample
    pipe = diffrt.load(page["folder"] / "my-bundle")
    arguments = {"conditions": {"depth": page["depth"]}, "batch_size": 4, "num_inference_steps": 20, "seed": 7}
    out = pipe(**arguments, output_type="np")
    assert_same(out.images, (x / 2 + 0.5).clamp(0, 1).numpy().transpose(0, 2, 3, 1))
    assert [picture.size for picture in page["out"].images] == [(64, 64)] * 4
    assert pipe.bundle.manifest.certificate["picture"]["psnr_db"] > 60


def karras(net, z, kinds, steps, scale=1.0, away=None):
    """Euler's method over EDM's levels (Karras et al. 2022, algorithm 1 without churn), by the net alone."""
    levels = (80 ** (1 / 7) + np.linspace(0, 1, steps) * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    x = torch.from_numpy(z) * float(np.hypot(80, 1))  # as diffusers begins
    for sigma, below in zip(levels, [*levels[1:], 0.0], strict=True):
        with torch.no_grad():
            x0 = net(x, torch.full((len(x),), float(sigma)), kinds)
            if away is not None:
                other = net(x, torch.full((len(x),), float(sigma)), away)
                x0 = other + scale * (x0 - other)
        x = x0 + below / sigma * (x - x0)
    return x.numpy()


@pytest.mark.parametrize("guided", [False, True])
def test_told_sigma_and_a_kind(kinds, guided):
    net = Net(1)
    net.load_state_dict(load_file(kinds / "denoiser" / "diffusion_pytorch_model.safetensors"))
    pipe, asked = diffrt.load(kinds), np.array([1, 3])
    z = np.random.default_rng(0).standard_normal((2, 1, 16, 8), dtype=np.float32)
    more = {"negative_conditions": {"kind": [0]}, "guidance_scale": 3.0} if guided else {}
    arguments = {"conditions": {"kind": asked}, "batch_size": 2, "latents": z, "num_inference_steps": 6, **more}
    away = torch.zeros(2, dtype=torch.int64) if guided else None
    expected = karras(net, z, torch.from_numpy(asked), 6, 3.0, away)
    got = pipe(**arguments, output_type="latent").images
    assert np.linalg.norm(got - expected) < 1e-5 * np.linalg.norm(expected)
    picture = pipe(**arguments).images[0]
    assert picture.mode == "L" and picture.size == (8, 16)
    assert pipe.bundle.manifest.certificate["picture"]["psnr_db"] > 60


def test_any_scheduler_takes_it(kinds):
    pipe = diffrt.load(kinds)
    for name in ("ddim", "euler-a", "dpm++", "cm"):
        pipe.scheduler = diffrt.schedulers.from_config({"clip_sample": False}, name)
        out = pipe(conditions={"kind": [2]}, num_inference_steps=3, seed=1, output_type="latent")
        assert np.isfinite(out.images).all()
    pipe.scheduler = diffrt.schedulers.FlowMatchEulerDiscreteScheduler()
    with pytest.raises(InvalidArgument, match="noise alone"):
        pipe(conditions={"kind": [2]}, num_inference_steps=3)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({}, r"conditions has nothing; this model is told of kind int64 \['batch'\]"),
        ({"conditions": {"sort": [1]}}, "has sort; this model is told of kind"),
        ({"conditions": 3}, "conditions has 3; this"),
        ({"conditions": {"kind": [1.5]}}, r"conditions\['kind'\] is \[1.5\]: give a int64 array of shape \[1\]"),
        ({"conditions": {"kind": [1, 2, 3]}, "batch_size": 2}, r"shape \[1 or 2\]"),
        ({"conditions": {"kind": [1]}, "guidance_scale": 2.0}, "give negative_conditions"),
        ({"conditions": {"kind": [1]}, "height": 32}, "denoiser: sample is"),
        ({"conditions": {"kind": [1]}, "prompt": "a cat"}, "takes none"),
    ],
)
def test_what_is_asked_of_a_call(kinds, arguments, says):
    with pytest.raises(InvalidArgument, match=says):
        diffrt.load(kinds)(**arguments, num_inference_steps=1)
    with pytest.raises(InvalidArgument, match="this model takes none"):
        diffrt.load("emoji")("an apple", conditions={"kind": [1]})


def test_latents_with_an_autoencoder(tmp_path):
    file, _ = weights(tmp_path, 4)
    torch.manual_seed(1)
    vae = diffusers.AutoencoderKL(**VAE)
    vae.save_pretrained(tmp_path / "vae")
    exporters.export_module(
        told_sigma(4, "h", "w"), file, tmp_path / "bundle", config={"channels": 4}, size=(16, 24), steps=3,
        scheduler=DDIMScheduler(**LINEAR), vae=tmp_path / "vae", verify=False,
    )  # fmt: skip
    pipe = diffrt.load(tmp_path / "bundle")
    out = pipe(conditions={"kind": [1]}, seed=3, output_type="np")
    assert out.latents.shape == (1, 4, 8, 12) and out.images.shape == (1, 16, 24, 3)
    with torch.no_grad():
        expected = vae.decode(torch.from_numpy(out.latents) / vae.config.scaling_factor).sample
    assert_same(out.images, (expected / 2 + 0.5).clamp(0, 1).numpy().transpose(0, 2, 3, 1))


class Blur(nn.Module):
    """With a batch norm, whose counter of batches is no tensor of the graph."""

    def __init__(self):
        super().__init__()
        self.mix = nn.Conv2d(1, 1, 3, padding=1)
        self.norm = nn.BatchNorm2d(1)

    def forward(self, x):
        return self.norm(self.mix(x))


def test_half_precision(tmp_path):
    torch.manual_seed(0)
    save_file(Blur().state_dict(), tmp_path / "net.safetensors")

    def call(net, x, t):
        return net(x.to(next(net.parameters()).dtype)).float() + t[:, None, None, None] / 1000

    component = Component(
        build=lambda config: Blur(),
        call=call,
        inputs=(TensorSpec("sample", "float32", ("batch", 1, "h", "w")), TensorSpec("timestep", "float32", ("batch",))),
        axes={"batch": 2, "h": 9, "w": 11},
    )
    exporters.export_module(
        component, tmp_path / "net.safetensors", tmp_path / "bundle", scheduler=DDIMScheduler(**LINEAR), size=(8, 8),
        precision="fp16",
    )  # fmt: skip
    (variant, *_) = diffrt.load(tmp_path / "bundle").bundle.component("denoiser").variants
    assert variant.precision == "fp16"
    assert np.isfinite(diffrt.load(tmp_path / "bundle")(seed=1, num_inference_steps=2, output_type="np").images).all()


def test_a_family_of_ones_own(tmp_path):
    """A folder whose pipeline class nobody knows, by a declaration; here without an autoencoder, so that its five
    channels are no picture."""
    weights(tmp_path / "source" / "denoiser", 5)
    shutil.move(tmp_path / "source/denoiser/net.safetensors", tmp_path / "source/denoiser/model.safetensors")
    for file, record in {
        "model_index.json": {"_class_name": "MyPipeline", "denoiser": ["mine", "Net"]},
        "denoiser/config.json": {"channels": 5},
        "scheduler/scheduler_config.json": {"_class_name": "DDIMScheduler", **LINEAR},
    }.items():
        (tmp_path / "source" / file).parent.mkdir(exist_ok=True)
        (tmp_path / "source" / file).write_text(json.dumps(record))
    outputs = (TensorSpec("denoised", "float32", ("batch", 5, 8, 8)),)
    component = replace(told_sigma(5, 8, 8), outputs=outputs, real=True)
    family = Family(
        name="mine",
        all_tasks=("unconditional",),
        tasks=lambda configs: ("unconditional",),
        parts={"denoiser": ("Net",)},
        components=lambda configs: (component,),
        defaults=lambda configs: {"height": 8, "width": 8, "num_inference_steps": 2, "guidance_scale": 1.0},
        latents=lambda configs: {"channels": configs["denoiser"]["channels"], "scale_factor": 1},
        denoiser="denoiser",
    )
    with pytest.raises(CheckpointError, match="'MyPipeline' cannot be exported"):
        exporters.export(tmp_path / "source", tmp_path / "bundle")
    exporters.export(tmp_path / "source", tmp_path / "bundle", family=family)
    pipe = diffrt.load(tmp_path / "bundle")
    assert pipe(conditions={"kind": [1]}, output_type="np").images.shape == (1, 8, 8, 5)
    with pytest.raises(InvalidArgument, match="draws 5 channels"):
        pipe(conditions={"kind": [1]})


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"component": Component(build=Net, inputs=(), axes={})}, InvalidArgument, 'its inputs are "sample"'),
        ({"weights": "net.pt"}, CheckpointError, r"net.pt is no safetensors file: write one by"),
        ({"scheduler": "ddim"}, InvalidArgument, "give an instance of a class of diffrt.schedulers"),
        ({"precision": "int3"}, InvalidArgument, "precision 'int3' is unknown"),
        ({"config": {"channels": 2}}, CheckpointError, "tensor 'kinds.weight' has shape"),
        ({"component": told_sigma(1, "h", "w")}, InvalidArgument, "size is not given"),
    ],
)
def test_what_is_asked_of_an_export(tmp_path, change, error, says):
    file, _ = weights(tmp_path / "in", 1)
    arguments = {"component": told_sigma(1, 16, 8), "weights": file, "config": {"channels": 1},
                 "scheduler": EDMEulerScheduler(), **change}  # fmt: skip
    with pytest.raises(error, match=says):
        exporters.export_module(dest=tmp_path / "bundle", **arguments)
    assert [each.name for each in tmp_path.iterdir()] == ["in"]


def test_a_module_that_torch_cannot_trace(tmp_path):
    file, _ = weights(tmp_path / "in", 1)
    component = replace(told_sigma(1, 16, 8), call=lambda net, x, *told: net(x, *told) if x.sum() > 0 else x)
    with pytest.raises(ExportError, match=r"^denoiser cannot be traced: GuardOnDataDependentSymNode: [^\n]*$"):
        exporters.export_module(
            component, file, tmp_path / "bundle", config={"channels": 1}, scheduler=EDMEulerScheduler()
        )


def test_a_module_that_takes_one_batch_alone(tmp_path):
    """len() of a tensor is a number, and the graph would hold it."""
    file, _ = weights(tmp_path / "in", 1)
    component = replace(told_sigma(1, 16, 8), call=lambda net, x, *told: net(x, *told) + torch.zeros(len(x), 1, 1, 1))
    with pytest.raises(ExportError, match="tracing fixed axis 'batch' of sample at 2"):
        exporters.export_module(
            component, file, tmp_path / "bundle", config={"channels": 1}, scheduler=EDMEulerScheduler()
        )


def test_a_module_that_fails_in_the_check_leaves_nothing(tmp_path):
    file, _ = weights(tmp_path / "in", 1)
    component = replace(told_sigma(1, 16, 8), tolerance={"fp32": 0.0})
    with pytest.raises(ExportError, match="differs from eager PyTorch"):
        exporters.export_module(
            component, file, tmp_path / "bundle", config={"channels": 1}, scheduler=EDMEulerScheduler()
        )
    assert [each.name for each in tmp_path.iterdir()] == ["in"]
