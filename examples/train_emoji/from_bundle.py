"""Set up work/emoji from an exported bundle, so that training goes on from its weights where no unet.pt is left.

    python from_bundle.py ../../diffrt/bundles/emoji && python train_unet.py --minutes 60

The optimizer starts anew; tokenizer and autoencoder are the bundle's, which the weights belong to.
"""

import json
import shutil
import sys
from pathlib import Path

from common import OUT, write_model
from safetensors.torch import load_file

STEMS = {"vae": "diffusion_pytorch_model", "unet": "diffusion_pytorch_model", "text_encoder": "model"}


def main(bundle: Path) -> None:
    shutil.copytree(bundle / "tokenizer", OUT / "tokenizer", dirs_exist_ok=True)
    for part, stem in STEMS.items():
        config = json.loads((bundle / part / "config.json").read_text())
        write_model(OUT / part, stem, load_file(bundle / part / f"{stem}.fp16.safetensors"), config)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
