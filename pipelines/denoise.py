"""Turns the unet's raw output into x0, on a rectified-flow schedule."""

import torch

# Standard deviation of crops in [-1, 1].
SIGMA_DATA = 0.5


def precondition(t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Weights of Karras et al. 2022, eq. 7 and table 1, on x_t = (1 - t) x0 + t eps.

    Written for x_t itself instead of x_t / (1 - t), so that nothing divides by zero at t = 1:
    x0 = c_skip x_t + c_out unet(c_in x_t).

    Args:
        t: noise level in [0, 1], any shape.

    Returns:
        c_skip, c_out, c_in of that shape.
    """
    total = t**2 + (SIGMA_DATA * (1 - t)) ** 2
    return SIGMA_DATA**2 * (1 - t) / total, t * SIGMA_DATA / total.sqrt(), 1 / total.sqrt()
