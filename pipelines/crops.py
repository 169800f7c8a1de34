"""Reads crops and masks from whatever form they come in."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

Images = Image.Image | Sequence[Image.Image] | np.ndarray | torch.Tensor


def as_tensor(images: Images, channels: int) -> torch.Tensor:
    """Any accepted form -> (B, channels, S, S) float32: three channels in [-1, 1], one channel in [0, 1].

    Args:
        images: PIL, list of PIL, (B, S, S, channels) uint8 (masks may leave out the last axis), or (B, channels, S, S)
            float, already in range.
    """
    if isinstance(images, torch.Tensor):
        if images.ndim != 4 or images.shape[1] != channels:
            raise ValueError(f"tensors must be (B, {channels}, S, S), got {tuple(images.shape)}")
        return images.float()
    if isinstance(images, np.ndarray):
        array = images[..., None] if channels == 1 and images.ndim == 3 else images
        if array.ndim != 4 or array.shape[-1] != channels or array.dtype != np.uint8:
            raise ValueError(f"arrays must be (B, S, S, {channels}) uint8, got {images.shape} {images.dtype}")
    else:
        pictures = [images] if isinstance(images, Image.Image) else list(images)
        mode = "RGB" if channels == 3 else "L"
        array = np.stack([np.asarray(p.convert(mode)).reshape(p.height, p.width, channels) for p in pictures])
    unit = torch.from_numpy(np.ascontiguousarray(array)).permute(0, 3, 1, 2).float() / 255
    return unit * 2 - 1 if channels == 3 else unit


def read_crops(image: Images, mask_image: Images, multiple: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Any accepted form -> (B, 3, S, S) in [-1, 1] and (B, 1, S, S) in [0, 1], float32, on the CPU or where they lie.

    Raises:
        ValueError: not square, a side that is no multiple of `multiple`, sizes or counts that differ, out of range.
    """
    crop, mask = as_tensor(image, channels=3), as_tensor(mask_image, channels=1)
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
    if crop.min() < -1.01 or crop.max() > 1.01:
        raise ValueError(f"image tensors are in [-1, 1], got {crop.min():.2f} to {crop.max():.2f}; divide them")
    if mask.min() < 0 or mask.max() > 1:
        raise ValueError(f"mask tensors are in [0, 1], got {mask.min():.2f} to {mask.max():.2f}; divide them")
    return crop, mask
