"""How far a graph's outputs are from what they should be, as a certificate says it."""

import numpy as np

from diffrt.errors import ExportError


def measure(got: np.ndarray, expected: np.ndarray) -> dict[str, float]:
    """Largest absolute error, relative L2 error and cosine, in float64."""
    a, b = got.astype(np.float64).ravel(), expected.astype(np.float64).ravel()
    size_a, size_b = float(np.linalg.norm(a)), float(np.linalg.norm(b))
    return {
        "max_abs": float(np.abs(a - b).max()),
        "relative_l2": float(np.linalg.norm(a - b) / max(size_b, 1e-30)),
        "cosine": float(a @ b / max(size_a * size_b, 1e-30)),
    }


def compare(prefix: str, got: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> dict[str, float]:
    """The figures of the worst output of one graph."""
    rows = [measure(got[key], array) for key, array in expected.items() if key.startswith(prefix)]
    return max(rows, key=lambda row: row["relative_l2"])


def passed(component: str, file: str, worst: dict[str, float], allowed: float) -> dict[str, float]:
    """A graph's line of the certificate, or ExportError."""
    if not worst["relative_l2"] <= allowed:
        raise ExportError(
            f"{component}: {file} differs from eager PyTorch by {worst['relative_l2']:.2g} relative L2; "
            f"allowed: {allowed:.2g}"
        )
    return worst | {"tolerance": allowed}
