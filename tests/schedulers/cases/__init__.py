"""What the tests must know of a scheduler class beyond its signature: one module for each family, one Case a class.

A class that is driven by diffusers' plain loop needs no case at all: its keys and their values are read from its
annotations, and all laws apply at order 1.
"""

import importlib
import pkgutil

from tests.schedulers.cases.case import Case

CASES: dict[str, Case] = {}
for module in pkgutil.iter_modules(__path__):
    if module.name != "case":
        CASES |= importlib.import_module(f"{__name__}.{module.name}").CASES


def case_of(name: str) -> Case:
    return CASES.get(name, Case())
