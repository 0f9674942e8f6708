"""The few kinds of error diffrt raises on purpose.

Each message is one line: what was got, what is allowed, and the fix. The command line prints it and exits with 2.
"""

import difflib
from collections.abc import Iterable


class DiffrtError(Exception):
    """Anything diffrt refuses or cannot do. Every error below is one."""


class InvalidArgument(DiffrtError, ValueError):
    """An argument of a call is outside what is allowed."""


class CheckpointError(DiffrtError):
    """A source checkpoint cannot be exported: a part is missing, damaged or does not fit."""


class BundleError(DiffrtError):
    """A bundle is damaged, points outside its folder, or is newer than this program."""


class HubError(DiffrtError):
    """A model could not be fetched from the hub, or published there."""


class ProviderError(DiffrtError):
    """An execution provider is unknown, not installed, or did not take the graph."""


class ExportError(DiffrtError):
    """An export could not finish, or its result is outside the declared tolerance."""


class NumericalError(DiffrtError):
    """A component gave NaN or infinity."""


def nearest(name: str, known: Iterable[str]) -> str:
    """'did you mean X? ' for a close match, then the known names: the tail of an unknown-name error."""
    known = sorted(known)
    by_lower = {other.lower(): other for other in known}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.5)
    hint = f"did you mean {by_lower[close[0]]!r}? " if close else ""
    return f"{hint}known: {', '.join(known)}"
