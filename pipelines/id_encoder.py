"""Embeds crops with the identity encoder, differentiably."""

import copy

import torch
import torch.nn.functional as F

# The encoder looks at the middle of the crop, where the face is, at its own resolution.
WINDOW = 0.75
SIDE = 128


def encoder_view(images: torch.Tensor, shift: tuple[int, int] = (0, 0)) -> torch.Tensor:
    """(B, 3, S, S) in [-1, 1] -> (B, 3, 128, 128): the middle three quarters, moved by `shift` crop pixels (x, y).

    Raises:
        ValueError: the shifted view leaves the crop.
    """
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
    logits = id_encoder(encoder_view(images.to(weight.dtype), shift)).logits
    return F.normalize(logits.float(), dim=-1)


def shifted_views(size: int, count: int) -> list[tuple[int, int]]:
    """Shifts (x, y) of the views of a crop: none, the four diagonals, and round again.

    Args:
        size: side of the crop in pixels; a shift is a 32nd of it.
        count: how many views.
    """
    reach = size // 32
    shifts = [(0, 0), (reach, reach), (-reach, reach), (reach, -reach), (-reach, -reach)]
    return [shifts[number % len(shifts)] for number in range(count)]


def in_float32(id_encoder: torch.nn.Module | None) -> torch.nn.Module | None:
    """The encoder itself, or a float32 copy of one in less: its gradients are too small for float16."""
    if id_encoder is None or next(id_encoder.parameters()).dtype == torch.float32:
        return id_encoder
    return copy.deepcopy(id_encoder).float()
