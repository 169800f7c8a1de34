"""Reads signal and noise levels off any diffusers scheduler, and turns unet outputs into x0 and back."""

from dataclasses import dataclass
from typing import Any

import torch

# x_t = a x0 + s eps, whatever the scheduler: (a, s) = (sqrt(alpha_bar), sqrt(1 - alpha_bar)) for DDIM and its kin,
# (1, sigma) for Euler and its kin, (1 - t, t) for flow matching.
KINDS = ("epsilon", "v_prediction", "sample", "flow_prediction")


@dataclass(frozen=True, eq=False)
class Level:
    """Where a sampler stands: x_t = a x0 + s eps.

    Attributes:
        step, num_steps: number of the step (from 0), of how many.
        t: the scheduler's timestep.
        a, s: signal and noise, two scalars.
    """

    step: int
    num_steps: int
    t: torch.Tensor
    a: torch.Tensor
    s: torch.Tensor


def prediction_kind(scheduler: Any) -> str:
    """What the scheduler takes the unet's output for: one of `KINDS`.

    Raises:
        ValueError: a scheduler whose x0 is not known.
    """
    name = type(scheduler).__name__
    if hasattr(scheduler, "precondition_inputs"):
        raise ValueError(
            f"needs a scheduler that leaves the unet's output as it is, got {name}; take EulerDiscreteScheduler"
        )
    if hasattr(scheduler, "scale_noise"):
        return "flow_prediction"
    kind = scheduler.config.get("prediction_type")
    if kind not in KINDS or not hasattr(scheduler, "add_noise"):
        raise ValueError(
            f"needs a scheduler with prediction_type in {KINDS}, got {name} with {kind!r}; "
            f"take DDIMScheduler.from_config(pipe.scheduler.config)"
        )
    return kind


def add_noise(scheduler: Any, x0: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """(B, C, S, S) twice -> what the scheduler's own latents would be at timestep `t`."""
    steps = t.reshape(1).expand(len(x0))
    if hasattr(scheduler, "scale_noise"):
        return scheduler.scale_noise(x0, steps, noise)
    return scheduler.add_noise(x0, noise, steps)


def levels(scheduler: Any, t: torch.Tensor, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Signal a and noise s at a timestep, each a scalar: the scheduler is asked, its formula is not copied.

    Args:
        scheduler: whose schedule is set.
        t: one of its timesteps.
        like: a tensor of the dtype and device wanted.
    """
    one, zero = like.new_ones(1, 1, 1, 1), like.new_zeros(1, 1, 1, 1)
    return add_noise(scheduler, one, zero, t).squeeze(), add_noise(scheduler, zero, one, t).squeeze()


def x0_from(output: torch.Tensor, x: torch.Tensor, a: torch.Tensor, s: torch.Tensor, kind: str) -> torch.Tensor:
    """The unet's output at x = a x0 + s eps -> the x0 it stands for.

    Args:
        output: (B, C, S, S).
        x: (B, C, S, S) noisy latents.
        a, s: signal and noise, scalars.
        kind: one of `KINDS`.
    """
    if kind == "sample":
        return output
    if kind == "flow_prediction":  # v = eps - x0, a = 1 - s
        return x - s * output
    if kind == "v_prediction":  # v = a eps - s x0 at unit norm of (a, s): eq. 10, Salimans and Ho 2022
        norm = (a**2 + s**2).sqrt()
        return (a / norm) * (x / norm) - (s / norm) * output
    # At the very first step of a zero-terminal-SNR schedule there is no signal to divide by.
    return (x - s * output) / a.clamp_min(1e-3)


def output_from(x0: torch.Tensor, x: torch.Tensor, a: torch.Tensor, s: torch.Tensor, kind: str) -> torch.Tensor:
    """The inverse of `x0_from`: what the unet would have said, had it meant this x0.

    Args:
        x0: (B, C, S, S).
        x: (B, C, S, S) noisy latents.
        a, s: signal and noise, scalars.
        kind: one of `KINDS`.
    """
    if kind == "sample":
        return x0
    if kind == "flow_prediction":
        return (x - x0) / s.clamp_min(1e-4)
    if kind == "v_prediction":
        norm = (a**2 + s**2).sqrt()
        return ((a / norm) * (x / norm) - x0) / (s / norm).clamp_min(1e-4)
    return (x - a.clamp_min(1e-3) * x0) / s.clamp_min(1e-4)
