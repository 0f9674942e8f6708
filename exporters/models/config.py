"""Reading a diffusers config.json into a frozen record, refusing what the module does not implement."""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from diffrt.errors import CheckpointError, nearest

T = TypeVar("T")


def read_config(record: type[T], config: Mapping[str, Any], only: Mapping[str, tuple]) -> T:
    """Build ``record`` from ``config``.

    ``only`` lists keys that exist in diffusers but are implemented for the given values alone; they need no field.
    Keys beginning with ``_`` are metadata. Raises CheckpointError naming the key, what it holds and what is allowed.
    """
    fields = {f.name for f in dataclasses.fields(record)}  # type: ignore[arg-type]
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
        else:
            raise CheckpointError(f"unknown config key {key!r} = {value!r}: {nearest(key, fields | set(only))}")
    try:
        return record(**values)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"config does not fit {record.__name__}: {error}") from error


def per_block(value: Any, blocks: int, key: str) -> tuple:
    """A config value given once or once per block, as a tuple of ``blocks`` values."""
    if not isinstance(value, (tuple, list)):
        return (value,) * blocks
    if len(value) != blocks:
        raise CheckpointError(f"config key {key!r} has {len(value)} values for {blocks} blocks")
    return tuple(value)
