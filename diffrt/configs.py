"""Reading a JSON file, and a diffusers config.json into a frozen record, refusing what is not implemented."""

import dataclasses
import json
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from diffrt.errors import CheckpointError, nearest

T = TypeVar("T")
LARGEST_JSON = 16 << 20  # bytes


def read_config(record: type[T], config: Mapping[str, Any], only: Mapping[str, tuple]) -> T:
    """Build ``record`` from ``config``.

    ``only`` lists keys that exist in diffusers but are implemented for the given values alone; they need no field.
    Keys beginning with ``_`` are metadata. Raises CheckpointError naming the key, what it holds and what is allowed.
    """
    fields = {f.name: f.type for f in dataclasses.fields(record)}  # type: ignore[arg-type]
    values = {}
    for key, value in config.items():
        if key.startswith("_"):
            continue
        if key in only:
            if value not in only[key]:
                allowed = " or ".join(repr(v) for v in only[key])
                raise CheckpointError(f"config key {key!r} is {value!r}; this exporter implements {allowed}")
        elif key in fields:
            values[key] = tuple(value) if isinstance(value, list) else value
            if not fits(values[key], fields[key]):
                raise CheckpointError(f"config key {key!r} is {value!r:.60}; allowed: {spelled(fields[key])}")
        else:
            raise CheckpointError(f"unknown config key {key!r} = {value!r}: {nearest(key, {*fields, *only})}")
    try:
        return record(**values)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"config does not fit {record.__name__}: {error}") from error


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a field's declared type: a union, a Literal, a tuple, float, bool, str, None, or int, which
    is a count or a size and so at least 1."""
    if hint is Any:
        return True
    if get_origin(hint) in (types.UnionType, Union):
        return any(fits(value, part) for part in get_args(hint))
    if get_origin(hint) is tuple:
        parts = get_args(hint)
        parts = parts[:1] * len(value) if isinstance(value, tuple) and parts[-1] is Ellipsis else parts
        return isinstance(value, tuple) and len(value) == len(parts) and all(map(fits, value, parts))
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    return type(value) in ((int, float) if hint is float else (hint,)) and (hint is not int or value >= 1)


def spelled(hint: Any) -> str:
    text = hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint).replace("typing.", "")
    return text.replace("int", "a whole number from 1")


def per_block(value: Any, blocks: int, key: str) -> tuple:
    """A config value given once or once per block, as a tuple of ``blocks`` values."""
    if not isinstance(value, (tuple, list)):
        return (value,) * blocks
    if len(value) != blocks:
        raise CheckpointError(f"config key {key!r} has {len(value)} values for {blocks} blocks")
    return tuple(value)


def read_json(file: Path) -> dict[str, Any]:
    try:
        if file.stat().st_size > LARGEST_JSON:
            raise CheckpointError(f"{file} has {file.stat().st_size} bytes; at most {LARGEST_JSON} are read")
        value = json.loads(file.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{file} holds a {type(value).__name__}, not a JSON object")
    return value
