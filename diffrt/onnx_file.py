"""Reads the boundary of an ONNX file, its initializers, and where their data lies, without the onnx package.

A graph is a message of onnx.proto3. Any malformed byte is an OnnxFileError, and the work is bounded.
"""

import mmap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from diffrt.protobuf import BYTES, VARINT, Messages, ProtobufError, text

T = TypeVar("T")

LARGEST = 2**31 - 1  # bytes; protobuf's own limit
MOST_FIELDS = 4_000_000  # bounds the time a hostile file can take; a full-size UNet has 60,000
DEEPEST = 16  # subgraphs within subgraphs

# ONNX data type -> its name in safetensors
DTYPES = {1: "F32", 2: "U8", 3: "I8", 4: "U16", 5: "I16", 6: "I32", 7: "I64", 9: "BOOL", 10: "F16", 11: "F64",
          12: "U32", 13: "U64", 16: "BF16", 17: "F8_E4M3", 19: "F8_E5M2"}  # fmt: skip


class OnnxFileError(ValueError):
    """The file is no ONNX graph, a damaged one, or one whose data lies where it must not."""


@dataclass(frozen=True)
class External:
    location: str  # relative to the graph's folder
    offset: int
    length: int


@dataclass(frozen=True)
class Initializer:
    name: str
    dtype: str
    shape: tuple[int, ...]
    external: External | None  # None: the data is in the graph


@dataclass(frozen=True)
class Value:
    """An input or output of a graph."""

    name: str
    dtype: str
    shape: tuple[int | str, ...] | None  # a name, or "", of an axis of any size; None: of any rank


@dataclass(frozen=True)
class GraphFile:
    inputs: dict[str, Value]  # in their order; without those that are initializers
    outputs: dict[str, Value]
    tensors: list[Initializer]  # the initializers, and what attributes hold


def read_initializers(path: str | Path) -> list[Initializer]:
    """Every initializer of the graph, its subgraphs and functions; attributes must hold their own data. Raises
    OnnxFileError, OSError."""
    return _read(path, lambda data: list(_Reader().model(data)))


def read_graph(path: str | Path) -> GraphFile:
    """The boundary, and every tensor whose data may lie in another file. Raises OnnxFileError, OSError."""
    return _read(path, _graph_file)


def _graph_file(data: memoryview) -> GraphFile:
    tensors = list(_Reader(outside=True).model(data))
    known = {tensor.name for tensor in tensors}
    inputs, outputs = _Reader().boundary(data)
    return GraphFile({v.name: v for v in inputs if v.name not in known}, {v.name: v for v in outputs}, tensors)


def _read(path: str | Path, parse: Callable[[memoryview], T]) -> T:
    path = Path(path)
    size = path.stat().st_size
    if not 0 < size <= LARGEST:
        raise OnnxFileError(f"{path} has {size} bytes; a graph has from 1 to {LARGEST}")
    try:
        with path.open("rb") as file:  # mapped: weights inside it are not read
            return parse(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))
    except (OnnxFileError, ProtobufError) as error:
        raise OnnxFileError(f"{path}: {error}") from None


class _Reader:
    """Walks a graph. Numbers are the field numbers of onnx.proto3."""

    def __init__(self, outside: bool = False) -> None:
        """Whether the data of attributes may lie `outside` of the graph as well."""
        messages = Messages(MOST_FIELDS)
        self._fields, self._packed, self._outside = messages.fields, messages.packed, outside

    def boundary(self, data: memoryview) -> tuple[list[Value], list[Value]]:
        """Inputs and outputs."""
        found: dict[int, list[Value]] = {11: [], 12: []}
        for _, graph in self._fields(data, {7: BYTES}):
            for number, value in self._fields(graph, dict.fromkeys(found, BYTES)):
                found[number].append(self._value(value))
        return found[11], found[12]

    def _value(self, data: memoryview) -> Value:
        name, dtype, shape = "", 0, None
        for number, value in self._fields(data, {1: BYTES, 2: BYTES}):
            if number == 1:
                name = text(value)
                continue
            for _, tensor in self._fields(value, {1: BYTES}):
                for part, content in self._fields(tensor, {1: VARINT, 2: BYTES}):
                    if part == 1:
                        dtype = content
                    else:
                        shape = tuple(self._axis(each) for _, each in self._fields(content, {1: BYTES}))
        return Value(name, DTYPES.get(dtype, f"type {dtype}"), shape)

    def _axis(self, data: memoryview) -> int | str:
        for number, value in self._fields(data, {1: VARINT, 2: BYTES}):
            return value if number == 1 else text(value)
        return ""

    def model(self, data: memoryview) -> Iterator[Initializer]:
        found = False
        for number, value in self._fields(data, {7: BYTES, 25: BYTES}):
            found = found or number == 7  # graph
            yield from self._graph(value, 0) if number == 7 else self._function(value)
        if not found:
            raise OnnxFileError("there is no graph in it")

    def _graph(self, data: memoryview, depth: int) -> Iterator[Initializer]:
        if depth > DEEPEST:
            raise OnnxFileError(f"subgraphs are nested deeper than {DEEPEST}")
        for number, value in self._fields(data, {1: BYTES, 5: BYTES, 15: BYTES}):
            if number == 1:  # node
                yield from self._node(value, depth)
            elif number == 5:  # initializer
                yield self._tensor(value)
            else:  # sparse_initializer
                self._sparse(value)

    def _function(self, data: memoryview) -> Iterator[Initializer]:
        for number, value in self._fields(data, {7: BYTES, 11: BYTES}):
            yield from self._node(value, 0) if number == 7 else self._attribute(value, 0)

    def _node(self, data: memoryview, depth: int) -> Iterator[Initializer]:
        for _, value in self._fields(data, {5: BYTES}):
            yield from self._attribute(value, depth)

    def _attribute(self, data: memoryview, depth: int) -> Iterator[Initializer]:
        """Subgraphs are followed (g, graphs); sparse tensors must hold their own data, and others (t, tensors) too
        unless it may lie outside."""
        tensors, sparse, graphs = (5, 10), (22, 23), (6, 11)
        for number, value in self._fields(data, dict.fromkeys((*tensors, *sparse, *graphs), BYTES)):
            if number in tensors and self._outside:
                yield self._tensor(value)
            elif number in tensors:
                self._inline(value)
            elif number in sparse:
                self._sparse(value)
            else:
                yield from self._graph(value, depth + 1)

    def _sparse(self, data: memoryview) -> None:
        for _, tensor in self._fields(data, {1: BYTES, 2: BYTES}):
            self._inline(tensor)

    def _inline(self, data: memoryview) -> None:
        for number, value in self._fields(data, {13: BYTES, 14: VARINT}):
            if number == 13 or value:
                raise OnnxFileError("an attribute or a sparse tensor keeps its data in another file")

    def _tensor(self, data: memoryview) -> Initializer:
        name, dtype, shape, entries, outside = "", 0, [], {}, False
        for number, value in self._fields(data, {1: None, 2: VARINT, 8: BYTES, 13: BYTES, 14: VARINT}):
            match number:
                case 1:  # dims, packed or one by one
                    shape += list(self._packed(value)) if isinstance(value, memoryview) else [value]
                case 2:
                    dtype = value
                case 8:
                    name = text(value)
                case 13:
                    key, entry = self._entry(value)
                    if key in entries:
                        raise OnnxFileError(f"initializer {name!r} gives its {key} twice")
                    entries[key] = entry
                case 14:
                    outside = value == 1
        if bool(entries) != outside:
            raise OnnxFileError(f"initializer {name!r} does not say clearly whether its data is in another file")
        return Initializer(
            name, DTYPES.get(dtype, f"type {dtype}"), tuple(shape), _external(name, entries) if outside else None
        )

    def _entry(self, data: memoryview) -> tuple[str, str]:
        pair = {number: text(value) for number, value in self._fields(data, {1: BYTES, 2: BYTES})}
        return pair.get(1, ""), pair.get(2, "")


def _external(name: str, entries: dict[str, str]) -> External:
    numbers = [entries.get(key, "") for key in ("offset", "length")]
    if set(entries) - {"location", "offset", "length", "checksum"} or not all(
        n.isascii() and n.isdigit() and len(n) < 20 for n in numbers
    ):
        raise OnnxFileError(f"initializer {name!r} needs a location, an offset and a length, nothing else")
    return External(entries.get("location", ""), int(numbers[0]), int(numbers[1]))
