"""What the suites without contenders count."""

import json
import subprocess
import sys

import pytest

from benchmarks import checkpoints, export_suite, schedulers_suite, start_suite
from benchmarks.setting import Setting


def test_a_step_of_a_scheduler_on_both_sides():
    found = schedulers_suite.measure("EulerDiscreteScheduler", (1, 4, 8, 8), 1)
    assert len(found["diffrt"]) == len(found["diffusers"]) == schedulers_suite.STEPS
    assert min(found["diffrt"] + found["diffusers"]) > 0


def test_what_must_be_installed():
    packages = start_suite.closure(["diffrt", "onnxruntime"])
    assert {"diffrt", "numpy", "onnxruntime", "tokenizers"} <= set(packages)
    assert not {"torch", "diffusers", "jax"} & set(packages)
    assert "torch" in start_suite.closure(["diffrt[export]"])
    assert start_suite.size("numpy") > 10e6 and start_suite.size("diffrt") > 20e6


@pytest.mark.parametrize("stage", ["import", "first picture"])
def test_the_script_of_a_newcomer(tmp_path, stage):
    file = tmp_path / "picture.png"
    arguments = [str(start_suite.BUNDLES["emoji"]), str(file)] if stage == "first picture" else []
    command = [sys.executable, "-c", start_suite.script("diffrt", stage), *arguments]
    printed = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert list(printed) == (["import", "load", "draw"] if arguments else ["import"])
    assert file.exists() == bool(arguments)


def test_a_link_adds_nothing_to_the_disk(tmp_path):
    (tmp_path / "bundle").mkdir()
    (tmp_path / "weights").write_bytes(bytes(1000))
    (tmp_path / "bundle" / "weights").hardlink_to(tmp_path / "weights")
    (tmp_path / "bundle" / "graph").write_bytes(bytes(10))
    assert export_suite.added(tmp_path / "bundle") == 10


def test_larger_models_are_exported_on_request_alone(tmp_path):
    setting = Setting("export", tmp_path, "", {}, {})
    assert list(export_suite.run(setting, ["sdxl,flux"], None, ())) == []
    assert list(tmp_path.iterdir()) == []  # above all, no checkpoint
    assert all(set(names) <= set(export_suite.CONTENDERS) for names in export_suite.CASES.values())
    assert export_suite.CASES.keys() <= checkpoints.KINDS.keys()
