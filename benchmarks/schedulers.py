"""What one step of a scheduler costs, ours and diffusers', on one core, taking turns.

    OMP_NUM_THREADS=1 python benchmarks/schedulers.py [--only euler ddim] [--repeats 40]

A step here is what a loop does between two model evaluations: the next sample. (diffusers' `step` also draws its noise
and makes the preview of the clean picture, which ours makes when it is asked for.) Medians over every step of all
repeats of a 20-step run.
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
        spent.append(timed(lambda x=x, t=t, output=output: stepper.step(output, t, x, z)))
        x = spent[-1][1].prev_sample
    return [seconds for seconds, _ in spent]


def their_steps(name: str, x: np.ndarray, m: np.ndarray, z: np.ndarray) -> list[float]:
    scheduler = getattr(diffusers, name)()
    scheduler.set_timesteps(STEPS)
    sample, spent = torch.from_numpy(x) * float(scheduler.init_noise_sigma), []
    for t in scheduler.timesteps:
        output = torch.from_numpy(m.copy())
        scheduler.scale_model_input(sample, t)
        spent.append(timed(lambda sample=sample, t=t, output=output: scheduler.step(output, t, sample)))
        sample = spent[-1][1].prev_sample
    return [seconds for seconds, _ in spent]


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


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
    print(f"milliseconds a step, median; diffusers {diffusers.__version__}, torch {torch.__version__}, "
          f"numpy {np.__version__}")  # fmt: skip
    print(f"{'':36}" + "".join(f"{'x'.join(map(str, shape[1:])):>12}{'diffusers':>11}" for shape in SHAPES))
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
            for times, width in ((ours, 12), (theirs, 11)):
                line += f"{1e3 * statistics.median(times):{width}.3f}" if times else f"{'-':>{width}}"
        print(line, flush=True)


if __name__ == "__main__":
    main()
