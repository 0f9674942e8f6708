"""Records what k-diffusion's samplers make of given levels and noise, in float64: k_diffusion.npz beside this file.

k-diffusion wants many packages to be installed, of which its samplers need three. With a throw-away folder K:

    pip install --no-deps --target $K k-diffusion==0.1.1.post1 torchdiffeq torchsde trampoline
    PYTHONPATH=$K:. python -m tests.schedulers.golden.record_k_diffusion

For every sampler the file holds x after each step; levels, initial x and noise are shared.
"""

import importlib
import importlib.util
import inspect
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np

PROBES = Path(__file__).with_name("k_diffusion.npz")
SAMPLERS: dict[str, dict[str, Any]] = {
    "sample_euler": {},
    "sample_euler_ancestral": {},
    "sample_heun": {},
    "sample_dpm_2": {},
    "sample_dpm_2_ancestral": {},
    "sample_lms": {},
    "sample_dpmpp_2m": {},
    "sample_dpmpp_2m_sde": {"solver_type": "midpoint"},
    "sample_dpmpp_2m_sde heun": {"solver_type": "heun"},
    "sample_dpmpp_sde": {},
    "sample_dpmpp_2s_ancestral": {"eta": 0.0},
}


def denoiser(x: np.ndarray, sigma: float) -> np.ndarray:  # [N] f64 -> [N] f64
    """A smooth x0 that mixes elements and depends on sigma."""
    return np.tanh(0.7 * x / np.hypot(1, sigma) + 0.4 * np.roll(x, 1) / (1 + sigma) + 0.3 * np.cos(np.log(sigma)))


def main() -> None:
    import torch

    where = importlib.util.find_spec("k_diffusion").submodule_search_locations  # type: ignore[union-attr]
    package = types.ModuleType("k_diffusion")  # without running its own __init__, which imports its networks
    package.__path__ = list(where or ())
    utils = types.ModuleType("k_diffusion.utils")
    utils.append_dims = lambda x, dims: x[(...,) + (None,) * (dims - x.ndim)]  # type: ignore[attr-defined]
    sys.modules |= {"k_diffusion": package, "k_diffusion.utils": utils}
    package.utils = utils  # type: ignore[attr-defined]
    sampling = importlib.import_module("k_diffusion.sampling")

    rng = np.random.default_rng(0)
    inner = np.sort(rng.uniform(np.log(0.05), np.log(14), 10))[::-1]
    sigmas = np.append(np.exp(inner).astype(np.float32), 0).astype(float)
    x, noise = rng.standard_normal(16) * sigmas[0], rng.standard_normal((2 * len(inner), 16))

    def model(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(denoiser(x.numpy()[0], float(sigma[0])))[None]

    probes = {"sigmas": sigmas, "x": x, "noise": noise}
    for name, options in SAMPLERS.items():
        draws, steps = iter(noise), []
        sampler = getattr(sampling, name.split()[0])
        given = {}
        if "noise_sampler" in inspect.signature(sampler).parameters:
            given = {"noise_sampler": lambda *_, draws=draws: torch.from_numpy(next(draws))[None]}
        follow = {"callback": lambda info, steps=steps: steps.append(info["x"].numpy()[0].copy()), "disable": True}
        end = sampler(model, torch.from_numpy(x)[None], torch.from_numpy(sigmas), **follow, **given, **options)
        probes[name] = np.stack([*steps[1:], end.numpy()[0]])
    np.savez_compressed(PROBES, allow_pickle=False, **probes)


if __name__ == "__main__":
    main()
