"""diffrt.flax: the same model in JAX."""

from functools import partial

import numpy as np

from benchmarks.contenders.base import Contender
from benchmarks.models import NEGATIVE, PROMPT, Arrays, Call, Job


def load(contender: Contender, job: Job) -> Call:
    import jax
    import jax.numpy as jnp

    import diffrt.flax
    from diffrt.flax.checkpoint import open_checkpoint
    from diffrt.flax.parameters import lookup
    from diffrt.flax.parts import Decoder, Model, channels_first, channels_last
    from diffrt.flax.placement import placement
    from diffrt.flax.programs import embed_program
    from diffrt.flax.unet import unet

    dtype = {"fp32": jnp.float32, "bf16": jnp.bfloat16}[contender.precision]
    if job.stage == "picture":
        pipe = diffrt.flax.load(job.checkpoint, dtype=dtype)

        def picture(a: Arrays) -> Arrays:
            out = pipe(
                [PROMPT] * job.batch,
                negative_prompt=NEGATIVE,
                height=job.height,
                width=job.width,
                num_inference_steps=job.steps,
                guidance_scale=job.guidance,
                latents=a["latents"],
                output_type="np",
            )
            return {"out": (np.asarray(out.images) * 255).round().astype(np.uint8)}

        return picture
    model = Model(open_checkpoint(job.checkpoint), dtype, placement(None, 1))
    networks = model.networks
    if job.stage == "vae":
        decoder = Decoder(model)
        return lambda a: {"out": decoder(a["latents"])}
    if job.stage == "text":
        params = model.part("text_encoder")

        def text(a: Arrays) -> Arrays:
            ids = a["input_ids"].astype(np.int32)
            return {"out": np.asarray(embed_program(networks, model.placement, params, ids))}

        return text
    weights = model.params["unet"]
    model.params.clear()

    @jax.jit
    def evaluate(p, x, t, words):
        return partial(unet, networks.unet)(lookup(p), x.astype(dtype), t, words.astype(dtype)).astype(jnp.float32)

    def denoiser(a: Arrays) -> Arrays:
        x = channels_last(a["sample"])
        return {"out": channels_first(np.asarray(evaluate(weights, x, a["timestep"], a["encoder_hidden_states"])))}

    return denoiser


NEEDS = ("jax", "flax")
CONTENDERS = (
    Contender("flax-fp32", "diffrt.flax", "fp32", "cpu", NEEDS, load, speed=0.7, start=50),
    Contender("flax-bf16", "diffrt.flax", "bf16", "cpu", NEEDS, load, speed=0.7, start=50),
)
