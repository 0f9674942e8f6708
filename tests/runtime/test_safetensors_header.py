"""The header reader agrees with the format's own library, and refuses every damaged file by name."""

import json
import struct

import numpy as np
import pytest
import safetensors
from safetensors.numpy import save_file

from diffrt.safetensors_header import HeaderError, header_length, read_header

TENSORS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.ones((4, 1), np.float16),
    "scalar": np.array(3, np.int64),
    "empty": np.zeros((0, 5), np.uint8),
    "flag": np.array([True, False]),
}


@pytest.fixture
def good(tmp_path):
    file = tmp_path / "good.safetensors"
    save_file(TENSORS, file, metadata={"format": "pt"})
    return file


def write(file, header, data=b"", length=None):
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(raw) if length is None else length) + raw + data)
    return file


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def test_offsets_lead_to_the_tensors(good):
    header, content = read_header(good), good.read_bytes()
    assert header.keys() == TENSORS.keys()
    for name, array in TENSORS.items():
        tensor = header[name]
        assert tensor.shape == array.shape
        assert content[tensor.offset : tensor.offset + tensor.length] == array.tobytes()


def test_header_length_is_where_the_tensors_begin(good):
    assert header_length(good) == min(tensor.offset for tensor in read_header(good).values())


def test_no_tensors(tmp_path):
    assert read_header(write(tmp_path / "x.safetensors", {})) == {}


BAD = {
    "a gap": ({"a": entry(), "b": entry(offsets=(9, 17))}, bytes(17), "starts at byte"),
    "an overlap": ({"a": entry(), "b": entry(offsets=(4, 12))}, bytes(12), "starts at byte"),
    "not at the start": ({"a": entry(offsets=(4, 12))}, bytes(12), "starts at byte"),
    "too little data": ({"a": entry()}, bytes(7), "truncated"),
    "too much data": ({"a": entry()}, bytes(9), "corrupt"),
    "unknown dtype": ({"a": entry(dtype="F31")}, bytes(8), "dtype 'F31'"),
    "dtype no text": ({"a": entry(dtype=["F32"])}, bytes(8), "dtype"),
    "shape and bytes differ": ({"a": entry(shape=(3,))}, bytes(8), "does not fit its 8 bytes"),
    "huge shape": ({"a": entry(shape=(2**62, 2**62, 2**62))}, bytes(8), "does not fit"),
    "negative shape": ({"a": entry(shape=(-2, -1))}, bytes(8), "no valid shape"),
    "a float in shape": ({"a": entry(shape=(2.0,))}, bytes(8), "no valid shape"),
    "a bool in shape": ({"a": entry(shape=(True, 2))}, bytes(8), "no valid shape"),
    "offsets backwards": ({"a": entry(offsets=(8, 0))}, bytes(8), "does not fit"),
    "one offset": ({"a": entry(offsets=(0,))}, bytes(8), "no valid shape"),
    "entry no object": ({"a": [1]}, b"", "dtype None"),
    "a list": ([], b"", "not an object"),
    "no JSON": (b"{'a': 1}", b"", "not JSON"),
    "no UTF-8": (b'{"\xff": 1}', b"", "not JSON"),
    "deep JSON": (b'{"a":' + b"[" * 90_000 + b"]" * 90_000 + b"}", b"", "not JSON|dtype None"),
}


@pytest.mark.parametrize("name", BAD)
def test_damage_is_named(tmp_path, name):
    header, data, says = BAD[name]
    file = write(tmp_path / "bad.safetensors", header, data)
    with pytest.raises(HeaderError, match=says) as caught:
        read_header(file)
    assert str(file) in str(caught.value)
    if name != "deep JSON":  # the library refuses it too
        with pytest.raises(safetensors.SafetensorError):
            safetensors.safe_open(file, "np")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "truncated"),
        (b"\x08\0\0", "truncated"),
        (struct.pack("<Q", 2**63) + b"{}", "truncated"),
        (struct.pack("<Q", 3) + b"{}", "truncated"),
        (b"PK\x03\x04" + bytes(100), "pickle"),
        (b"\x80\x02}q\x00(X" + bytes(100), "pickle"),
        (b"\x80\x04\x95\x10\0\0\0\0" + bytes(100), "pickle"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
        (b"<!DOCTYPE html><html>", "no safetensors file"),
    ],
)
def test_other_files_are_recognised(tmp_path, content, says):
    file = tmp_path / "x.safetensors"
    file.write_bytes(content)
    for read in (read_header, header_length):
        with pytest.raises(HeaderError, match=says):
            read(file)


def test_every_truncation_is_refused(good):
    content = good.read_bytes()
    for end in range(len(content)):
        good.write_bytes(content[:end])
        with pytest.raises(HeaderError):
            read_header(good)


def test_missing_file(tmp_path):
    with pytest.raises(HeaderError, match="cannot be read"):
        read_header(tmp_path / "none.safetensors")
