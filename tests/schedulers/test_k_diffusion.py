"""Law 3 against k-diffusion's samplers, on levels and noise that golden/record_k_diffusion.py recorded, in float64.

Not compared, because diffusers' samplers are other ones and ours follow those: Euler with churn asks the network before
it adds noise, and DPM-Solver++ 3M SDE has another D2 (fault 6 of test_golden).
"""

from typing import Any

import numpy as np
import pytest

from diffrt.schedulers import SCHEDULERS, Grid, apply_row, init_slots
from diffrt.schedulers.grid import Node
from tests.schedulers.golden.record_k_diffusion import PROBES, SAMPLERS, denoiser

MULTISTEP = {"solver_order": 2, "lower_order_final": False}
SAME: dict[str, tuple[str, dict[str, Any]]] = {
    "sample_euler": ("EulerDiscreteScheduler", {}),
    "sample_euler_ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "sample_heun": ("HeunDiscreteScheduler", {}),
    "sample_dpm_2": ("KDPM2DiscreteScheduler", {}),
    "sample_dpm_2_ancestral": ("KDPM2AncestralDiscreteScheduler", {}),
    "sample_lms": ("LMSDiscreteScheduler", {}),
    "sample_dpmpp_2m": ("DPMSolverMultistepScheduler", MULTISTEP),
    "sample_dpmpp_2m_sde": ("DPMSolverMultistepScheduler", MULTISTEP | {"algorithm_type": "sde-dpmsolver++"}),
    "sample_dpmpp_2m_sde heun": (
        "DPMSolverMultistepScheduler",
        MULTISTEP | {"algorithm_type": "sde-dpmsolver++", "solver_type": "heun"},
    ),
    "sample_dpmpp_sde": ("DPMSolverSDEScheduler", {}),
    "sample_dpmpp_2s_ancestral": ("DPMSolverSinglestepScheduler", {}),  # at eta 0
}


@pytest.mark.parametrize("sampler", SAME)
def test_every_step(sampler: str) -> None:
    name, config = SAME[sampler]
    with np.load(PROBES) as probes:
        sigmas, x, noise, expected = (probes[key] for key in ("sigmas", "x", "noise", sampler))
    levels = sigmas
    if name == "DPMSolverSinglestepScheduler":  # there the middle of a step is a level of its own
        levels = np.insert(sigmas, range(1, len(sigmas) - 1), np.sqrt(sigmas[:-2] * sigmas[1:-1]))
    table = SCHEDULERS[name](**config).build(Grid.through([Node(0.0, 1.0, sigma) for sigma in levels]))
    slots, draws = init_slots(table, x), iter(noise)
    ends = np.append(np.diff(table.step_of) > 0, True) & np.isin(levels[table.step_of + 1], sigmas)
    got = []
    for i, sigma in enumerate(table.sigma):
        m = (slots[0] - denoiser(slots[0], sigma)) / sigma
        slots = apply_row(table, i, slots, m, next(draws) if table.noisy[i] else None)
        if ends[i]:
            got.append(slots[0])
    for ours, theirs in zip(got, expected, strict=True):
        assert np.abs(ours - theirs).max() < 1e-9 * np.abs(theirs).max()


def test_the_probes_are_whole() -> None:
    with np.load(PROBES) as probes:
        assert set(probes.files) == {"sigmas", "x", "noise", *SAMPLERS}
    assert PROBES.stat().st_size < 100_000
