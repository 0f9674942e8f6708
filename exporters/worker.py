"""One step of a certificate in its own process, so that memory is that of one component: ``-m exporters.worker JOB``.

JOB is a JSON file. Sides: "eager" runs a component in PyTorch in float32, "onnx" runs its graphs in ONNX Runtime,
both on the same inputs and both carrying a short generation one stage further; "range" does it with one graph that
tells of its values as well; "preview" fits the linear preview.

A generation's state between components, as tensors by name: ids/ENCODER token ids, the negative half first; noise;
beside, what an inpainting UNet is told of; told/INPUT, the denoiser's inputs, the negative half first where there is
one; latents; picture.
"""

import contextlib
import json
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors.numpy import load_file, save_file

from diffrt import schedulers
from diffrt.components.text_encoder import joined
from diffrt.denoise import denoise, start
from diffrt.guidance import Conditions, guide
from diffrt.levels import of_levels
from diffrt.manifest import TensorSpec

if TYPE_CHECKING:
    from .checkpoint import Checkpoint

Arrays = dict[str, np.ndarray]
Call = Callable[[Arrays], Arrays]

STEPS, GUIDANCE, SEED, TOKENS = 4, 7.5, 0, 256  # the short generation
TIMES = ("timestep", "sigma")
LARGE = 4 << 30  # bytes of a component's weights in float32, from which its graphs are run with them left in their file
RANGE = "range_of_"  # begins the names of a measured graph's further outputs, whose largest values are kept


def eager(checkpoint: "Checkpoint", name: str, precision: str) -> Call:
    """A component of the checkpoint in eager PyTorch, computing in float32 whatever the weights' dtype."""
    import torch

    from .built import Streamed, built

    component = next(c for c in checkpoint.components if c.name == name)
    config, weights = checkpoint.configs[component.part], checkpoint.weights(component.part, precision)
    within: contextlib.AbstractContextManager = contextlib.nullcontext()
    if component.real:
        module = built(component, config, weights)
    else:
        with torch.device(component.device):
            module = component.build(config).eval()
        within = Streamed(module, weights)

    @torch.inference_mode()
    def call(feeds: Arrays) -> Arrays:
        with within:
            outputs = component.call(module, *(torch.from_numpy(feeds[spec.name]) for spec in component.inputs))
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        return {spec.name: out.numpy() for spec, out in zip(component.outputs, outputs, strict=True)}

    return call


def onnx(bundle: str, name: str, file: str, brief: bool = False, large: bool = False) -> Call:
    from diffrt.providers import PROVIDERS
    from diffrt.session import Session

    provider = replace(PROVIDERS["cpu"], fast_load=large)
    session = Session(Path(bundle) / file, provider, component=name, arena=not (brief or large), brief=brief)
    return session.run


def time_of(inputs: Sequence[TensorSpec]) -> str:
    """The name of the denoiser's input that says how much noise there is."""
    return next(spec.name for spec in inputs if spec.name in TIMES)


def noise_for(inputs: Sequence[TensorSpec], batch: int, channels: int, sides: Sequence[int]) -> np.ndarray:
    """Noise [batch,channels,h,w] of those sides, or of those that alone the denoiser takes."""
    taken = next(spec.shape[2:] for spec in inputs if spec.name == "sample")
    fitting = [size if isinstance(size, int) else side for size, side in zip(taken, sides, strict=True)]
    return np.random.default_rng(SEED).standard_normal((batch, channels, *fitting), dtype=np.float32)


def spoken(conditions: Mapping[str, Sequence[str]], tokenizers: Collection[str]) -> set[str]:
    """Those of the denoiser's inputs that a text encoder gives."""
    return {name for name, sources in conditions.items() if sources[0].partition(".")[0] in tokenizers}


def starting(
    noise: np.ndarray, inputs: Sequence[TensorSpec], conditions: Collection[str], axes: Mapping[str, int]
) -> Arrays:
    """What a generation starts from: noise [B,C,h,w]; what more channels of a denoiser say, for inpainting a mask that
    covers everything and the nothing that it leaves of a picture; and what it is told beside ``conditions``, in 2 B
    rows, its named axes of those sizes."""
    state, rng = {"noise": noise}, np.random.default_rng(SEED)
    sizes = {**axes, "h": noise.shape[2], "w": noise.shape[3]}
    for spec in inputs:
        if spec.name == "sample" and int(spec.shape[1]) > noise.shape[1]:
            state["beside"] = np.zeros((1, int(spec.shape[1]) - noise.shape[1], *noise.shape[2:]), np.float32)
            state["beside"][:, 0] = 1
        elif spec.name not in ("sample", *TIMES, *conditions):
            shape = [2 * len(noise), *(sizes[axis] if isinstance(axis, str) else axis for axis in spec.shape[1:])]
            told = rng.standard_normal(shape, dtype=np.float32)
            state[f"told/{spec.name}"] = told if spec.dtype == "float32" else np.zeros(shape, np.int64)
    return state


def evaluate(call: Call, state: Arrays, time: str, x: np.ndarray, t: float, conditions: Conditions) -> np.ndarray:
    """The denoiser at [B,C,h,w], time t, which is its input of that name, and what it is told, each [B,...]."""
    if "beside" in state:
        x = np.concatenate([x, state["beside"].repeat(len(x), axis=0)], axis=1)
    feeds = {"sample": x, time: np.full(len(x), t, np.float32), **conditions}
    (output,) = call(feeds).values()
    return output


def told(state: Arrays) -> Conditions:
    return {key.removeprefix("told/"): array for key, array in state.items() if key.startswith("told/")}


def advance(name: str, call: Call, state: Arrays, job: Mapping) -> Arrays:
    """Carry the short generation through one component; the table and the loop are those of any generation."""
    if f"ids/{name}" in state:
        said = {f"said/{name}.{key}": array for key, array in call({"input_ids": state[f"ids/{name}"]}).items()}
        state = state | said
        ready = {key: of for key, of in job["conditions"].items() if all(f"said/{each}" in state for each in of)}
        outputs = {key.removeprefix("said/"): array for key, array in state.items() if key.startswith("said/")}
        return state | {f"told/{key}": array for key, array in joined(ready, outputs).items()}
    if name == "vae_decoder":
        return state | {"picture": call({"latent_sample": state["latents"]})["sample"]}
    if name != job["denoiser"]:
        return state
    scheduler = schedulers.from_config(job["scheduler"])
    table = scheduler.table(STEPS, **scheduler.picture_options(TOKENS))
    halves = {key: np.split(array, 2) for key, array in told(state).items()}
    negative, prompt = ({key: half[i] for key, half in halves.items()} for i in (0, 1))
    model = guide(partial(evaluate, call, state, job["time"]), prompt, negative or None, GUIDANCE)
    if job["time"] == "sigma":
        model = of_levels(model, table)
    *_, last = denoise(table, model, start(table, state["noise"]), lambda _: state["noise"])
    return state | {"latents": last.latents}


def fit_preview(encode: Call, decode: Call, factor: int) -> Arrays:
    """Least squares from a latent pixel to the mean colour it decodes to, over latents that pictures have: a decoder
    makes of others what it will."""
    latents = encode({"sample": discs(16 * factor)})["mean"]
    decoded = decode({"latent_sample": latents})["sample"]
    batch, colours, height, width = decoded.shape
    mean = decoded.reshape(batch, colours, height // factor, factor, width // factor, factor).mean((3, 5))
    x = latents.transpose(0, 2, 3, 1).reshape(-1, latents.shape[1])
    y = mean.transpose(0, 2, 3, 1).reshape(-1, colours)
    fit = np.linalg.lstsq(np.concatenate([x, np.ones((len(x), 1), np.float32)], axis=1), y, rcond=None)[0]
    return {"matrix": fit[:-1].astype(np.float32), "bias": fit[-1].astype(np.float32)}


def discs(side: int) -> np.ndarray:
    """Pictures [6,3,side,side] in [-1,1] of coloured discs, half of them on white."""
    rng = np.random.default_rng(SEED)
    rows, columns = np.mgrid[:side, :side] / side
    pictures = np.ones((6, 3, side, side), np.float32)
    for i, picture in enumerate(pictures):
        if i % 2:
            picture[:] = rng.uniform(-1, 1, (3, 1, 1))
        for _ in range(6):
            (y, x), radius = rng.uniform(0.2, 0.8, 2), rng.uniform(0.08, 0.3)
            picture[:, (rows - y) ** 2 + (columns - x) ** 2 < radius**2] = rng.uniform(-1, 1, (3, 1))
    return pictures


def check(job: Mapping, eagerly: Call | None = None) -> Arrays:
    """Answer the job's inputs with each graph (eagerly: with the one module), and carry the generation on."""
    name, inputs = job["component"], load_file(job["inputs"])
    out: Arrays = {}
    eagerly = eagerly and answered_once(eagerly)
    for file in job["files"]:
        call = eagerly or onnx(job["bundle"], name, file, large=job["large"])
        prefix = f"{name}/{file}/in/"
        feeds = {key.removeprefix(prefix): array for key, array in inputs.items() if key.startswith(prefix)}
        out |= {f"{name}/{file}/out/{key}": np.ascontiguousarray(array) for key, array in call(feeds).items()}
        if file == job["generate_with"]:
            state = advance(name, call, load_file(job["state"]), job)
            save_file({key: np.ascontiguousarray(array) for key, array in state.items()}, job["state"])
        del call  # a session must be gone before the next one loads the same weights
    return out


def answered_once(call: Call) -> Call:
    """The same, but for what it was given the last time: graphs of one size are given the same."""
    last: tuple[Arrays, Arrays] = {}, {}

    def asked(feeds: Arrays) -> Arrays:
        nonlocal last
        given, said = last
        if feeds.keys() != given.keys() or not all(np.array_equal(feeds[key], given[key]) for key in feeds):
            said = call(feeds)
            last = feeds, said
        return said

    return asked


def measure_ranges(job: Mapping) -> Arrays:
    """The largest magnitudes over the job's inputs, the short generation, and both ends of the noise."""
    name = job["component"]
    run = onnx(job["bundle"], name, job["files"][0], brief=True)  # a full-size UNet: 5.0 GB and not 7.8
    found: Arrays = {}

    def call(feeds: Arrays) -> Arrays:
        out = run(feeds)
        for key in [key for key in out if key.startswith(RANGE)]:
            found[key] = np.maximum(found.get(key, out[key]), out.pop(key))
        return out

    call(load_file(job["inputs"]))
    state = advance(name, call, load_file(job["state"]), job)
    if name == job["denoiser"] and job["time"] == "timestep":
        last = job["scheduler"].get("num_train_timesteps", 1000) - 1
        for t, x in ((last, state["noise"]), (0, state["latents"])):
            evaluate(call, state, "timestep", x, t, {key: array[-len(x) :] for key, array in told(state).items()})
    if name == "vae_encoder":
        call({"sample": state["picture"].clip(-1, 1)})
    save_file({key: np.ascontiguousarray(array) for key, array in state.items()}, job["state"])
    return found


def main(job_file: str) -> None:
    job = json.loads(Path(job_file).read_text("utf-8"))
    if job["side"] == "preview":
        encode, decode = (onnx(job["bundle"], job["component"], file) for file in job["files"])
        out = fit_preview(encode, decode, job["factor"])
    else:
        eagerly = None
        if job["side"] == "eager":
            from .checkpoint import open_checkpoint

            eagerly = eager(open_checkpoint(job["source"]), job["component"], job["precision"])
        out = measure_ranges(job) if job["side"] == "range" else check(job, eagerly)
    save_file(out, job["out"])


if __name__ == "__main__":
    main(sys.argv[1])
