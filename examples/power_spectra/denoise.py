"""A score model from PyPI, exported by its declaration and run without PyTorch: python denoise.py [PICTURE.webp]

The network of 21cmPSDenoiser is told a power spectrum that one simulated sky gives, and draws spectra that the mean of
many skies may have. See README.md.
"""

import sys
import tempfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import numpy as np

import diffrt
from diffrt.schedulers import DPMSolverMultistepScheduler, Scheduler

PACKAGE = "psdenoiser"
KPERP, KPAR = 32, 16  # sizes of a spectrum
DRAWS, STEPS, SEED = 32, 20, 7


def package() -> Path:
    found = find_spec(PACKAGE)
    if found is None:
        raise SystemExit("this example runs the network of 21cmPSDenoiser: see its README.md")
    return Path(found.submodule_search_locations[0])


def scheduler(**keys) -> Scheduler:
    """A sampler over the network's own noise: alpha^2 = exp(-0.1 s - 9.95 s^2) (Song et al. 2020, arXiv:2011.13456,
    equation 33), at s = 0.001 to 1, where its own solver works. Steps are even in log(alpha / sigma)."""
    s = np.arange(1, 1001) / 1000
    squared = np.exp(-0.1 * s - 9.95 * s**2)
    betas = 1 - squared / np.append(1, squared[:-1])
    return DPMSolverMultistepScheduler(trained_betas=betas.tolist(), use_lu_lambdas=True, **keys)


def export(folder: Path) -> Path:
    """The package's network and weights to a bundle. Needs torch and the package; what follows needs neither."""
    import torch
    from psdenoiser import UNet
    from safetensors.torch import save_file

    from exporters import Component, TensorSpec, export_module

    save_file(
        torch.load(package() / "denoiser_model.pt", weights_only=True), folder / "net.safetensors"
    )  # tensors alone
    spectra = ("batch", 1, KPERP, KPAR)
    network = Component(
        build=lambda config: UNet(dim=(KPERP, KPAR), dim_mults=(1, 2, 4, 8), channels=2),
        call=lambda net, x, t, noisy: net(x, (t + 1) * 0.999, x_cdn=noisy),  # it is told 999 s
        inputs=(
            TensorSpec("sample", "float32", spectra),
            TensorSpec("timestep", "float32", ("batch",)),
            TensorSpec("noisy", "float32", spectra),
        ),
        axes={"batch": 2},
    )
    return export_module(
        network, folder / "net.safetensors", folder / "bundle", scheduler=scheduler(), steps=STEPS, name="21cm"
    )


def constants() -> Mapping[str, np.ndarray]:
    """Bins, their numbers of modes, and the range of logarithms that is -1 to 1 for the network."""
    with np.load(package() / "constants.npz") as file:
        return dict(file)


def told(spectrum: np.ndarray, of: Mapping[str, np.ndarray]) -> np.ndarray:  # [32,16] mK^2 -> [1,1,32,16] f32
    unit = (np.log10(spectrum) - of["noisy_mean"]) / of["noisy_std"]
    return (2 * unit - 1).astype(np.float32)[None, None]


def spectra(drawn: np.ndarray, of: Mapping[str, np.ndarray]) -> np.ndarray:  # [B,1,32,16] -> [B,32,16] mK^2
    return 10 ** ((drawn[:, 0] + 1) / 2 * of["mean_std"] + of["mean_mean"])


def a_sky(of: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """A smooth spectrum of our making, [32,16] mK^2, and what one sky shows of it: each bin is the mean of as many
    exponential draws as it has modes."""
    k = np.hypot(of["kperp"][:, None], of["kpar"])
    mean = 10 * (k / 0.2) ** 0.8 / (1 + (k / 0.8) ** 1.5)
    modes = np.maximum(of["Nmodes"], 1)
    return mean, mean * np.random.default_rng(SEED).gamma(modes, 1 / modes)


def draw(pipe: diffrt.Pipeline, spectrum: np.ndarray, of: Mapping[str, np.ndarray]) -> np.ndarray:  # [32,32,16] mK^2
    out = pipe(conditions={"noisy": told(spectrum, of)}, batch_size=DRAWS, seed=SEED, output_type="latent")
    return spectra(out.images, of)


def factor_off(spectrum: np.ndarray, mean: np.ndarray) -> float:
    """By what factor a bin is off: the root mean square of logarithms."""
    return float(10 ** np.sqrt(np.mean(np.log10(spectrum / mean) ** 2)))


def main(file: str) -> None:
    import matplotlib.pyplot as plt

    of = constants()
    mean, sky = a_sky(of)
    with tempfile.TemporaryDirectory() as folder:
        found = np.median(draw(diffrt.load(export(Path(folder))), sky, of), axis=0)
    figure, axes = plt.subplots(1, 3, figsize=(10, 3.4), sharey=True, layout="constrained")
    shown = (("one sky", sky), (f"median of {DRAWS} draws", found), ("the mean of all skies", mean))
    for ax, (title, spectrum) in zip(axes, shown, strict=True):
        mesh = ax.pcolormesh(of["kperp"], of["kpar"], np.log10(spectrum).T, vmin=0, vmax=1.5, shading="nearest")
        off = "" if spectrum is mean else f", off by x{factor_off(spectrum, mean):.2f}"
        ax.set(title=title + off, xscale="log", yscale="log")
        ax.set_xlabel("k across the sky, 1/Mpc")
    axes[0].set_ylabel("k along the sight, 1/Mpc")
    figure.colorbar(mesh, ax=axes, label="log10 of mK$^2$")
    figure.savefig(file, dpi=90)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "spectra.webp")
