"""Turns the unet's raw output into x0, on a rectified-flow schedule."""

import torch

# Standard deviation of crops in [-1, 1].
SIGMA_DATA = 0.5


def scale_input(latents: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """x_t = (1 - t) x0 + t eps, brought to unit variance (c_in of Karras et al. 2022, table 1, on this schedule).

    Args:
        latents: x_t, (B, C, S, S).
        t: noise levels in [0, 1], (B, 1, 1, 1) or a scalar.
    """
    return latents / (t**2 + (SIGMA_DATA * (1 - t)) ** 2).sqrt()


def x0_from_output(raw: torch.Tensor) -> torch.Tensor:
    """The unet's output -> x0.

    The unet predicts the clean crop itself, with no skip around it: folded noise has as many dimensions as the unet
    has channels, and a network that must pass it through whole leaves it in the picture, while clean crops lie on a
    surface of far fewer dimensions (Li and He 2025, "Back to basics: let denoising generative models denoise").
    """
    return SIGMA_DATA * raw
