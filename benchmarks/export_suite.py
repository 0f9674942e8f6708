"""What an export costs: Stable Diffusion 1.5's shapes at full size: text encoder, UNet and decoder. diffrt's export
also has the encoder, and its graphs in several forms. With --all XL and Flux of 12 billion parameters, by diffrt alone.
Once each: nothing is warm in a user's first export either.
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

STAGE = "export"
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


BASELINE = next(iter(CONTENDERS))
CASES = {"sd15": tuple(CONTENDERS), "sdxl": ("diffrt", "diffrt-certified"), "flux": ("diffrt", "diffrt-certified")}
DEFAULT = "sd15"  # the others with --all
STORED = {"flux": "bf16"}  # what weights are in, where it is not fp32


def run(
    setting: Setting,
    only: Sequence[str],
    rounds: int | None,
    done: Collection[tuple[str, ...]],
    everything: bool = False,
) -> Iterator[Row]:
    target = setting.work / "export"
    for case, names in CASES.items():
        keys = {name: (setting.suite, case, STAGE, name) for name in names}
        chosen = [name for name, key in keys.items() if key not in done and matches("/".join(key), only)]
        if chosen and (everything or case == DEFAULT):
            write_checkpoint(Job(case, "denoiser", 512, 512, 1, 20, 7.5, str(setting.work)), setting.log)
            yield from rows(setting, case, chosen, MODELS[case].checkpoint(setting.work).resolve(), target)
    shutil.rmtree(target, ignore_errors=True)


def rows(setting: Setting, case: str, names: Sequence[str], checkpoint: Path, target: Path) -> Iterator[Row]:
    baseline: float | None = None
    for name in names:
        runtime, commands = CONTENDERS[name]

        def row(name: str = name, runtime: str = runtime, **fields: Any) -> Row:
            stored = STORED.get(case, "fp32")
            return setting.row(case, STAGE, name, runtime=runtime, precision=stored, provider="cpu", **fields)

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
        if name == BASELINE:
            baseline = seconds
        yield row(
            status="measured", rounds=1, median_seconds=seconds, min_seconds=seconds, max_seconds=seconds,
            peak_bytes=max(each[2] for each in runs), disk_bytes=added(target), baseline_seconds=baseline,
            ratio=baseline and baseline / seconds, interleaved=False,
        )  # fmt: skip


def added(folder: Path) -> int:
    """Bytes of the files that are not links to the checkpoint's."""
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file() and f.stat().st_nlink == 1)
