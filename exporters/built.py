"""A component's module with the checkpoint's tensors in it."""

import torch
from safetensors import safe_open

from .spec import Component, Config
from .weights import Weights


def built(
    component: Component, config: Config, weights: Weights, dtype: torch.dtype = torch.float32
) -> torch.nn.Module:
    """In evaluation mode, the checkpoint's tensors in that dtype; those that it lacks are the module's own."""
    with torch.device(component.device):
        module = component.build(config)
    files = {file: safe_open(file, "pt") for file in weights.files}
    state = {}
    for tensor in module.state_dict():
        stored = weights.stored_name(tensor)
        if stored is not None:
            state[tensor] = files[weights.tensors[stored][0]].get_tensor(stored).to(dtype)
    module.load_state_dict(state, strict=False, assign=True)
    return module.eval()
