"""The autoencoder in tiles: a tile is what the whole picture has there, seams included."""

import numpy as np
import pytest

import diffrt
from diffrt.components import tiles
from diffrt.components.tiles import spans
from diffrt.components.vae import Decoder, Encoder, Halves
from diffrt.providers import PROVIDERS

CPU = PROVIDERS["cpu"]


@pytest.fixture(scope="module")
def bundle(sd1_bundle):
    return diffrt.load(sd1_bundle).bundle


@pytest.fixture
def small_tiles(monkeypatch):
    monkeypatch.setattr(tiles, "CORE", 10)


def uniform(*shape, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


@pytest.mark.parametrize("size", [1, 63, 64, 65, 100, 128, 129, 1000])
def test_spans_cover_an_axis_once(size):
    found = list(spans(size, 7, 64))
    assert [i for s in found for i in range(s.start, s.end)] == list(range(size))
    for s in found:
        assert 0 < s.end - s.start <= 64
        assert (s.outer_start, s.outer_end) == (max(0, s.start - 7), min(size, s.end + 7))


def test_one_norm_by_hand():
    """Without any graph: group norm of the whole, from tiles of unequal size."""
    x = uniform(1, 6, 27, 33) * np.float32(3) + np.arange(6, dtype=np.float32)[None, :, None, None]

    def tiled(part, norms, fixed, core):
        top, left, bottom, right = core
        groups = part[0, :, top:bottom, left:right].reshape(2, -1)
        own = np.stack([groups.mean(1), groups.var(1)])[None]
        mean, variance = norms[0] if fixed else own[0]
        return ((part.reshape(1, 2, -1) - mean[:, None]) / np.sqrt(variance)[:, None]).reshape(part.shape), own

    whole = x.reshape(2, -1)
    whole = (whole - whole.mean(1)[:, None]) / whole.std(1)[:, None]
    np.testing.assert_allclose(tiles.run(tiled, x, 1, 1, 3, (1, 2, 2), core=10), whole.reshape(x.shape), atol=1e-5)


def test_decoding(bundle, small_tiles):
    latents = uniform(1, 4, 25, 14) * np.float32(2)
    whole, in_tiles = (Decoder(bundle, CPU, largest)(latents) for largest in (10**9, 100))
    assert whole.std() > 0.02
    np.testing.assert_allclose(in_tiles, whole, atol=1 / 255)  # half a step of 255: these are in [-1,1]


def test_encoding(bundle, small_tiles):
    pictures = uniform(1, 3, 25 * 8, 14 * 8)
    whole, in_tiles = (Encoder(bundle, CPU, largest)(pictures) for largest in (10**9, 100))
    for got, expected in zip(in_tiles, whole, strict=True):
        np.testing.assert_allclose(got, expected, atol=2e-3 * expected.std())


def test_the_surroundings_are_enough(bundle):
    """With the norms fixed, nothing beyond the halo changes the core; much less would not do."""
    tiling, features = bundle.component("vae_decoder").tiling, uniform(1, 32, 40, 8)
    session = Halves.of(bundle, "vae_decoder", CPU)._open(tiling.tiled)
    norms = np.tile(np.float32([[0], [1]]), (tiling.norms, 1, tiling.groups))

    def core_of(rows):
        told = {"norms": norms, "fixed": np.asarray(1, np.float32), "core": np.int64([0, 0, 4, 8])}
        return session.run({"features": features[:, :, :rows], **told})["sample"][:, :, : 4 * 8]

    whole = core_of(40)
    np.testing.assert_allclose(core_of(4 + tiling.halo), whole, atol=1e-6)
    assert np.abs(core_of(4 + 1) - whole).max() > 1e-4


def test_a_picture_of_a_pipeline_short_of_memory(sd1_bundle, monkeypatch):
    monkeypatch.setattr(tiles, "CORE", 8)
    monkeypatch.setitem(diffrt.pipeline.MEMORY, "low", 64)
    arguments = {"height": 104, "width": 72, "num_inference_steps": 2, "seed": 5, "output_type": "np"}
    image = uniform(104, 72, 3) / 2 + np.float32(0.5)
    pipes = [diffrt.load(sd1_bundle, memory=memory) for memory in ("keep", "low")]
    for more in ({}, {"image": image, "strength": 0.6}):
        plain, low = (pipe("an apple", **arguments, **more).images for pipe in pipes)
        assert plain.std() > 0.02
        np.testing.assert_allclose(low, plain, atol=0.5 / 255)
