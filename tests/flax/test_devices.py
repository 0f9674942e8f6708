"""The classic snippets of diffusers' README, and meshes, on eight virtual CPU devices."""

import os
import subprocess
import sys
from pathlib import Path


def test_eight_devices(mini):
    environment = os.environ | {
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
    }
    script = Path(__file__).with_name("eight_devices.py")
    done = subprocess.run(
        [sys.executable, script, mini[4], mini[9]], env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == ["text_to_image", "ok", "image_to_image", "ok", "inpaint", "ok", "meshes", "ok"]
