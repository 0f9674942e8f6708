"""Terrains by somebody else's ONNX network, under diffrt's schedulers: python draw.py [PICTURE.webp]

The network of adaptive-terrain-diffusion is told x, sigma and how hard the ground shall be to walk on, and says what
the terrain is: a consistency model (Song et al. 2023, arXiv:2303.01469). See README.md.
"""

import json
import shutil
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

import diffrt

GRAPH = "weights/terrain_consistency_unet_difficulty100.onnx"
HIGHEST, BEND = 22.16864, 0.1  # metres; heights are stored as asinh(height / BEND), from -1 to 1
DIFFICULTIES = (1, 25, 50, 75, 100)
SEEDS = (7, 8, 9)


def bundle(folder: Path) -> Path:
    """The installed package's graph, in a folder with a declaration of its inputs and a scheduler."""
    found = find_spec("terrain_diffusion")
    if found is None:
        raise SystemExit("this example runs the network of adaptive-terrain-diffusion: see its README.md")
    graph = Path(found.submodule_search_locations[0]) / GRAPH
    (folder / "scheduler").mkdir(parents=True)
    shutil.copyfile(graph, folder / graph.name)
    declaration = {
        "graph": graph.name,
        "inputs": {"sample": "noisy", "sigma": "sigma"},
        "output": "denoised",
        "num_inference_steps": 1,
    }
    (folder / "denoiser.json").write_text(json.dumps(declaration, indent=2))
    scheduler = {"_class_name": "CMStochasticIterativeScheduler", "sigma_min": 0.002, "sigma_max": 80.0}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler, indent=2))
    return folder


def level(difficulty: float) -> np.ndarray:  # [1] f32
    """1 to 100, as the network is told."""
    return np.array([(difficulty - 1) / 99], np.float32)


def heights(drawn: np.ndarray) -> np.ndarray:  # [B,1,H,W] -> [B,H,W]
    """In metres, from what the network draws."""
    unit = np.clip((drawn[:, 0] + 1) / 2, 0, 1)
    return BEND * np.sinh(unit * np.arcsinh(HIGHEST / BEND))


def shaded(terrain: np.ndarray, metres: float = 0.1) -> np.ndarray:  # [H,W] -> [H,W,3] u8
    """Seen from above with the sun in the north-west, brighter where it is higher; pixels are so many metres apart."""
    down, right = np.gradient(terrain, metres)
    normal = np.stack([-right, -down, np.ones_like(terrain)]) / np.sqrt(1 + right**2 + down**2)
    light = np.clip(np.tensordot([-0.5, -0.5, 0.7], normal, 1), 0, 1)[..., None]  # of length 1, nearly
    height = ((terrain - terrain.min()) / max(np.ptp(terrain), 1.0))[..., None]
    ground = np.array([92, 110, 84]) * (1 - height) + np.array([236, 222, 190]) * height
    seen = (ground * (0.4 + 0.8 * light)).clip(0, 255).astype(np.uint8)
    return np.pad(seen, ((2, 2), (2, 2), (0, 0)), constant_values=255)


def main(file: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        pipe = diffrt.load(bundle(Path(folder) / "terrain"))
        columns = []
        for difficulty in DIFFICULTIES:
            told = {"difficulty": level(difficulty)}
            out = pipe(conditions=told, batch_size=len(SEEDS), seed=list(SEEDS), output_type="latent")
            columns.append(np.concatenate([shaded(terrain) for terrain in heights(out.images)]))
    Image.fromarray(np.concatenate(columns, axis=1)).save(file, quality=85)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "terrain.webp")
