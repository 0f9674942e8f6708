"""DDPM and DDIM and what descends from them."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from diffrt.schedulers.ddpm import SPREADS
from tests.schedulers.cases.case import Case

if TYPE_CHECKING:
    from tests.schedulers.reference import Reference


def custom_timesteps(n: int, config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Uneven, and not down to 0."""
    last = config["num_train_timesteps"] - 1
    return {"timesteps": np.unique(np.linspace(3, last, n) ** 2 // last).astype(int)[::-1].tolist()}


# Learned outputs of the toy model are from 0 to 1.
DDPM = Case(
    values={"variance_type": ("fixed_small", "fixed_small_log", "fixed_large", *SPREADS)},  # fault A1: one more
    outputs=2,
    options=[{}, {}, custom_timesteps],
    variants=[({"variance_type": kind}, 1) for kind in ("fixed_small", "fixed_large", "fixed_large_log")],
)

DDIM = Case(
    options=[{}, {"use_clipped_model_output": True}],
    broken=lambda config, n, options: options["eta"] == 1,  # fault 11
)


def two_draws(r: "Reference") -> None:
    """CogVideoXDPM is told what it predicted, and when."""
    times, old = r.scheduler.timesteps, None
    for i, t in enumerate(times):
        x, old = r.scheduler.step(r.model(r.x, t), old, t, times[i - 1] if i else None, r.x)
        r.done(x)


def without_the_end(r: "Reference") -> None:
    """Wuerstchen's timesteps end where the run arrives; its step takes one for each image."""
    r.run.timesteps = r.run.timesteps[:-1]
    for t in r.scheduler.timesteps[:-1]:
        r.done(r.scheduler.step(r.model(r.x, t), t.expand(len(r.x)), r.x).prev_sample)


def previous_told(r: "Reference") -> None:
    """UnCLIP is told where a step goes."""
    for t, after in zip(r.scheduler.timesteps, [*r.scheduler.timesteps[1:], None], strict=True):
        r.done(r.scheduler.step(r.model(r.x, t), t, r.x, prev_timestep=after).prev_sample)


def down_and_up(r: "Reference") -> None:
    """RePaint's pipeline with nothing known. undo_step hides what stands between its draws: with as many inference
    steps as training steps it makes one draw a call."""
    s, nothing, times = r.scheduler, torch.zeros_like(r.x), []
    n, stride = s.num_inference_steps, s.config.num_train_timesteps // s.num_inference_steps
    last = s.timesteps[0] + 1
    for t in s.timesteps:
        if t < last:
            r.done(s.step(r.model(r.x, t), t, r.x, nothing, nothing).prev_sample)
            times.append(t)
        else:
            s.num_inference_steps = s.config.num_train_timesteps
            for i in range(stride):
                r.done(s.undo_step(r.x, last + i))
                times.append(last + i)
            s.num_inference_steps = n
        last = t
    r.run.timesteps = np.array(times)


CASES = {
    "DDPMScheduler": DDPM,
    "DDPMParallelScheduler": DDPM,
    "DDIMScheduler": DDIM,
    "DDIMParallelScheduler": DDIM,
    "DDIMInverseScheduler": Case(
        refused=("says nothing about noise",),
        exempt={"previews": "it leads to noise", "add_noise": "the reference's class has none"},
    ),
    "CogVideoXDDIMScheduler": Case(values={"snr_shift_scale": (3.0, 1.0)}),
    "CogVideoXDPMScheduler": Case(values={"snr_shift_scale": (3.0, 1.0)}, drive=two_draws),
    "DDPMWuerstchenScheduler": Case(
        values={"scaler": (1.0, 0.6, 2.0), "s": (0.008, 0.02)},
        options=[{}, {"timesteps": [1.0, 0.9, 0.6, 0.55, 0.1, 0.0]}, {"timesteps": [0.95, 0.5, 0.2]}],
        drive=without_the_end,
    ),
    "UnCLIPScheduler": Case(
        values={"variance_type": ("fixed_small_log", "learned_range")},
        steps=(2, 3, 5, 10, 20, 50),
        outputs=2,
        drive=previous_told,
        config={"beta_schedule": "squaredcos_cap_v2"},
        exempt={
            "transport": "fault A3: its last step keeps three digits of x0",
            "previews": "alpha is 5e-5 at first, where float32 keeps four digits of x0",
        },
    ),
    "RePaintScheduler": Case(
        values={"num_train_timesteps": (100, 60), "eta": (0.0, 0.4, 1.0), "trained_betas": (None,)},  # fault A4
        options=[{"jump_length": 2, "jump_n_sample": 3}, {"jump_length": 3, "jump_n_sample": 2}],
        drive=down_and_up,
        variants=[({"eta": 0.0}, 1), ({"eta": 1.0}, 1)],
        law_options={"jump_length": 5, "jump_n_sample": 2},
        exempt={"add_noise": "the reference's class refuses to add noise"},
    ),
}
