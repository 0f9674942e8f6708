"""FLOPs are what the formulas say, and a bound is the larger of arithmetic and reading."""

import pytest
import torch
from torch.nn import functional

from benchmarks.bound import Work, counted, fields, work
from benchmarks.plan import job
from benchmarks.suites import EMOJI, Entry


def test_a_convolution():
    layer = torch.nn.Conv2d(8, 16, 3, padding=1, stride=2, device="meta")
    assert counted(layer, torch.empty(2, 8, 12, 20, device="meta")) == 2 * 2 * (6 * 10) * 16 * 8 * 9


def test_a_linear_layer():
    layer = torch.nn.Linear(24, 40, device="meta")
    assert counted(layer, torch.empty(3, 5, 24, device="meta")) == 2 * 3 * 5 * 24 * 40


def test_attention():
    q, k = torch.empty(2, 4, 64, 16, device="meta"), torch.empty(2, 4, 7, 16, device="meta")
    assert counted(functional.scaled_dot_product_attention, q, k, k) == 2 * 2 * (2 * 4 * 64 * 7 * 16)


def test_the_longer_of_the_two_binds():
    found = Work(((1, 100, 1), (10, 8, 5)))  # arithmetic binds the first, reading the second
    assert (found.flops, found.bytes("bf16"), found.bytes("int8")) == (180, 102, 51)
    assert found.seconds(10, 10, "fp32") == 10 + 10 * 2
    row = fields(found, {"bf16": 10.0, "bandwidth": 10.0}, "bf16", 40.0)
    assert row["bound_seconds"] == 10 + 10 * 1 and row["bound_fraction"] == 0.5
    assert "bound_seconds" not in fields(found, {}, "bf16", 40.0)


def test_a_picture_is_all_its_stages():
    stages = {stage: work(job(Entry(EMOJI, stage, (), 1, 1), "")) for stage in ("text", "denoiser", "vae", "picture")}
    (_, text, _), (evaluations, unet, parameters), (_, vae, _) = stages["picture"].stages
    assert [text, unet, vae] == [stages[each].flops for each in ("text", "denoiser", "vae")]
    assert evaluations == EMOJI.steps
    assert parameters == pytest.approx(7.68e6, rel=0.01)
