"""Messages of protocol buffers (protobuf.dev/programming-guides/encoding): fields of a number, a wire type and a value.
Only what is asked for is followed, and the work is bounded."""

from collections.abc import Iterator
from typing import Any

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
WIDTH = {FIXED64: 8, FIXED32: 4}


class ProtobufError(ValueError):
    """The bytes are no message, or have more fields than are read."""


class Messages:
    """Reads the messages of one file, whose fields it counts."""

    def __init__(self, most_fields: int) -> None:
        self._left = self._most = most_fields

    def fields(self, data: memoryview, wanted: dict[int, int | None]) -> Iterator[tuple[int, Any]]:
        """The wanted fields in order: an int or a memoryview each. A wanted field of another wire type is refused."""
        at, end = 0, len(data)
        while at < end:
            self._spend()
            key, at = _varint(data, at)
            number, wire = key >> 3, key & 7
            value: int | memoryview
            if wire == VARINT:
                value, at = _varint(data, at)
            else:
                if wire == BYTES:
                    size, at = _varint(data, at)
                else:
                    size = WIDTH.get(wire, end)
                if number == 0 or size > end - at:
                    raise ProtobufError("it is damaged, or another kind of file")
                value, at = data[at : at + size], at + size
            if number in wanted:
                if wanted[number] not in (None, wire):
                    raise ProtobufError(f"field {number} has the wire type {wire}")
                yield number, value

    def packed(self, data: memoryview) -> Iterator[int]:
        """The numbers of a packed field."""
        at = 0
        while at < len(data):
            self._spend()
            value, at = _varint(data, at)
            yield value

    def _spend(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise ProtobufError(f"it has more than {self._most} fields")


def text(data: memoryview) -> str:
    try:
        return str(data, "utf-8")
    except UnicodeDecodeError:
        raise ProtobufError("a text in it is not UTF-8") from None


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """Seven bits a byte, lowest first, at most 64 bits. Returns the value and where the next one starts."""
    value = shift = 0
    while at < len(data) and shift < 64:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & (2**64 - 1), at
        shift += 7
    raise ProtobufError("it is damaged, or another kind of file")
