"""Compares one output with its original, face by face, and writes the rows down."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from deid_diffusion.evaluation import quality
from deid_diffusion.evaluation.align import cut, eye_distance, face_square, square
from deid_diffusion.evaluation.faces import match
from deid_diffusion.evaluation.ledger import MethodLedger
from deid_diffusion.evaluation.pictures import Picture, read_picture
from deid_diffusion.evaluation.reading import NAN, Reader, Reading
from deid_diffusion.evaluation.results import EvaluationError
from deid_diffusion.evaluation.utility import landmark_error
from deid_diffusion.types import Face

ASTRAY = 30.0  # % of the eye distance from which on a face found in the output may not be where the face was
UNTOUCHED = 1.0  # mean levels of difference in a face's box up to which it counts as left as it was


@dataclass(frozen=True, eq=False)
class Known:
    """What is known of an original's faces: their first row in the ledger, readings, and vectors by face and judge."""

    first_row: int
    readings: list[Reading]
    vectors: list[list[np.ndarray]]


def read_output(method: MethodLedger, key: str, path: Path | None, original: Picture) -> Picture | None:
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
    return Picture(resized, f"{output.digest} {wanted}")


def judge_picture(
    method: MethodLedger,
    reader: Reader,
    pair: tuple[Picture, Picture],
    faces: list[Face],
    known: Known,
    examples: int,
) -> None:
    """Adds the rows of one (original, output) pair and its original's faces to the method's ledger."""
    original, output = pair
    found = reader.faces(output)
    squares = [face_square(face.landmarks) for face in faces]
    # Tools that cover boxes reach above the square of a long face: neither counts as off the face.
    free = quality.outside(original.pixels.shape, [*squares, *(square(face.box, 1.5) for face in faces)])
    method.pictures.add(
        row=known.first_row,
        error=quality.squared_error(original.pixels, output.pixels, free),
        ssim=quality.ssim(original.pixels, output.pixels, free),
    )
    for number, (face, reading) in enumerate(zip(faces, known.readings, strict=True)):
        seen = match(face, found)
        untouched = quality.mean_abs_difference(original.pixels, output.pixels, face.box) <= UNTOUCHED
        embedded = _embed(reader, output, (face, seen), known.vectors[number])
        for vectors, vector in zip(method.vectors, embedded, strict=True):
            vectors.add(vector)
        after = reader.read(output, seen) if seen else None
        method.condition.add(after.condition() if after else np.full(len(reading.condition()), NAN))
        if after is not None and len(after.features):
            method.features.add(after.features)
        method.faces.add(
            row=known.first_row + number,
            found=seen is not None,
            untouched=untouched,
            seam=quality.seam_step(original.pixels, output.pixels, squares[number]),
            sharpness=quality.sharpness_gap(original.pixels, output.pixels, face.box, squares[number]),
            **kept(reading, after, eye_distance(face.landmarks)),
        )
        if len(method.examples) < examples and not untouched:
            method.examples.append(cut(output.pixels, squares[number], 160))


def _embed(
    reader: Reader, output: Picture, places: tuple[Face, Face | None], own: list[np.ndarray]
) -> list[np.ndarray]:
    face, seen = places
    if seen is None:
        # Nobody to be seen there: the attacker still knows where the face was, and looks at that place.
        return reader.embed(output, face)
    found = reader.embed(output, seen)
    if landmark_error(face.landmarks, seen.landmarks, eye_distance(face.landmarks)) < ASTRAY:
        return found
    # Turned, or a detector led astray by a blur: the attacker has both places, and the better one counts.
    pairs = zip(found, reader.embed(output, face), own, strict=True)
    return [max(two, key=lambda v: float(v @ truth) / float(np.linalg.norm(v) or 1)) for *two, truth in pairs]


def kept(before: Reading, after: Reading | None, scale: float) -> dict[str, float]:
    """What one reading of a face shares with another, by column; NaN where it was not read.

    Args:
        before, after: the readings; None where no face was seen.
        scale: eye distance in pixels.
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
