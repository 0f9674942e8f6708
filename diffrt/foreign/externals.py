"""Where a graph's data may lie: in files beside it, and nowhere else."""

from pathlib import Path

from diffrt.errors import BundleError
from diffrt.onnx_file import GraphFile
from diffrt.strict import Misfit, inner_path


def locations(graph: Path, model: GraphFile) -> list[str]:
    """The files beside a graph that hold data of it, as paths from its folder. BundleError where one leaves it."""
    named = {tensor.external.location: tensor.name for tensor in model.tensors if tensor.external}
    for location, tensor in named.items():
        try:
            inner_path(location, "")
        except Misfit:
            raise BundleError(f"{graph}: {tensor!r} lies in {location!r:.80}, outside of the graph's folder") from None
    return sorted(named)


def data_files(graph: Path, model: GraphFile) -> list[Path]:
    """The same, as files that are there and hold as much as the graph takes from them."""
    files = {name: graph.parent / name for name in locations(graph, model)}
    for name, file in files.items():
        if not file.is_file():
            raise BundleError(f"{file} is missing: {graph} keeps its data in it; copy the folder again")
        ends = [(t.external.offset + t.external.length, t.name) for t in model.tensors
                if t.external and t.external.location == name]  # fmt: skip
        end, tensor = max(ends)
        if end > file.stat().st_size:
            raise BundleError(f"{file} has {file.stat().st_size} bytes; {tensor!r} ends at {end}: copy it again")
    return list(files.values())
