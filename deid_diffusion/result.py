"""Holds an anonymized picture with its report."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from os import PathLike

import numpy as np
from PIL import Image

from .imaging.alpha import without_faces
from .imaging.pictures import Picture, merge_deep, save_picture
from .messages import brief_repr
from .types import FaceReport


@dataclass(frozen=True, eq=False)
class AnonymizedImage:
    """A finished picture.

    Attributes:
        image: (H, W, 3) uint8 RGB, upright.
        faces: one report per detected face, no exceptions.
        seconds: time by stage: detect, read, inpaint, verify, composite.
        changed_mask: (H, W) bool, the pixels that may differ from the source.
        keep_metadata: what of the source's metadata is saved, any of `types.KEEPABLE`.
        source: the picture it was made from; kept for depth, alpha, profile and preview, never saved.
    """

    image: np.ndarray
    faces: tuple[FaceReport, ...]
    seconds: dict[str, float] = field(default_factory=dict)
    changed_mask: np.ndarray | None = None
    source: Picture | None = None
    keep_metadata: tuple[str, ...] = ()
    __repr__ = brief_repr

    @property
    def notices(self) -> tuple[str, ...]:
        """Sentences on what of the source was not taken over as it was, such as CMYK."""
        return () if self.source is None else self.source.notices

    @property
    def alpha(self) -> np.ndarray | None:
        """(H, W) uint8 or uint16: the source's alpha, with no face left in it; None when opaque."""
        if self.source is None or self.source.alpha is None:
            return None
        changed_mask = self.changed_mask
        if changed_mask is None:
            changed_mask = (self.image != self.source.image).any(2)
        return without_faces(self.source.alpha, changed_mask)

    def save(self, path: str | PathLike) -> None:
        """Writes the picture: same size, depth, alpha and colour profile, and of the metadata only `keep_metadata`.

        Where nothing was changed, a JPEG, PNG or WebP of the same format keeps its coded pixels.

        Raises:
            PictureError: a suffix that cannot be written, a folder that cannot be written to, a full disk.
        """
        picture = self.source if self.source is not None else Picture(self.image)
        deep = None
        if picture.deep is not None and self.changed_mask is not None:
            deep = merge_deep(picture.deep, self.image, self.changed_mask)
        unchanged = self.changed_mask is not None and not self.changed_mask.any()
        save_picture(replace(picture, alpha=self.alpha), self.image, path, deep, unchanged, self.keep_metadata)

    def preview(self, height: int = 720) -> Image.Image:
        """Before and after, side by side. It shows the source faces: for your eyes, not for publishing."""
        before = self.source.image if self.source is not None else self.image
        both = Image.fromarray(np.concatenate([before, self.image], axis=1))
        if both.height <= height:
            return both
        return both.resize((max(1, round(both.width * height / both.height)), height), Image.Resampling.LANCZOS)
