"""The loop compiles for a TPU. Nothing has been run on one."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

from benchmarks.checkpoints import SD15
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.skipif(not importlib.util.find_spec("libtpu"), reason="pip install libtpu, as jax[tpu] asks")


def compiled(checkpoint, *arguments, timeout):
    environment = os.environ | {
        "TPU_SKIP_MDS_QUERY": "1",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "",
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.flax.compile_for_tpu", checkpoint, *arguments],
        capture_output=True, text=True, cwd=REPOSITORY, env=environment, timeout=timeout,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_a_small_one(mini):
    out = compiled(mini[4], "4x2", "4", "16x16", "5", timeout=300)
    assert out.count("compiled for TPU v5 lite") == 2


@pytest.mark.slow
def test_stable_diffusion(tmp_path):
    """With one picture on each chip, 16 GB of it are enough."""
    for part, (config, _, _) in SD15.items():
        (tmp_path / part).mkdir()
        (tmp_path / part / "config.json").write_text(json.dumps(config))
    out = compiled(tmp_path, "8x1", "8", "512x512", "50", timeout=3000)
    print(out)
    for line in out.splitlines():
        sizes = [float(word) for word, unit in zip(line.split(), line.split()[1:], strict=False) if unit == "GiB"]
        assert 0 < sum(sizes) < 15
