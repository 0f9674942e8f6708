"""The whole pipeline as one ONNX graph: see graph.py for what it takes and gives.

>>> from exporters import single
>>> single.export("emoji", "path/to/folder")
"""

from .writing import export

__all__ = ["export"]
