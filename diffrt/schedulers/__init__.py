"""Schedulers: diffusers' samplers as tables of numbers, in NumPy.

    scheduler = DDIMScheduler.from_config(json.load(open("scheduler/scheduler_config.json")))
    print(scheduler.table(20))

A new scheduler is a file with one class, and its import here.
"""

from collections.abc import Mapping
from typing import Any

from diffrt.errors import InvalidArgument, nearest
from diffrt.schedulers.base import Scheduler as Scheduler
from diffrt.schedulers.cogvideox import CogVideoXDDIMScheduler as CogVideoXDDIMScheduler
from diffrt.schedulers.cogvideox import CogVideoXDPMScheduler as CogVideoXDPMScheduler
from diffrt.schedulers.consistency import CMStochasticIterativeScheduler as CMStochasticIterativeScheduler
from diffrt.schedulers.consistency import ConsistencyDecoderScheduler as ConsistencyDecoderScheduler
from diffrt.schedulers.consistency import SCMScheduler as SCMScheduler
from diffrt.schedulers.ddim import DDIMInverseScheduler as DDIMInverseScheduler
from diffrt.schedulers.ddim import DDIMParallelScheduler as DDIMParallelScheduler
from diffrt.schedulers.ddim import DDIMScheduler as DDIMScheduler
from diffrt.schedulers.ddpm import DDPMParallelScheduler as DDPMParallelScheduler
from diffrt.schedulers.ddpm import DDPMScheduler as DDPMScheduler
from diffrt.schedulers.ddpm import DDPMWuerstchenScheduler as DDPMWuerstchenScheduler
from diffrt.schedulers.ddpm import UnCLIPScheduler as UnCLIPScheduler
from diffrt.schedulers.deis import DEISMultistepScheduler as DEISMultistepScheduler
from diffrt.schedulers.dpm_multistep import DPMSolverMultistepInverseScheduler as DPMSolverMultistepInverseScheduler
from diffrt.schedulers.dpm_multistep import DPMSolverMultistepScheduler as DPMSolverMultistepScheduler
from diffrt.schedulers.dpm_singlestep import DPMSolverSinglestepScheduler as DPMSolverSinglestepScheduler
from diffrt.schedulers.edm import CosineDPMSolverMultistepScheduler as CosineDPMSolverMultistepScheduler
from diffrt.schedulers.edm import EDMDPMSolverMultistepScheduler as EDMDPMSolverMultistepScheduler
from diffrt.schedulers.edm import EDMEulerScheduler as EDMEulerScheduler
from diffrt.schedulers.euler import EulerAncestralDiscreteScheduler as EulerAncestralDiscreteScheduler
from diffrt.schedulers.euler import EulerDiscreteScheduler as EulerDiscreteScheduler
from diffrt.schedulers.flow_match import FlowMapEulerDiscreteScheduler as FlowMapEulerDiscreteScheduler
from diffrt.schedulers.flow_match import FlowMatchEulerDiscreteScheduler as FlowMatchEulerDiscreteScheduler
from diffrt.schedulers.flow_match import FlowMatchHeunDiscreteScheduler as FlowMatchHeunDiscreteScheduler
from diffrt.schedulers.flow_match import FlowMatchLCMScheduler as FlowMatchLCMScheduler
from diffrt.schedulers.flow_match import LTXEulerAncestralRFScheduler as LTXEulerAncestralRFScheduler
from diffrt.schedulers.grid import Grid as Grid
from diffrt.schedulers.lcm import LCMScheduler as LCMScheduler
from diffrt.schedulers.lcm import TCDScheduler as TCDScheduler
from diffrt.schedulers.lms import LMSDiscreteScheduler as LMSDiscreteScheduler
from diffrt.schedulers.pndm import IPNDMScheduler as IPNDMScheduler
from diffrt.schedulers.pndm import PNDMScheduler as PNDMScheduler
from diffrt.schedulers.repaint import RePaintScheduler as RePaintScheduler
from diffrt.schedulers.sa_solver import SASolverScheduler as SASolverScheduler
from diffrt.schedulers.score_sde import ScoreSdeVeScheduler as ScoreSdeVeScheduler
from diffrt.schedulers.score_sde import ScoreSdeVpScheduler as ScoreSdeVpScheduler
from diffrt.schedulers.two_stage import DPMSolverSDEScheduler as DPMSolverSDEScheduler
from diffrt.schedulers.two_stage import HeunDiscreteScheduler as HeunDiscreteScheduler
from diffrt.schedulers.two_stage import KDPM2AncestralDiscreteScheduler as KDPM2AncestralDiscreteScheduler
from diffrt.schedulers.two_stage import KDPM2DiscreteScheduler as KDPM2DiscreteScheduler
from diffrt.schedulers.unipc import UniPCMultistepScheduler as UniPCMultistepScheduler
from diffrt.tables.running import apply_row as apply_row
from diffrt.tables.running import denoised as denoised
from diffrt.tables.running import init_slots as init_slots
from diffrt.tables.stepping import Stepper as Stepper
from diffrt.tables.table import Table as Table
from diffrt.tables.table import Threshold as Threshold

SCHEDULERS: Mapping[str, type[Scheduler]] = {
    name: cls for name, cls in globals().items() if name.endswith("Scheduler") and cls is not Scheduler
}

# diffusers' other schedulers, and why they are not here.
LEFT_OUT = {
    **dict.fromkeys(
        ("VQDiffusion", "Amused", "BlockRefinement", "DiscreteDDIM", "EntropyBound"),
        "it draws discrete tokens, which no table of weights can move",
    ),
    **dict.fromkeys(
        ("Helios", "HeliosDMD", "MiniMaxH3", "Piflow", "RFD4Proteina"), "only its own model's pipeline can drive it"
    ),
    "KarrasVe": "the reference deprecates it; HeunDiscreteScheduler is its method without churn",
}

# Short names beyond the class name without "Scheduler", in lower case.
ALIASES = {
    "ddim-inverse": "DDIMInverseScheduler",
    "wuerstchen": "DDPMWuerstchenScheduler",
    "plms": "PNDMScheduler",
    "lms": "LMSDiscreteScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler-a": "EulerAncestralDiscreteScheduler",
    "eulerancestral": "EulerAncestralDiscreteScheduler",
    "dpm++": "DPMSolverMultistepScheduler",
    "dpmsolver++": "DPMSolverMultistepScheduler",
    "dpm++-2s": "DPMSolverSinglestepScheduler",
    "dpm-inverse": "DPMSolverMultistepInverseScheduler",
    "deis": "DEISMultistepScheduler",
    "unipc": "UniPCMultistepScheduler",
    "sa": "SASolverScheduler",
    "heun": "HeunDiscreteScheduler",
    "dpm2": "KDPM2DiscreteScheduler",
    "dpm2-a": "KDPM2AncestralDiscreteScheduler",
    "dpm++-sde": "DPMSolverSDEScheduler",
    "edm": "EDMEulerScheduler",
    "edm-dpm++": "EDMDPMSolverMultistepScheduler",
    "cosine-dpm++": "CosineDPMSolverMultistepScheduler",
    "cm": "CMStochasticIterativeScheduler",
    "flow": "FlowMatchEulerDiscreteScheduler",
    "flow-euler": "FlowMatchEulerDiscreteScheduler",
    "flow-heun": "FlowMatchHeunDiscreteScheduler",
    "flow-lcm": "FlowMatchLCMScheduler",
}


def scheduler_class(name: str) -> type[Scheduler]:
    """The class of a name: "DDIMScheduler", "DDIM", "ddim" or an alias; InvalidArgument with the nearest if none."""
    short = {full.removesuffix("Scheduler").lower(): full for full in SCHEDULERS}
    key = str(name).lower().removesuffix("scheduler")
    full = short.get(key) or ALIASES.get(key)
    if full is None:
        for left_out, why in LEFT_OUT.items():
            if key == left_out.lower():
                raise InvalidArgument(f"diffrt has no {left_out}Scheduler: {why}")
        known = [*short, *ALIASES] if key == str(name).lower() else SCHEDULERS  # in the form that was given
        raise InvalidArgument(f"unknown scheduler {name!r}: {nearest(str(name), known)}")
    return SCHEDULERS[full]


def from_config(config: Mapping[str, Any], name: str | None = None) -> Scheduler:
    """From a scheduler_config.json or another scheduler's .config. `name`, where given, overrides _class_name."""
    if not isinstance(config, Mapping) or not (name or config.get("_class_name")):
        raise InvalidArgument("a scheduler config needs a _class_name: add it or give the scheduler's name")
    return scheduler_class(name or config["_class_name"]).from_config(config)
