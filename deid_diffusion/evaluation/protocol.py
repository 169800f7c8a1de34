"""Walks through the pictures once, one at a time, and writes down what every judge and net says of each face."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deid_diffusion.evaluation.align import eye_distance
from deid_diffusion.evaluation.comparison import Known, judge_picture, kept, read_output
from deid_diffusion.evaluation.groups import read_groups
from deid_diffusion.evaluation.ledger import FaceLedger, MethodLedger, Sample, Vectors
from deid_diffusion.evaluation.pictures import (
    Picture,
    extra_outputs,
    list_pictures,
    output_of,
    person_of,
    read_picture,
)
from deid_diffusion.evaluation.reading import Reader, Reading
from deid_diffusion.evaluation.results import EvaluationError
from deid_diffusion.evaluation.utility import skin_class
from deid_diffusion.types import Face


@dataclass(frozen=True)
class Folders:
    """What is judged: `outputs` and their `names`, against `originals` and other photos of the same people.

    Attributes:
        person_by: "stem" or "folder", see `pictures.person_of`.
        groups: CSV whose first column is the person and whose other columns are attributes.
    """

    originals: Path
    outputs: tuple[Path, ...]
    names: tuple[str, ...]
    gallery: Path | None = None
    person_by: str = "stem"
    groups: Path | None = None


@dataclass(frozen=True, eq=False)
class Collected:
    """Everything the numbers are made from. Without a gallery, `gallery` is `originals` itself."""

    originals: FaceLedger
    gallery: FaceLedger
    methods: tuple[MethodLedger, ...]


def collect(folders: Folders, reader: Reader, seed: int = 0, examples: int = 6) -> Collected:
    """Reads all folders. Memory grows by the embeddings and some hundred bytes a face, never by pictures.

    Raises:
        EvaluationError: a folder is missing or empty, or not one face could be judged.
    """
    originals = list_pictures(folders.originals)
    outputs = [list_pictures(folder) for folder in folders.outputs]
    attributes, groups = read_groups(folders.groups) if folders.groups else ((), {})
    before = FaceLedger(attributes=(*attributes, "skin tone"), vectors=[Vectors() for _ in reader.judges])
    methods = [_new_method(name, reader, seed) for name in folders.names]
    gallery = _collect_gallery(folders, reader, methods) if folders.gallery else before
    for method, files in zip(methods, outputs, strict=True):
        for name in extra_outputs(originals, files):
            method.problems.add("output without an original", name)
    for key, path in originals.items():
        picture, faces = _read_original(path, reader, methods)
        if not faces:
            continue
        # Without a gallery every picture is its own person, also where two folders hold the same name.
        person = person_of(key, folders.person_by) if folders.gallery or folders.person_by == "folder" else key
        first = len(before.people)
        known = Known(first, *_add_faces(before, reader, picture, faces, person, groups))
        for face, reading in zip(faces, known.readings, strict=True):
            mirrored = reader.read_mirrored(picture, face)
            before.mirrored.add(found=mirrored is not None, **kept(reading, mirrored, eye_distance(face.landmarks)))
        for method, files in zip(methods, outputs, strict=True):
            output = read_output(method, key, output_of(key, files), picture)
            if output is not None:
                judge_picture(method, reader, (picture, output), faces, known, examples)
    for method in methods:
        if not len(method.faces["row"]):
            raise EvaluationError(
                f"not one face of {folders.originals.name} could be judged in {method.name}: "
                f"{dict(method.problems.counts)}. Names must match, and faces must be found in the originals"
            )
    return Collected(before, gallery, tuple(methods))


def _read_original(path: Path, reader: Reader, methods: list[MethodLedger]) -> tuple[Picture | None, list[Face]]:
    try:
        picture = read_picture(path)
    except EvaluationError as error:
        _for_all(methods, "original not readable", path.name, str(error))
        return None, []
    faces = reader.faces(picture)
    if not faces:
        _for_all(methods, "no face found in the original", path.name, "cannot be judged, not counted in n")
    return picture, faces


def _new_method(name: str, reader: Reader, seed: int) -> MethodLedger:
    return MethodLedger(name, vectors=[Vectors() for _ in reader.judges], features=Sample(seed=seed))


def _for_all(methods: list[MethodLedger], kind: str, file: str, detail: str = "") -> None:
    for method in methods:
        method.problems.add(kind, file, detail)


def _collect_gallery(folders: Folders, reader: Reader, methods: list[MethodLedger]) -> FaceLedger:
    gallery = FaceLedger(vectors=[Vectors() for _ in reader.judges])
    for key, path in list_pictures(folders.gallery).items():
        try:
            picture = read_picture(path)
        except EvaluationError as error:
            _for_all(methods, "gallery picture not readable", path.name, str(error))
            continue
        faces = reader.faces(picture)
        if not faces:
            _for_all(methods, "no face found in the gallery picture", path.name, "person unknown to the attacker")
            continue
        _add_faces(gallery, reader, picture, faces[:1], person_of(key, folders.person_by), {})
    return gallery


def _add_faces(
    ledger: FaceLedger,
    reader: Reader,
    picture: Picture,
    faces: list[Face],
    person: str,
    groups: dict[str, tuple[str, ...]],
) -> tuple[list[Reading], list[list[np.ndarray]]]:
    readings, embedded = [], []
    for number, face in enumerate(faces, start=1):
        # The file's name says who the largest face is; the others are people of their own.
        ledger.people.append(person if number == 1 else f"{person}#{number}")
        embedded.append(reader.embed(picture, face))
        for vectors, vector in zip(ledger.vectors, embedded[-1], strict=True):
            vectors.add(vector)
        reading = reader.read(picture, face)
        known = groups.get(person) or groups.get(person.rpartition("/")[2])
        missing = ("unknown",) * (len(ledger.attributes) - 1)
        skin = skin_class(reading.ita_deg) if np.isfinite(reading.ita_deg) else "unknown"
        ledger.groups.append((*(known if known and number == 1 else missing), skin))
        ledger.condition.add(reading.condition())
        if len(reading.features):
            ledger.features.add(reading.features)
        readings.append(reading)
    return readings, embedded
