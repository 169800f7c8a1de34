"""Takes the generator to a step of its own sampling, so that it is trained on what it will meet there."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F

from deid_diffusion.pipelines.precondition import x0_from_output
from deid_diffusion.training.data import noise_like
from deid_diffusion.training.inpaint import Examples, predict

COLOUR_PATCH = 8  # px
MIN_NOISE_SCALE = 0.6  # of the noise that a rollout starts from, 1 at most; pictures are generated at 0.8


def noise_schedule(steps: int, shift: float) -> list[float]:
    """Noise levels of a sampler, from 1 to 0: one more than it has steps.

    Args:
        steps: how many it takes.
        shift: see `shifted`.
    """
    return shifted(torch.linspace(1, 0, steps + 1, dtype=torch.float64), shift).tolist()


def shifted(even: torch.Tensor, shift: float) -> torch.Tensor:
    """Noise levels, any shape, from those that are spread evenly over [0, 1] (Esser et al. 2024, eq. 23).

    Args:
        even: any shape.
        shift: above 1 for more time at high noise; 1 changes nothing.
    """
    return shift * even / (1 + (shift - 1) * even)


@torch.no_grad()
def rollout(
    unet: torch.nn.Module,
    examples: Examples,
    levels: list[float],
    stop: int,
    noise_scale: float,
    generator: torch.Generator,
) -> torch.Tensor:
    """The noisy crop before step `stop` when the unet samples, as `FaceInpaintPipeline` does, from nothing but noise.

    A crop with noise on it still shows its details, and a generator that only met those sharpens none of its own: the
    last step gets a generated face, whatever it was trained on (Yin et al. 2024, "Improved distribution matching
    distillation", section 4.5).

    Args:
        unet: what is trained.
        examples: B crops and their conditions.
        levels: as `noise_schedule` gives.
        stop: steps that are behind; 0 gives noise.
        noise_scale: standard deviation of the initial noise.
        generator: for the noise.

    Returns:
        (B, 3, W, W) at noise level `levels[stop]`.
    """
    x_t = noise_scale * noise_like(examples.x0, generator)
    for level, after in itertools.pairwise(levels[: stop + 1]):
        t = torch.full((len(x_t),), level).to(x_t)
        x0 = torch.lerp(examples.x0, x0_from_output(predict(unet, x_t, t, examples)), examples.mask)
        x_t = x0 + (x_t - x0) * (after / level)
    return x_t


def sample_rollout(
    unet: torch.nn.Module, examples: Examples, steps: int, shift: float, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """`rollout` to a step that is drawn, as is the scale of the initial noise.

    Args:
        unet: what is trained.
        examples: B crops and their conditions.
        steps: of the sampler.
        shift: of its noise schedule.
        generator: for every draw.

    Returns:
        (B, 3, W, W) the noisy crop before that step, and (B,) the noise level there.
    """
    levels = noise_schedule(steps, shift)
    # The last step as often as all others together: what it generates is what people see.
    weight = torch.ones(steps)
    weight[-1] = steps - 1 or 1
    stop = int(torch.multinomial(weight, 1, generator=generator))
    noise_scale = float(MIN_NOISE_SCALE + (1 - MIN_NOISE_SCALE) * torch.rand((), generator=generator))
    x_t = rollout(unet, examples, levels, stop, noise_scale, generator)
    return x_t, torch.full((len(x_t),), levels[stop]).to(x_t)


def patch_colour_error(generated: torch.Tensor, wanted: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """How far patches of what was generated are from the colours they should have.

    Critics see features of unit length, which hardly change when a backdrop is a shade too dark.

    Args:
        generated, wanted: (B, 3, W, W) in [-1, 1].
        mask: (B, 1, W, W) in [0, 1], where it was generated.

    Returns:
        (B,), a mean over the mask.
    """
    off = F.avg_pool2d(generated - wanted, COLOUR_PATCH).abs().mean(1, keepdim=True)
    share = F.avg_pool2d(mask, COLOUR_PATCH)
    return (off * share).sum((1, 2, 3)) / share.sum((1, 2, 3)).clamp_min(1e-6)
