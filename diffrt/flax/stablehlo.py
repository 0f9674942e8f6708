"""`diffrt export SOURCE DEST --form stablehlo`: programs that need no model code, for the CPU, CUDA and TPUs at once.

DEST holds a StableHLO program for each of the text encoder, the loop and the two halves of the autoencoder, of any
batch and one size of picture; the checkpoint's own weight files, which they read as they are; the sampler's table for a
few numbers of steps; stablehlo.json; and run.py, which draws with all that and needs jax alone.
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffrt import __version__
from diffrt.errors import InvalidArgument, nearest
from diffrt.flax import programs
from diffrt.flax.checkpoint import Checkpoint, Networks, find, open_checkpoint
from diffrt.flax.parameters import declared
from diffrt.flax.rows import SLOTS, Rows, bucket, rows_of, segment
from diffrt.flax.weights import DTYPES, fitting, open_headers
from diffrt.folders import building, check_free, link, publish

MANIFEST, RUN = "stablehlo.json", "run.py"
PLATFORMS = ("cpu", "cuda", "tpu")
PRECISIONS = {"fp32": jnp.float32, "bf16": jnp.bfloat16}
STEPS = (10, 20, 30, 50)
spec = jax.ShapeDtypeStruct
f32 = jnp.float32


def export(
    source: str | os.PathLike[str],
    dest: str | os.PathLike[str],
    *,
    revision: str | None = None,
    precision: str = "fp32",
    size: tuple[int, int] | None = None,
    platforms: Sequence[str] = PLATFORMS,
    steps: Sequence[int] = STEPS,
    force: bool = False,
    progress: Callable[[str], None] = lambda line: None,
) -> Path:
    """Write the programs of `source`, a bundle or a checkpoint, to the folder `dest`; nothing is left there on failure.

    size       (height, width) of the pictures in pixels, by default the model's own
    precision  of the networks' arithmetic: "fp32" or "bf16"; the weights stay as they are stored
    steps      the numbers of inference steps to write the sampler's table for
    """
    target = Path(dest).absolute()
    if precision not in PRECISIONS:
        raise InvalidArgument(f"precision {precision!r} is unknown here; {nearest(str(precision), PRECISIONS)}")
    check_free(target, MANIFEST, force)
    checkpoint = open_checkpoint(find(source, revision))
    if checkpoint.unchecked:
        progress("skipping safety_checker: the programs have none; export the components to have it run")
    with building(target) as folder:
        write(checkpoint, folder, PRECISIONS[precision], size, platforms, sorted(set(steps)), progress)
        publish(folder, target)
    progress(f"wrote {target}")
    return target


def write(
    checkpoint: Checkpoint,
    folder: Path,
    dtype: Any,
    size: tuple[int, int] | None,
    platforms: Sequence[str],
    steps: Sequence[int],
    say: Callable[[str], None],
) -> None:
    manifest, networks = checkpoint.manifest, checkpoint.networks
    factor, channels = manifest.latents["scale_factor"], manifest.latents["channels"]
    height, width = size or (manifest.defaults.height, manifest.defaults.width)
    if height % factor or width % factor or min(height, width) <= 0:
        raise InvalidArgument(f"size {height}x{width}: height and width must be multiples of {factor}")
    h, w = height // factor, width // factor
    tables = {n: checkpoint.scheduler.table(n) for n in steps}
    length = bucket(max(table.evals for table in tables.values()))
    rows = {n: segment(rows_of(table), 0, table.evals, length) for n, table in tables.items()}

    records, weights, stored = {}, {}, {}
    for part, (network, example) in networks.parts.items():
        tensors = open_headers(checkpoint.root / part)
        names = fitting(checkpoint.root / part, tensors, declared(network, *example))
        stored[part] = names, {n: spec(tensors[n][1].shape, DTYPES[tensors[n][1].dtype]) for n in names.values()}
        files = sorted({tensors[there][0] for there in names.values()})
        weights[part] = [f"{part}/{file.name}" for file in files]
        (folder / part).mkdir()
        for file in files:
            link(file.resolve(), folder / part / file.name, copy=False, say=say)
    for name, (part, function, arguments) in functions_of(checkpoint, dtype, (h, w), rows[steps[0]]).items():
        say(f"writing {name}")
        names, kept = stored[part]
        whole = jax.jit(on_stored(function, part, names, dtype))
        exported = jax.export.export(whole, platforms=list(platforms))(kept, *arguments)
        (folder / f"{name}.stablehlo").write_bytes(exported.serialize())
        records[name] = {"file": f"{name}.stablehlo", "weights": part}
    for n, table in tables.items():
        record: dict[str, Any] = rows[n] | {"init_sigma": np.float32(table.init_sigma)}
        np.savez(folder / f"rows-{n}.npz", **record)
    shutil.copyfile(Path(__file__).with_name("standalone.py"), folder / RUN)
    shutil.copytree(checkpoint.root / manifest.tokenizers["text_encoder"]["folder"], folder / "tokenizer")
    closest = min(steps, key=lambda n: abs(n - manifest.defaults.num_inference_steps))
    record = {
        "format": 1, "generator": f"diffrt {__version__}, jax {jax.__version__}", "platforms": list(platforms),
        "height": height, "width": width, "latents": [channels, h, w], "slots": SLOTS,
        "scheduler": checkpoint.scheduler.config["_class_name"], "default_steps": closest,
        "default_guidance": manifest.defaults.guidance_scale, "empty_prompt": checkpoint.tokenizer()([""]).ids.tolist(),
        "rows": {str(n): f"rows-{n}.npz" for n in steps}, "functions": records, "weights": weights,
    }  # fmt: skip
    (folder / MANIFEST).write_text(json.dumps(record, indent=1) + "\n", "utf-8")


def functions_of(
    checkpoint: Checkpoint, dtype: Any, size: tuple[int, int], rows: Rows
) -> dict[str, tuple[str, Callable[..., Any], list[Any]]]:
    """name -> (part, function of its parameters and more, shapes of the latter): any batch, latents of one size."""
    networks, (h, w) = checkpoint.networks, size
    factor, channels = checkpoint.manifest.latents["scale_factor"], networks.vae.latent_channels
    tokens = checkpoint.manifest.tokenizers["text_encoder"]["max_length"]
    width_of_text = networks.unet.cross_attention_dim
    (b,) = jax.export.symbolic_shape("b")
    latents = spec((b, h, w, channels), f32)
    inputs: list[Any] = [
        {name: spec(column.shape, column.dtype) for name, column in rows.items()},
        spec((SLOTS, *latents.shape), f32),
        spec((b, 2, tokens, width_of_text), f32),
        spec((b, 1), f32),
        spec((len(rows["t"]), *latents.shape), f32),
    ]
    if networks.unet.in_channels > channels:
        inputs.append(spec((b, h, w, networks.unet.in_channels - channels), f32))
    pictures = spec((b, h * factor, w * factor, networks.vae.in_channels), f32)
    return {
        "text_encoder": ("text_encoder", partial(programs.embed, networks), [spec((b, tokens), jnp.int32)]),
        "denoise": ("unet", partial(_denoise, networks, dtype), inputs),
        "vae_decoder": ("vae", partial(_picture, networks, dtype), [latents]),
        "vae_encoder": ("vae", partial(programs.encode, networks, dtype), [pictures]),
    }


def on_stored(function: Callable[..., Any], part: str, names: Mapping[str, str], dtype: Any) -> Callable[..., Any]:
    """The function of a part's parameters as one of the tensors that the checkpoint's files hold."""

    def run(tensors: Mapping[str, Array], *inputs: Any) -> Any:
        own = {name: tensors[there].astype(dtype) for name, there in names.items()}
        own = {name: x.transpose(2, 3, 1, 0) if x.ndim == 4 else x for name, x in own.items()}
        return function({part: own}, *inputs)

    return run


def _denoise(
    c: Networks, dtype: Any, params: Any, rows: Any, slots: Array, embeds: Array, scale: Array, noise: Array,
    beside: Array | None = None,
) -> Array:  # fmt: skip
    return programs.denoise(c, dtype, params, rows, slots, programs.Condition(embeds, scale, beside), noise)


def _picture(c: Networks, dtype: Any, params: Any, latents: Array) -> Array:  # -> [B,H,W,3] u8
    unit = jnp.clip(programs.decode(c, dtype, params, latents) * 0.5 + 0.5, 0, 1)
    return jnp.round(unit * 255).astype(jnp.uint8)
