"""Muon: momentum whose matrices are made orthogonal, for few steps on little compute."""

from collections.abc import Iterable

import torch

# Coefficients of the quintic iteration (Jordan et al. 2024, "Muon: an optimizer for hidden layers").
_A, _B, _C = 3.4445, -4.7750, 2.0315


def orthogonalised(matrix: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """(R, C) -> (R, C) with all singular values near 1, by Newton-Schulz iteration.

    Iterates on the smaller Gram matrix: x_n = q_n x_0, so the long side is multiplied twice and not at every step.
    """
    if matrix.shape[0] > matrix.shape[1]:
        return orthogonalised(matrix.T, steps).T
    start = matrix / (matrix.norm() + 1e-7)
    gram = start @ start.T
    one = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    whole = one
    for _ in range(steps):
        factor = _A * one + _B * gram + _C * gram @ gram
        gram = factor @ gram @ factor  # all are polynomials of the first Gram matrix: symmetric, and they commute
        whole = factor @ whole
    return whole @ start


class Muon(torch.optim.Optimizer):
    """Muon on weights of two or more dimensions, AdamW on the others.

    Kernels are taken as (out, in x height x width). Steps are scaled to the size of AdamW's (Liu et al. 2025, "Muon is
    scalable for LLM training", eq. 4), so that one learning rate and weight decay serve both. torch's own Muon takes
    matrices only and computes in bfloat16, which many CPUs lack.
    """

    def __init__(
        self,
        params: Iterable[torch.nn.Parameter],
        lr: float = 1e-3,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.01,
    ):
        params = list(params)
        defaults = {"lr": lr, "momentum": momentum, "betas": betas, "weight_decay": weight_decay, "matrix": True}
        groups = [
            {"params": [p for p in params if p.ndim >= 2], "matrix": True},
            {"params": [p for p in params if p.ndim < 2], "matrix": False},
        ]
        super().__init__([g for g in groups if g["params"]], defaults)

    @torch.no_grad()
    def step(self, closure=None):
        """One update; gradients that are None are left out."""
        loss = closure() if closure is not None else None
        for group in self.param_groups:
            update = self._muon if group["matrix"] else self._adam
            for weight in group["params"]:
                if weight.grad is not None:
                    weight.mul_(1 - group["lr"] * group["weight_decay"])
                    update(weight, self.state[weight], group)
        return loss

    def _muon(self, weight, state, group) -> None:
        state.setdefault("momentum", torch.zeros_like(weight)).lerp_(weight.grad, 1 - group["momentum"])
        nesterov = torch.lerp(weight.grad, state["momentum"], group["momentum"]).flatten(1)
        size = 0.2 * max(nesterov.shape) ** 0.5
        weight.add_(orthogonalised(nesterov).view_as(weight), alpha=-group["lr"] * size)

    def _adam(self, weight, state, group) -> None:
        low, high = group["betas"]
        state["step"] = state.get("step", 0) + 1
        first = state.setdefault("first", torch.zeros_like(weight)).lerp_(weight.grad, 1 - low)
        second = state.setdefault("second", torch.zeros_like(weight)).lerp_(weight.grad**2, 1 - high)
        scale = (second / (1 - high ** state["step"])).sqrt() + 1e-8
        weight.addcdiv_(first, scale, value=-group["lr"] / (1 - low ** state["step"]))
