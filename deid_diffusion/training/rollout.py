"""Takes a painter to a step of its own sampling, so that it is trained on what it will meet there."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F

from deid_diffusion.pipelines.precondition import x0_from_output
from deid_diffusion.training.data import noise_like
from deid_diffusion.training.inpaint import Examples, paint

TONE_PATCH = 8  # px


def schedule(steps: int, shift: float) -> list[float]:
    """Noise levels at which a sampler of so many steps paints, the first 1, with 0 at the end: `steps + 1` of them."""
    return [shifted(1 - step / steps, shift) for step in range(steps + 1)]


def shifted(even: float | torch.Tensor, shift: float):
    """Noise levels from those that are spread evenly over [0, 1] (Esser et al. 2024, eq. 23)."""
    return shift * even / (1 + (shift - 1) * even)


@torch.no_grad()
def roll(
    student, told: Examples, levels: list[float], stop: int, temperature: float, generator: torch.Generator
) -> torch.Tensor:
    """What stands before step `stop` when the student samples, as `FaceInpaintPipeline` does, from nothing but noise.

    A crop with noise on it still tells its details, and a painter that only met those sharpens none of its own: the
    last step sees a painted face, whatever it was trained on (Yin et al. 2024, "Improved distribution matching
    distillation", section 4.5).

    Args:
        student: the unet.
        told: B crops and what is told of them.
        levels: as `schedule` gives.
        stop: steps that are behind; 0 gives noise.
        temperature: length of the noise.
        generator: for the noise.

    Returns:
        (B, 3, W, W) at noise level `levels[stop]`.
    """
    x_t = temperature * noise_like(told.x0, generator)
    for level, after in itertools.pairwise(levels[: stop + 1]):
        t = torch.full((len(x_t),), level).to(x_t)
        x0 = torch.lerp(told.x0, x0_from_output(paint(student, x_t, t, told)), told.mask)
        x_t = x0 + (x_t - x0) * (after / level)
    return x_t


def tone(painted: torch.Tensor, wanted: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """How far patches of what was painted are from the colours they should have.

    Critics look at features of unit length, which hardly see a backdrop that is a shade too dark.

    Args:
        painted, wanted: (B, 3, W, W) in [-1, 1].
        mask: (B, 1, W, W) in [0, 1], where it was painted.

    Returns:
        (B,), a mean over the mask.
    """
    off = F.avg_pool2d(painted - wanted, TONE_PATCH).abs().mean(1, keepdim=True)
    share = F.avg_pool2d(mask, TONE_PATCH)
    return (off * share).sum((1, 2, 3)) / share.sum((1, 2, 3)).clamp_min(1e-6)
