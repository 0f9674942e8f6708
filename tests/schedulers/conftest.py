"""Square roots as IEEE 754 defines them, in the reference too.

torch takes float32 roots from MKL, which on some processors rounds one in five to the wrong side; a schedule that
divides differences of them (rescale_betas_zero_snr) then moves by far more than a unit in the last place.
"""

from typing import Any

import pytest
import torch


def rounded_root(x: torch.Tensor) -> torch.Tensor:
    """Exact: a float64 root rounded to float32 is the float32 root."""
    return root(x.double()).to(x.dtype) if x.dtype == torch.float32 else root(x)


def power(x: torch.Tensor, exponent: Any) -> torch.Tensor:
    return rounded_root(x) if isinstance(exponent, float) and exponent == 0.5 else plain_power(x, exponent)


root, plain_power = torch.Tensor.sqrt, torch.Tensor.__pow__


@pytest.fixture(autouse=True)
def exact_roots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "sqrt", rounded_root)
    monkeypatch.setattr(torch.Tensor, "sqrt", rounded_root)
    monkeypatch.setattr(torch.Tensor, "__pow__", power)
