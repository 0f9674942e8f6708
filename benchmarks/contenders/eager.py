"""diffusers in PyTorch: eager, with channels last, compiled; on the CPU and on CUDA."""

from typing import Any

import numpy as np

from benchmarks.contenders.base import DIFFUSERS, Contender, NotHere
from benchmarks.models import NEGATIVE, PROMPT, Arrays, Call, Job
from diffrt.configs import read_json


def load(contender: Contender, job: Job) -> Call:
    import torch

    if contender.provider == "cuda" and not torch.cuda.is_available():
        raise NotHere("torch has no CUDA device here")
    torch.set_grad_enabled(False)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[contender.precision]
    finished = STAGES[job.stage](Finish(contender, dtype), job)

    def call(arrays: Arrays) -> Arrays:
        with torch.inference_mode():
            return finished(arrays)

    return call


class Finish:
    """What a contender does to a module that was read, and to arrays on their way in and out."""

    def __init__(self, contender: Contender, dtype: Any) -> None:
        self.options, self.device, self.dtype = contender.options, contender.provider, dtype

    def read(self, cls: Any, job: Job, part: str) -> Any:
        fp16 = any(".fp16." in file.name for file in (job.checkpoint / part).glob("*.safetensors"))
        key = "dtype" if cls.__module__.startswith("transformers") else "torch_dtype"
        module = cls.from_pretrained(str(job.checkpoint / part), variant="fp16" if fp16 else None, **{key: self.dtype})
        return self.placed(module)

    def placed(self, module: Any) -> Any:
        import torch

        module = module.eval().to(self.device)
        channels_last = self.options.get("channels_last")
        return module.to(memory_format=torch.channels_last) if channels_last else module

    def compiled(self, function: Any) -> Any:
        import torch

        return torch.compile(function) if self.options.get("compile") else function

    def tensor(self, array: Any) -> Any:
        import torch

        tensor = torch.from_numpy(array).to(self.device)
        return tensor.to(self.dtype) if tensor.is_floating_point() else tensor

    def array(self, tensor: Any) -> Any:
        return tensor.float().cpu().numpy()


def text(finish: Finish, job: Job) -> Call:
    from transformers import CLIPTextModel

    module = finish.compiled(finish.read(CLIPTextModel, job, "text_encoder"))
    return lambda a: {"out": finish.array(module(finish.tensor(a["input_ids"])).last_hidden_state)}


def denoiser(finish: Finish, job: Job) -> Call:
    from diffusers import UNet2DConditionModel

    module = finish.compiled(finish.read(UNet2DConditionModel, job, "unet"))

    def call(a: Arrays) -> Arrays:
        tensors = {name: finish.tensor(array) for name, array in a.items()}
        added = {name: tensors.pop(name) for name in ("text_embeds", "time_ids") if name in tensors}
        tensors["timestep"] = tensors["timestep"].float()  # fp16 and bf16 hold no 999
        return {"out": finish.array(module(**tensors, added_cond_kwargs=added or None, return_dict=False)[0])}

    return call


def vae(finish: Finish, job: Job) -> Call:
    from diffusers import AutoencoderKL

    module = finish.read(AutoencoderKL, job, "vae")
    decode, scale = finish.compiled(module.decode), module.config.scaling_factor
    return lambda a: {"out": finish.array(decode(finish.tensor(a["latents"]) / scale, return_dict=False)[0])}


def picture(finish: Finish, job: Job) -> Call:
    import diffusers
    from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    scheduler = read_json(job.checkpoint / "scheduler" / "scheduler_config.json")
    pipe: Any = StableDiffusionPipeline(
        text_encoder=finish.read(CLIPTextModel, job, "text_encoder"),
        tokenizer=CLIPTokenizer.from_pretrained(str(job.checkpoint / "tokenizer")),
        unet=finish.compiled(finish.read(UNet2DConditionModel, job, "unet")),
        vae=finish.read(AutoencoderKL, job, "vae"),
        scheduler=getattr(diffusers, scheduler["_class_name"]).from_config(scheduler),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.vae.decode = finish.compiled(pipe.vae.decode)
    pipe.set_progress_bar_config(disable=True)

    def call(a: Arrays) -> Arrays:
        out = pipe(
            [PROMPT] * job.batch,
            negative_prompt=[NEGATIVE] * job.batch,
            height=job.height,
            width=job.width,
            num_inference_steps=job.steps,
            guidance_scale=job.guidance,
            latents=finish.tensor(a["latents"]),
            output_type="np",
        )
        return {"out": (out.images * 255).round().astype(np.uint8)}

    return call


STAGES = {"text": text, "denoiser": denoiser, "vae": vae, "picture": picture}
CL: dict[str, Any] = {"channels_last": True}


def eager(
    name: str, precision: str, speed: float, provider: str = "cpu", start: float = 8, **options: Any
) -> Contender:
    runtime = "torch.compile" if options.get("compile") else "diffusers"
    return Contender(name, runtime, precision, provider, DIFFUSERS, load, options=options, speed=speed, start=start)


CONTENDERS = (
    eager("eager-fp32", "fp32", 1.0),
    eager("eager-fp32-cl", "fp32", 1.0, **CL),
    eager("eager-bf16", "bf16", 3.2),
    eager("eager-bf16-cl", "bf16", 3.2, **CL),
    eager("compile-fp32", "fp32", 1.1, start=90, compile=True),
    eager("compile-bf16", "bf16", 3.9, start=90, compile=True, **CL),
    eager("cuda-eager-fp32", "fp32", 0.3, "cuda"),
    eager("cuda-eager-fp16", "fp16", 1.0, "cuda", **CL),
    eager("cuda-compile-fp16", "fp16", 1.5, "cuda", start=90, compile=True, **CL),
)
