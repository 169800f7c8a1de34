"""Changes a crop by momentum PGD with input diversity, within an L-infinity bound and a bound on SSIM."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F

from ..pipelines.repulsion import smooth

Embed = Callable[[torch.Tensor], torch.Tensor]  # (1, 3, S, S) levels 0..255 -> (1, D) unit norm, differentiable
STEPS = 40
MOMENTUM = 1.0  # mu of Dong et al. 2018
DIVERSE, SMALLEST = 0.7, 0.8  # Xie et al. 2019: how often, and down to what share of the side
FLAT, BUSY = 0.3, 16.0  # share of the bound on flat skin; levels of local spread at which all of it is used
HALVED = 0.5  # how often the face is looked at at half its size, as after a resize
SIGMA = 1.5  # px of a crop of 256: what is finer is lost in JPEG, and is seen by one network alone


def perturb(
    crop: torch.Tensor,
    weight: torch.Tensor,
    recognisers: Sequence[Embed],
    max_change: float,
    generator: torch.Generator,
    grid: int,
) -> torch.Tensor:
    """The change that takes a face away from itself in the eyes of recognisers.

    Args:
        crop: (1, 3, S, S) levels 0..255.
        weight: (1, 1, S, S) in [0, 1], how much of the change is taken where.
        recognisers: their mean cosine to the crop itself is minimised.
        max_change: levels, the bound of each value.
        generator: of the diversity.
        grid: side, up to S, of the square of pixels in which the picture shows the crop: a finer change is lost there.

    Returns:
        (1, 3, S, S) levels, equal in all channels but where one would leave 0..255.
    """
    sources = [embed(crop).detach() for embed in recognisers]
    momentum, change = torch.zeros_like(crop), torch.zeros_like(crop)
    most = max_change * masking(crop)
    step = 2.5 * most / STEPS
    for _ in range(STEPS):
        change.requires_grad_(True)
        seen = diverse(crop + weight * change, generator)
        rows = zip(recognisers, sources, strict=True)
        loss = torch.stack([(embed(seen) * source).sum() for embed, source in rows]).mean()
        (gradient,) = torch.autograd.grad(loss, change)
        gradient = smooth(gradient, SIGMA * crop.shape[-1] / 256)
        # eq. 6 of Dong et al. 2018
        momentum = MOMENTUM * momentum + gradient / gradient.abs().mean().clamp_min(1e-12)
        # Of lightness alone: stains of colour are what people see first, and a grey picture has none.
        momentum = momentum.mean(1, keepdim=True).expand_as(crop)
        change = (change.detach() - step * smooth(momentum.sign(), SIGMA * crop.shape[-1] / 256)).clamp(-most, most)
        change = _on_grid((crop + change).clamp(0, 255) - crop, grid)
    return ((crop + weight * change).clamp(0, 255) - crop).detach()


def masking(crop: torch.Tensor) -> torch.Tensor:
    """How much of the bound a pixel may use: all in lashes, brows and hair, little on smooth skin, where it shows.

    Args:
        crop: (1, 3, S, S) levels 0..255.

    Returns:
        (1, 1, S, S) in [FLAT, 1].
    """
    grey, sigma = crop.mean(1, keepdim=True), 3 * crop.shape[-1] / 256
    spread = (smooth(grey * grey, sigma) - smooth(grey, sigma) ** 2).clamp_min(0).sqrt()
    return FLAT + (1 - FLAT) * (spread / BUSY).clamp(0, 1)


def diverse(image: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """As another camera or network might see it: smaller, at another place (Xie et al. 2019), or at half its size.

    Args:
        image: (B, C, S, S).
        generator: of the draws.

    Returns:
        (B, C, S, S).
    """

    def draw() -> float:
        return float(torch.rand((), generator=generator))

    size = image.shape[-1]
    if draw() < HALVED:
        image = F.interpolate(F.avg_pool2d(image, 2), size=(size, size), mode="bilinear", align_corners=False)
    if draw() >= DIVERSE:
        return image
    side = round(size * (SMALLEST + (1 - SMALLEST) * draw()))
    left, top = int(draw() * (size - side + 1)), int(draw() * (size - side + 1))
    small = F.interpolate(image, size=(side, side), mode="bilinear", align_corners=False, antialias=True)
    return F.pad(small, (left, size - side - left, top, size - side - top), mode="replicate")


def dssim(one: torch.Tensor, other: torch.Tensor, weight: torch.Tensor) -> float:
    """(1 - SSIM) / 2 of the lightness, Wang et al. 2004 with a Gaussian of 1.5 pixels: 0 for equal pictures.

    Args:
        one, other: (1, 3, S, S) levels 0..255.
        weight: (1, 1, S, S) in [0, 1]: where it is measured.
    """
    luma = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    x, y = ((image * luma).sum(1, keepdim=True) for image in (one, other))

    def mean(image: torch.Tensor) -> torch.Tensor:
        return smooth(image, 1.5)

    mx, my = mean(x), mean(y)
    vx, vy, cov = mean(x * x) - mx * mx, mean(y * y) - my * my, mean(x * y) - mx * my
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    ssim = (2 * mx * my + c1) * (2 * cov + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2))
    return float((1 - (ssim * weight).sum() / weight.sum().clamp_min(1e-6)) / 2)


def within_dssim(crop: torch.Tensor, change: torch.Tensor, weight: torch.Tensor, most: float) -> torch.Tensor:
    """The change, as strong as SSIM allows.

    Args:
        crop: (1, 3, S, S) levels 0..255.
        change: (1, 3, S, S) levels.
        weight: (1, 1, S, S) in [0, 1]: where it is measured.
        most: (1 - SSIM) / 2 that may be reached.

    Returns:
        (1, 3, S, S): the change or a share of it.
    """
    if dssim(crop, crop + change, weight) <= most:
        return change
    low, high = 0.0, 1.0
    for _ in range(8):
        middle = (low + high) / 2
        low, high = (middle, high) if dssim(crop, crop + middle * change, weight) <= most else (low, middle)
    return low * change


def _on_grid(change: torch.Tensor, grid: int) -> torch.Tensor:
    """(1, 3, S, S) with what a picture of fewer pixels can show of it."""
    size = change.shape[-1]
    if grid >= size:
        return change
    low = F.interpolate(change, size=(grid, grid), mode="area")
    return F.interpolate(low, size=(size, size), mode="bilinear", align_corners=False)
