"""Step graphs against eager PyTorch: what it answered for the denoiser is in the bundle's probe, and sums follow."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from safetensors.numpy import load_file, save

from diffrt.bundle import Bundle
from diffrt.manifest import STEP, Manifest
from diffrt.providers import PROVIDERS
from diffrt.session import Session

from ..entries import file_entry
from ..figures import compare, passed
from .graph import AFTER

Arrays = dict[str, np.ndarray]
CPU = PROVIDERS["cpu"]
SEED = 0
CIN, P, Q, CLIP = 0.5, 1.1, -0.7, 2.0
W = [[0.9, 0.2, -0.4, 0.1, 0.3], [0.0, 0.5, 0.6, -0.8, 0.0]]  # of two slots; y, m and z


def certified(bundle: Bundle, graphs: Mapping[str, str]) -> Manifest:
    """The manifest with figures and probe of its step graphs; graphs: the denoiser's graph that each is made of.

    Raises ExportError where one is outside the tolerance of that. Of a bundle that has no probe nothing is checked.
    """
    manifest = bundle.manifest
    if manifest.probe is None or manifest.certificate is None:
        return manifest
    path, figures = bundle.path(manifest.probe), {}
    probe = load_file(path)
    for variant in manifest.components[STEP].variants:
        graph = graphs[variant.file]
        sides = (f"{manifest.denoiser}/{graph}/{side}/" for side in ("in", "out"))
        told, answers = ({k.removeprefix(s): v for k, v in probe.items() if k.startswith(s)} for s in sides)
        (m,) = answers.values()
        feeds, after = example(told, m)
        tolerance = manifest.certificate["components"][manifest.denoiser][graph]["tolerance"]
        figures[variant.file] = {"tolerance": tolerance}
        if variant.attention in CPU.attention:
            session = Session(bundle.path(variant.file), CPU, STEP, variant.precision, brief=True)
            worst = compare("", session.run(feeds), {AFTER: after})
            figures[variant.file] = passed(STEP, variant.file, worst, tolerance)
        probe |= {f"{STEP}/{variant.file}/in/{name}": array for name, array in feeds.items()}
        probe[f"{STEP}/{variant.file}/out/{AFTER}"] = after
    path.write_bytes(save(probe))
    components = {**manifest.certificate["components"], STEP: figures}
    return replace(
        manifest,
        certificate={**manifest.certificate, "components": components},
        files={**manifest.files, manifest.probe: file_entry(path)},
    )


def example(told: Arrays, m: np.ndarray) -> tuple[Arrays, np.ndarray]:
    """A row of as many pictures as there are evaluations, each mixed of two of them; from what the denoiser was told
    and answered. The sums are in float64."""
    rng, own = np.random.default_rng(SEED), np.eye(len(m))
    x = told["sample"].astype(np.float64) / CIN
    memory, z = rng.standard_normal((2, *x.shape), np.float32)
    weights = 1.5 * own - 0.5 * np.roll(own, 1, axis=0)
    mixed = np.einsum("bn,n...->b...", weights, m.astype(np.float64))
    y = np.clip(P * x + Q * mixed, -CLIP, CLIP)
    after = np.einsum("st,t...->s...", np.array(W), np.stack([x, memory, y, mixed, z]))
    numbers = {"c_in": CIN, "p": P, "q": Q, "clip": CLIP, "W": W, "weights": weights, "z": z, "slots": [x, memory]}
    feeds = {name: np.array(value, np.float32) for name, value in numbers.items()}
    others = {name: array for name, array in told.items() if name != "sample"}
    return feeds | others | {"pictures": np.arange(len(m))}, after.astype(np.float32)
