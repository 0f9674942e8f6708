"""Law 3: every intermediate sample equals diffusers 0.42.1's class on the same config, model and noise.

Known faults of the reference, met while comparing (what diffrt does in brackets):

1. timestep_spacing "trailing" gives n + 1 timesteps for some n (61, 103, 121, ... of 1000), the last of them -1, which
   indexes the noisiest training step [n timesteps].
2. DDIM and PNDM count back num_train_timesteps // n from each timestep, so that with "linspace", and with "trailing"
   where n does not divide, a step arrives beside the timestep the next one starts from [the same].
3. A run whose first timestep is repeated (DPM-Solver with a cosine schedule and Karras sigmas truncates 998.9 and 998.8
   to 998) starts at the second of them unless set_begin_index(0) is called, and later reads past the end: diffusers
   issue 12771 [row k is step k; compared here with set_begin_index(0)].
4. DPM-Solver with Karras, exponential or Lu sigmas and final_sigmas_type "sigma_min" takes its last step from sigma_min
   to sigma_min: 0/0 in orders 2 (heun) and 3 [stands still, which is the limit].
5. DPM-Solver's D2 is half the second difference: "order 3" converges with order 2 [the same].
6. sde-dpmsolver++ of order 3 has the sign of a 1/2 reversed [the same]; sde-dpmsolver has no order 3 and fails after
   two steps [refused when constructed].
7. Zero terminal SNR with prediction_type "epsilon" divides by zero in DDIM and by 2^-12 elsewhere [refused].
8. PNDM with a Runge-Kutta start fails below 4 steps with a broadcasting error [refused with the reason].
9. EulerDiscrete's "log_linear" makes n + 2 sigmas for n timesteps and never reaches zero [the same n + 1 of them].
10. EulerDiscrete takes a timestep beyond the last as the last ("leading", n = num_train_timesteps, steps_offset 1), LMS
    then divides by zero, DDIM and PNDM index out of range [refused where the reference fails].
11. More Adams weights than exact: LMS integrates by quadrature on float32 nodes [exact polynomials].
"""
import random
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from scheduler_reference import SD_CONFIG, SHAPE, reference_scheduler, run_reference, run_table, start_noise, worst

from diffrt.errors import InvalidArgument
from diffrt.schedulers import SCHEDULERS

STEPS = (1, 2, 3, 5, 10, 20, 50)
TOLERANCE = 2e-5

# Every key a scheduler has so far, with values worth trying; a key of a class that is missing here fails a test.
VALUES: dict[str, tuple[Any, ...]] = {
    "num_train_timesteps": (1000, 1000, 400),
    "beta_start": (0.00085, 0.0001),
    "beta_end": (0.012, 0.02),
    "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2"),
    "trained_betas": (None, None, "sine"),
    "steps_offset": (0, 1),
    "prediction_type": ("epsilon", "v_prediction", "sample"),
    "timestep_spacing": ("linspace", "leading", "trailing"),
    "clip_sample": (False, True),
    "clip_sample_range": (1.0, 2.5),
    "set_alpha_to_one": (False, True),
    "thresholding": (False, False, True),
    "dynamic_thresholding_ratio": (0.995, 0.8),
    "sample_max_value": (1.0, 1.7),
    "rescale_betas_zero_snr": (False, False, True),
    "skip_prk_steps": (False, True),
    "use_karras_sigmas": (False, False, True),
    "use_exponential_sigmas": (False, False, True),
    "use_lu_lambdas": (False, False, True),
    "use_beta_sigmas": (False,),
    "use_flow_sigmas": (False,),
    "use_dynamic_shifting": (False,),
    "flow_shift": (1.0,),
    "time_shift_type": ("exponential",),
    "variance_type": (None, "fixed_small"),
    "interpolation_type": ("linear", "linear", "log_linear"),
    "timestep_type": ("discrete", "continuous"),
    "sigma_min": (None, 0.05),
    "sigma_max": (None, 11.0),
    "final_sigmas_type": ("zero", "sigma_min"),
    "solver_order": (1, 2, 3),
    "algorithm_type": ("dpmsolver", "dpmsolver++", "sde-dpmsolver", "sde-dpmsolver++"),
    "solver_type": ("midpoint", "heun"),
    "lower_order_final": (True, False),
    "euler_at_final": (False, True),
    "lambda_min_clipped": (-float("inf"), -5.1),
}


def keys(name: str) -> list[str]:
    return [f.name for f in fields(SCHEDULERS[name])]
