"""The grid: which noise levels a run visits.

A node is a point of the forward process x = alpha * x0 + sigma * eps. Two conventions meet here:

    VP  alpha^2 + sigma^2 = 1, the model sees x itself             (Ho et al. 2020, arXiv:2006.11239, eq. 4)
    VE  alpha = 1, the model sees x / sqrt(sigma^2 + 1)            (Karras et al. 2022, arXiv:2206.00364)
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from diffrt.errors import InvalidArgument
from diffrt.schedulers.beta_quantile import beta_quantile
from diffrt.schedulers.betas import f32, sigmas_of

Custom = np.ndarray | None  # [n] f64, timesteps or sigmas that are given in place of a number of steps


@dataclass(frozen=True)
class Node:
    """Where x = alpha * x0 + sigma * eps; the model is called as model(c_in * x, t)."""

    t: float
    alpha: float
    sigma: float
    c_in: float = 1.0

    @property
    def lam(self) -> float:
        """Half the log signal-to-noise ratio, log(alpha / sigma); infinite without noise, or without signal."""
        if not self.alpha:
            return -math.inf
        return math.log(self.alpha / self.sigma) if self.sigma else math.inf


def vp_node(t: float, abar: float) -> Node:
    """The node of cumulative product abar = alpha^2."""
    return Node(float(t), math.sqrt(abar), math.sqrt(1 - float(abar)))


def vp_node_of_sigma(t: float, sigma: float) -> Node:
    """The VP node whose noise-to-signal ratio is sigma."""
    alpha = 1 / math.sqrt(float(sigma) ** 2 + 1)
    return Node(float(t), alpha, float(sigma) * alpha)


def ve_node(t: float, sigma: float, data: float = 1.0) -> Node:
    """The node x = x0 + sigma * eps, where the data's deviation is `data`."""
    return Node(float(t), 1.0, float(sigma), 1 / math.hypot(sigma, data))


def noise_to_signal(node: Node) -> float:
    """sigma / alpha, which most schedulers call the sigma of a level."""
    return node.sigma / node.alpha if node.alpha else math.inf


@dataclass(frozen=True)
class Grid:
    """The steps of a run: step k leaves node at[k], where the model is evaluated, and arrives at node to[k].

    Nearly always to[k] is at[k + 1]; DDIM and PNDM count back a fixed stride instead and may arrive beside it.
    init_sigma scales unit noise into initial latents.
    """

    at: tuple[Node, ...]
    to: tuple[Node, ...]
    init_sigma: float = 1.0
    skipped: int = 0  # steps of the run that were left out before the first
    level: Callable[[Node], float] = noise_to_signal  # what the reference calls the sigma of a node

    def __post_init__(self) -> None:
        for node, to in self:
            # A step that adds noise may start from none.
            if not (0 <= node.sigma < math.inf and math.isfinite(node.alpha)) or node.sigma == to.sigma == 0:
                raise InvalidArgument(
                    f"the noise level at t = {node.t:g} is alpha = {node.alpha:g}, sigma = {node.sigma:g}: "
                    "a step must start from a finite one above 0; check the betas"
                )

    @classmethod
    def through(
        cls, nodes: Sequence[Node], init_sigma: float = 1.0, level: Callable[[Node], float] = noise_to_signal
    ) -> "Grid":
        """From each node to the next."""
        return cls(tuple(nodes[:-1]), tuple(nodes[1:]), init_sigma, level=level)

    def __len__(self) -> int:
        return len(self.at)

    def __iter__(self) -> Iterator[tuple[Node, Node]]:
        return zip(self.at, self.to, strict=True)

    def after(self, skip: int) -> "Grid":
        """Its steps from `skip` on."""
        return replace(self, at=self.at[skip:], to=self.to[skip:], skipped=self.skipped + skip)

    @property
    def sigmas(self) -> np.ndarray:  # [n + 1] f64
        """The level of every node and of the one arrived at last."""
        return np.array([self.level(n) for n in (*self.at, self.to[-1])])

    def distinct(self) -> "Grid":
        """Itself, where no level repeats (the last step may stand still): multistep methods divide by gaps."""
        levels = self.sigmas[:-1]
        repeats = np.flatnonzero(np.diff(levels) * (1 if levels[-1] > levels[0] else -1) <= 0)
        if len(repeats):
            raise InvalidArgument(
                f"{len(self)} steps visit the noise level at t = {self.at[repeats[0] + 1].t:g} twice: "
                "take fewer steps or another timestep_spacing"
            )
        return self


# --- choosing times and noise levels ---------------------------------------------------------------------


def spaced(spacing: str, n: int, last: int, offset: int = 0, stride: float | None = None) -> np.ndarray:
    """n times descending from below `last` to about 0, not yet rounded. [n] f64   (arXiv:2305.08891, table 2)

    The reference's "trailing" makes n + 1 times, the last of them -1, for some n (61, 103, 121, ... of 1000)
    where last / n rounds down; here that one is dropped.
    """
    if spacing == "linspace":
        return np.linspace(0, last - 1, n)[::-1]
    if spacing == "leading":
        return np.arange(n)[::-1] * float(last // n) + offset
    times = np.round(np.arange(last, 0, -(stride or last / n))) - 1
    return times[times >= 0]


def karras(lo: float, hi: float, n: int, rho: float = 7.0) -> np.ndarray:  # [n] f64, from hi down to lo
    """arXiv:2206.00364 eq. 5."""
    lo, hi = lo ** (1 / rho), hi ** (1 / rho)
    return (hi + np.linspace(0, 1, n) * (lo - hi)) ** rho


def exponential(lo: float, hi: float, n: int) -> np.ndarray:  # [n] f64, from hi down to lo
    """Even in log sigma, and so in lambda (Lu et al. 2022, arXiv:2206.00927, section 3.3)."""
    return np.exp(np.linspace(math.log(hi), math.log(lo), n))


def beta(lo: float, hi: float, n: int) -> np.ndarray:  # [n] f64, from hi down to lo
    """Quantiles of the beta(0.6, 0.6) distribution: denser at both ends (Lee et al. 2024, arXiv:2407.12173)."""
    return lo + (hi - lo) * beta_quantile(1 - np.linspace(0, 1, n), 0.6)


RESPACINGS = {
    "use_karras_sigmas": karras,
    "use_exponential_sigmas": exponential,
    "use_lu_lambdas": exponential,
    "use_beta_sigmas": beta,
}


def time_of(sigma: np.ndarray, train: np.ndarray) -> np.ndarray:  # [n] f64, [T] f32 -> [n] f64
    """The fractional training time of each sigma: linear in log sigma between its two neighbours."""
    log_sigma, log_train = np.log(np.maximum(sigma, 1e-10)), np.log(train)
    below = log_train[:, None] <= log_sigma  # where zero terminal SNR makes levels fall again, the last one counts
    low = np.where(below.any(0), len(train) - 1 - below[::-1].argmax(0), 0).clip(max=len(train) - 2)
    w = np.clip((log_train[low] - log_sigma) / (log_train[low] - log_train[low + 1]), 0, 1)
    return (1 - w) * low + w * (low + 1)


def whole(times: np.ndarray) -> np.ndarray:  # [n] f64
    """Custom timesteps of a model that was trained at whole ones, or InvalidArgument."""
    if (times % 1).any():
        raise InvalidArgument(f"timesteps must be whole numbers, got {times[times % 1 > 0][0]:g}: round them")
    return times


# --- the two conventions ---------------------------------------------------------------------------------


def training_node(abar: np.ndarray, t: float, set_alpha_to_one: bool) -> Node:
    """The VP node of training step t; a t below 0 is the end: no noise, or that of step 0."""
    if t >= len(abar):
        last = len(abar) - 1
        raise InvalidArgument(f"timestep {t:g} is beyond the last, {last}: take fewer steps or a smaller steps_offset")
    return vp_node(t, abar[int(t)] if t >= 0 else 1.0 if set_alpha_to_one else abar[0])


def vp_marginal(abar: np.ndarray, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(alpha, sigma) at training times t, between two of them by abar. [B] f64 -> [B] f64, [B] f64"""
    a = np.interp(t, np.arange(len(abar)), abar)
    return np.sqrt(a), np.sqrt(1 - a)


def ve_levels(
    abar: np.ndarray,
    times: np.ndarray,
    respace: Callable[[float, float, int], np.ndarray] | None = None,
    ends: tuple[float | None, float | None] = (None, None),
    rounded: bool = True,
) -> tuple[np.ndarray, np.ndarray]:  # [T], [n] -> [n] f64, [n] f64
    """(times, sigmas): the training levels at these times, or as many re-spaced from the first to the last, or
    between the (lower, upper) ends that are given, with the times of those. `rounded`: times are read in float32."""
    train = sigmas_of(abar)
    sigmas = np.interp(times.astype(f32) if rounded else times, np.arange(len(train)), train)
    if respace is None:
        return times, sigmas
    low, high = (float(here if end is None else end) for here, end in zip(sigmas[[-1, 0]], ends, strict=True))
    sigmas = respace(low, high, len(times))
    return time_of(sigmas, train), sigmas


def ve_grid(times: np.ndarray, sigmas: np.ndarray, spacing: str) -> Grid:  # [n], [n + 1]
    """VE steps through these levels. "leading" starts below the highest level, and so from a little more noise."""
    sigmas = sigmas.astype(f32)
    nodes = [ve_node(t, sigma) for t, sigma in zip((*times.astype(f32), 0.0), sigmas, strict=True)]
    top = float(sigmas.max())
    return Grid.through(nodes, math.hypot(top, 1) if spacing == "leading" else top)


def ve_marginal(abar: np.ndarray, t: np.ndarray, log: bool) -> tuple[np.ndarray, np.ndarray]:
    """(1, sigma) at training times t, by sigma, or by log sigma where time_of made the times. [B] f64 -> [B] f64"""
    train, every = sigmas_of(abar), np.arange(len(abar))
    sigma = np.exp(np.interp(t, every, np.log(train))) if log else np.interp(t, every, train)
    return np.ones_like(t), sigma
