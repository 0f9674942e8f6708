"""What one step of a scheduler costs, ours and diffusers', on one core, taking turns.

A step here is what a loop does between two model evaluations: the next sample, which takes the place of the one before.
(diffusers' `step` also draws its noise and makes the preview of the clean picture, which ours makes when it is asked
for.) Over every step of all repeats of a 20-step run, in CPU time: what other processes disturb least.

python -m benchmarks.schedulers_suite REPEATS NAME... prints one JSON object for each scheduler and shape.
"""

import inspect
import json
import sys
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import numpy as np

from benchmarks.measures import spread
from benchmarks.plan import matches
from benchmarks.processes import Failed, command
from benchmarks.rows import Row
from benchmarks.setting import Setting
from diffrt.schedulers import SCHEDULERS

SHAPES = (1, 4, 64, 64), (1, 16, 128, 128)
STEPS = 20
REPEATS = 40  # runs of all steps
WHO = {"diffusers": "diffusers", "diffrt": "diffrt"}  # contender -> runtime


def run(
    setting: Setting,
    only: Sequence[str],
    rounds: int | None,
    done: Collection[tuple[str, ...]],
    everything: bool = False,
) -> Iterator[Row]:
    names = []
    for name in SCHEDULERS:
        keys = [(setting.suite, case(shape), name, who) for shape in SHAPES for who in WHO]
        if any(matches("/".join(key), only) for key in keys) and not set(keys) <= set(done):
            names.append(name)
    try:
        printed, _, _ = command("-m", __name__, str(rounds or REPEATS), *names, threads=1, log=setting.log)
    except Failed as error:
        for name in names:
            for shape in SHAPES:
                yield row(setting, case(shape), name, "diffrt", status="failed", reason=str(error))
        return
    for line in printed.splitlines():
        found = json.loads(line)
        theirs = spread(found["diffusers"])["median_seconds"] if found["diffusers"] else None
        for who in WHO:
            if not found[who]:
                why = "20 steps of its default config are not for it, or its step takes other arguments"
                yield row(setting, found["case"], found["name"], who, status="not measured", reason=why)
                continue
            times = spread(found[who])
            ratio = theirs / times["median_seconds"] if theirs else None
            more = {"baseline_seconds": theirs, "ratio": ratio, "shapes": {"x": found["shape"]}}
            yield row(setting, found["case"], found["name"], who, status="measured", **times, **more)


def row(setting: Setting, case: str, name: str, who: str, **fields: Any) -> Row:
    common = {"runtime": WHO[who], "precision": "fp32", "provider": "cpu"}
    return setting.row(case, name, who, **common, **fields)


def case(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape[1:]))


def our_steps(name: str, x: np.ndarray, m: np.ndarray, z: np.ndarray) -> list[float]:
    stepper = SCHEDULERS[name]().stepper(STEPS)
    x, spent = x * np.float32(stepper.init_noise_sigma), []
    for i, t in enumerate(stepper.timesteps):
        output = m.copy() if stepper.table.calls[i] else None  # a network's output is a new array
        seconds, x = timed(lambda x=x, t=t, output=output: stepper.step(output, t, x, z).prev_sample)  # type: ignore[misc]
        spent.append(seconds)
    return spent


def their_steps(name: str, x: np.ndarray, m: np.ndarray, z: np.ndarray) -> list[float]:
    import diffusers
    import torch

    scheduler = getattr(diffusers, name)()
    scheduler.set_timesteps(STEPS)
    sample, spent = torch.from_numpy(x) * float(getattr(scheduler, "init_noise_sigma", 1)), []
    for t in scheduler.timesteps:
        output = torch.from_numpy(m.copy())
        if hasattr(scheduler, "scale_model_input"):
            scheduler.scale_model_input(sample, t)
        seconds, sample = timed(lambda s=sample, t=t, output=output: scheduler.step(output, t, s).prev_sample)  # type: ignore[misc]
        spent.append(seconds)
    return spent


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    start = time.thread_time()
    result = call()
    return time.thread_time() - start, result


def plain(name: str) -> bool:
    """Whether diffusers is here and its class is driven by step(model_output, timestep, sample) alone."""
    try:
        import diffusers
    except ImportError:
        return False
    step = getattr(getattr(diffusers, name, None), "step", None)
    if step is None:
        return False
    needed = [p for p in inspect.signature(step).parameters.values() if p.default is p.empty]
    return [p.name for p in needed] == ["self", "model_output", "timestep", "sample"]


def measure(name: str, shape: tuple[int, ...], repeats: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    x, m, z = (rng.standard_normal(shape, np.float32) for _ in range(3))
    ours: list[float] = []
    theirs: list[float] = []
    try:
        for _ in range(repeats):
            ours += our_steps(name, x, m, z)
            theirs += their_steps(name, x, m, z) if plain(name) else []
    except (ValueError, TypeError, IndexError):
        pass  # 20 steps of the default config are not for this class on one of the sides
    return {"name": name, "case": case(shape), "shape": shape, "diffrt": ours, "diffusers": theirs}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    for each in sys.argv[2:]:
        for size in SHAPES:
            print(json.dumps(measure(each, size, int(sys.argv[1]))), flush=True)
