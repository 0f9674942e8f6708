"""diffrt: a contender for each provider that it has, over bundles of each precision, and the provider "auto"."""

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

KNOWN = tuple({**PROVIDERS, "cuda": None})  # one that diffrt has not says so in its row
PRECISIONS = ("", "int8", "fp16")  # of the bundle; "": that which the model's weights are in
FAST = ("openvino", "openvino-int8", "auto", "auto-int8")
SPEED = {"cpu": 1.15, "cpu-int8": 2.2} | dict.fromkeys(FAST, 4.0)  # of the plan
SIDE = 128  # latent pixels, as in diffrt.pipeline: a larger picture is decoded in tiles


def load(contender: Contender, job: Job) -> Call:
    precision = contender.bundle or job.of.precisions[0]
    bundle = only(Bundle.open(job.of.bundle(job.folder, precision)), precision)
    try:
        pipe = Pipeline(bundle, provider=contender.provider)
    except ProviderError as error:
        raise NotHere(str(error)) from None
    call = STAGES[job.stage](pipe, bundle, pipe.provider, job)
    name = pipe.provider.name
    call.facts = {"provider": name, "precision": arithmetic(name, precision)}  # type: ignore[attr-defined]
    return call


def arithmetic(provider: str, precision: str) -> str:
    """What a provider computes in. Where the CPU has bfloat16, OpenVINO takes it for what is not in 8 bits, unless told
    not to."""
    if provider == "openvino" and precision != "int8":
        return "bf16" if {"amx_bf16", "avx512_bf16"} & set(describe()["flags"]) else "fp32"
    return "fp32" if provider in ("cpu", "openvino-fp32") and precision == "fp16" else precision


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
    precision = contender.bundle or job.of.precisions[0]
    target = job.of.bundle(job.folder, precision)
    if not target.exists():
        words = [str(job.checkpoint), str(target), "--precision", precision, "--static", f"{job.height}x{job.width}"]
        if contender.provider == "cuda":
            words += ["--form", "step"]
        command("-m", "diffrt", "export", *words, log=log)


def contender(provider: str, bundle: str = "") -> Contender:
    name = "-".join(filter(None, (provider, bundle)))
    needs = PROVIDERS[provider].library if provider in PROVIDERS else "onnxruntime"
    return Contender(
        f"diffrt-{name}",
        "diffrt",
        arithmetic(provider, bundle or "fp32"),  # until it is loaded
        provider,
        (needs,),
        load,
        write_bundle,
        bundle=bundle,
        speed=SPEED.get(name, 1.0),
        start=15,
    )


CONTENDERS = (
    *(contender(provider, precision) for provider in KNOWN for precision in PRECISIONS),
    contender("auto"),  # the provider that diffrt chooses
    contender("auto", "int8"),
)
