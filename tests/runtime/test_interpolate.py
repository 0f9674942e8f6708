"""Laws of interpolation, and diffusers' own slerp in torch."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.pipelines.deprecated.audio_diffusion.pipeline_audio_diffusion import AudioDiffusionPipeline
from PIL import Image

import diffrt
from diffrt.errors import InvalidArgument
from diffrt.interpolate import LATENTS, TOKENS, lerp, slerp

T = [0.0, 0.2, 0.5, 0.9, 1.0]


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


A, B = noise(2, 4, 8, 9), noise(2, 4, 8, 9, seed=1)


def norms(x):
    return np.sqrt((x.astype(np.float64) ** 2).sum(axis=LATENTS))


def test_ends():
    for between in (lerp, slerp):
        np.testing.assert_array_equal(between(A, B, 0), A)
        np.testing.assert_allclose(between(A, B, 1), B, atol=1e-6)
        np.testing.assert_allclose(between(A, A, 0.3), A, atol=1e-6)


def test_both_ways_are_one():
    for between in (lerp, slerp):
        np.testing.assert_allclose(between(A, B, 0.3), between(B, A, 0.7), atol=1e-6)


def test_an_array_of_times_gives_frames():
    for between in (lerp, slerp):
        frames = between(A, B, T)
        assert frames.shape == (5, *A.shape)
        assert frames.dtype == np.float32
        for frame, t in zip(frames, T, strict=True):
            np.testing.assert_array_equal(frame, between(A, B, t))
    assert slerp(A[0], B[0], np.linspace(0, 1, 7)).shape == (7, 4, 8, 9)


def test_on_a_sphere_the_norm_is_kept_and_the_speed_is_constant():
    b = (B / norms(B)[:, None, None, None] * norms(A)[:, None, None, None]).astype(np.float32)
    frames = slerp(A, b, np.linspace(0, 1, 9))
    np.testing.assert_allclose(norms(frames), np.broadcast_to(norms(A), (9, 2)), rtol=1e-6)
    steps = norms(np.diff(frames, axis=0))
    np.testing.assert_allclose(steps, np.broadcast_to(steps[0], (8, 2)), rtol=1e-4)
    assert (norms(lerp(A, b, 0.5)) < 0.8 * norms(A)).all()  # a line goes inside


def test_equals_diffusers():
    for t in T:
        got = slerp(A, B, t)
        for i in range(2):  # it takes all it is given for one vector
            expected = AudioDiffusionPipeline.slerp(torch.from_numpy(A[i]), torch.from_numpy(B[i]), t)
            np.testing.assert_allclose(got[i], expected, atol=2e-6)
    a, b = noise(3, 5), noise(3, 5, seed=1)
    rows = [
        AudioDiffusionPipeline.slerp(torch.from_numpy(x), torch.from_numpy(y), 0.4) for x, y in zip(a, b, strict=True)
    ]
    np.testing.assert_allclose(slerp(a, b, 0.4, TOKENS), torch.stack(rows), atol=2e-6)
    np.testing.assert_allclose(lerp(A, B, 0.4), torch.lerp(torch.from_numpy(A), torch.from_numpy(B), 0.4), atol=1e-6)


def test_short_arcs_and_nothing_are_lines():
    for b in (A, A * 3, A + np.float32(1e-7), np.zeros_like(A)):
        np.testing.assert_allclose(slerp(A, b, T), lerp(A, b, T), atol=1e-6)
    close = A + np.float32(1e-3) * B
    np.testing.assert_allclose(slerp(A, close, T), lerp(A, close, T), atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((A, B[:1], 0.5), "a has the shape"),
        ((A, -A, 0.5), "opposite"),
        ((A, B, float("nan")), "finite"),
        ((A, B * np.float32("inf"), 0.5), "finite"),
        ((A, B, [[0.5]]), "t must be"),
        ((A[0, 0], B[0, 0], 0.5), "have no 3 axes"),
    ],
)
def test_what_does_not_fit_is_named(arguments, says):
    with pytest.raises(InvalidArgument, match=says):
        slerp(*arguments)


@pytest.mark.parametrize("name", ["a.webp", "a.gif"])
def test_the_example_goes_there_and_back(tmp_path, name):
    example = Path(__file__).parents[2] / "examples" / "interpolate.py"
    options = ["--seed", "1", "2", "--frames", "3", "--batch", "2", "--steps", "1", "--zoom", "1", "-o", name]
    done = subprocess.run(
        [sys.executable, example, "a red apple", "a cat", *options], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    own = diffrt.load("emoji").bundle.manifest.defaults
    with Image.open(tmp_path / name) as animation:
        assert (animation.n_frames, animation.info["loop"], animation.size) == (4, 0, (own.width, own.height))
        pictures = []
        for i in range(4):
            animation.seek(i)
            pictures.append(np.asarray(animation.convert("RGB")).astype(int))
    assert np.abs(pictures[0] - pictures[2]).mean() > 10 * np.abs(pictures[1] - pictures[3]).mean()
