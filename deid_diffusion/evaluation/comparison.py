"""Compares one output with its original, face by face, and writes the rows down."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from deid_diffusion.evaluation import quality
from deid_diffusion.evaluation.detectors import match_face
from deid_diffusion.evaluation.measure import NAN, FaceMeasurement, FaceMeasurer
from deid_diffusion.evaluation.pairing import HashedPicture, read_picture
from deid_diffusion.evaluation.results import EvaluationError
from deid_diffusion.evaluation.table import MethodTable
from deid_diffusion.evaluation.utility import landmark_error
from deid_diffusion.evaluation.warp import crop_box, eye_distance, face_square, square_box
from deid_diffusion.types import Face

MAX_DISPLACEMENT = 30.0  # % of the inter-pupil distance; a face found farther away may be a false detection
UNCHANGED = 1.0  # mean difference in 8-bit levels inside a face's box up to which the face counts as unchanged


@dataclass(frozen=True, eq=False)
class OriginalFaces:
    """What was measured on an original's faces.

    Attributes:
        first_row: the first face's row in the originals' table; the others follow.
        measurements: one per face.
        vectors: per face, one (D,) embedding per judge.
    """

    first_row: int
    measurements: list[FaceMeasurement]
    vectors: list[list[np.ndarray]]


def read_output(method: MethodTable, key: str, path: Path | None, original: HashedPicture) -> HashedPicture | None:
    """The output at the original's size; None, and a line in `method.problems`, where there is none to judge.

    Args:
        method: where problems are counted.
        key: the original's name, see `pairing.list_pictures`.
        path: the output's file; None when missing.
        original: gives the size wanted.
    """
    if path is None:
        method.problems.add("no output", key, "nothing was published for it, not counted in n")
        return None
    try:
        output = read_picture(path)
    except EvaluationError as error:
        method.problems.add("output not readable", path.name, str(error))
        return None
    wanted, got = original.pixels.shape[:2], output.pixels.shape[:2]
    if wanted == got:
        return output
    if abs(got[0] * wanted[1] / (got[1] * wanted[0]) - 1) > 0.02:
        method.problems.add("output of another shape", path.name, f"{wanted} became {got}, not counted in n")
        return None
    method.problems.add("output of another size", path.name, f"{wanted} became {got}, scaled back to be judged")
    resized = cv2.resize(output.pixels, wanted[::-1], interpolation=cv2.INTER_LINEAR)
    return HashedPicture(resized, f"{output.digest} {wanted}")


def compare_faces(
    method: MethodTable,
    measurer: FaceMeasurer,
    pair: tuple[HashedPicture, HashedPicture],
    faces: list[Face],
    known: OriginalFaces,
    examples: int,
) -> None:
    """Adds the rows of one (original, output) pair to the method's table.

    Args:
        method: gets one row in `pictures` and one in `faces` per face of the original.
        measurer: measures the output's faces.
        pair: original and output, of equal size.
        faces: the faces of the original.
        known: what was measured on them.
        examples: how many crops of outputs the table keeps at most.
    """
    original, output = pair
    found = measurer.faces(output)
    squares = [face_square(face.landmarks) for face in faces]
    # Tools that cover boxes reach above the square of a long face: neither counts as background.
    free = quality.outside(original.pixels.shape, [*squares, *(square_box(face.box, 1.5) for face in faces)])
    method.pictures.add(
        row=known.first_row,
        error=quality.squared_error(original.pixels, output.pixels, free),
        ssim=quality.ssim(original.pixels, output.pixels, free),
    )
    for number, (face, measurement) in enumerate(zip(faces, known.measurements, strict=True)):
        seen = match_face(face, found)
        unchanged = quality.mean_abs_difference(original.pixels, output.pixels, face.box) <= UNCHANGED
        embedded = _worst_case_embeddings(measurer, output, (face, seen), known.vectors[number])
        for vectors, vector in zip(method.vectors, embedded, strict=True):
            vectors.add(vector)
        after = measurer.measure_face(output, seen) if seen else None
        method.conditioning.add(after.conditioning() if after else np.full(len(measurement.conditioning()), NAN))
        if after is not None and len(after.features):
            method.features.add(after.features)
        method.faces.add(
            row=known.first_row + number,
            found=seen is not None,
            unchanged=unchanged,
            seam=quality.seam_step(original.pixels, output.pixels, squares[number]),
            sharpness=quality.sharpness_gap(original.pixels, output.pixels, face.box, squares[number]),
            **utility_differences(measurement, after, eye_distance(face.landmarks)),
        )
        if len(method.examples) < examples and not unchanged:
            method.examples.append(crop_box(output.pixels, squares[number], 160))


def embed_output(measurer: FaceMeasurer, output: HashedPicture, face: Face, own: list[np.ndarray]) -> list[np.ndarray]:
    """One (D,) float32 vector per judge of what was made of one face.

    Args:
        measurer: detector and judges.
        output: the picture in which it was anonymized.
        face: where it was.
        own: its vectors before.
    """
    return _worst_case_embeddings(measurer, output, (face, match_face(face, measurer.faces(output))), own)


def _worst_case_embeddings(
    measurer: FaceMeasurer, output: HashedPicture, places: tuple[Face, Face | None], own: list[np.ndarray]
) -> list[np.ndarray]:
    face, seen = places
    if seen is None:
        # No face is detected: an attacker still knows where it was, and embeds that place.
        return measurer.embeddings(output, face)
    found = measurer.embeddings(output, seen)
    if landmark_error(face.landmarks, seen.landmarks, eye_distance(face.landmarks)) < MAX_DISPLACEMENT:
        return found
    # Turned, or a false detection in a blur: the attacker tries both places, and the more similar one counts.
    pairs = zip(found, measurer.embeddings(output, face), own, strict=True)
    return [max(two, key=lambda v: float(v @ truth) / float(np.linalg.norm(v) or 1)) for *two, truth in pairs]


def utility_differences(before: FaceMeasurement, after: FaceMeasurement | None, scale: float) -> dict[str, float]:
    """How much two measurements of a face differ, by column of `MethodTable.faces`; NaN where not measured.

    Args:
        before, after: the measurements; None where no face was detected.
        scale: inter-pupil distance in pixels.

    Returns:
        landmarks in % of `scale`; yaw, pitch, roll and skin in degrees; age in years; expression and gender 1 where
        both agree, else 0.
    """
    names = ("landmarks", "yaw", "pitch", "roll", "expression", "age", "gender", "skin")
    if after is None:
        return dict.fromkeys(names, NAN)
    turned = np.abs((after.pose_deg - before.pose_deg + 180) % 360 - 180)
    same_expression = float(before.expression.argmax() == after.expression.argmax())
    values = (
        landmark_error(before.points, after.points, scale),
        *turned,
        same_expression if np.isfinite(after.expression).all() else NAN,
        abs(after.age - before.age),
        float((after.male > 0.5) == (before.male > 0.5)) if np.isfinite(after.male) else NAN,
        abs(after.ita_deg - before.ita_deg),
    )
    return dict(zip(names, values, strict=True))
