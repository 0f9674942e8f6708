"""A component's module with the checkpoint's tensors in it, or with each there as long as it is computed with."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from safetensors import safe_open
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from .conversion import floats
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


class Streamed(TorchFunctionMode):
    """Within it, a module without memory computes with the checkpoint's tensors in float32: each is read when a
    function takes it, and gone when that is done. Memory is then one tensor's, whatever the model's size."""

    def __init__(self, module: torch.nn.Module, weights: Weights):
        super().__init__()
        self._read: dict[int, Callable[[], Any]] = {}
        for name, tensor in module.state_dict(keep_vars=True).items():
            stored = weights.stored_name(name)
            if stored is not None:
                self._read[id(tensor)] = partial(floats, *weights.tensors[stored])
        self._module = module  # whose tensors keep their ids

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = tree_map(self._there, (args, kwargs or {}))
        return function(*args, **kwargs)

    def _there(self, value: Any) -> Any:
        found = self._read.get(id(value)) if isinstance(value, torch.Tensor) else None
        return value if found is None else torch.from_numpy(found()).reshape(value.shape).float()
