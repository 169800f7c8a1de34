"""Tells painted faces from photographed ones, on the features of a frozen network."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch.nn.utils.parametrizations import spectral_norm

WIDTH = 64


class Critic(torch.nn.Module):
    """Small heads on frozen feature maps (Sauer et al. 2021, "Projected GANs converge faster").

    With the features given, there is little to learn: it sees what is wrong with a face after hundreds of crops, not
    hundreds of thousands.

    Args:
        channels: of each feature map that it gets.
    """

    def __init__(self, channels: tuple[int, ...]):
        super().__init__()
        self.heads = torch.nn.ModuleList(
            torch.nn.Sequential(
                spectral_norm(torch.nn.Conv2d(count, WIDTH, 1)),
                torch.nn.LeakyReLU(0.2),
                spectral_norm(torch.nn.Conv2d(WIDTH, WIDTH, 3, stride=2, padding=1)),
                torch.nn.LeakyReLU(0.2),
                torch.nn.Conv2d(WIDTH, 1, 1),
            )
            for count in channels
        )

    def forward(self, maps: list[torch.Tensor]) -> list[torch.Tensor]:
        """One (B, C, H, W) a head -> one (B, 1, H/2, W/2) a head: above 0 for photographed.

        Fewer maps than heads are for the first heads.
        """
        # Unit length per pixel, or the brightest features would be all it sees.
        return [
            head(F.normalize(found, dim=1) * found.shape[1] ** 0.5)
            for head, found in zip(self.heads[: len(maps)], maps, strict=True)
        ]


def masked_mean(scores: list[torch.Tensor], mask: torch.Tensor) -> torch.Tensor:
    """Scores (B, 1, h, w), mask (B, 1, S, S) -> their mean inside the mask; elsewhere both pictures are the same."""
    total = mask.new_zeros(())
    for score in scores:
        weight = F.adaptive_avg_pool2d(mask, score.shape[-2:])
        total = total + (score * weight).sum() / weight.sum().clamp_min(1e-6)
    return total / len(scores)


def critic_loss(real: list[torch.Tensor], fake: list[torch.Tensor], mask: torch.Tensor) -> torch.Tensor:
    """Hinge loss of the critic (Lim and Ye 2017)."""
    return masked_mean([F.relu(1 - r) for r in real], mask) + masked_mean([F.relu(1 + f) for f in fake], mask)


def painter_loss(critic: Critic, maps: list[torch.Tensor], mask: torch.Tensor) -> torch.Tensor:
    """What the painter minimises: minus the critic's score, with no gradient into the critic."""
    frozen = {name: weight.detach() for name, weight in critic.named_parameters()}
    return -masked_mean(torch.func.functional_call(critic, frozen, (maps,)), mask)
