"""What an export costs: Stable Diffusion 1.5's shapes at full size: text encoder, UNet and decoder. diffrt's export
also has the encoder, and its graphs in several forms. Once each: nothing is warm in a user's first export either.
"""

import importlib.util
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.contenders.base import DIFFUSERS, PIP
from benchmarks.models import MODELS, Job
from benchmarks.plan import matches
from benchmarks.processes import Failed, command, write_checkpoint
from benchmarks.rows import Row
from benchmarks.setting import Setting

CASE, STAGE = "sd15", "export"
PARTS = ("text_encoder", "unet", "vae")
Commands = Callable[[Path, Path], list[tuple[str, ...]]]


def plain(checkpoint: Path, target: Path) -> list[tuple[str, ...]]:
    module = "benchmarks.contenders.plain_onnx"
    return [("-m", module, str(checkpoint), part, str(target / part / "model.onnx")) for part in PARTS]


def ours(*options: str) -> Commands:
    return lambda checkpoint, target: [("-m", "diffrt", "export", str(checkpoint), str(target), *options)]


CONTENDERS: dict[str, tuple[str, Commands]] = {
    "torch.onnx": ("torch.onnx.export", plain),
    "diffrt": ("diffrt", ours("--no-verify")),
    "diffrt-certified": ("diffrt", ours()),
}


def run(setting: Setting, only: Sequence[str], rounds: int | None, done: Collection[tuple[str, ...]]) -> Iterator[Row]:
    model = MODELS[CASE]
    write_checkpoint(Job(CASE, "denoiser", 512, 512, 1, 20, 7.5, str(setting.work)), setting.log)
    checkpoint, target = model.checkpoint(setting.work).resolve(), setting.work / "export"
    baseline: float | None = None
    for name, (runtime, commands) in CONTENDERS.items():
        key = (setting.suite, CASE, STAGE, name)
        if key in done or not matches("/".join(key), only):
            continue

        def row(name: str = name, runtime: str = runtime, **fields: Any) -> Row:
            return setting.row(CASE, STAGE, name, runtime=runtime, precision="fp32", provider="cpu", **fields)

        missing = [
            PIP[module] for module in (*DIFFUSERS, "onnx", "onnxscript") if importlib.util.find_spec(module) is None
        ]
        if missing:
            yield row(status="missing", reason=f"pip install {' '.join(missing)}")
            continue
        shutil.rmtree(target, ignore_errors=True)
        try:
            runs = [command(*each, log=setting.log) for each in commands(checkpoint, target)]
        except Failed as error:
            yield row(status="failed", reason=str(error))
            continue
        seconds = sum(each[1] for each in runs)
        if name == next(iter(CONTENDERS)):
            baseline = seconds
        yield row(
            status="measured", rounds=1, median_seconds=seconds, min_seconds=seconds, max_seconds=seconds,
            peak_bytes=max(each[2] for each in runs), disk_bytes=added(target), baseline_seconds=baseline,
            ratio=baseline and baseline / seconds, interleaved=False,
        )  # fmt: skip
    shutil.rmtree(target, ignore_errors=True)


def added(folder: Path) -> int:
    """Bytes of the files that are not links to the checkpoint's."""
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file() and f.stat().st_nlink == 1)
