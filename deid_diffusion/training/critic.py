"""Tells generated faces from photographed ones, on the features of a frozen network."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch.nn.utils.parametrizations import spectral_norm

WIDTH = 64


class Critic(torch.nn.Module):
    """Small heads on frozen feature maps (Sauer et al. 2021, "Projected GANs converge faster").

    With the features given, there is little to learn: it sees what is wrong with a face after hundreds of crops, not
    hundreds of thousands.

    Beside them, one head on the bare pixels: frozen networks were made to see through what makes skin look painted.

    Args:
        channels: of each feature map that it gets.
        width: of the head on pixels, at its first convolution.
    """

    def __init__(self, channels: tuple[int, ...], width: int = 48):
        super().__init__()
        self.patches = Patches(width)
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

    def forward(self, maps: list[torch.Tensor], image: torch.Tensor | None = None) -> list[torch.Tensor]:
        """One (B, C, H, W) a head -> one (B, 1, H/2, W/2) a head: above 0 for photographed.

        Fewer maps than heads are for the first heads. With an `image` (B, 3, S, S) in [-1, 1], the scores of its
        patches come first.
        """
        # In full precision: spectral norms lose theirs in half of it, and refuse it on a GPU.
        with torch.autocast(maps[0].device.type, enabled=False):
            # Unit length per pixel, or the brightest features would be all it sees.
            return ([] if image is None else self.patches(image.float())) + [
                head(F.normalize(found.float(), dim=1) * found.shape[1] ** 0.5)
                for head, found in zip(self.heads[: len(maps)], maps, strict=True)
            ]


class Patches(torch.nn.Module):
    """Scores overlapping patches by their pixels (Isola et al. 2017, "Image-to-image translation", section 3.2.2).

    Args:
        width: at its first convolution.
    """

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        wide = 4 * width
        # Pixels folded two by two: nothing of the finest octave is lost before the first convolution.
        self.fine = _strided([(12, width, 1), (width, 2 * width, 2), (2 * width, wide, 2)])
        self.coarse = _strided([(wide, wide, 2), (wide, wide, 1)])
        self.score_fine = spectral_norm(torch.nn.Conv2d(wide, 1, 1))
        self.score_coarse = spectral_norm(torch.nn.Conv2d(wide, 1, 1))

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        """(B, 3, S, S) in [-1, 1] -> (B, 1, S/8, S/8), patches of 24 px, and (B, 1, S/16, S/16), of 80 px."""
        fine = self.fine(F.pixel_unshuffle(image, 2).contiguous(memory_format=torch.channels_last))
        return [self.score_fine(fine), self.score_coarse(self.coarse(fine))]


def _strided(layers: list[tuple[int, int, int]]) -> torch.nn.Sequential:
    """Convolutions of (channels in, channels out, stride), each with its rectifier."""
    parts: list[torch.nn.Module] = []
    for before, after, stride in layers:
        side = 3 if stride == 1 else 4
        parts += [spectral_norm(torch.nn.Conv2d(before, after, side, stride, 1)), torch.nn.LeakyReLU(0.2)]
    return torch.nn.Sequential(*parts)


def masked_mean(scores: list[torch.Tensor], mask: torch.Tensor) -> torch.Tensor:
    """Scores (B, 1, h, w), mask (B, 1, S, S) -> their mean inside the mask; elsewhere both pictures are the same."""
    total = mask.new_zeros(())
    for score in scores:
        weight = F.adaptive_avg_pool2d(mask, tuple(score.shape[-2:]))
        total = total + (score * weight).sum() / weight.sum().clamp_min(1e-6)
    return total / len(scores)


def critic_loss(real: list[torch.Tensor], fake: list[torch.Tensor], mask: torch.Tensor) -> torch.Tensor:
    """Hinge loss of the critic (Lim and Ye 2017), a scalar.

    Args:
        real, fake: scores (B, 1, h, w), one a head, of photos and of generated faces.
        mask: (B, 1, S, S) in [0, 1].
    """
    return masked_mean([F.relu(1 - r) for r in real], mask) + masked_mean([F.relu(1 + f) for f in fake], mask)


def generator_loss(
    critic: Critic, maps: list[torch.Tensor], mask: torch.Tensor, image: torch.Tensor | None = None
) -> torch.Tensor:
    """What the generator minimises: minus the critic's score, with no gradient into the critic.

    Args:
        critic: gives the scores.
        maps: feature maps of what was generated, (B, C, H, W) each.
        mask: (B, 1, S, S) in [0, 1], where it was generated.
        image: (B, 3, S, S) in [-1, 1], for scores of its patches; None for none of those.
    """
    frozen = {name: weight.detach() for name, weight in critic.named_parameters()}
    return -masked_mean(torch.func.functional_call(critic, frozen, (maps, image)), mask)
