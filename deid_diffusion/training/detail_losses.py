"""Compares detail band by band: the values themselves, and how much of them there is wherever they lie."""

from __future__ import annotations

import torch
import torch.nn.functional as F

BANDS = 3  # strongest at periods of 3, 8 and 16 px: lines and gaps of 1.5, 4 and 8 px
AREA = 16  # px: within so much, detail may lie anywhere
FLOOR = 1.5 / 127.5  # levels that nobody sees


def bands(images: torch.Tensor, count: int = BANDS) -> list[torch.Tensor]:
    """(B, C, H, W) -> what is between octaves, finest first, each (B, C, H, W): a wavelet transform "with holes".

    Its scaling function is the cubic spline of Starck and Murtagh (1994).

    Args:
        images: any range.
        count: of octaves.
    """
    channels, found = images.shape[1], []
    taps = images.new_tensor([1, 4, 6, 4, 1]) / 16
    across = taps.expand(channels, 1, 1, 5)
    for octave in range(count):
        reach = 2**octave
        smooth = F.pad(images, (2 * reach, 2 * reach, 0, 0), mode="reflect")
        smooth = F.conv2d(smooth, across, dilation=(1, reach), groups=channels)
        smooth = F.pad(smooth, (0, 0, 2 * reach, 2 * reach), mode="reflect")
        smooth = F.conv2d(smooth, across.mT, dilation=(reach, 1), groups=channels)
        found.append(images - smooth)
        images = smooth
    return found


def inside(error: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """(B, C, H, W), (B, 1, H, W) in [0, 1] -> a scalar: the mean over the mask."""
    return (error * mask).sum() / (mask.sum() * error.shape[1]).clamp_min(1e-6)


def roughness(band: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """How much of a band there is, wherever it lies.

    Args:
        band: (B, C, H, W).
        mask: (B, 1, H, W) of 0 and 1; only what it covers counts.

    Returns:
        log of the root mean square (B, 1, H / 16, W / 16), and the mask's share of each area.
    """
    share = F.avg_pool2d(mask, AREA)
    power = F.avg_pool2d((band**2).mean(1, keepdim=True) * mask, AREA) / share.clamp_min(1e-3)
    return 0.5 * torch.log(power + FLOOR**2), share


def band_losses(found: torch.Tensor, wanted: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Two scalars: how far off the values of all bands are, and how far off their roughness.

    Args:
        found, wanted: (B, 3, H, W) in [-1, 1].
        mask: (B, 1, H, W) of 0 and 1, where they are compared.
    """
    values = rough = found.new_zeros(())
    for ours, theirs in zip(bands(found), bands(wanted), strict=True):
        values = values + inside((ours - theirs).abs(), mask)
        have, share = roughness(ours, mask)
        rough = rough + inside((have - roughness(theirs, mask)[0]).abs(), share)
    return values, rough


@torch.no_grad()
def roughness_ratio(found: torch.Tensor, wanted: torch.Tensor, mask: torch.Tensor) -> list[float]:
    """log2 of how much detail there is to how much there should be, for each band: 0 is right, -1 is half of it.

    Args:
        found, wanted, mask: as `band_losses` takes them.
    """
    ratios = []
    for ours, theirs in zip(bands(found), bands(wanted), strict=True):
        (have, share), (want, _) = roughness(ours, mask), roughness(theirs, mask)
        ratios.append(float(inside(have - want, share)) / 0.6931)
    return ratios
