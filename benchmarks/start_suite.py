"""How long a newcomer waits, and what must be installed: diffrt and diffusers, on the model inside the package.

Every run is a fresh process, and the two take turns. "import" is timed inside it; "first picture" is from its start to
the file. "install" is the size on disk of the packages that each needs, as they are installed here.
"""

import importlib.metadata
import json
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measures import spread
from benchmarks.plan import matches
from benchmarks.processes import REPOSITORY, Failed, command
from benchmarks.rows import Row
from benchmarks.setting import Setting
from diffrt.pipeline import BUNDLES

ROUNDS = 5
CASE = "emoji-128"
IMPORTS = {
    "diffusers": "from diffusers import StableDiffusionPipeline",
    "diffrt": "from diffrt import load",
}
LOADS = {
    "diffusers": "pipe = StableDiffusionPipeline.from_pretrained(folder, variant='fp16', torch_dtype=torch.float32)",
    "diffrt": "pipe = load(folder)",
}
SEEDS = {"diffusers": "generator=torch.Generator().manual_seed(7)", "diffrt": "seed=7"}
SCRIPT = """
import json, sys, time
start = time.perf_counter()
{before}
{imports}
imported = time.perf_counter()
{rest}
"""
DRAW = """
folder, file = sys.argv[1:]
{load}
loaded = time.perf_counter()
out = pipe("a red fox", num_inference_steps=4, guidance_scale=3.0, height=128, width=128, {seed})
out.images[0].save(file)
print(json.dumps({{"import": imported - start, "load": loaded - imported, "draw": time.perf_counter() - loaded}}))
"""
ROOTS = {  # what pip is asked for
    "diffusers": ("diffusers", "transformers", "torch", "accelerate"),
    "diffrt": ("diffrt", "onnxruntime"),
}


def script(who: str, stage: str) -> str:
    before = "import torch" if who == "diffusers" else ""
    rest = "print(json.dumps({'import': imported - start}))"
    if stage == "first picture":
        rest = DRAW.format(load=LOADS[who], seed=SEEDS[who])
    return SCRIPT.format(before=before, imports=IMPORTS[who], rest=rest)


def run(
    setting: Setting,
    only: Sequence[str],
    rounds: int | None,
    done: Collection[tuple[str, ...]],
    everything: bool = False,
) -> Iterator[Row]:
    for stage in ("import", "first picture", "install"):
        keys = [(setting.suite, CASE, stage, who) for who in IMPORTS]
        if not any(matches("/".join(key), only) for key in keys) or set(keys) <= set(done):
            continue
        yield from sizes(setting) if stage == "install" else turns(setting, stage, rounds or ROUNDS)


def turns(setting: Setting, stage: str, rounds: int) -> Iterator[Row]:
    runs: dict[str, list[tuple[float, int, Mapping[str, float]]]] = {who: [] for who in IMPORTS}
    failed: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        arguments = (str(BUNDLES["emoji"]), f"{folder}/picture.png") if stage == "first picture" else ()
        for number in range(1 + rounds):  # the first one warms the system's file cache
            for who in IMPORTS:
                try:
                    printed, seconds, peak = command("-c", script(who, stage), *arguments, log=setting.log)
                except Failed as error:
                    failed[who] = str(error)
                    continue
                if number:
                    parts = json.loads(printed.strip().splitlines()[-1])
                    runs[who].append((parts["import"] if stage == "import" else seconds, peak, parts))
    theirs = spread([each[0] for each in runs["diffusers"]])["median_seconds"] if runs["diffusers"] else None
    for who, measured in runs.items():
        if who in failed:
            yield row(setting, stage, who, status="failed", reason=failed[who])
            continue
        times = spread([each[0] for each in measured])
        middle = sorted(measured, key=lambda each: each[0])[len(measured) // 2][2]
        yield row(
            setting, stage, who, status="measured", **times, peak_bytes=max(each[1] for each in measured),
            baseline_seconds=theirs, ratio=theirs and theirs / times["median_seconds"],
            parts=middle if stage == "first picture" else {},
        )  # fmt: skip


def sizes(setting: Setting) -> Iterator[Row]:
    for who, roots in ROOTS.items():
        parts = {name: float(size(name)) for name in closure(roots)}
        yield row(setting, "install", who, status="measured", disk_bytes=int(sum(parts.values())), parts=parts)


def row(setting: Setting, stage: str, who: str, **fields: Any) -> Row:
    return setting.row(CASE, stage, who, runtime=who, precision="fp32", provider="cpu", **fields)


def closure(roots: Sequence[str]) -> list[str]:
    """The installed packages among those that these need, themselves included; no extras but those asked for."""
    from packaging.requirements import Requirement

    found: dict[str, tuple[str, ...]] = {}
    todo = [Requirement(name) for name in roots]
    while todo:
        wanted = todo.pop()
        name, extras = wanted.name.lower().replace("_", "-"), tuple(sorted(wanted.extras))
        if found.get(name) == extras:
            continue
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        found[name] = extras
        for line in distribution.requires or ():
            needed = Requirement(line)
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
                todo.append(needed)
    return sorted(found)


def size(name: str) -> int:
    """Bytes of a package's files; of diffrt, those that a wheel has."""
    if name == "diffrt":
        files = [f for folder in ("diffrt", "exporters") for f in (REPOSITORY / folder).rglob("*")]
        return sum(f.stat().st_size for f in files if f.is_file() and "__pycache__" not in f.parts)
    paths = [Path(str(file.locate())) for file in importlib.metadata.files(name) or ()]
    return sum(path.stat().st_size for path in paths if path.is_file() and path.suffix != ".pyc")
