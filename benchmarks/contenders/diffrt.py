"""diffrt: a contender for each provider that it has and each precision that a bundle can have, and "auto"."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.contenders.base import Contender, NotHere
from benchmarks.machine import describe
from benchmarks.models import NEGATIVE, PROMPT, TIMESTEP, Arrays, Call, Job
from benchmarks.processes import command
from diffrt.bundle import Bundle
from diffrt.components.denoiser import Denoiser
from diffrt.components.graph import Graph
from diffrt.components.vae import Decoder
from diffrt.errors import ProviderError
from diffrt.pipeline import Pipeline
from diffrt.providers import PROVIDERS, Provider

KNOWN = tuple({**PROVIDERS, "openvino": None, "cuda": None})  # one that diffrt has not says so in its row
PRECISIONS = {"fp32": 1.15, "fp16": 1.1, "int8": 2.2}  # of bundles -> speed on the CPU, roughly
MODULES = {"openvino": ("onnxruntime_ep_openvino",)}  # that a provider needs beside ONNX Runtime
OPENVINO = "bf16" if {"amx_bf16", "avx512_bf16"} & set(describe()["flags"]) else "fp32"  # what it takes by itself
ARITHMETIC = {  # where it is not the weights' precision
    ("openvino", "fp32"): OPENVINO,
    ("openvino", "fp16"): OPENVINO,
    ("cpu", "fp16"): "fp32",
}
SIDE = 128  # latent pixels, as in diffrt.pipeline: a larger picture is decoded in tiles


def load(contender: Contender, job: Job) -> Call:
    assert contender.bundle is not None
    bundle = only(Bundle.open(job.of.bundle(job.folder, contender.bundle)), contender.bundle)
    try:
        pipe = Pipeline(bundle, provider=contender.provider)
    except ProviderError as error:
        raise NotHere(str(error)) from None
    provider = pipe.provider
    call = STAGES[job.stage](pipe, bundle, provider, job)
    if contender.provider == "auto":
        precision = ARITHMETIC.get((provider.name, contender.bundle), contender.bundle)
        call.facts = {"provider": provider.name, "precision": precision}  # type: ignore[attr-defined]
    return call


def picture(pipe: Pipeline, bundle: Bundle, provider: Provider, job: Job) -> Call:
    def call(a: Arrays) -> Arrays:
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

    return call


def text(pipe: Pipeline, bundle: Bundle, provider: Provider, job: Job) -> Call:
    graph = Graph(bundle, "text_encoder", provider)
    return lambda a: {"out": graph.run_all(a)["last_hidden_state"]}


def vae(pipe: Pipeline, bundle: Bundle, provider: Provider, job: Job) -> Call:
    decoder = Decoder(bundle, provider, SIDE * SIDE)
    return lambda a: {"out": decoder(a["latents"])}


def denoiser(pipe: Pipeline, bundle: Bundle, provider: Provider, job: Job) -> Call:
    network = Denoiser(bundle, provider)

    def call(a: Arrays) -> Arrays:
        conditions = {name: array for name, array in a.items() if name not in ("sample", "timestep")}
        return {"out": network(a["sample"], TIMESTEP, conditions)}

    return call


STAGES = {"text": text, "denoiser": denoiser, "vae": vae, "picture": picture}


def only(bundle: Bundle, precision: str) -> Bundle:
    """The bundle as if it had no graphs of another precision, where a component has some of this one."""
    components = {}
    for name, spec in bundle.manifest.components.items():
        kept = tuple(each for each in spec.variants if each.precision == precision)
        components[name] = replace(spec, variants=kept or spec.variants)
    if not any(v.precision == precision for spec in components.values() for v in spec.variants):
        raise NotHere(f"the bundle has no {precision} graphs")
    return replace(bundle, manifest=replace(bundle.manifest, components=components))


def write_bundle(contender: Contender, job: Job, log: Path) -> None:
    """Where it is not there yet."""
    assert contender.bundle is not None
    target = job.of.bundle(job.folder, contender.bundle)
    if not target.exists():
        options = ("--precision", contender.bundle, "--no-verify")
        command("-m", "diffrt", "export", str(job.checkpoint), str(target), *options, log=log)


def contender(provider: str, precision: str) -> Contender:
    return Contender(
        f"diffrt-{provider}-{precision}",
        "diffrt",
        ARITHMETIC.get((provider, precision), precision),
        provider,
        ("onnxruntime", *MODULES.get(provider, ())),
        load,
        write_bundle,
        bundle=precision,
        speed=4.0 if provider == "openvino" else PRECISIONS[precision],
        start=15,
    )


CONTENDERS = (
    *(contender(provider, precision) for provider in KNOWN for precision in PRECISIONS),
    replace(contender("auto", "fp32"), name="diffrt-auto", speed=4.0),  # the provider that diffrt chooses
)
