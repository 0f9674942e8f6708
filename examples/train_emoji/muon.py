"""Muon (Jordan et al. 2024): momentum whose matrix updates are orthogonalised; it learns more per step than AdamW."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

POLAR = ((8.287212, -23.595887, 17.300387), (4.107059, -2.947850, 0.544843),
         (3.948691, -2.908902, 0.551819), (3.318420, -2.488488, 0.510049))  # fmt: skip


def orthogonalise(g: Tensor) -> Tensor:
    """[m,n] -> roughly the nearest semi-orthogonal matrix, by four quintic steps (Polar Express, Amsel et al. 2025)."""
    x = g.bfloat16() if g.is_cuda else g
    wide = x.shape[0] <= x.shape[1]
    x = x if wide else x.T
    x = x / (1.01 * x.norm() + 1e-7)
    for first, third, fifth in POLAR:
        a = x @ x.T
        x = first * x + (third * a + fifth * a @ a) @ x
    return (x if wide else x.T).to(g.dtype)


class Muon(torch.optim.Optimizer):
    """For weights of two or more dimensions (a convolution counts as [out, in*k*k]).

    `lr` is in AdamW's units: the root mean square of an update is 0.2 lr (Liu et al. 2025).
    """

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.01):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["momentum"] = torch.zeros_like(p)
                state["momentum"].lerp_(p.grad, 1 - group["momentum"])
                matrix = p.grad.lerp(state["momentum"], group["momentum"]).flatten(1)
                update = orthogonalise(matrix) * (0.2 * max(matrix.shape) ** 0.5)
                p.mul_(1 - group["lr"] * group["weight_decay"]).add_(update.view_as(p), alpha=-group["lr"])


def optimizers(
    module: nn.Module, rate: float, inputs: Iterable[str] = ("conv_in", "conv_out", "embedding")
) -> list[torch.optim.Optimizer]:
    """Muon for the inner matrices; AdamW for vectors and the first and last layers (names with one of `inputs`)."""
    named = list(module.named_parameters())
    outer = [p for n, p in named if p.ndim < 2 or any(word in n for word in inputs)]
    chosen = {id(p) for p in outer}
    return [Muon([p for _, p in named if id(p) not in chosen], rate),
            torch.optim.AdamW(outer, rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True)]  # fmt: skip
