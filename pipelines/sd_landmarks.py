"""Draws face landmarks the way the public face-landmark ControlNets were taught to read them."""

import numpy as np
import torch
from PIL import Image, ImageDraw

from .conditioning import POINTS, shown

STYLES = ("mediapipe", "dlib68")
# Both were trained on 512 px pictures; lines and dots grow with the crop.
TRAINED_AT = 512
RGB = tuple[int, int, int]

# fmt: off
# FaceMesh contours as paths, "left" and "right" being the person's. Colours as in CrucibleAI/ControlNetMediaPipeFace
# (laion_face_common.py, which draws in BGR and flips; these are RGB).
CONTOURS: tuple[tuple[RGB, tuple[int, ...]], ...] = (
    ((180, 200, 10), (33, 7, 163, 144, 145, 153, 154, 155, 133)),
    ((180, 200, 10), (33, 246, 161, 160, 159, 158, 157, 173, 133)),
    ((180, 220, 10), (46, 53, 52, 65, 55)),
    ((180, 220, 10), (70, 63, 105, 66, 107)),
    ((10, 200, 180), (263, 249, 390, 373, 374, 380, 381, 382, 362)),
    ((10, 200, 180), (263, 466, 388, 387, 386, 385, 384, 398, 362)),
    ((10, 220, 180), (276, 283, 282, 295, 285)),
    ((10, 220, 180), (300, 293, 334, 296, 336)),
    ((10, 180, 10), (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291)),
    ((10, 180, 10), (61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291)),
    ((10, 180, 10), (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308)),
    ((10, 180, 10), (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308)),
)
OUTLINE: tuple[RGB, tuple[int, ...]] = ((10, 200, 10), (
    10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377, 152, 148, 176, 149, 150,
    136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109, 10,
))
PUPILS: dict[int, RGB] = {468: (250, 200, 10), 473: (10, 200, 250)}

# FaceMesh points nearest to the 68 of iBUG/dlib, in dlib's order.
JAW_68 = (127, 234, 93, 132, 58, 136, 150, 176, 152, 400, 379, 365, 288, 361, 323, 454, 356)
INNER_68 = (
    70, 63, 105, 66, 107, 336, 296, 334, 293, 300,                          # brows
    168, 197, 5, 4, 75, 97, 2, 326, 305,                                    # nose
    33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380,              # eyes
    61, 40, 37, 0, 267, 270, 291, 321, 314, 17, 84, 91,                     # outer lips
    78, 81, 13, 311, 308, 402, 14, 178,                                     # inner lips
)
# fmt: on


def as_mesh(points: torch.Tensor) -> torch.Tensor:
    """(B, 478, 2 or 3) FaceMesh, or (B, 27, 2) in the order of `POINTS` -> (B, 478, 2), unknown points not finite.

    Raises:
        ValueError: another shape.
    """
    if points.ndim == 3 and points.shape[1] == 478 and points.shape[2] in (2, 3):
        return points[..., :2].float()
    if points.ndim == 3 and points.shape[1:] == (len(POINTS), 2):
        mesh = torch.full((len(points), 478, 2), float("nan"))
        mesh[:, list(POINTS)] = points.float().cpu()
        return mesh
    raise ValueError(
        f"landmarks must be (B, 478, 2) FaceMesh or (B, {len(POINTS)}, 2), got {tuple(points.shape)}; add a batch axis"
    )


def draw_landmarks(points: torch.Tensor, size: int, style: str = "mediapipe", outline: bool = True) -> torch.Tensor:
    """Landmarks -> the picture a ControlNet reads.

    Points that are not finite are skipped and their neighbours joined, so a sparse set gives sparse lines.

    Args:
        points: (B, 478, 2 or 3) FaceMesh or (B, 27, 2), x y in crop pixels.
        size: side of the crop in pixels.
        style: "mediapipe" (coloured contours) or "dlib68" (white dots).
        outline: also draw the jaw and the outline of the face. The ControlNets know it, and it is the person's: leave
            it out, or hand in landmarks that are not the source's, where the outline must not show.

    Returns:
        (B, 3, S, S) in [0, 1].

    Raises:
        ValueError: another style or shape.
    """
    if style not in STYLES:
        raise ValueError(f"landmark_style must be one of {STYLES}, got {shown(style)}")
    # Pictures index pixel centres, crops measure from the outer corner.
    faces = as_mesh(points).cpu().numpy() - 0.5
    draw = draw_contours if style == "mediapipe" else draw_dots
    pictures = np.stack([np.asarray(draw(face, size, outline)) for face in faces])
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255


def draw_contours(face: np.ndarray, size: int, outline: bool) -> Image.Image:
    """(478, 2) in pixel centres -> coloured contours and square pupils, RGB."""
    picture = Image.new("RGB", (size, size))
    pen, unit = ImageDraw.Draw(picture), size / TRAINED_AT
    width = max(1, round(2 * unit))
    for colour, path in (*((OUTLINE,) if outline else ()), *CONTOURS):
        line = [tuple(xy) for xy in face[list(path)] if np.isfinite(xy).all()]
        if len(line) > 1:
            pen.line(line, fill=colour, width=width)
    for number, colour in PUPILS.items():
        if np.isfinite(face[number]).all():
            x, y = face[number]
            pen.rectangle((x - 2 * unit, y - 2 * unit, x + 2 * unit, y + 2 * unit), fill=colour)
    return picture


def draw_dots(face: np.ndarray, size: int, outline: bool) -> Image.Image:
    """(478, 2) in pixel centres -> white dots at the 68 points, RGB (Georgefwt/Face-Landmark-ControlNet)."""
    picture = Image.new("RGB", (size, size))
    pen, radius = ImageDraw.Draw(picture), max(1.0, 2.5 * size / TRAINED_AT)
    for x, y in face[list((JAW_68 if outline else ()) + INNER_68)]:
        if np.isfinite([x, y]).all():
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill="white")
    return picture
