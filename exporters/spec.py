"""What a model family declares; example inputs, dynamic axes, checks and manifest entries are derived from it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from diffrt.manifest import TensorSpec

Config = Mapping[str, Any]  # a config.json

TOLERANCE = {"fp32": 1e-5, "fp16": 2e-2, "int8": 0.3}  # of a component that is no worse than most


def called(module: torch.nn.Module, *inputs: torch.Tensor) -> Any:
    """The module as it is."""
    return module(*inputs)


@dataclass(frozen=True)
class Component:
    """One graph of a bundle.

    ``build(config)`` makes the torch module of the checkpoint folder ``part``; ``call(module, *inputs)`` is what the
    graph computes, float32 at its boundary whatever the module's dtype. Named axes in ``inputs`` are dynamic; ``axes``
    gives the sizes it is traced at (odd ones on purpose: traced at 8x8, sizes get baked in).
    """

    build: Callable[[Config], torch.nn.Module]
    inputs: tuple[TensorSpec, ...]
    axes: Mapping[str, int]
    call: Callable[..., Any] = called
    outputs: tuple[TensorSpec, ...] = ()
    name: str = "denoiser"
    part: str = "denoiser"
    graph: str = "model"
    tolerance: Mapping[str, float] = field(default_factory=lambda: TOLERANCE)  # largest relative L2 error by precision
    high: int = 1  # integer inputs are drawn below this
    times: tuple[float, float] = (0.0, 1000.0)  # timesteps are drawn between these
    tiled: bool = False  # half of an autoencoder, for which exporters/tiles.py makes graphs of tiles
    real: bool = False  # it is traced with memory: it has tensors of its own that no checkpoint holds

    @property
    def device(self) -> str:
        """Where the module is built when only its tensors' names and shapes count."""
        return "cpu" if self.real else "meta"

    def example(self, sizes: Mapping[str, int], seed: int = 0) -> dict[str, np.ndarray]:
        """Random inputs of the given axis sizes: unit normal floats, ids below ``high``; sigmas from 0.002 to 80."""
        rng = np.random.default_rng(seed)
        arrays: dict[str, np.ndarray] = {}
        for spec in self.inputs:
            shape = [sizes[d] if isinstance(d, str) else d for d in spec.shape]
            if spec.dtype == "int64":
                arrays[spec.name] = rng.integers(0, self.high, shape)
            elif spec.name == "timestep":
                steps = rng.integers(0, 1000, shape) + 0.5 * (rng.random(shape) < 0.5)
                first, last = self.times
                steps = first + steps * ((last - first) / 1000)
                arrays[spec.name] = np.asarray(steps, np.float32)  # a scalar is an array too
            elif spec.name == "sigma":
                arrays[spec.name] = np.exp(rng.uniform(np.log(0.002), np.log(80), shape)).astype(np.float32)
            else:
                arrays[spec.name] = rng.standard_normal(shape, dtype=np.float32)
        return arrays


@dataclass(frozen=True, eq=False)
class Family:
    """A pipeline class: which parts it needs, which it can go without, and how to declare its components."""

    name: str
    all_tasks: tuple[str, ...]
    tasks: Callable[[Mapping[str, Config]], tuple[str, ...]]  # those of them that a checkpoint can do
    parts: Mapping[str, tuple[str, ...]]  # folder -> model classes it may hold
    components: Callable[[Mapping[str, Config]], tuple[Component, ...]]  # from the config of each part
    defaults: Callable[[Mapping[str, Config]], dict[str, Any]]  # height, width, num_inference_steps, guidance_scale
    latents: Callable[[Mapping[str, Config]], dict[str, Any]]  # as in the manifest
    title: str = ""  # in the table of what is supported: see support.py
    tested: str = ""  # against what
    skipped: tuple[str, ...] = ()  # parts that are reported and left behind
    optional: tuple[str, ...] = ()  # parts that some go without, with what is made of them
    requested: Mapping[str, str] = field(default_factory=dict)  # those -> the key of model_index.json that asks for it
    settings: Mapping[str, str] = field(default_factory=dict)  # those -> a file of another folder that goes with it
    denoiser: str = "unet"  # the component that the sampler calls
    conditions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # as in the manifest
    tokenizers: Mapping[str, str] = field(default_factory=dict)  # text encoder -> folder
    t5: Mapping[str, int] = field(default_factory=dict)  # text encoders whose tokenizer is T5's -> tokens of a prompt
    bert: tuple[str, ...] = ()  # text encoders whose tokenizer is BERT's
    lowered: bool = False  # prompts are read in lower case, and without space around them
    classes: Callable[[Mapping[str, Any], Mapping[str, Config]], tuple[str, ...]] = lambda index, configs: ()
    forms: tuple[str, ...] = ("components", "step")
    layouts: tuple[str, ...] = ("diffrt",)
    even_sigmas: bool = False  # as in the manifest
    strength_rounds_up: bool = False  # as in the manifest
    zero_negative: bool = False  # as in the manifest, unless the checkpoint's force_zeros_for_empty_prompt says other
