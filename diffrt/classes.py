"""Classes by number or by name, of models that draw a class."""

from collections.abc import Sequence
from numbers import Integral
from typing import Any

from diffrt.errors import InvalidArgument, nearest


def numbers(classes: Sequence[str], asked: Any) -> tuple[int, ...]:
    """The class that each number or name asked for is; one or a list. A class may have several names, with commas
    between them. InvalidArgument for one that is none."""
    names = {name.strip(): i for i, many in enumerate(classes) for name in reversed(many.split(","))}
    every = asked if isinstance(asked, list | tuple) else [asked]
    if not every:
        raise InvalidArgument("class_labels is empty: give at least one")
    return tuple(_number(classes, names, each) for each in every)


def _number(classes: Sequence[str], names: dict[str, int], asked: Any) -> int:
    if isinstance(asked, str):
        if asked not in names:
            hint = nearest(asked, names).partition("known: ")[0]
            raise InvalidArgument(f"there is no class {asked!r}: {hint}pipe.bundle.manifest.classes has the names")
        return names[asked]
    if isinstance(asked, bool) or not isinstance(asked, Integral) or int(asked) not in range(len(classes)):
        raise InvalidArgument(f"class {asked!r:.40} is none of 0 to {len(classes) - 1}; names are taken as well")
    return int(asked)
