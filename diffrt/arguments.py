"""One argument at a time: what it must be, as what it is used, or InvalidArgument that says what was got."""

import math
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffrt.errors import InvalidArgument

F32 = NDArray[np.float32]


def texts_of(name: str, value: Any) -> tuple[str, ...] | None:
    texts = (value,) if value is None or isinstance(value, str) else value
    if isinstance(texts, list | tuple) and texts and all(isinstance(text, str) for text in texts):
        for each in texts:
            if any("\ud800" <= letter <= "\udfff" for letter in each):
                raise InvalidArgument(f"{name} is {shown(each)}: it holds bytes that are no UTF-8 text")
        return tuple(texts)
    if value is None:
        return None
    raise InvalidArgument(f"{name} is {shown(value)}: give a text or a list of at least one")


def positive(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or value <= 0:
        raise InvalidArgument(f"{name} is {shown(value)}: give a whole number of at least 1")
    return int(value)


def whole_number(name: str, value: Any, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or not 0 <= int(value) <= most:
        raise InvalidArgument(f"{name} is {shown(value)}: give a whole number from 0 to {most}")
    return int(value)


def number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise InvalidArgument(f"{name} is {shown(value)}: give a finite number")
    return float(value)


def share_of(name: str, value: Any, ends: tuple[str, str] = ("", "")) -> float:
    share = number(name, value)
    if not 0 <= share <= 1:
        raise InvalidArgument(f"{name} is {value}: give a number from 0{ends[0]} to 1{ends[1]}")
    return share


def interval_of(name: str, value: Any) -> tuple[float, float]:
    if not isinstance(value, list | tuple) or len(value) != 2 or not all(isinstance(each, Real) for each in value):
        raise InvalidArgument(f"{name} is {shown(value)}: give two shares of the run, such as (0.2, 0.8)")
    start, end = float(value[0]), float(value[1])
    if not 0 <= start <= end <= 1:
        raise InvalidArgument(f"{name} is {shown(value)}: the shares must lie from 0 to 1, the first one first")
    return start, end


def array_of(name: str, value: Any, shape: tuple[int, ...]) -> F32:
    if not isinstance(value, np.ndarray) or value.shape != shape or 0 in shape or value.dtype.kind != "f":
        raise InvalidArgument(f"{name} is {shown(value)}: give a float32 array of shape {list(shape)}")
    if not np.isfinite(value).all():
        raise InvalidArgument(f"{name} holds NaN or infinity: give finite numbers")
    return value.astype(np.float32, copy=False)


def shown(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"a {value.dtype} array of shape {list(value.shape)}"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
