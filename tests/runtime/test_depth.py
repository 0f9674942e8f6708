"""Depth maps as a denoiser is told of them."""

import numpy as np
import pytest
import torch
from PIL import Image

from diffrt.depth import depths, resized
from diffrt.errors import InvalidArgument

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("size", [(8, 8), (5, 31), (40, 3), (1, 1), (30, 20)])
def test_resized_as_torch_does(size):
    plane = RNG.standard_normal((30, 20))
    expected = torch.nn.functional.interpolate(torch.from_numpy(plane)[None, None], size, mode="bicubic")
    np.testing.assert_allclose(resized(plane, size), expected[0, 0].numpy(), atol=1e-12)


def test_every_kind_of_map(tmp_path):
    steps = np.linspace(0, 60000, 12 * 9).reshape(12, 9).astype(np.uint16)
    Image.fromarray(steps).save(tmp_path / "wide.png")
    kinds = [
        steps, steps.astype(np.int64), 7 + 1e-3 * steps.astype(np.float32), Image.fromarray(steps),
        Image.fromarray(steps.astype(np.float32)), tmp_path / "wide.png", [steps], steps[None],
    ]  # fmt: skip
    expected = depths(steps, 1, (4, 3))
    assert expected.shape == (1, 1, 4, 3) and expected.min() == -1 and expected.max() == 1
    for kind in kinds:
        np.testing.assert_allclose(depths(kind, 1, (4, 3)), expected, atol=1e-5)
    coarse = Image.fromarray((steps // 256).astype(np.uint8)).convert("RGB")
    np.testing.assert_allclose(depths(coarse, 1, (4, 3)), expected, atol=0.01)
    assert depths([steps, steps[::-1]], 2, (4, 3)).shape == (2, 1, 4, 3)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (None, "is missing"),
        (np.ones((4, 4)), "the same everywhere"),
        (np.full((4, 4), np.nan), "NaN"),
        (np.ones((4, 4, 3, 1)), "of shape"),
        (np.ones((0, 4)), "of shape"),
        (np.ones((4, 4), bool), "a bool array"),
        (3, "depth_map is 3"),
        ([], "no picture is given"),
        ([np.eye(4)] * 3, "3 maps for 2 prompts"),
    ],
)
def test_what_is_refused(value, says):
    with pytest.raises(InvalidArgument, match=says):
        depths(value, 2, (4, 4))
