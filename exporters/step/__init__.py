"""A bundle with step graphs: see graph.py for what one takes and gives.

>>> from exporters import step
>>> step.export("emoji", "path/to/folder")
"""

from .writing import export

__all__ = ["export"]
