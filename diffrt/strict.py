"""Strict reading of JSON values: each parser takes a value and where it stands, and returns what it means.

A wrong type, an unknown key or a missing one is a Misfit, whose message names the place.
"""

import re
from collections.abc import Callable
from typing import Any

Parse = Callable[[Any, str], Any]


class Misfit(ValueError):
    """A value is not what it must be."""


def wrong(value: Any, where: str, allowed: str) -> Misfit:
    shown = repr(value)
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    return Misfit(f"{where or 'the whole'} is {shown}; it must be {allowed}")


def text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise wrong(value, where, "text")
    return value


def matching(pattern: str, allowed: str) -> Parse:
    def parse(value: Any, where: str) -> str:
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise wrong(value, where, allowed)
        return value

    return parse


def whole(low: int, high: int = 2**53) -> Parse:
    def parse(value: Any, where: str) -> int:
        if type(value) is not int or not low <= value <= high:
            raise wrong(value, where, f"a whole number from {low} to {high}")
        return value

    return parse


def number(value: Any, where: str) -> float:
    if type(value) not in (int, float) or not abs(value) <= 1e300:
        raise wrong(value, where, "a number")
    return float(value)


def boolean(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise wrong(value, where, "true or false")
    return value


def obj(value: Any, where: str) -> dict:
    if not isinstance(value, dict):
        raise wrong(value, where, "an object")
    return value


def inner_path(value: Any, where: str) -> str:
    """A relative POSIX path that stays inside the folder, on every system."""
    if (
        not isinstance(value, str)
        or any(part in ("", ".", "..") for part in value.split("/"))
        or re.search(r'[\\:*?"<>|\x00-\x1f]', value)
    ):
        raise wrong(value, where, "a relative path inside the bundle, with / between its parts")
    return value


def dimension(value: Any, where: str) -> int | str:
    return text(value, where) if isinstance(value, str) else whole(1)(value, where)


def optional(parse: Parse) -> Parse:
    return lambda value, where: None if value is None else parse(value, where)


def list_of(parse: Parse, low: int = 0, high: int = 10_000) -> Parse:
    def parse_all(value: Any, where: str) -> tuple:
        if not isinstance(value, list) or not low <= len(value) <= high:
            raise wrong(value, where, f"a list of {low} to {high} items")
        return tuple(parse(item, f"{where}[{i}]") for i, item in enumerate(value))

    return parse_all


def keyed(parse: Callable[[str, Any, str], Any], key: Parse = text) -> Parse:
    """An object with free keys; parse gets the key as well."""

    def parse_all(value: Any, where: str) -> dict:
        return {key(k, where): parse(k, v, f"{where}[{k!r}]") for k, v in obj(value, where).items()}

    return parse_all


def record(make: Callable[..., Any], spare: tuple[str, ...] = (), **parsers: Parse) -> Parse:
    """An object with exactly these keys; those in `spare` may be missing."""

    def parse(value: Any, where: str) -> Any:
        for key in obj(value, where):
            if key not in parsers:
                raise Misfit(f"{where or 'the whole'} has an unknown key {key[:60]!r}")
        for key in parsers:
            if key not in value and key not in spare:
                raise Misfit(f"{where or 'the whole'} lacks the key {key!r}")
        return make(**{k: parsers[k](v, f"{where}.{k}".lstrip(".")) for k, v in value.items()})

    return parse
