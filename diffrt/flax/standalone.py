"""Draw with programs that `diffrt export --form stablehlo` wrote. Needs jax alone, neither diffrt nor flax: an export
carries this file as run.py.

    program = Program("folder")
    ids = [[...]]                      # token ids of the prompts; program.empty is the empty prompt
    pictures = program.draw(ids, seed=7, steps=20)   # [B,H,W,3] u8
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

DTYPES = {"F32": np.float32, "F16": np.float16, "BF16": jnp.bfloat16, "I64": np.int64}


class Program:
    def __init__(self, folder):
        self.folder = Path(folder)
        self.manifest = json.loads((self.folder / "stablehlo.json").read_text("utf-8"))
        self.empty = self.manifest["empty_prompt"]
        self._weights, self._functions = {}, {}

    def call(self, name, *inputs):
        """One of the manifest's functions."""
        record = self.manifest["functions"][name]
        if name not in self._functions:
            exported = jax.export.deserialize(bytearray((self.folder / record["file"]).read_bytes()))
            self._functions[name] = jax.jit(exported.call)
        part = record["weights"]
        if part not in self._weights:
            self._weights[part] = self._read(self.manifest["weights"][part])
        return self._functions[name](self._weights[part], *inputs)

    def rows(self, steps):
        """The sampler's table for a number of steps."""
        allowed = self.manifest["rows"]
        if str(steps) not in allowed:
            raise ValueError(f"no table of {steps} steps was exported; there are: {', '.join(allowed)}")
        with np.load(self.folder / allowed[str(steps)]) as file:
            return dict(file)

    def draw(self, ids, *, negative=None, latents=None, seed=0, steps=None, guidance=None, beside=None):
        """ids, negative [B][S]; latents: unit noise [B,C,h,w], else that of the seed; beside [B,h,w,M]: of a model that
        inpaints, the mask and the latents of the rest of the picture."""
        m = self.manifest
        ids = np.asarray(ids, np.int32)
        negative = np.broadcast_to(np.asarray(self.empty if negative is None else negative, np.int32), ids.shape)
        shape = (len(ids), *m["latents"])
        rng = np.random.default_rng(seed)
        latents = rng.standard_normal(shape, np.float32) if latents is None else np.asarray(latents, np.float32)
        rows = self.rows(m["default_steps"] if steps is None else steps)
        slots = np.zeros((m["slots"], *np.moveaxis(latents, 1, -1).shape), np.float32)
        slots[0] = np.moveaxis(latents, 1, -1) * rows.pop("init_sigma")
        noise = np.zeros((len(rows["t"]), *slots.shape[1:]), np.float32)
        for i in np.flatnonzero(rows["W"][:, :, -1].any(1)):
            noise[i] = rng.standard_normal(slots.shape[1:], np.float32)
        embeds = jnp.stack([self.call("text_encoder", each) for each in (negative, ids)], 1)
        scale = np.full((len(ids), 1), m["default_guidance"] if guidance is None else guidance, np.float32)
        slots = self.call("denoise", rows, slots, embeds, scale, noise, *(() if beside is None else (beside,)))
        return np.asarray(self.call("vae_decoder", slots[0]))

    def _read(self, files):
        tensors = {}
        for name in files:
            path = self.folder / name
            with path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                header = json.loads(file.read(length))
            for key, entry in header.items():
                if key == "__metadata__" or key.endswith("position_ids"):
                    continue
                start, stop = entry["data_offsets"]
                data = np.memmap(path, np.uint8, "r", 8 + length + start, (stop - start,))
                tensors[key] = jnp.asarray(data.view(DTYPES[entry["dtype"]]).reshape(entry["shape"]))
        return tensors
