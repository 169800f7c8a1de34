"""Reads crops and masks from whatever form they come in."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import numpy as np
import torch
from PIL import Image

Images: TypeAlias = (
    Image.Image | np.ndarray | torch.Tensor | Sequence[Image.Image] | Sequence[np.ndarray] | Sequence[torch.Tensor]
)

Rows = TypeVar("Rows", bound=torch.Tensor | None)


@dataclass(frozen=True, eq=False)
class Crops:
    """Crops and what is replaced in them, on one device.

    Attributes:
        image: (B, 3, S, S) float32 in [-1, 1].
        unit: the same in [0, 1]. Of the two, the one in the caller's own range has the caller's own bits.
        mask: (B, 1, S, S) float32, 1 where pixels are replaced, else 0.
    """

    image: torch.Tensor
    unit: torch.Tensor
    mask: torch.Tensor


def as_tensor(images: Images, channels: int, name: str = "image") -> torch.Tensor:
    """Any accepted form -> (B, channels, S, S) float32 in [0, 1], or in [-1, 1] where a value below 0 says so.

    Args:
        images: PIL or a list of PIL; (B, S, S, channels) array, uint8 or float (masks may leave out the last axis); or
            (B, channels, S, S) float tensor; or a list of such arrays or tensors, with or without B.
        channels: 3, or 1 for masks.
        name: of the argument, for errors.

    Raises:
        ValueError: another shape, type or range.
    """
    if isinstance(images, Image.Image):
        images = [images]
    if not isinstance(images, np.ndarray | torch.Tensor):
        images = _stack(list(images), channels)
    if isinstance(images, torch.Tensor):
        if images.ndim != 4 or images.shape[1] != channels:
            raise ValueError(f"{name} tensors must be (B, {channels}, S, S), got {tuple(images.shape)}")
        tensor = images.float()
    else:
        array = images[..., None] if channels == 1 and images.ndim == 3 else images
        if array.ndim != 4 or array.shape[-1] != channels or not (array.dtype == np.uint8 or array.dtype.kind in "bf"):
            raise ValueError(
                f"{name} arrays must be (B, S, S, {channels}) uint8 or float, got {images.shape} {images.dtype}"
            )
        tensor = torch.from_numpy(np.ascontiguousarray(array)).permute(0, 3, 1, 2).float()
        tensor = tensor / 255 if array.dtype == np.uint8 else tensor
    low, high = (-1, 1) if channels == 3 else (0, 1)
    if tensor.numel() == 0 or not (tensor.min() >= low - 0.01 and tensor.max() <= high + 0.01):  # NaN fails this too
        found = f"{tensor.min():.2f} to {tensor.max():.2f}" if tensor.numel() else "none at all"
        also = " or [-1, 1]" if channels == 3 else ""
        raise ValueError(f"{name} values must lie in [0, 1]{also}, got {found}; divide them")
    return tensor


def to_unit(images: torch.Tensor) -> torch.Tensor:
    """(B, 3, S, S) in [0, 1] or, where a value is below 0, [-1, 1] -> [0, 1]."""
    return images / 2 + 0.5 if images.min() < 0 else images


def to_signed(images: torch.Tensor) -> torch.Tensor:
    """(B, 3, S, S) in [0, 1] or, where a value is below 0, [-1, 1] -> [-1, 1]."""
    return images if images.min() < 0 else images * 2 - 1


def read_crops(image: Images, mask_image: Images, multiple: int, device: torch.device | str = "cpu") -> Crops:
    """Reads crops and masks in any form that `as_tensor` takes; a mask of at least 0.5 means replace.

    Args:
        image, mask_image: B crops, and one mask for each.
        multiple: what the side must be a multiple of, in pixels.
        device: where they go.

    Raises:
        ValueError: not square, a side that is no multiple of `multiple`, sizes or counts that differ, out of range.
    """
    crop = as_tensor(image, channels=3).to(device)
    mask = as_tensor(mask_image, channels=1, name="mask_image").to(device)
    height, width = crop.shape[-2:]
    if height != width or height % multiple:
        raise ValueError(
            f"image must be square with a side that is a multiple of {multiple} pixels, got {width} x {height}; "
            f"resize it"
        )
    if mask.shape[-2:] != crop.shape[-2:]:
        raise ValueError(f"mask_image must be as large as image, got {tuple(mask.shape)} and {tuple(crop.shape)}")
    if len(mask) != len(crop):
        raise ValueError(f"need one mask a crop, got {len(mask)} masks and {len(crop)} crops")
    return Crops(to_signed(crop), to_unit(crop), (mask >= 0.5).float())


def read_init(init_image: Images, crops: Crops) -> torch.Tensor:
    """A generated face -> (B, 3, S, S) in [-1, 1] on the crops' device, with the crops' own pixels around it.

    Args:
        init_image: B faces in any form that `as_tensor` takes.
        crops: what they go into.

    Raises:
        ValueError: other sizes or counts than the crops'.
    """
    face = to_signed(as_tensor(init_image, channels=3, name="init_image")).to(crops.image)
    if face.shape != crops.image.shape:
        raise ValueError(
            f"init_image must be like image, {tuple(crops.image.shape)}, got {tuple(face.shape)}; one a crop"
        )
    return torch.where(crops.mask > 0, face, crops.image)


def repeat(value: Rows, times: int) -> Rows:
    """(B, ...) -> (B * times, ...), copies side by side; None stays None."""
    return value if value is None or times == 1 else value.repeat_interleave(times, dim=0)


def _stack(images: list[Any], channels: int) -> np.ndarray | torch.Tensor:
    if not images:
        raise ValueError("need at least one image, got an empty list")
    if isinstance(images[0], torch.Tensor):
        return torch.cat(images) if images[0].ndim == 4 else torch.stack(images)
    if isinstance(images[0], np.ndarray):
        # (1, S, S, 3) and, for masks, (1, S, S, 1) already have their batch axis.
        return np.concatenate(images) if images[0].ndim == 4 else np.stack(images)
    mode = "RGB" if channels == 3 else "L"
    return np.stack([np.asarray(p.convert(mode)).reshape(p.height, p.width, channels) for p in images])
