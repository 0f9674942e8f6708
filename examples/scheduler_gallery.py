"""The samplers on a distribution whose score is known: their paths, and their error against the work they do.

    pip install '.[cpu]' matplotlib
    python examples/scheduler_gallery.py -o examples/scheduler_gallery.png

Data: five Gaussians in the plane. The "network" is the exact noise prediction of their mixture, so that all error is
the sampler's. Above: paths of 20 points from noise to data in 10 evaluations. Below: how far a run ends from the exact
solution of the probability-flow ODE (Karras et al. 2022, arXiv:2206.00364, eq. 1) from the same start, at the last
level above zero noise; the slope in this plot is the order of accuracy.
"""

import argparse
from collections.abc import Iterator

import matplotlib
import numpy as np

from diffrt.schedulers import Table, apply_row, from_config, init_slots

matplotlib.use("Agg")
import matplotlib.pyplot as plt

SD = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "clip_sample": False}
KARRAS = SD | {"use_karras_sigmas": True}
PATHS = {
    "Euler": ("EulerDiscreteScheduler", KARRAS),
    "Heun": ("HeunDiscreteScheduler", KARRAS),
    "DPM++ 2M": ("DPMSolverMultistepScheduler", KARRAS),
    "UniPC": ("UniPCMultistepScheduler", KARRAS),
    "Euler ancestral": ("EulerAncestralDiscreteScheduler", SD),
    "DPM++ 2M SDE": ("DPMSolverMultistepScheduler", KARRAS | {"algorithm_type": "sde-dpmsolver++"}),
    "DDIM": ("DDIMScheduler", SD | {"timestep_spacing": "trailing"}),
    "LCM": ("LCMScheduler", SD),
}
ERRORS = {
    "DDIM": ("DDIMScheduler", SD | {"timestep_spacing": "trailing"}),
    "Euler": ("EulerDiscreteScheduler", KARRAS),
    "Heun": ("HeunDiscreteScheduler", KARRAS),
    "DPM2": ("KDPM2DiscreteScheduler", KARRAS),
    "DPM++ 2M": ("DPMSolverMultistepScheduler", KARRAS | {"lower_order_final": False}),
    "DEIS 3": ("DEISMultistepScheduler", KARRAS | {"solver_order": 3, "lower_order_final": False}),
    "UniPC 3": ("UniPCMultistepScheduler", KARRAS | {"solver_order": 3, "lower_order_final": False}),
    "LMS 4": ("LMSDiscreteScheduler", KARRAS),
}
EVALUATIONS = (8, 10, 20, 25, 40, 50, 100, 125, 200, 250)  # divisors of 1000: DDIM steps by whole training steps
MODES = np.array([[np.sin(a), np.cos(a)] for a in np.arange(5) * 2 * np.pi / 5])  # [5,2]
WIDTH = 0.13  # the standard deviation of each


def noise_in(x: np.ndarray, alpha: float, sigma: float) -> np.ndarray:  # [B,2] -> [B,2]
    """The expected noise in x = alpha x0 + sigma eps: -sigma times the score of the mixture there."""
    variance = (alpha * WIDTH) ** 2 + sigma**2
    away = x[:, None] - alpha * MODES  # [B,5,2]
    logits = -np.square(away).sum(-1) / (2 * variance)
    share = np.exp(logits - logits.max(1, keepdims=True))
    share /= share.sum(1, keepdims=True)
    return sigma * (share[..., None] * away).sum(1) / variance


def run(table: Table, x: np.ndarray, seed: int = 0) -> Iterator[np.ndarray]:
    """x before the first evaluation and after each one."""
    rng, slots = np.random.default_rng(seed), init_slots(table, x)
    yield x
    for i in range(table.evals):
        m = noise_in(slots[0], table.alpha[i], table.sigma[i])
        slots = apply_row(table, i, slots, m, rng.standard_normal(x.shape) if table.noisy[i] else None)
        yield slots[0]


def exact(x: np.ndarray, start: float, end: float, steps: int = 400) -> np.ndarray:
    """dx/dsigma = eps of x = x0 + sigma eps from one sigma to another: Runge-Kutta of order 4 in log sigma."""
    logs = np.linspace(np.log(start), np.log(end), steps + 1)

    def slope(x: np.ndarray, log_sigma: float) -> np.ndarray:
        sigma = float(np.exp(log_sigma))
        return sigma * noise_in(x, 1.0, sigma)

    h = logs[1] - logs[0]
    for at in logs[:-1]:
        k1 = slope(x, at)
        k2 = slope(x + h / 2 * k1, at + h / 2)
        k3 = slope(x + h / 2 * k2, at + h / 2)
        k4 = slope(x + h * k3, at + h)
        x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return x


def table_of(name: str, config: dict, evaluations: int) -> Table:
    """As many steps as make this number of evaluations, or one more."""
    scheduler = from_config(config, name)
    per_step = scheduler.table(20).evals / 20
    return scheduler.table(max(round(evaluations / per_step), 1))


def error(name: str, config: dict, evaluations: int, z: np.ndarray) -> tuple[int, float]:
    """(evaluations made, root mean square distance) where the last step begins."""
    table = table_of(name, config, evaluations)
    last = int(np.flatnonzero(table.step_of == table.steps - 1)[0])
    x0 = z * table.init_sigma
    x = list(run(table, x0))[last]
    ratio = table.sigma / table.alpha
    truth = exact(x0 / table.alpha[0], ratio[0], ratio[last])
    return last, float(np.sqrt(np.square(x / table.alpha[last] - truth).sum(1).mean()))


def draw_paths(axes, label: str, name: str, config: dict, z: np.ndarray) -> None:
    table = table_of(name, config, 10)
    scale = np.append(np.hypot(table.alpha, table.sigma), 1)  # all levels are drawn with noise of unit variance
    points = np.array([x / s for x, s in zip(run(table, z * table.init_sigma), scale, strict=True)])
    which = np.square(points[-1][:, None] - MODES).sum(-1).argmin(1)
    grid = np.stack(np.meshgrid(*[np.linspace(-2.6, 2.6, 130)] * 2), -1)
    density = np.exp(-np.square(grid[..., None, :] - MODES).sum(-1) / (2 * WIDTH**2)).sum(-1)
    axes.contourf(
        grid[..., 0], grid[..., 1], density, levels=[0.05, 0.3, 0.7, 1.2], colors=["#e8e8ee", "#d5d5e0", "#bcbccd"]
    )
    for mode in range(len(MODES)):
        chosen = points[:, which == mode]
        axes.plot(*points[:, which == mode][:, :4].transpose(2, 0, 1), color=f"C{mode}", lw=0.8, alpha=0.7)
        axes.scatter(*chosen[-1].T, color=f"C{mode}", s=9, lw=0, zorder=3)
    kind = "fresh noise" if table.noisy.any() else "deterministic"
    axes.set_title(label, fontsize=11, loc="left", fontweight="bold")
    axes.text(0.03, 0.03, f"{table.evals} evaluations, {kind}", transform=axes.transAxes, fontsize=7.5, color="0.35")
    axes.set(xlim=(-2.4, 2.4), ylim=(-2.4, 2.4), xticks=[], yticks=[], aspect="equal")


def draw_errors(axes, z: np.ndarray) -> None:
    ends = []
    for k, (label, (name, config)) in enumerate(ERRORS.items()):
        work, errors = np.array([error(name, config, n, z) for n in EVALUATIONS]).T
        slope = -np.polyfit(np.log(work[-4:]), np.log(errors[-4:]), 1)[0]
        (line,) = axes.loglog(work, errors, "o-", ms=3.5, lw=1.6, color=plt.get_cmap("tab10")(k))
        ends.append([np.log10(errors[-1]), f"{label}  (slope {slope:.1f})", line.get_color(), work[-1], errors[-1]])
    low, high = np.log10(axes.get_ylim())
    ends.sort()
    place = [each[0] for each in ends]
    for i in range(1, len(place)):  # labels keep their distance
        place[i] = max(place[i], place[i - 1] + 0.042 * (high - low))
    for (_, text, colour, x, y), at in zip(ends, place, strict=True):
        axes.annotate(text, (x, y), (x * 1.12, 10**at), color=colour, fontsize=9, va="center")
    axes.set_xlim(right=EVALUATIONS[-1] * 2.4)
    axes.set_xlabel("model evaluations")
    axes.set_ylabel("distance from the exact solution")
    axes.set_xticks(EVALUATIONS[::2], EVALUATIONS[::2], minor=False)
    axes.minorticks_off()
    axes.grid(color="0.92")
    axes.spines[["top", "right"]].set_visible(False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", default="scheduler_gallery.png", help="a picture file")
    parser.add_argument("--seed", type=int, default=4, help="of the starting noise (4)")
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    figure = plt.figure(figsize=(11, 10.4), dpi=110)
    grid = figure.add_gridspec(3, 4, height_ratios=(1, 1, 1.5), hspace=0.22, wspace=0.06)
    few, many = rng.standard_normal((60, 2)), rng.standard_normal((256, 2))
    for k, (label, (name, config)) in enumerate(PATHS.items()):
        draw_paths(figure.add_subplot(grid[k // 4, k % 4]), label, name, config, few)
    draw_errors(figure.add_subplot(grid[2, :]), many)
    figure.savefig(args.output, bbox_inches="tight", facecolor="white")
    print(args.output)


if __name__ == "__main__":
    main()
