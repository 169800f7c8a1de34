"""Perceptual distance on the feature maps of a TorchScript network."""

from pathlib import Path

import torch
import torch.nn.functional as F

# SqueezeNet's preprocessing: BGR in 0..255 minus the ImageNet mean.
_MEAN_BGR = (104.0, 117.0, 123.0)


class PerceptualLoss:
    """Distance of two crops in a network's feature maps, unit-normalised per pixel (Zhang et al. 2018, eq. 1).

    Args:
        path: TorchScript file that maps (B, 3, H, W) BGR minus mean to a list of feature maps.
        device: where it runs.
        maps: which of the maps to compare.
    """

    def __init__(
        self, path: str | Path, device: str | torch.device = "cpu", maps: tuple[int, ...] = (0, 1, 2, 3, 4, 5)
    ):
        self.net = torch.jit.load(str(path), map_location=device).eval()
        for weight in self.net.parameters():
            weight.requires_grad_(False)
        self.maps = maps
        self.mean = torch.tensor(_MEAN_BGR, device=device)[None, :, None, None]

    def features(self, image: torch.Tensor) -> list[torch.Tensor]:
        """(B, 3, S, S) RGB in [-1, 1] -> all maps of the network."""
        pixels = (image.flip(1) + 1) * 127.5 - self.mean
        if not pixels.requires_grad:
            # Three times as fast on CPUs; with gradients the way back takes the gain again.
            pixels = pixels.contiguous(memory_format=torch.channels_last)
        return self.net(pixels)

    def distance(self, found: list[torch.Tensor], wanted: list[torch.Tensor]) -> torch.Tensor:
        """All maps of two batches -> (B,), from the chosen ones.

        Args:
            found, wanted: all maps of two batches, (B, C, h, w) each.
        """
        total = found[0].new_zeros(len(found[0]))
        for number in self.maps:
            got, want = F.normalize(found[number], dim=1), F.normalize(wanted[number], dim=1)
            total = total + (got - want).pow(2).sum(1).mean((1, 2))
        return total

    def __call__(self, image: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """(B, 3, S, S) twice, in [-1, 1] -> (B,)."""
        with torch.no_grad():
            wanted = self.features(target)
        return self.distance(self.features(image), wanted)
