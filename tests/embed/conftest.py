"""The default model as one file, its pictures by Python, and what is not such a file."""

import shutil
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from diffrt import cli

from . import hosts


def exported(factory: pytest.TempPathFactory, *options: str) -> Path:
    folder = factory.mktemp("single") / "model"
    assert cli.run(["export", "emoji", str(folder), "--form", "single", *options]) == 0
    return folder


@pytest.fixture(scope="session")
def single(tmp_path_factory) -> Path:
    return exported(tmp_path_factory, "--inputs", "segments")


@pytest.fixture(scope="session")
def plain(tmp_path_factory) -> Path:
    return exported(tmp_path_factory)


@pytest.fixture(scope="session")
def pictures(single):
    graph = hosts.session(single / "pipeline.onnx")
    return {case: hosts.picture(graph, single, case) for case in hosts.CASES}


@pytest.fixture(scope="session")
def wrong(single, tmp_path_factory) -> dict[str, Path]:
    """Folders with a pipeline.onnx that is damaged, another model, another kind of graph, or alone."""
    folder = tmp_path_factory.mktemp("wrong")
    for name in ("damaged", "foreign", "lone", "another"):
        (folder / name).mkdir()
    data = (single / "pipeline.onnx").read_bytes()
    (folder / "damaged" / "pipeline.onnx").write_bytes(data[: len(data) // 2])
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    graph = helper.make_graph([], "other", [value], [value])
    other = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])
    (folder / "foreign" / "pipeline.onnx").write_bytes(other.SerializeToString())
    shutil.copy(single / "pipeline.onnx", folder / "lone")
    other = onnx.load(single / "pipeline.onnx")
    helper.set_model_props(other, {p.key: p.value for p in other.metadata_props} | {"loop": "unrolled"})
    onnx.save(other, folder / "another" / "pipeline.onnx")
    for name in ("vocab.json", "merges.txt"):
        for place in ("damaged", "foreign", "another"):
            shutil.copy(single / name, folder / place)
    return {path.name: path for path in folder.iterdir()}
