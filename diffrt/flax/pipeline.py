"""The simple face: load() and Pipeline, as diffrt.load and diffrt.Pipeline, on JAX's devices."""

import os
from collections.abc import Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax.experimental.compilation_cache import compilation_cache

from diffrt import hub, request
from diffrt.errors import InvalidArgument
from diffrt.flax import tasks
from diffrt.flax.checkpoint import Checkpoint, find, open_checkpoint
from diffrt.flax.parts import Decoder, Encoder, Model, TextEncoder
from diffrt.flax.placement import Placement, placement
from diffrt.pipeline import NEEDS, Stream
from diffrt.tasks.shared import Output, Parts


def load(
    model: str | os.PathLike[str],
    *,
    revision: str | None = None,
    dtype: Any = jnp.float32,
    data: int | None = None,
    model_parallel: int = 1,
    cache: str | os.PathLike[str] | None = None,
    safety_checker: bool | None = True,
) -> "Pipeline":
    """A pipeline from the name or path of a bundle, the folder of a checkpoint in diffusers layout, or an id on the
    Hugging Face Hub.

    dtype           of the parameters and the networks' arithmetic; jnp.bfloat16 on a TPU
    data            devices that a batch of pictures is shared out over; None: all that there are
    model_parallel  devices that the networks' matrices are split over
    cache           a folder to keep compiled programs in, so that the next process need not compile them; it holds for
                    all that JAX compiles in this process
    safety_checker  there is none here: None, or False, says that you know, where a checkpoint asks for one

    Raises CheckpointError for what cannot be loaded, BundleError for a damaged bundle, HubError for what the hub does
    not give, InvalidArgument for a mesh that the devices do not make.
    """
    devices = placement(data, model_parallel)
    if cache is not None:
        keep_programs(cache)
    root = find(model, revision)
    name = str(model) if hub.is_id(model) else root.resolve().name
    checkpoint = open_checkpoint(root)
    checkpoint.warn(safety_checker)
    return Pipeline(checkpoint, dtype, devices, name)


def keep_programs(folder: str | os.PathLike[str]) -> None:
    jax.config.update("jax_compilation_cache_dir", os.fspath(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    compilation_cache.reset_cache()  # whether there is one is otherwise decided when the first program is compiled


class Pipeline:
    """A checkpoint on devices, with a scheduler, which may be replaced. Compiled on first use: once for each size of
    picture, number of pictures and power of two of steps, whatever the prompt, the guidance and the scheduler."""

    def __init__(self, checkpoint: Checkpoint, dtype: Any, devices: Placement, name: str) -> None:
        self.checkpoint, self.scheduler = checkpoint, checkpoint.scheduler
        self._model = Model(checkpoint, dtype, devices)
        preview = checkpoint.manifest.preview
        self._parts = Parts(
            text_encoder=cast(Any, TextEncoder(self._model)),
            denoiser=cast(Any, self._model),
            encoder=cast(Any, Encoder(self._model)),
            decoder=cast(Any, Decoder(self._model)),
            colours=(preview["matrix"], preview["bias"]) if preview else None,
            model=name,
            keep=True,
        )

    def __call__(self, prompt: str | Sequence[str] | None = None, **arguments: Any) -> Output:
        """Draw pictures. Arguments are those of diffrt.Pipeline, but that rng is "philox" where none is asked for."""
        return self._stream(prompt, None, arguments).result()

    def stream(self, prompt: str | Sequence[str] | None = None, *, every: int = 5, **arguments: Any) -> Stream:
        """The same call, in segments of so many steps: iterate over them, then ask for .result(). To cancel, stop."""
        if not isinstance(every, int) or isinstance(every, bool) or every < 1:
            raise InvalidArgument(f"every is {every!r}: give a number of steps, at least 1")
        return self._stream(prompt, every, arguments)

    def _stream(self, prompt: Any, every: int | None, arguments: dict[str, Any]) -> Stream:
        manifest = self.checkpoint.manifest
        asked = request.check(manifest, prompt, **{"rng": "philox"} | arguments)
        if asked.task not in manifest.tasks:
            allowed = "; or ".join(NEEDS[task] for task in manifest.tasks if task in NEEDS)
            raise InvalidArgument(f"the model has no {asked.task.replace('_', '-')}: give it {allowed}")
        return Stream(tasks.run(asked, self.scheduler, self._parts, self._model, every))
