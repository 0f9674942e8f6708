"""The certificate refuses: an export outside its declared tolerance names the component and leaves nothing."""

import numpy as np
import pytest

import exporters
from diffrt.bundle import Bundle
from diffrt.errors import ExportError
from diffrt.manifest import TensorSpec
from diffrt.pipeline import BUNDLES
from exporters import spec
from exporters.figures import measure
from exporters.verify import picture_figures, psnr
from exporters.worker import SEED, advance, starting


def test_outside_tolerance_fails_and_says_which_component(sd1_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setitem(spec.TOLERANCE, "fp32", 1e-12)  # below what float32 can reach
    with pytest.raises(ExportError, match=r"^text_encoder: .*differs from eager PyTorch by .*relative L2") as caught:
        exporters.export(sd1_checkpoint, tmp_path / "bundle")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_figures_are_those_of_their_definitions():
    figures = measure(np.array([3.0, 4.0]), np.array([3.0, 0.0]))
    assert figures["max_abs"] == 4
    assert figures["relative_l2"] == pytest.approx(4 / 3)
    assert figures["cosine"] == pytest.approx(0.6)
    off_by_one = psnr(np.full((1, 3, 8, 8), 2 / 255), np.zeros((1, 3, 8, 8)))
    assert off_by_one == pytest.approx(20 * np.log10(255))
    assert np.isfinite(psnr(np.zeros(4), np.zeros(4)))


@pytest.mark.parametrize(("precision", "fix"), [("int8", "--precision fp16, or with --no-verify"), ("fp16", "fp32")])
def test_a_picture_too_far_off_says_what_to_do(precision, fix):
    manifest, black = Bundle.open(BUNDLES["emoji"]).manifest, np.zeros((1, 3, 8, 8))
    with pytest.raises(ExportError, match=f"20.0 dB PSNR, allowed: at least [0-9]+; export with .*{fix}"):
        picture_figures(black + 0.2, black, precision, manifest)


@pytest.mark.parametrize("scheduler", ["DDIMScheduler", "EulerDiscreteScheduler"])
def test_what_the_short_generation_starts_from(scheduler):
    """It starts from noise as the UNet knows it; a UNet of nine channels is told of a mask that covers everything."""
    noise = np.random.default_rng(SEED).standard_normal((2, 4, 3, 5), dtype=np.float32)
    seen = []

    def unet(feeds):
        seen.append(feeds)
        return {"out_sample": feeds["sample"][:, :4] * 0.5}

    config = {"_class_name": scheduler, "beta_schedule": "scaled_linear"}
    words = {"encoder_hidden_states": ("text_encoder.last_hidden_state",)}
    state = starting(noise, inputs(9), words, {}) | {"told/encoder_hidden_states": np.zeros((4, 7, 6), np.float32)}
    advance("unet", unet, state, {"scheduler": config, "denoiser": "unet", "conditions": words, "time": "timestep"})
    first = seen[0]
    assert first["sample"].shape == (4, 9, 3, 5)
    np.testing.assert_allclose(first["sample"][:2, :4], noise, rtol=1e-2)  # as the UNet wants it: of unit variance
    np.testing.assert_array_equal(first["sample"][:, 4], 1)
    np.testing.assert_array_equal(first["sample"][:, 5:], 0)
    assert first["encoder_hidden_states"].shape == (4, 7, 6)
    assert starting(noise, inputs(4), words, {}).keys() == {"noise"}
    sizes = TensorSpec("time_ids", "float32", ("batch", 6))
    assert starting(noise, [*inputs(4), sizes], words, {})["told/time_ids"].shape == (4, 6)


def inputs(channels):
    return [
        TensorSpec("sample", "float32", ("batch", channels, "h", "w")),
        TensorSpec("timestep", "float32", ("batch",)),
        TensorSpec("encoder_hidden_states", "float32", ("batch", "sequence", 6)),
    ]
