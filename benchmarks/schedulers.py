"""What one step of a scheduler costs, ours and diffusers', on one core, taking turns.

    OMP_NUM_THREADS=1 python benchmarks/schedulers.py [--only euler ddim] [--repeats 40]

A step here is what a loop does between two model evaluations: the next sample, which takes the place of the one before.
(diffusers' `step` also draws its noise and makes the preview of the clean picture, which ours makes when it is asked
for.) Over every step of all repeats of a 20-step run: the median and, what other processes disturb least, the fastest
tenth, in CPU time. For scale: what one product of x with a number costs, in memory that is there and in new memory.
"""

import argparse
import inspect
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import diffusers
import numpy as np
import torch

from diffrt.schedulers import SCHEDULERS, scheduler_class

SHAPES = (1, 4, 64, 64), (1, 16, 128, 128)
STEPS = 20


def our_steps(name: str, x: np.ndarray, m: np.ndarray, z: np.ndarray) -> list[float]:
    stepper = SCHEDULERS[name]().stepper(STEPS)
    x, spent = x * np.float32(stepper.init_noise_sigma), []
    for i, t in enumerate(stepper.timesteps):
        output = m.copy() if stepper.table.calls[i] else None  # a network's output is a new array
        seconds, x = timed(lambda x=x, t=t, output=output: stepper.step(output, t, x, z).prev_sample)
        spent.append(seconds)
    return spent


def their_steps(name: str, x: np.ndarray, m: np.ndarray, z: np.ndarray) -> list[float]:
    scheduler = getattr(diffusers, name)()
    scheduler.set_timesteps(STEPS)
    sample, spent = torch.from_numpy(x) * float(getattr(scheduler, "init_noise_sigma", 1)), []
    for t in scheduler.timesteps:
        output = torch.from_numpy(m.copy())
        if hasattr(scheduler, "scale_model_input"):
            scheduler.scale_model_input(sample, t)
        seconds, sample = timed(lambda s=sample, t=t, output=output: scheduler.step(output, t, s).prev_sample)
        spent.append(seconds)
    return spent


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    start = time.thread_time()
    result = call()
    return time.thread_time() - start, result


def one_product(x: np.ndarray, repeats: int) -> tuple[list[float], list[float]]:
    """Into the same array, and into new ones that the system must hand out page by page."""
    out, news = np.empty_like(x), []
    reused = [timed(lambda: np.multiply(x, 0.5, out))[0] for _ in range(repeats)]
    for _ in range(repeats):
        seconds, new = timed(lambda: np.multiply(x, 0.5))
        news.append((seconds, new))
    return reused, [seconds for seconds, _ in news]


def figures(times: list[float]) -> str:
    if not times:
        return "-"
    return f"{1e3 * statistics.median(times):.3f} / {1e3 * sorted(times)[len(times) // 10]:.3f}"


def plain(name: str) -> bool:
    """Whether diffusers' class is driven by step(model_output, timestep, sample) alone."""
    step = getattr(getattr(diffusers, name, None), "step", None)
    if step is None:
        return False
    needed = [p for p in inspect.signature(step).parameters.values() if p.default is p.empty]
    return [p.name for p in needed] == ["self", "model_output", "timestep", "sample"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these schedulers")
    parser.add_argument("--repeats", type=int, default=40, help="runs of 20 steps each (40)")
    args = parser.parse_args()
    names = [scheduler_class(name).__name__ for name in args.only] if args.only else list(SCHEDULERS)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    versions = f"diffusers {diffusers.__version__}, torch {torch.__version__}, numpy {np.__version__}"
    print(f"CPU milliseconds a step: median / fastest tenth; {versions}")
    print(f"{'':36}" + "".join(f"{'x'.join(map(str, shape[1:])):>16}{'diffusers':>16}" for shape in SHAPES))
    products = [one_product(np.ones(shape, np.float32), STEPS * args.repeats) for shape in SHAPES]
    for k, label in enumerate(("one product", "one product, new memory")):
        print(f"{label:36}" + "".join(f"{figures(both[k]):>16}{'':16}" for both in products))
    for name in names:
        line = f"{name:36}"
        for shape in SHAPES:
            rng = np.random.default_rng(0)
            x, m, z = (rng.standard_normal(shape, np.float32) for _ in range(3))
            ours, theirs = [], []
            try:
                for _ in range(args.repeats):
                    ours += our_steps(name, x, m, z)
                    theirs += their_steps(name, x, m, z) if plain(name) else []
            except (ValueError, TypeError, IndexError):
                pass  # 20 steps of the default config are not for this class on one of the sides
            line += "".join(f"{figures(times):>16}" for times in (ours, theirs))
        print(line, flush=True)


if __name__ == "__main__":
    main()
