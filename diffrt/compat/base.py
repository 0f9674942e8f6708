"""What the classes have in common: loading by their arguments, schedulers of either kind, callbacks and results."""

import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from diffrt.components.safety import NAME as SAFETY
from diffrt.components.safety import SafetyChecker
from diffrt.errors import InvalidArgument, ProviderError, nearest
from diffrt.pipeline import Pipeline, Stream, load
from diffrt.providers import PROVIDERS
from diffrt.schedulers import Scheduler, from_config

Callback = Callable[[int, float, NDArray[np.float32]], Any]  # step, time, latents [B,C,h,w]

# Arguments of from_pretrained that change nothing here, and those that would, with what to do instead.
WITHOUT_EFFECT = (
    "feature_extractor", "force_download", "low_cpu_mem_usage", "requires_safety_checker", "resume_download",
    "torch_dtype", "use_io_binding",
)  # fmt: skip
INSTEAD = {
    "cache_dir": "set HF_HOME",
    "export": "run diffrt export once, and load its folder",
    "local_files_only": "set HF_HUB_OFFLINE=1",
    "provider_options": "leave it out: diffrt sets what its provider needs",
    "sess_options": "leave it out: diffrt sets what its provider needs",
    "session_options": "leave it out: diffrt sets what its provider needs",
    "token": "set HF_TOKEN",
    "use_auth_token": "set HF_TOKEN",
}
OWN_CHECKER = "a bundle's own alone is run; give None to leave it out, and call yours on the pictures"


class Images(NamedTuple):
    """What a call gives: `.images`, and what the safety checker of a bundle says of each."""

    images: list[Image] | NDArray[np.float32]
    nsfw_content_detected: list[bool] | None = None


class Compat(ABC):
    """Abstract. `pipeline` is the diffrt.Pipeline behind it."""

    mends = True  # whether scheduler configs of 2022 are mended, as Stable Diffusion's pipelines do

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        if self.mends:
            pipeline.scheduler = mended(pipeline.scheduler)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        provider: str | None = None,
        providers: Sequence[str] | None = None,
        revision: str | None = None,
        scheduler: Any = None,
        memory: str = "keep",
        safety_checker: bool | None = True,
        **arguments: Any,
    ) -> Self:
        """From the folder of such a pipeline, a bundle, or an id on the hub. provider is ONNX Runtime's name for it,
        such as "CPUExecutionProvider"; memory and safety_checker are diffrt.load's."""
        for name, value in arguments.items():
            if name in INSTEAD and value:
                raise InvalidArgument(f"{name} is given: {INSTEAD[name]}")
            if name not in (*INSTEAD, *WITHOUT_EFFECT):
                raise InvalidArgument(f"unknown argument {name!r}; {nearest(name, (*INSTEAD, *WITHOUT_EFFECT))}")
        if not (safety_checker is None or isinstance(safety_checker, bool)):
            raise InvalidArgument(f"safety_checker is {safety_checker!r:.60}: {OWN_CHECKER}")
        first = provider or (providers[0] if providers else "CPUExecutionProvider")
        path = pretrained_model_name_or_path
        pipeline = load(path, revision=revision, provider=named(first), memory=memory, safety_checker=safety_checker)
        made, bundle = cls(pipeline), pipeline.bundle
        if safety_checker and (bundle.root / SAFETY).is_dir() and SAFETY not in bundle.manifest.components:
            warnings.warn("the safety checker is not run: pictures are as the model draws them", stacklevel=2)
        if scheduler is not None:
            made.scheduler = scheduler
        return made

    @property
    def safety_checker(self) -> SafetyChecker | None:
        return self.pipeline.safety_checker

    @safety_checker.setter
    def safety_checker(self, checker: None) -> None:
        if checker is not None:
            raise InvalidArgument(f"safety_checker is {checker!r:.60}: {OWN_CHECKER}")
        self.pipeline.leave_unchecked()

    @abstractmethod
    def __call__(self, *args: Any, **arguments: Any) -> Any:
        """Draw pictures."""

    @property
    def scheduler(self) -> Scheduler:
        return self.pipeline.scheduler

    @scheduler.setter
    def scheduler(self, scheduler: Any) -> None:
        """One of diffrt.schedulers, or of diffusers."""
        if not isinstance(scheduler, Scheduler) and isinstance(getattr(scheduler, "config", None), Mapping):
            scheduler = from_config(dict(scheduler.config), type(scheduler).__name__)
        self.pipeline.scheduler = scheduler

    def to(self, device: Any) -> Self:
        """The provider is chosen on loading: only what names its device is taken."""
        if str(device).partition(":")[0] != self.pipeline.provider.name:
            raise ProviderError(
                f"the pipeline is on {self.pipeline.provider.name!r}, not {str(device)!r}: choose with provider= in "
                "from_pretrained"
            )
        return self

    def set_progress_bar_config(self, **_: Any) -> None:
        """There is no progress bar: a callback, or diffrt.Pipeline.stream, is told of every step."""
        return

    def _drawn(self, stream: Stream, callback: Callback | None, callback_steps: int, return_dict: bool) -> Any:
        """Run to the end: Images, or a tuple."""
        if isinstance(callback_steps, bool) or not isinstance(callback_steps, int) or callback_steps < 1:
            raise InvalidArgument(f"callback_steps is {callback_steps!r}: give a whole number of at least 1")
        for step in stream:
            if callback is not None and step.index % callback_steps == 0:
                callback(step.index, step.timestep, step.latents)
        out = stream.result()
        drawn = Images(out.images, out.nsfw_content_detected)
        return drawn if return_dict else tuple(drawn)

    def _eta(self, eta: float) -> float:
        """Samplers that know no eta leave it unread."""
        return eta if "eta" in self.scheduler.options() else 0.0


def named(provider: str) -> str:
    """diffrt's name of a provider that is named as ONNX Runtime does."""
    ours = {record.runtime_name: name for name, record in PROVIDERS.items() if record.library == "onnxruntime"}
    ours["OpenVINOExecutionProvider"] = "openvino"
    if provider not in ours and provider not in PROVIDERS:
        raise ProviderError(f"unknown provider {provider!r}: {nearest(str(provider), ours)}")
    return ours.get(provider, provider)


def mended(scheduler: Scheduler) -> Scheduler:
    """Stable Diffusion was trained without clipping, and its samplers begin one training step above the grid's."""
    right = {"steps_offset": 1, "clip_sample": False}
    wrong = {key: value for key, value in right.items() if scheduler.config.get(key, value) != value}
    return from_config({**scheduler.config, **wrong}) if wrong else scheduler
