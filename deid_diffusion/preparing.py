"""Readies the faces of a picture for painting: crops, reads, and sorts out those that are not to be painted."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from .attributes import Attributes, FaceReader, Reading
from .crops import crop_faces, erased_mask
from .geometry import apply, invert
from .references import Decision, decide
from .settings import Settings
from .texture import skin_texture
from .types import Face, FaceCrop, FaceReport, Outcome

log = logging.getLogger(__name__)
AT_ONCE = 16  # faces that are read in one go; memory goes with it


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
        texture: (3,) how rough the source's skin is, see `texture.skin_texture`.
        borderline: why this face might have been left alone, empty when it might not; see `references.decide`.
    """

    number: int
    face: Face
    crop: FaceCrop
    reading: Reading
    embedding: np.ndarray
    wanted: Attributes
    erased: np.ndarray
    texture: np.ndarray
    borderline: str = ""


def prepare(
    image: np.ndarray,
    faces: Sequence[Face],
    settings: Settings,
    reader: FaceReader,
    embed: Callable[[np.ndarray], np.ndarray],
    size: int,
) -> tuple[list[ReadyFace], dict[int, FaceReport]]:
    """Reads every face.

    Args:
        image: (H, W, 3) uint8 RGB.
        faces: all that were detected in it.
        settings: what is wanted, and of whom.
        reader: landmarks and attributes.
        embed: the guide, (B, S, S, 3) uint8 -> (B, D) unit norm.
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
    for number, (face, crop, read) in enumerate(zip(faces, crops, _read_all(crops, reader, embed), strict=True)):
        if crop is None:
            reports[number] = redacted(face, "landmarks do not fit the detection")
            continue
        if isinstance(read, Exception):
            log.error("reading face %d failed", number, exc_info=read)
            reports[number] = redacted(face, f"reading failed: {read}")
            continue
        reading, embedding = read
        decision, reason = decide(embedding, settings.keep, settings.only)
        if decision is Decision.KEEP:
            reports[number] = FaceReport(face, Outcome.KEPT, 0, reason=reason)
            continue
        passed = reading.attributes.coarse().with_changes(dict.fromkeys(settings.forget))
        wanted = passed.with_changes(settings.attributes)
        erased = erased_mask(crop, image.shape, [f for f in faces if f is not face])
        rough = skin_texture(image, apply(invert(crop.crop_from_image), crop.landmarks.astype(float)))
        ready.append(ReadyFace(number, face, crop, reading, embedding, wanted, erased, rough, reason))
    return ready, reports


def _read_all(
    crops: Sequence[FaceCrop | None], reader: FaceReader, embed: Callable[[np.ndarray], np.ndarray]
) -> list[tuple[Reading, np.ndarray] | Exception | None]:
    """What each crop says and its (D,) embedding; or why it cannot be read; None where there is no crop."""
    read: list[tuple[Reading, np.ndarray] | Exception | None] = [None] * len(crops)
    there = [number for number, crop in enumerate(crops) if crop is not None]
    for batch in [there[first : first + AT_ONCE] for first in range(0, len(there), AT_ONCE)]:
        try:
            results = _read(batch, crops, reader, embed)
        except Exception:
            # One of them cannot be read; alone, it does not take the others along.
            log.debug("reading %d faces at once failed, they are read one by one", len(batch), exc_info=True)
            results = [_read_one(number, crops, reader, embed) for number in batch]
        for number, result in zip(batch, results, strict=True):
            read[number] = result
    return read


def _read(numbers, crops, reader, embed) -> list[tuple[Reading, np.ndarray]]:
    images = np.stack([crops[number].image for number in numbers])
    return list(zip(reader.read(images), embed(images), strict=True))


def _read_one(number, crops, reader, embed) -> tuple[Reading, np.ndarray] | Exception:
    try:
        return _read([number], crops, reader, embed)[0]
    except Exception as error:
        return error


def named(ready: Sequence[ReadyFace], reports: Mapping[int, FaceReport]) -> dict[int, FaceReport]:
    """The reports of borderline faces, by number, with what makes them so added to the reason."""
    borderline = {r.number: r.borderline for r in ready if r.borderline}
    return {
        number: replace(
            reports[number], reason="; ".join(filter(None, (reports[number].reason, why))), borderline=True
        )
        for number, why in borderline.items()
    }


def redacted(face: Face, reason: str, tries: int = 0) -> FaceReport:
    """The report of a face that is hidden instead of replaced."""
    return FaceReport(face, Outcome.REDACTED, 0, reason=reason, tries=tries)
