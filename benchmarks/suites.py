"""What is measured, as data. Times are of two cores with AMX, for the plan that is printed before a run."""

from dataclasses import dataclass

BASELINE = "eager-fp32"

TORCH = ("eager-fp32-cl", "eager-bf16", "eager-bf16-cl", "compile-fp32", "compile-bf16")
PLAIN = ("plain-onnx", "openvino-fp32", "openvino-bf16")
OURS = ("diffrt-cpu", "diffrt-cpu-int8", "diffrt-openvino", "diffrt-openvino-int8")
EVERYONE = (*TORCH, *PLAIN, *OURS, "diffrt-openvino-fp32", "flax-fp32")
BEST = ("eager-bf16-cl", "openvino-bf16", *OURS)
SLOW = ("compile-fp32", "flax-fp32")  # to start
GPU = ("cuda-eager-fp32", "cuda-compile-fp16", "cuda-plain-onnx", "diffrt-cuda-fp16")


@dataclass(frozen=True)
class Case:
    """A model at a size. `batch` is pictures: a guided evaluation has two rows for each."""

    model: str
    height: int
    width: int
    batch: int = 1
    steps: int = 20
    guidance: float = 7.5

    @property
    def name(self) -> str:
        return f"{self.model}-{self.height}" + (f"-x{self.batch}" if self.batch > 1 else "")


EMOJI = Case("emoji", 128, 128, guidance=3.0)
SD15, SD15_X4 = Case("sd15", 512, 512), Case("sd15", 512, 512, batch=4)
SD15_LARGE, SD15_LARGE_X4 = Case("sd15", 1024, 1024), Case("sd15", 1024, 1024, batch=4)
SDXL = Case("sdxl", 1024, 1024)


@dataclass(frozen=True)
class Entry:
    """One stage of a case: the baseline takes turns with each contender, `rounds` times, or more if runs are short."""

    case: Case
    stage: str  # text, denoiser (one guided evaluation), vae (decoding) or picture (prompt to uint8)
    contenders: tuple[str, ...]
    rounds: int
    seconds: float  # one run of the baseline, roughly
    default: bool = True  # False: only with --all
    baseline: str = BASELINE
    reference: str = ""  # whose output errors are distances from, where it is not the baseline's


@dataclass(frozen=True)
class Suite:
    about: str
    entries: tuple[Entry, ...] = ()  # else the suite is a module of its own: benchmarks/NAME_suite.py
    minutes: float = 0  # of such a module


SUITES: dict[str, Suite] = {
    "smoke": Suite(
        "the default model, about two minutes",
        (
            Entry(EMOJI, "denoiser", ("eager-bf16-cl", "openvino-fp32", *OURS), 5, 0.05),
            Entry(EMOJI, "picture", OURS, 3, 1.2),
        ),
    ),
    "cpu": Suite(
        "Stable Diffusion 1.5's shapes at full size with random weights; with --all larger ones and XL's",
        (
            Entry(SD15, "denoiser", tuple(each for each in EVERYONE if each not in SLOW), 3, 7.5),
            Entry(SD15, "vae", BEST, 2, 9),
            Entry(SD15, "text", BEST, 5, 0.2, default=False),
            Entry(SD15, "picture", ("diffrt-auto", "diffrt-auto-int8"), 1, 165),
            Entry(SD15, "denoiser", SLOW, 3, 7.5, default=False),
            Entry(SD15, "vae", tuple(each for each in EVERYONE if each not in BEST), 2, 9, default=False),
            Entry(SD15, "picture", ("eager-bf16-cl", *OURS), 1, 165, default=False),
            Entry(SD15_X4, "denoiser", EVERYONE, 2, 30, default=False),
            Entry(SD15_LARGE, "denoiser", EVERYONE, 2, 45, default=False),
            Entry(SD15_LARGE, "vae", BEST, 2, 40, default=False),
            Entry(SD15_LARGE_X4, "denoiser", BEST, 1, 180, default=False),
            Entry(SDXL, "denoiser", BEST, 1, 60, default=False),
        ),
    ),
    "gpu": Suite(
        "the same on CUDA, in fp16",
        tuple(
            Entry(case, stage, GPU, 10, 0.2, case is SD15, baseline="cuda-eager-fp16", reference="cuda-eager-fp32")
            for case in (SD15, SD15_X4, SD15_LARGE)
            for stage in ("denoiser", "vae", "picture")
        ),
    ),
    "schedulers": Suite("a step of every scheduler, without a model, on one core", minutes=4),
    "start": Suite(
        "import, load and first picture in a fresh process; size on disk of what must be installed", minutes=3
    ),
    "export": Suite("time, memory and disk of exporting full-size weights; with --all also XL's and Flux's", minutes=8),
}
