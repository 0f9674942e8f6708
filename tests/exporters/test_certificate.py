"""The certificate refuses: an export outside its declared tolerance names the component and leaves nothing."""

import numpy as np
import pytest

import exporters
from diffrt.errors import ExportError
from exporters.families import stable_diffusion
from exporters.verify import measure, psnr


def test_outside_tolerance_fails_and_says_which_component(sd1_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setitem(stable_diffusion.TOLERANCE, "fp32", 1e-12)  # below what float32 can reach
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
