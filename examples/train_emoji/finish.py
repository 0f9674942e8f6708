"""Export work/emoji into a bundle in fp16, with its defaults and its certificate.

python finish.py ../../diffrt/bundles/emoji
"""

import sys
from pathlib import Path

from common import OUT

import exporters

DEFAULTS = {"num_inference_steps": 4, "guidance_scale": 3.0}

if __name__ == "__main__":
    exporters.export(OUT, Path(sys.argv[1]), precision="fp16", copy_weights=True, force=True, defaults=DEFAULTS)
