"""Makes the small pictures that the page shows, and what is needed to make them."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO

import cv2
import numpy as np
from PIL import Image

from ..faces.task import FaceTask, ImageAnalysis
from ..imaging.pictures import Picture
from ..types import Face

SHOWN = 1600  # pixels, the long side of a photo on the page
AREA = SHOWN * SHOWN // 2  # likewise, pixels that a panorama has at least, which is wider
THUMB = 192  # pixels


def resized(image: np.ndarray, scale: float) -> np.ndarray:
    """(H, W, 3) uint8 at a scale; the very image where it would grow.

    Args:
        image: (H, W, 3) uint8.
        scale: factor on the sides.
    """
    if scale >= 1:
        return image
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def shrunk(image: np.ndarray, side: int) -> np.ndarray:
    """(H, W, 3) uint8 with the long side at most `side` pixels.

    Args:
        image: (H, W, 3) uint8.
        side: in pixels.
    """
    return resized(image, side / max(image.shape[:2]))


def cut(image: np.ndarray, face: Face) -> np.ndarray:
    """(h, h, 3) uint8: a square around a face, as far as the picture goes.

    Args:
        image: (H, W, 3) uint8.
        face: where it is.
    """
    centre, side = (face.box[:2] + face.box[2:]) / 2, float((face.box[2:] - face.box[:2]).max()) * 1.35
    side = min(max(side, 8.0), *image.shape[:2])
    low = np.clip(centre - side / 2, 0, np.array([image.shape[1], image.shape[0]]) - side).astype(int)
    return image[low[1] : low[1] + int(side), low[0] : low[0] + int(side)]


def jpeg(image: np.ndarray, side: int | None = None) -> bytes:
    """A JPEG file of pixels alone.

    Args:
        image: (H, W, 3) uint8 RGB.
        side: the longest there may be, in pixels.
    """
    file, picture = BytesIO(), Image.fromarray(image)
    if side is not None:
        picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    picture.save(file, "JPEG", quality=92)
    return file.getvalue()


def at_page_size(analysis: ImageAnalysis) -> ImageAnalysis:
    """What was found, in the picture as the page shows it: compositing that is what a slider waits for.

    Args:
        analysis: at full size.
    """
    height, width = analysis.image.shape[:2]
    scale = min(1.0, max(SHOWN / max(height, width), (AREA / (height * width)) ** 0.5))
    picture = Picture(resized(analysis.picture.image, scale))
    same = analysis.image is analysis.picture.image
    image = picture.image if same else resized(analysis.image, scale)
    tasks = tuple(scaled(task, image.shape[1] / analysis.image.shape[1]) for task in analysis.tasks)
    return ImageAnalysis(picture, image, tasks, roll=round(analysis.roll * scale))


def scaled(task: FaceTask, scale: float) -> FaceTask:
    """A task in a picture of another size; crops keep theirs.

    Args:
        task: as it is.
        scale: factor on the picture's sides.
    """
    if scale == 1:
        return task
    face = replace(task.face, box=task.face.box * scale, landmarks=task.face.landmarks * scale)
    crop = task.crop
    if crop is not None:
        crop_from_image = crop.crop_from_image.copy()
        crop_from_image[:, :2] /= scale
        crop = replace(crop, crop_from_image=crop_from_image)
    return replace(task, face=face, crop=crop)
