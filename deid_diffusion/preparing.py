"""Readies the faces of a picture for painting: crops, reads, and sorts out those that are not to be painted."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .attributes import Attributes, FaceReader, Reading
from .crops import crop_faces, erased_mask
from .settings import Settings
from .types import Face, FaceCrop, FaceReport, Outcome

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class ReadyFace:
    """A face that is ready to be painted.

    Attributes:
        number: place among the picture's faces.
        face: as it was detected.
        crop: at the pipeline's size.
        reading: what the source says.
        embedding: (D,) of the source.
        wanted: what the new face is to be like.
        erased: (S, S) float32 in [0, 1], above 0 = the model must not see it.
    """

    number: int
    face: Face
    crop: FaceCrop
    reading: Reading
    embedding: np.ndarray
    wanted: Attributes
    erased: np.ndarray


def prepare(
    image: np.ndarray,
    faces: Sequence[Face],
    settings: Settings,
    reader: FaceReader,
    embed: Callable[[np.ndarray], np.ndarray],
    thresholds: Mapping[str, float],
    size: int,
) -> tuple[list[ReadyFace], dict[int, FaceReport]]:
    """Reads every face.

    Args:
        image: (H, W, 3) uint8 RGB.
        faces: all that were detected in it.
        settings: what is wanted, and of whom.
        reader: landmarks and attributes.
        embed: the guide, (B, S, S, 3) uint8 -> (B, D) unit norm.
        thresholds: its similarities at false accept rates, for people who are left alone.
        size: side of the crops in pixels.

    Returns:
        who is to be painted; and by number the reports of all others: redacted, because they cannot be read, or kept.
    """
    reports: dict[int, FaceReport] = {}
    try:
        crops = crop_faces(image, faces, reader, size)
    except Exception as error:
        log.exception("reading faces failed")
        return [], {n: redacted(face, f"reading failed: {error}") for n, face in enumerate(faces)}
    ready = []
    for number, (face, crop) in enumerate(zip(faces, crops, strict=True)):
        if crop is None:
            reports[number] = redacted(face, "landmarks do not fit the detection")
            continue
        try:
            reading = reader.read(crop.image[None])[0]
            embedding = embed(crop.image[None])[0]
        except Exception as error:
            log.exception("reading face %d failed", number)
            reports[number] = redacted(face, f"reading failed: {error}")
            continue
        if reason := left_alone(embedding, settings, thresholds):
            reports[number] = FaceReport(face, Outcome.KEPT, 0, reason=reason)
            continue
        wanted = reading.attributes.with_changes(dict.fromkeys(settings.forget)).with_changes(settings.attributes)
        erased = erased_mask(crop, image.shape, [f for f in faces if f is not face])
        ready.append(ReadyFace(number, face, crop, reading, embedding, wanted, erased))
    return ready, reports


def left_alone(embedding: np.ndarray, settings: Settings, thresholds: Mapping[str, float]) -> str:
    """Why the face of this (D,) embedding is to be left as it is; empty when it is not."""
    # Keeping needs certainty, hiding does not: each threshold errs towards anonymizing.
    if settings.keep is not None and (settings.keep @ embedding).max() >= thresholds["far_0.001"]:
        return "matches a person to keep"
    if settings.only is not None and (settings.only @ embedding).max() < thresholds["far_0.05"]:
        return "matches nobody to anonymize"
    return ""


def redacted(face: Face, reason: str, tries: int = 0) -> FaceReport:
    """The report of a face that is hidden instead of replaced."""
    return FaceReport(face, Outcome.REDACTED, 0, reason=reason, tries=tries)
