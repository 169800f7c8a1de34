"""Gives a generated face the detail of twice its resolution: one forward of a stock UNet2DModel on folded pixels."""

from typing import Any

import torch
import torch.nn.functional as F

from .conditioning import fold, unfold

FOLD = 4
CHANNELS_IN = (3 + 1) * FOLD**2 + 1  # picture, noise, mask
CHANNELS_OUT = 3 * FOLD**2


def lay(face: torch.Tensor, known: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The generated face, enlarged, in its sharp surroundings.

    Args:
        face: (B, 3, s, s) in [-1, 1].
        known: (B, 3, S, S) the crops in [-1, 1]; what the mask covers is not read.
        mask: (B, 1, S, S), above 0 where generated.

    Returns:
        (B, 3, S, S).
    """
    large = F.interpolate(face, size=known.shape[-2:], mode="bicubic", align_corners=False).clamp(-1, 1)
    return torch.where(mask > 0, large, known)


def add_detail(network: Any, laid: torch.Tensor, mask: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """What `lay` gives -> the same with fine detail where the mask is above 0.

    Args:
        network: a UNet2DModel of `CHANNELS_IN` and `CHANNELS_OUT`, whose output is added.
        laid: (B, 3, S, S) in [-1, 1].
        mask: (B, 1, S, S), above 0 where generated.
        noise: (B, 1, S, S) standard normal; pores and hairs follow from it.

    Returns:
        (B, 3, S, S) float32, about [-1, 1].
    """
    covered = (mask > 0).to(laid)
    inputs = torch.cat([fold(torch.cat([laid, noise], 1), FOLD), F.avg_pool2d(covered, FOLD)], 1)
    added = unfold(network(inputs.to(network.dtype), 0, return_dict=False)[0].float(), FOLD)
    return laid + added * covered
