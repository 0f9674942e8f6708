"""diffrt.philox against what others publish of Philox and of torch.randn on GPUs, and a thread by thread model."""

import math

import numpy as np
import pytest

from diffrt import noise
from diffrt.philox import THREADS, Philox, philox

# Random123 1.14.0, tests/kat_vectors, the lines "philox4x32 10": counter, key, result.
VECTORS = """
00000000 00000000 00000000 00000000 00000000 00000000   6627e8d5 e169c58d bc57ac4c 9b00dbd8
ffffffff ffffffff ffffffff ffffffff ffffffff ffffffff   408f276d 41c83b0e a20bc7c6 6d5451fd
243f6a88 85a308d3 13198a2e 03707344 a4093822 299f31d0   d16cfe09 94fdcceb 5001e420 24126ea1
"""
# What GPUs drew, as people printed it: (seed, shape of every draw, {draw: (index, values)}).
PRINTED = {
    # modules/rng_philox.py of AUTOMATIC1111/stable-diffusion-webui: torch.randn((3, 4), device="cuda")
    "webui": (0, (3, 4), {0: (..., [[-0.92466259, -0.42534415, -2.6438457, 0.14518388],
                                    [-0.12086647, -0.57972564, -0.62285122, -0.32838709],
                                    [-1.07454231, -0.36314407, -1.67105067, 2.26550497]])}),
    # a lecture on fused kernels, on a GPU of compute capability 7.5
    "lora": (0, (8, 8), {0: ([0, 3, 7], [[-0.9247, -0.4253, -2.6438, 0.1452, -0.1209, -0.5797, -0.6229, -0.3284],
                                         [0.0697, -0.0074, 1.8969, 0.6878, -0.0779, -0.8373, 1.3506, -0.2879],
                                         [-0.5499, -0.3231, -0.5469, 0.9049, 0.2837, 0.1210, 0.4730, -1.0823]])}),
    # the docstrings of flashinfer/logits_processor
    "flashinfer": (42, (2, 5), {0: (..., [[0.1940, 2.1614, -0.1721, 0.8491, -1.9244],
                                          [0.6530, -0.6494, -0.8175, 0.5280, -1.2753]])}),
    # a report on torch._foreach_sub: six draws one after another
    "foreach": (42, (4,), {0: (..., [0.1940, 2.1614, -0.1721, 0.8491]), 1: (..., [0.1391, -0.1082, -0.7174, 0.7566]),
                           2: (..., [-0.5187, 1.2268, 0.6255, -0.9117]), 3: (..., [-0.6974, -1.8688, -0.8832, -1.6627]),
                           4: (..., [-1.2682, -0.0383, -0.1029, 1.4400]), 5: (..., [1.4640, -0.3238, 0.7740, 1.5892])}),
    # rows of a softmax exercise, torch.randn((1823, 781), device="cuda")[0:10]: more than any GPU runs at once
    "softmax": (42, (1823, 781), {0: (np.ix_([0, 1, 2, 7, 8, 9], [0, 1, 2, -3, -2, -1]), [
        [0.1940, 2.1614, -0.1721, -0.8353, -1.6443, 0.1315], [-0.1797, 0.9744, -2.0136, 0.0543, 0.2508, -0.2370],
        [1.1266, 1.5895, 0.1072, -0.4797, 1.4313, 1.7260], [1.9695, 0.5996, 0.5583, -0.0692, 2.9254, 0.9274],
        [-1.7301, 1.2562, -1.2144, -0.4262, -2.0327, -1.0277], [-0.2987, 0.1946, 1.1640, -0.2081, -1.0439, 0.7082]])}),
}  # fmt: skip
# Triton's tutorial on matrix multiplication: the product of two draws of 512 x 512 half-precision numbers, which is
# more than an A100 has threads. Corners of what it prints.
PRODUCT = [
    [-10.9531, -4.7109, 15.6953, -28.4062, 4.3320, -26.4219], [26.8438, 10.0469, -5.4297, -11.2969, -8.5312, 30.7500],
    [-13.2578, 15.8516, 18.0781, -21.7656, -8.6406, 10.2031], [40.2812, 18.6094, -25.6094, -2.7598, -3.2441, 41.0000],
    [-6.1211, -16.8281, 4.4844, -21.0312, 24.7031, 15.0234], [-17.0938, -19.0000, -0.3831, 21.5469, -30.2344, -13.2188],
]  # fmt: skip


def test_words_are_philox():
    rows = [[int(word, 16) for word in line.split()] for line in VECTORS.split("\n") if line]
    for *given, a, b, c, d in rows:
        assert philox(given[:4], given[4:]) == (a, b, c, d)
    together = philox(np.array([row[:4] for row in rows[:1] * 5]).T, rows[0][4:6])  # words broadcast
    assert [word.tolist() for word in together] == [[word] * 5 for word in rows[0][6:]]


@pytest.mark.parametrize("source", PRINTED)
def test_equals_what_gpus_drew(source):
    seed, shape, draws = PRINTED[source]
    stream = noise.generators([seed], "philox")[0]
    for draw in range(max(draws) + 1):
        z = stream.randn(shape)
        assert z.dtype == np.float32
        at, values = draws[draw]
        printed = 4e-6 if source == "webui" else 5.5e-5  # half a unit of the last printed digit, and a GPU's own error
        np.testing.assert_allclose(z[at], values, rtol=0, atol=printed)


def test_equals_what_an_a100_drew_beyond_its_threads():
    stream = Philox(0)
    a, b = (stream.randn((512, 512)).astype(np.float16).astype(np.float64) for _ in range(2))
    corners = np.array([0, 1, 2, -3, -2, -1])
    # sums of 512 products, each factor within a rounding to half precision of the GPU's; printed in half precision
    np.testing.assert_allclose((a[corners] @ b[:, corners]), PRODUCT, rtol=5e-4, atol=0.01)
    other = Philox(0, threads=132 * 2048)
    a, b = (other.randn((512, 512)) for _ in range(2))
    assert np.abs(a[corners] @ b[:, corners] - PRODUCT).max() > 10  # the layout matters


def one_by_one(seed: int, drawn: int, size: int, threads: int) -> tuple[np.ndarray, int]:
    """A draw as torch's kernel makes it, every thread striding over the output; and how far the stream then is."""
    grid = min(threads // 256, -(-size // 256)) * 256
    z, rounds = np.zeros(size), (size - 1) // (grid * 4) + 1
    for thread in range(grid):
        for turn in range(rounds):
            words = philox([drawn + turn & 0xFFFFFFFF, drawn + turn >> 32, thread, 0], [seed & 0xFFFFFFFF, seed >> 32])
            for k in range(4):
                x, y = (float(word) for word in words[2 * (k // 2) : 2 * (k // 2) + 2])
                e = thread + grid * (4 * turn + k)
                if e < size:
                    angle = 2 * math.pi * (y + 0.5) / 2**32
                    radius = math.sqrt(-2 * math.log((x + 0.5) / 2**32))
                    z[e] = radius * (math.cos(angle) if k % 2 else math.sin(angle))
    return z, drawn + rounds


def test_layout_thread_by_thread():
    stream, drawn, seed = Philox(2**40 + 3, threads=600), 0, 2**40 + 3
    for size in (1, 255, 257, 512, 513, 1100, 2047, 2049, 3000):
        expected, drawn = one_by_one(seed, drawn, size, 600)
        np.testing.assert_allclose(stream.randn([size]), expected, rtol=0, atol=3e-6)


def test_is_normal():
    n = 1 << 20
    z = Philox(3).randn([n]).astype(np.float64)
    # in standard errors: four moments, neighbours, and the sine and cosine of one pair
    moments = [z.mean(), (z**2).mean() - 1, (z**3).mean(), (z**4).mean() - 3]
    partners = (z[: n - THREADS] * z[THREADS:])[:THREADS]
    correlations = [(z[1:] * z[:-1]).mean(), partners.mean() * np.sqrt(THREADS / n)]
    errors = np.array([*moments, *correlations]) * np.sqrt(n / np.array([1, 2, 15, 96, 1, 1]))
    assert np.abs(errors).max() < 4
    assert np.mean(np.abs(z) < 1) == pytest.approx(0.682689, abs=4 * (0.2166 / n) ** 0.5)


def test_streams():
    """A batch never changes a picture, draws go on, and a seed is one of torch's."""
    streams, alone = noise.generators([7, 8, 9], "philox"), noise.generators([8], "philox")
    for shape in [(4, 8, 8), (5,), (0,), (3, 7, 9)]:
        np.testing.assert_array_equal(noise.randn(streams, shape)[1], noise.randn(alone, shape)[0])
    first, second = (alone[0].randn([4]) for _ in range(2))
    assert not np.isin(first, second).any()
    np.testing.assert_array_equal(Philox(-1).randn([4]), Philox(2**64 - 1).randn([4]))
    assert not np.isin(Philox(7).randn([4]), Philox(7 + 2**32).randn([4])).any()
    with pytest.raises(noise.InvalidArgument, match=r"-2\*\*63 to 2\*\*64-1"):
        noise.generators([2**64], "philox")
