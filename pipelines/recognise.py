"""Embeds crops with the guide recogniser, differentiably."""

import torch
import torch.nn.functional as F

# The guide looks at the middle of the crop, where the face is, at its own resolution.
WINDOW = 0.75
SIDE = 128


def guide_view(images: torch.Tensor, shift: tuple[int, int] = (0, 0)) -> torch.Tensor:
    """(B, 3, S, S) in [-1, 1] -> (B, 3, 128, 128): the middle three quarters, moved by `shift` crop pixels (x, y)."""
    size = images.shape[-1]
    side = int(size * WINDOW)
    x = (size - side) // 2 + shift[0]
    y = (size - side) // 2 + shift[1]
    if not (0 <= x <= size - side and 0 <= y <= size - side):
        raise ValueError(f"shift {shift} leaves the crop of {size} px; keep within {(size - side) // 2} px")
    view = images[..., y : y + side, x : x + side]
    return F.interpolate(view, size=(SIDE, SIDE), mode="bilinear", align_corners=False, antialias=True)


def embed(id_encoder: torch.nn.Module, images: torch.Tensor, shift: tuple[int, int] = (0, 0)) -> torch.Tensor:
    """(B, 3, S, S) in [-1, 1] -> (B, D) unit norm, in float32 whatever the unet runs in."""
    weight = next(id_encoder.parameters())
    logits = id_encoder(guide_view(images.to(weight.dtype), shift)).logits
    return F.normalize(logits.float(), dim=-1)
