"""diffrt.noise against torch itself, bit for bit, and against what normal noise must obey."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from diffrt import noise
from diffrt.errors import InvalidArgument

SEEDS = [0, 1, 42, 2**32 - 1, 2**32, 2**40 + 3, 2**63, 2**64 - 1, -1, -42, -(2**63)]
SIZES = [*range(1, 41), 255, 256, 257, 1000, 4 * 64 * 64, 4 * 65 * 57 + 1]
MIXED = [
    [256, 5, 48],
    [5, 16, 4, 1, 33, 3, 2, 1],
    [1, 1, 1],
    [15, 15, 31, 7],
    [0, 3, 0, 17],
    [311, 313, 15, 700],
]
ENDS = [[282286, [64]], [978131, [64]]]  # a u1 of exactly 1 (radius 0) and of 2^-24 (the largest radius)
CASES = (
    [[seed, [size]] for seed in SEEDS[:3] for size in SIZES]
    + [[seed, sizes] for seed in SEEDS for sizes in MIXED]
    + ENDS
    + [[7, [1 << 20]]]
)
# torch 2.13: manual_seed(0), then randn(4), randn(2, 8), randn(3) from one generator; float32 in hexadecimal
KNOWN = (
    "3fc53f5c be963c50 c00b7149 3f1184b6 beb65675 3edfdba8 3efb8c53 be51000b bdb54ff7 3f061d37 "
    "bf2a768b 3f59b255 bf8599a7 bfac32f6 3f490d11 3f7e2a99 be45d1c6 be9e3056 3f00a89d bf5c04a1 "
    "bf5b4f07 3f8ce099 bf891cab"
)
LIVE = """
import json, sys, torch
torch.set_num_threads(1)
draws = []
for seed, sizes in json.load(sys.stdin):
    g = torch.Generator("cpu").manual_seed(seed)
    draws += [torch.randn(size, generator=g) for size in sizes]
torch.cat(draws).numpy().tofile(sys.argv[1])
print(torch.backends.cpu.get_cpu_capability())
"""


def torch_draws(capability: str, path) -> np.ndarray:
    """All CASES drawn by torch under one of its CPU kernels, end to end."""
    command = [sys.executable, "-c", LIVE, str(path)]
    env = os.environ | {"ATEN_CPU_CAPABILITY": capability}
    got = subprocess.run(command, input=json.dumps(CASES), env=env, capture_output=True, text=True, check=True)
    if got.stdout.strip() != capability.upper():
        pytest.skip(f"torch has no {capability} kernel on this processor")
    return np.fromfile(path, np.float32)


@pytest.fixture(scope="module")
def ours() -> np.ndarray:
    streams = [(noise.TorchCPU(seed), sizes) for seed, sizes in CASES]
    return np.concatenate([stream.randn([size]) for stream, sizes in streams for size in sizes])


def test_equals_torch_avx2_bit_for_bit(ours, tmp_path):
    theirs = torch_draws("avx2", tmp_path / "draws")
    assert theirs.size == ours.size > 1_100_000
    assert (ours == 0).any()
    assert np.abs(ours).max() > 5
    np.testing.assert_array_equal(ours.view(np.uint32), theirs.view(np.uint32))  # words, so that -0 is not 0


def test_torch_generic_kernel_is_near(ours, tmp_path):
    # its angle is rounded from float64: up to 6.5e-7 apart, times a radius of at most 5.8
    np.testing.assert_allclose(ours, torch_draws("default", tmp_path / "draws"), rtol=0, atol=4e-6)


def test_equals_diffusers_list_of_generators():
    torch = pytest.importorskip("torch")
    from diffusers.utils.torch_utils import randn_tensor

    seeds = noise.resolve_seeds(7, 3)
    gens = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    streams = noise.generators(seeds)
    for _ in range(2):
        theirs = randn_tensor((3, 4, 9, 11), generator=gens).numpy()
        np.testing.assert_allclose(noise.randn(streams, (4, 9, 11)), theirs, rtol=0, atol=4e-6)


def test_known_answers():
    stream = noise.TorchCPU(0)
    draws = np.concatenate([stream.randn(shape).ravel() for shape in ((4,), (2, 8), (3,))])
    assert draws.astype(">f4").tobytes().hex(" ", 4) == KNOWN
    # the numbers that open many a torch tutorial
    np.testing.assert_allclose(draws[:4], [1.5410, -0.2934, -2.1788, 0.5684], atol=5e-5)
    first = noise.TorchCPU(0).randn((4, 4))[0]
    np.testing.assert_allclose(first, [-1.1258, -1.1524, -0.2506, -0.4339], atol=5e-5)


def test_is_normal():
    n = 1 << 20
    z = noise.TorchCPU(3).randn([n]).astype(np.float64)
    # in standard errors: four moments, the correlation of neighbours and that of Box-Muller partners
    moments = [z.mean(), (z**2).mean() - 1, (z**3).mean(), (z**4).mean() - 3]
    pairs = z.reshape(-1, 2, 8)
    correlations = [(z[1:] * z[:-1]).mean(), (pairs[:, 0] * pairs[:, 1]).mean()]
    errors = np.array([*moments, *correlations]) * np.sqrt(n / np.array([1, 2, 15, 96, 1, 2]))
    assert np.abs(errors).max() < 4
    assert np.mean(np.abs(z) < 1) == pytest.approx(0.682689, abs=4 * (0.2166 / n) ** 0.5)


def test_batch_size_never_changes_a_picture():
    streams = noise.generators([7, 8, 9])
    alone = noise.generators([8])
    for shape in [(4, 8, 8), (5,), (3, 7, 9)]:
        together = noise.randn(streams, shape)
        assert together.dtype == np.float32
        assert together.shape == (3, *shape)
        np.testing.assert_array_equal(together[1], noise.randn(alone, shape)[0])


def test_resolve_seeds():
    assert noise.resolve_seeds(5, 3) == [5, 6, 7]
    assert noise.resolve_seeds(np.int64(5), 2) == [5, 6]
    assert noise.resolve_seeds([9, 2], 2) == [9, 2]
    assert noise.resolve_seeds(-1, 2) == [-1, 0]
    first, second = noise.resolve_seeds(None, 2)
    assert 0 <= first < 2**32
    assert second == first + 1
    assert len({noise.resolve_seeds(None, 1)[0] for _ in range(20)}) > 15


@pytest.mark.parametrize("seed", [True, 1.0, "7", np.float32(1), 2**64, -(2**63) - 1, np.True_])
def test_refused_seeds(seed):
    for call in (noise.TorchCPU, lambda s: noise.resolve_seeds(s, 1), lambda s: noise.resolve_seeds([s], 1)):
        with pytest.raises(InvalidArgument, match=r"-2\*\*63 to 2\*\*64-1"):
            call(seed)


def test_refused_counts_sums_and_names():
    with pytest.raises(InvalidArgument, match="2 seeds for 3 images"):
        noise.resolve_seeds([1, 2], 3)
    with pytest.raises(InvalidArgument, match="18446744073709551616"):
        noise.resolve_seeds(2**64 - 1, 2)
    with pytest.raises(InvalidArgument, match="did you mean 'torch-cpu'"):
        noise.generators([1], rng="torch_cpu")
