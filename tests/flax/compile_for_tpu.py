"""Compile the loop for a TPU v5e that is not there, and print what memory each chip needs.

    python -m tests.flax.compile_for_tpu CHECKPOINT DATAxMODEL PICTURES HEIGHTxWIDTH STEPS

Only the checkpoint's JSON files are read.
"""

import json
import sys
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.experimental import topologies

from diffrt.flax.checkpoint import Networks
from diffrt.flax.parameters import declared
from diffrt.flax.placement import placement
from diffrt.flax.programs import Condition, decode_program, denoise_program
from diffrt.flax.rows import SLOTS, bucket, rows_of, segment
from diffrt.model_configs import TextConfig, UNetConfig, VAEConfig
from diffrt.schedulers import DDIMScheduler


def main(root, mesh, pictures, size, steps):
    data, model = map(int, mesh.split("x"))
    pictures, steps = int(pictures), int(steps)
    devices = topologies.get_topology_desc("v5e:2x4", "tpu").devices
    place = placement(data, model, devices)
    parts = (("text_encoder", TextConfig), ("unet", UNetConfig), ("vae", VAEConfig))
    networks = Networks(*(c.read(json.loads((Path(root) / name / "config.json").read_text())) for name, c in parts))
    spec = jax.ShapeDtypeStruct
    params = {
        part: {
            name: spec(shape, jnp.bfloat16, sharding=place.parameter(part, name, shape))
            for name, shape in declared(network, *inputs).items()
        }
        for part, (network, inputs) in networks.parts.items()
    }
    factor = 2 ** (len(networks.vae.block_out_channels) - 1)
    h, w = (int(side) // factor for side in size.split("x"))
    latents = (pictures, h, w, networks.vae.latent_channels)
    table = DDIMScheduler(clip_sample=False).table(steps)
    rows = segment(rows_of(table), 0, table.evals, bucket(table.evals))
    everywhere = jax.NamedSharding(place.mesh, jax.P())
    rows = {name: spec(column.shape, column.dtype, sharding=everywhere) for name, column in rows.items()}
    batch, inner = partial(spec, dtype=jnp.float32, sharding=place.batch()), place.batch(1)
    condition = Condition(batch((pictures, 2, 77, networks.unet.cross_attention_dim)), batch((pictures, 1)))
    slots, noise = (spec((n, *latents), jnp.float32, sharding=inner) for n in (SLOTS, bucket(table.evals)))
    c, dtype = networks, jnp.dtype(jnp.bfloat16)
    lowered = {
        "loop": denoise_program.lower(c, dtype, place, {"unet": params["unet"]}, rows, slots, condition, noise, None),
        "decoder": decode_program.lower(c, dtype, place, {"vae": params["vae"]}, batch(latents)),
    }
    for name, each in lowered.items():
        start = time.time()
        compiled = each.compile()
        memory, gib = compiled.memory_analysis(), 2**30
        print(
            f"{name} compiled for {devices[0].device_kind}, {mesh}, {pictures} of {size}, "
            f"in {time.time() - start:.0f} s: "
            f"arguments {memory.argument_size_in_bytes / gib:.3f} GiB, "
            f"temporary {memory.temp_size_in_bytes / gib:.3f} GiB a chip",
            flush=True,
        )


main(*sys.argv[1:])
