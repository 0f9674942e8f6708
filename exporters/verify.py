"""The parity certificate: every graph against eager PyTorch, and a short generation from prompt to picture.

Each component runs in its own process, eager first with its outputs saved, then ONNX Runtime: memory never holds more
than one component. What was fed and what eager answered becomes the bundle's probe, which ``diffrt verify`` re-runs
wherever the bundle lands.
"""

import contextlib
import importlib.metadata
import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save, save_file

from diffrt import __version__
from diffrt.bundle import Bundle
from diffrt.components.tokenizer import Tokenizer
from diffrt.components.vae import Halves
from diffrt.errors import ExportError
from diffrt.folders import Say
from diffrt.image import to_uint8
from diffrt.manifest import ComponentSpec, Manifest
from diffrt.providers import PROVIDERS
from diffrt.verify import TILE

from .checkpoint import Checkpoint
from .entries import file_entry
from .figures import compare, passed
from .spec import Component
from .worker import GUIDANCE, LARGE, SEED, STEPS, check, eager, noise_for, spoken, starting, time_of

CPU = PROVIDERS["cpu"]
PROBE = "probe.safetensors"
PROMPT = "a red apple"
PICTURE_LATENTS = 16  # least side of the short generation's latents
PICTURE_TOLERANCE = {"fp32": 60.0, "fp16": 35.0, "int8": 28.0}  # smallest PSNR in dB
WIDER = {  # what to do about a picture that is too far off
    "fp32": "",
    "fp16": "; export with --precision fp32",
    "int8": "; export with --precision fp16, or with --no-verify where that picture will do",
}
TILES_TOLERANCE = 2e-3  # of tiles, whose norms are found by iteration
BEST_PSNR = 150.0  # written for pictures equal to the bit
PACKAGES = ("numpy", "onnxruntime", "onnxruntime-gpu", "torch", "transformers", "onnx", "onnx-ir")


def run_worker(job: dict[str, Any], scratch: Path) -> Path:
    """Run one worker process; its error's last line becomes an ExportError that names the component."""
    job_file, out = scratch / "job.json", scratch / f"{job['component']}-{job['side']}.safetensors"
    job_file.write_text(json.dumps(job | {"out": str(out)}), "utf-8")
    done = subprocess.run([sys.executable, "-m", "exporters.worker", str(job_file)], capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise ExportError(f"{job['component']}: the {job['side']} check failed: {lines[-1]}")
    return out


def fit_preview(
    folder: Path, latents: Mapping[str, int], specs: Mapping[str, ComponentSpec], say: Say
) -> dict[str, Any] | None:
    """Matrix [C][3] and bias [3] from latents to colours in [-1,1], for cheap previews."""
    if "vae_decoder" not in specs:  # a model of pixels: grey, or red, green and blue
        matrix, low = {1: np.ones((1, 3)), 3: np.eye(3)}.get(latents["channels"]), latents.get("low", -1)
        scale = 2 / (1 - low)
        return None if matrix is None else {"matrix": (scale * matrix).tolist(), "bias": [-1.0 - scale * low] * 3}
    say("fitting the preview")
    with tempfile.TemporaryDirectory() as scratch:
        files = [any_size(specs[half]) for half in ("vae_encoder", "vae_decoder")]
        job = {"side": "preview", "component": "vae", "bundle": str(folder), "files": files}
        fit = load_file(run_worker(job | {"factor": latents["scale_factor"]}, Path(scratch)))
    return {key: fit[key].astype(float).round(6).tolist() for key in ("matrix", "bias")}


def psnr(got: np.ndarray, expected: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of two pictures in [-1,1]."""
    error = float(np.mean((got.astype(np.float64).clip(-1, 1) - expected.clip(-1, 1)) ** 2))
    return min(BEST_PSNR, float(10 * np.log10(4.0 / error))) if error else BEST_PSNR


def any_size(spec: ComponentSpec) -> str:
    """The graph a picture of any size is drawn with here: the last written that is not static."""
    return [variant.file for variant in spec.variants if variant.static is None][-1]


def sizes_of(component: Component, static: str | None, factor: int) -> dict[str, int]:
    """Axis sizes to check a variant at: the declared odd ones, or the static picture's."""
    sizes = dict(component.axes)
    if static:
        height, width = (int(side) for side in static.split("x"))
        fixed = {"height": height, "width": width, "h": height // factor, "w": width // factor}
        sizes |= {axis: size for axis, size in fixed.items() if axis in sizes} | {"batch": 1}
    return sizes


def starting_state(folder: Path, manifest: Manifest, denoiser: Component) -> dict[str, np.ndarray]:
    """Token ids, noise, and all else that the denoiser is told."""
    encoders = {each: Tokenizer.from_bundle(folder, manifest, each) for each in manifest.tokenizers}
    ids = {f"ids/{name}": tokenizer(["", PROMPT]).ids for name, tokenizer in encoders.items()}
    sides = [max(PICTURE_LATENTS, denoiser.axes.get(axis, 0)) for axis in ("h", "w")]
    noise = noise_for(denoiser.inputs, 1, manifest.latents["channels"], sides)
    return ids | starting(noise, denoiser.inputs, spoken(manifest.conditions, manifest.tokenizers), denoiser.axes)


def answer_eagerly(job: dict[str, Any], checkpoint: Checkpoint, scratch: Path) -> dict[str, np.ndarray]:
    """What eager PyTorch says to a job: in a process of its own, but for a family that is known in this one alone."""
    if checkpoint.registered:
        return load_file(run_worker(job, scratch))
    try:
        return check(job, eager(checkpoint, job["component"], job["precision"]))
    except Exception as error:  # the caller's own code raises what it likes
        raise ExportError(f"{job['component']}: the eager check failed: {' '.join(str(error).split())}") from error


def certify(
    folder: Path,
    checkpoint: Checkpoint,
    components: tuple[Component, ...],
    manifest: Manifest,
    precision: str,
    say: Say,
) -> Manifest:
    """Check every variant in ``folder`` and return the manifest with certificate and probe.

    Raises ExportError naming the first component outside its tolerance.
    """
    factor = manifest.latents["scale_factor"]
    denoiser = next(c for c in components if c.name == manifest.denoiser)
    scheduler = dict(checkpoint.scheduler) | {"_class_name": manifest.defaults.scheduler}
    figures: dict[str, Any] = {}
    probe: dict[str, np.ndarray] = {}
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        states = {side: scratch / f"state-{side}.safetensors" for side in ("eager", "onnx")}
        for state in states.values():
            save_file(starting_state(folder, manifest, denoiser), state)
        for component in components:
            say(f"checking {component.name} against eager PyTorch")
            variants = manifest.components[component.name].variants
            here = {v.file for v in variants if v.attention in CPU.attention}
            feeds = {
                f"{component.name}/{v.file}/in/{key}": array
                for v in variants
                for key, array in component.example(sizes_of(component, v.static, factor), SEED).items()
            }
            save_file(feeds, scratch / "inputs.safetensors")
            job = {
                "component": component.name, "precision": precision, "scheduler": scheduler,
                "denoiser": manifest.denoiser, "conditions": manifest.conditions, "time": time_of(denoiser.inputs),
                "source": str(checkpoint.root.resolve()), "bundle": str(folder), "files": [v.file for v in variants],
                "inputs": str(scratch / "inputs.safetensors"),
                "generate_with": any_size(manifest.components[component.name]),
                "large": checkpoint.weights(component.part, precision).numbers * 4 >= LARGE,
            }  # fmt: skip
            jobs = {side: job | {"side": side, "state": str(state)} for side, state in states.items()}
            answers = {
                "eager": answer_eagerly(jobs["eager"], checkpoint, scratch),
                "onnx": load_file(run_worker(jobs["onnx"] | {"files": sorted(here)}, scratch)),
            }
            probe |= feeds | answers["eager"]
            figures[component.name] = {}
            for v in variants:
                allowed = component.tolerance[v.precision]
                if v.file not in here:  # for diffrt verify, where it runs
                    figures[component.name][v.file] = {"tolerance": allowed}
                    continue
                worst = compare(f"{component.name}/{v.file}/out/", answers["onnx"], answers["eager"])
                figures[component.name][v.file] = passed(component.name, v.file, worst, allowed)
            if tiling := manifest.components[component.name].tiling:
                prefix = f"{component.name}/{variants[0].file}"
                halves = Halves.of(Bundle(folder, manifest), component.name, CPU)
                assert halves is not None
                inputs = {key.removeprefix(f"{prefix}/in/"): a for key, a in feeds.items() if key.startswith(prefix)}
                got = {f"{prefix}/out/{key}": a for key, a in halves.run(inputs, TILE).items()}
                allowed = max(component.tolerance[tiling.precision], TILES_TOLERANCE)
                worst = compare(f"{prefix}/out/", got, answers["eager"])
                figures[component.name][tiling.tiled] = passed(component.name, tiling.tiled, worst, allowed)
        ends = {side: load_file(state) for side, state in states.items()}
        pictures = {side: end.get("picture", end["latents"]) for side, end in ends.items()}
    certificate = {
        "versions": versions(),
        "components": figures,
        "picture": picture_figures(pictures["onnx"], pictures["eager"], precision, manifest),
    }
    (folder / PROBE).write_bytes(save(probe))  # so that a full disk is an OSError
    return replace(
        manifest,
        certificate=certificate,
        probe=PROBE,
        files={**manifest.files, PROBE: file_entry(folder / PROBE)},
    )


def versions() -> dict[str, str]:
    """The program's, Python's and those of the installed packages that could change a number."""
    found = {"diffrt": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def picture_figures(got: np.ndarray, expected: np.ndarray, precision: str, manifest: Manifest) -> dict[str, Any]:
    decibel, allowed = psnr(got, expected), PICTURE_TOLERANCE[precision]
    if not decibel >= allowed:
        raise ExportError(
            f"the picture of a short generation has {decibel:.1f} dB PSNR, allowed: at least {allowed:g}"
            + WIDER[precision]
        )
    steps = np.abs(to_uint8(got).astype(int) - to_uint8(expected))
    return {
        "psnr_db": round(decibel, 2), "max_abs_of_255": int(steps.max()), "tolerance_db": allowed,
        "prompt": PROMPT, "steps": STEPS, "guidance_scale": GUIDANCE, "scheduler": manifest.defaults.scheduler,
    }  # fmt: skip
