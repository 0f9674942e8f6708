"""Classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598, eq. 6, in the convention where 1 is no guidance).

m = m(nothing) + scale * (m(prompt) - m(nothing))

With several conditions each adds its part (Liu et al. 2022, arXiv:2206.01714, eq. 11). The scale may be another one in
every row of the table: 1 outside of an interval of the run, or what CFG++ makes of it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffrt.errors import InvalidArgument
from diffrt.tables.table import Table

F32 = NDArray[np.float32]
Model = Callable[[F32, float, int], F32]  # (x [B,C,h,w], t, row of the table) -> [B,C,h,w]
Conditions = Mapping[str, NDArray[Any]]  # what a denoiser is told beside x and t, by its inputs' names: each [B,...]
Conditioned = Callable[[F32, float, Conditions], F32]  # (x, t, conditions) -> [B,C,h,w]


def is_guided(scale: float) -> bool:
    """At a scale of 1 or below there is nothing to guide away from: one evaluation, not two."""
    return scale > 1


def guide(
    model: Conditioned,
    conditions: Conditions,
    negative: Conditions | None,
    scale: float | F32,
    factors: Sequence[float | None] | None = None,
    rescale: float = 0.0,
) -> Model:
    """The model of x, t and the row alone. conditions [K*B,...], the first ones of all B pictures, then the second
    ones; negative [B,...], with None it is not guided; scale: one number, or [K,B], one for each condition of each
    picture; factors [E]: by what the scale is multiplied in each row, None where the row is not guided (K = 1);
    rescale: as in `rescaled` (K = 1).

    All go through the model as one batch, the negative first. Raises InvalidArgument where they cannot.
    """
    if negative is None:
        return lambda x, t, row: model(x, t, conditions)
    everything, scales = together(conditions, negative, scale)
    count = len(scales)
    scales = scales[..., None, None, None]

    def guided(x: F32, t: float, row: int) -> F32:
        factor = 1.0 if factors is None else factors[row]
        if factor is None:
            return model(x, t, conditions)
        without, *told = np.split(model(np.concatenate([x] * (1 + count)), t, everything), 1 + count)
        parts = zip(scales * np.float32(factor), told, strict=True)
        m = without + sum(k * (with_prompt - without) for k, with_prompt in parts)
        return rescaled(m, told[0], rescale) if rescale else m

    return guided


@dataclass(frozen=True, eq=False)
class Mixture:
    """Guidance in numbers: what is evaluated, and how a picture's output is made of it."""

    conditions: Conditions  # [N,...]
    pictures: NDArray[np.int64]  # [N] of which picture each evaluation is
    weights: F32  # [B,N] m of a picture is the sum of what the evaluations give, times these


def mixtures(
    conditions: Conditions,
    negative: Conditions | None,
    scale: float | F32,
    batch: int,
    factors: Sequence[float | None] | None = None,
) -> Callable[[int], Mixture]:
    """Of each row of the table, for B pictures, what `guide` says: m(nothing) (1 - scale) + m(prompt) scale."""
    own = np.arange(batch)
    alone = Mixture(conditions, own, np.eye(batch, dtype=np.float32))
    if negative is None:
        return lambda row: alone
    everything, scales = together(conditions, negative, scale)
    pictures = np.tile(own, 1 + len(scales))

    def mixture(row: int) -> Mixture:
        factor = 1.0 if factors is None else factors[row]
        if factor is None:
            return alone
        shares = np.concatenate([1 - factor * scales.sum(axis=0, keepdims=True), factor * scales])  # [1+K,B]
        weights = np.where(own[:, None] == pictures, shares.reshape(-1), 0)
        return Mixture(everything, pictures, weights.astype(np.float32))

    return mixture


def together(
    conditions: Conditions, negative: Conditions, scale: float | F32
) -> tuple[Conditions, F32]:  # [(1+K)*B,...], [K,B]
    """What goes through the model as one batch, the negative first, and the scale of each condition."""
    everything = {name: joined(name, negative[name], array) for name, array in conditions.items()}
    batch = len(next(iter(negative.values())))
    count = len(next(iter(conditions.values()))) // batch
    return everything, np.broadcast_to(np.asarray(scale, np.float32), (count, batch))


def joined(name: str, negative: NDArray[Any], positive: NDArray[Any]) -> NDArray[Any]:
    """Of one input of the denoiser, the negative half and then the other. InvalidArgument where they do not fit."""
    if len(positive) % len(negative) or positive.shape[1:] != negative.shape[1:]:
        raise InvalidArgument(
            f"the prompt's {name} has the shape {list(positive.shape)}, the negative prompt's {list(negative.shape)}: "
            "pass negative_prompt_embeds of the same shape, or chunks='auto'"
        )
    return np.concatenate([negative, positive])


def rescaled(m: F32, with_prompt: F32, share: float) -> F32:
    """A share of the way from m to where each picture's standard deviation is what it is without guidance: against
    over-exposure (Lin et al. 2023, arXiv:2305.08891, section 3.4). All [B,C,h,w]."""
    deviations = [each.reshape(len(m), -1).std(axis=1, dtype=np.float64) for each in (with_prompt, m)]
    factor = share * deviations[0] / deviations[1] + (1 - share)
    return m * factor.astype(np.float32)[:, None, None, None]


def factors(table: Table, interval: tuple[float, float], plus_plus: bool) -> list[float | None]:  # [E]
    """By what the scale is multiplied in each row; None where it is not guided.

    interval: from which to which share of its steps a run is guided (Kynkäänniemi et al. 2024, arXiv:2404.07724).
    """
    start, end = (int(share * table.steps) for share in interval)
    by_row = plus_plus_factors(table) if plus_plus else np.ones(table.evals)
    inside = (start <= table.step_of) & (table.step_of < end)
    return [float(factor) if guided else None for factor, guided in zip(by_row, inside, strict=True)]


def plus_plus_factors(table: Table) -> NDArray[np.float64]:  # [E]
    """What makes guidance CFG++ (Chung et al. 2024, arXiv:2406.08070, algorithm 2): x' is made of the guided x0, but of
    the noise that the unguided model sees.

    Where x' is linear in x and m of the row alone, it is P x + R x0 = (P alpha + R) x0 + P sigma eps. With g the
    guided part of x0, of which the first term alone is to have its share, that is P x + R (x0 + (P alpha + R) / R g):
    plain guidance at another scale. InvalidArgument for other samplers.
    """
    if len(table.slots) > 1:
        raise InvalidArgument(
            "cfg_plus_plus needs a sampler whose steps read nothing of the steps before, such as ddim, euler or "
            f"euler-a; this one remembers {', '.join(table.slots[1:])}"
        )
    if table.clip is not None or table.threshold is not None:
        raise InvalidArgument("cfg_plus_plus needs a sampler that does not clip: clip_sample and thresholding false")
    of_x, of_m = table.folded[:, 0, 0], table.folded[:, 0, 2]
    R = np.divide(of_m, table.qx0, out=np.zeros(table.evals), where=table.calls)
    P = of_x - R * table.px0
    return np.divide(P * table.alpha + R, R, out=np.ones(table.evals), where=R != 0)
