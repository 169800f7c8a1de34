"""Muon: momentum whose matrices are made orthogonal, for few steps on little compute."""

from collections.abc import Callable, Iterable
from typing import Any

import torch

# Coefficients of the quintic iteration (Jordan et al. 2024, "Muon: an optimizer for hidden layers").
_A, _B, _C = 3.4445, -4.7750, 2.0315


def orthogonalised(matrix: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """(..., R, C) -> the same with all singular values near 1, by Newton-Schulz iteration.

    Iterates on the smaller Gram matrix: x_n = q_n x_0, so the long side is multiplied twice and not at every step.
    """
    if matrix.shape[-2] > matrix.shape[-1]:
        return orthogonalised(matrix.mT, steps).mT
    start = matrix / (torch.linalg.matrix_norm(matrix, keepdim=True) + 1e-7)
    gram = start @ start.mT
    one = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
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

    Args:
        params: all weights.
        lr: learning rate.
        momentum: of the orthogonal steps.
        betas: AdamW's.
        weight_decay: of both.
    """

    def __init__(
        self,
        params: Iterable[torch.nn.Parameter],
        lr: float = 1e-3,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.01,
    ) -> None:
        params = list(params)
        defaults = {"lr": lr, "momentum": momentum, "betas": betas, "weight_decay": weight_decay, "matrix": True}
        groups = [
            {"params": [p for p in params if p.ndim >= 2], "matrix": True},
            {"params": [p for p in params if p.ndim < 2], "matrix": False},
        ]
        super().__init__([g for g in groups if g["params"]], defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update, after `closure` if there is one, whose loss it returns; gradients that are None are left out."""
        loss = closure() if closure is not None else None
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if weights:
                torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
                (self._muon if group["matrix"] else self._adam)(weights, group)
        return loss

    def _muon(self, weights: list[torch.nn.Parameter], group: dict[str, Any]) -> None:
        grads = [weight.grad for weight in weights if weight.grad is not None]
        momenta = [self.state[weight].setdefault("momentum", torch.zeros_like(weight)) for weight in weights]
        torch._foreach_lerp_(momenta, grads, 1 - group["momentum"])
        alike: dict[torch.Size, list[tuple[torch.nn.Parameter, torch.Tensor]]] = {}
        for weight, nesterov in zip(weights, torch._foreach_lerp(grads, momenta, group["momentum"]), strict=True):
            flat = nesterov.flatten(1)
            alike.setdefault(flat.shape, []).append((weight, flat))
        # Matrices of one shape go together: on a GPU the launches cost more than the products.
        for shape, pairs in alike.items():
            steps = orthogonalised(torch.stack([flat for _, flat in pairs]))
            for (weight, _), step in zip(pairs, steps, strict=True):
                weight.add_(step.view_as(weight), alpha=-group["lr"] * 0.2 * max(shape) ** 0.5)

    def _adam(self, weights: list[torch.nn.Parameter], group: dict[str, Any]) -> None:
        low, high = group["betas"]
        ages: dict[int, list[torch.nn.Parameter]] = {}
        for weight in weights:
            state = self.state[weight]
            state["step"] = state.get("step", 0) + 1
            ages.setdefault(state["step"], []).append(weight)
        for step, some in ages.items():
            grads = [weight.grad for weight in some if weight.grad is not None]
            first, second = (
                [self.state[weight].setdefault(name, torch.zeros_like(weight)) for weight in some]
                for name in ("first", "second")
            )
            torch._foreach_lerp_(first, grads, 1 - low)
            torch._foreach_lerp_(second, torch._foreach_mul(grads, grads), 1 - high)
            scale = torch._foreach_sqrt(torch._foreach_div(second, 1 - high**step))
            torch._foreach_add_(scale, 1e-8)
            torch._foreach_addcdiv_(some, first, scale, value=-group["lr"] / (1 - low**step))
