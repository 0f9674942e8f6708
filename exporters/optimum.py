"""``--layout optimum``: the folders that optimum's ORTDiffusionPipeline loads, from the same traces and weights.

Each graph lies in a folder of its own as model.onnx, beside the weights it points at and its config.json. Time is a
scalar, the autoencoder's halves know nothing of the latents' scale, and Stable Diffusion XL's text encoders give every
layer. There is no manifest and no certificate; diffrt runs the folder as it does optimum's own.
"""

import dataclasses
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import onnx_ir as ir
from torch import Tensor, nn

from diffrt.bundle import Bundle
from diffrt.errors import InvalidArgument
from diffrt.folders import Say, building, link, publish
from diffrt.manifest import TensorSpec

from .checkpoint import Checkpoint, open_checkpoint
from .families import safety
from .families.latent import positions
from .files import copy_texts
from .passes.shapes import drop_inner_shapes
from .sources import Source
from .spec import Component, Config
from .trace import check_fit, declare_shapes, trace
from .weights import attach


def write_optimum(origin: Source, target: Path, copy_weights: bool, say: Say) -> None:
    """Check everything that can be checked, then build the folder and put it in its place."""
    checkpoint = unchecked(open_checkpoint(origin.root), say)
    if "optimum" not in checkpoint.family.layouts:
        raise InvalidArgument(f"{checkpoint.family.title}: there is no layout optimum of it, export a bundle")
    if checkpoint.configs["unet"].get("time_cond_proj_dim") is not None:
        raise InvalidArgument("a UNet with time_cond_proj_dim (LCM) has no layout optimum: export a bundle")
    weights = {part: checkpoint.weights(part, "fp32") for part in checkpoint.configs}
    components = [adapted(each, checkpoint.configs[each.part]) for each in checkpoint.components]
    for component in components:
        check_fit(component, checkpoint.configs[component.part], weights[component.part])
    with building(target) as folder:
        origin.fill(say)
        copy_texts(checkpoint, folder)
        for component in components:
            say(f"tracing {component.name}")
            config, tensors = checkpoint.configs[component.part], weights[component.part]
            place = folder / component.name
            place.mkdir()
            shutil.copyfile(checkpoint.root / component.part / "config.json", place / "config.json")
            for file in tensors.files:
                link(file.resolve(), place / file.name, copy_weights and not origin.converted, say)
            model = trace(component, config, tensors)
            attach(model, tensors)
            declare_shapes(model, component, {})
            drop_inner_shapes(model)
            ir.save(model, place / "model.onnx")
        Bundle.open(folder)  # it runs here
        publish(folder, target)


def unchecked(checkpoint: Checkpoint, say: Say) -> Checkpoint:
    """Without a safety checker: optimum's pipelines take one in PyTorch alone, from whoever loads them."""
    if safety.NAME not in checkpoint.configs:
        return checkpoint
    say(f"skipping {safety.NAME}: optimum runs none from a folder; a bundle (--layout diffrt) does")
    kept = {part: config for part, config in checkpoint.configs.items() if part != safety.NAME}
    settings = str(Path(safety.PIXELS).parent)
    return dataclasses.replace(checkpoint, configs=kept, skipped=(*checkpoint.skipped, safety.NAME, settings))


def adapted(component: Component, config: Config) -> Component:
    """The component as optimum's pipelines call it."""
    return ADAPTED.get(component.name, text_encoder)(dataclasses.replace(component, graph="model"), config)


def text_encoder(component: Component, config: Config) -> Component:
    """That of Stable Diffusion is as it is; those of XL give all layers in place of the last but one."""
    kept = [spec for spec in component.outputs if spec.name != "hidden_states"]
    if len(kept) == len(component.outputs):
        return component
    layers = config["num_hidden_layers"]
    names = ["last_hidden_state", *(f"hidden_states.{i}" for i in range(layers + 1))]
    shape = ("batch", "sequence", config["hidden_size"])
    outputs = (*kept, *(TensorSpec(name, "float32", shape) for name in names))

    def encode(module: nn.Module, input_ids: Tensor) -> tuple[Tensor, ...]:
        out = module(input_ids=input_ids, position_ids=positions(input_ids), output_hidden_states=True)
        whole = tuple(getattr(out, spec.name).float() for spec in kept)
        return (*whole, out.last_hidden_state.float(), *(each.float() for each in out.hidden_states))

    return dataclasses.replace(component, outputs=outputs, call=encode)


def unet(component: Component, config: Config) -> Component:
    """Time is one number for all."""
    inputs = tuple(TensorSpec(s.name, s.dtype, ()) if s.name == "timestep" else s for s in component.inputs)

    def predict(module: nn.Module, sample: Tensor, timestep: Tensor, *told: Tensor) -> Tensor:
        return component.call(module, sample, timestep.expand(sample.shape[0]), *told)

    return dataclasses.replace(component, inputs=inputs, call=predict)


def vae_encoder(component: Component, config: Config) -> Component:
    """Mean and logarithm of the variance, as learned."""
    moments = TensorSpec("latent_parameters", "float32", ("batch", 2 * config["latent_channels"], "h", "w"))
    return dataclasses.replace(component, outputs=(moments,), call=lambda module, sample: module.moments(sample))


def vae_decoder(component: Component, config: Config) -> Component:
    return dataclasses.replace(component, call=lambda module, latent_sample: module.decode_raw(latent_sample))


ADAPTED: Mapping[str, Callable[[Component, Config], Component]] = {
    "unet": unet,
    "vae_encoder": vae_encoder,
    "vae_decoder": vae_decoder,
}
