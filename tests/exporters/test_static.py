"""Graphs of one fixed size: beside the dynamic ones, certified, without shape arithmetic, drawing the same picture."""

import numpy as np
import onnx
import pytest

import diffrt
import exporters
from diffrt.manifest import Manifest

SIZE = (72, 88)


pytestmark = pytest.mark.slow  # two certified exports


@pytest.fixture(scope="module")
def bundle(sd1_checkpoint, tmp_path_factory):
    return exporters.export(sd1_checkpoint, tmp_path_factory.mktemp("static") / "bundle", static=SIZE)


def test_static_graphs_are_certified_and_compute_no_shapes(bundle):
    manifest = Manifest.loads((bundle / "diffrt.json").read_text("utf-8"))
    assert (manifest.defaults.height, manifest.defaults.width) == SIZE
    for name in ("unet", "vae_encoder", "vae_decoder"):
        variants, tiling = manifest.components[name].variants, manifest.components[name].tiling
        assert {v.static for v in variants} == {None, "72x88"}
        assert set(manifest.certificate["components"][name]) == {v.file for v in variants} | (
            {tiling.tiled} if tiling else set()
        )
        for variant in variants:
            ops = {node.op_type for node in onnx.load(bundle / variant.file, load_external_data=False).graph.node}
            assert ("Shape" in ops) == (variant.static is None)


def test_the_picture_is_that_of_the_dynamic_graphs(bundle, sd1_bundle):
    call = {"height": 72, "width": 88, "num_inference_steps": 3, "seed": 5, "output_type": "np"}
    fixed = diffrt.load(bundle)("a red apple", **call).images
    free = diffrt.load(sd1_bundle)("a red apple", **call).images
    assert np.abs(fixed - free).max() <= 1 / 255
    other = diffrt.load(bundle)("a red apple", **{**call, "height": 64}).images
    assert other.shape == (1, 64, 88, 3)
    longer = {**call, "chunks": 2}  # no graph of a fixed size takes it
    difference = (
        diffrt.load(bundle)("a red apple", **longer).images - diffrt.load(sd1_bundle)("a red apple", **longer).images
    )
    assert np.abs(difference).max() <= 1 / 255
