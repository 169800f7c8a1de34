"""The evaluation protocol: goes through the pictures once, one at a time, and fills the tables of faces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deid_diffusion.evaluation.comparison import (
    OriginalFaces,
    compare_faces,
    embed_output,
    read_output,
    utility_differences,
)
from deid_diffusion.evaluation.groups import read_groups
from deid_diffusion.evaluation.measure import FaceMeasurement, FaceMeasurer
from deid_diffusion.evaluation.pairing import (
    HashedPicture,
    extra_outputs,
    list_pictures,
    output_of,
    person_of,
    read_picture,
)
from deid_diffusion.evaluation.results import EvaluationError
from deid_diffusion.evaluation.table import FaceTable, MethodTable, ReservoirSample, Vectors
from deid_diffusion.evaluation.utility import skin_class
from deid_diffusion.evaluation.warp import eye_distance
from deid_diffusion.types import Face

FLOOR = "surroundings alone"


@dataclass(frozen=True)
class Folders:
    """What is judged, against what.

    Attributes:
        originals: folder of the pictures before.
        outputs: folders of anonymized pictures, and their `names`.
        gallery: folder of other photos of the same people; None searches the originals themselves.
        person_by: "stem" or "folder", see `pairing.person_of`.
        groups: CSV whose first column is the person and whose other columns are attributes.
        parrots: per folder of outputs, the gallery as the same tool anonymized it; empty or None where nobody did.
        floor: a folder with `outputs` and `gallery`, the originals and the gallery with one face for all.
    """

    originals: Path
    outputs: tuple[Path, ...]
    names: tuple[str, ...]
    gallery: Path | None = None
    person_by: str = "stem"
    groups: Path | None = None
    parrots: tuple[Path | None, ...] = ()
    floor: Path | None = None


@dataclass(frozen=True, eq=False)
class EvalTables:
    """Everything the metrics are computed from. Without a gallery, `gallery` is `originals` itself.

    Attributes:
        originals, gallery: their faces.
        methods: what each made of them.
        floor: the same where everybody has one and the same face; None where nobody made that.
    """

    originals: FaceTable
    gallery: FaceTable
    methods: tuple[MethodTable, ...]
    floor: MethodTable | None = None


def collect(folders: Folders, measurer: FaceMeasurer, seed: int = 0, examples: int = 6) -> EvalTables:
    """Reads all folders. Memory grows by the embeddings and some hundred bytes a face, never by pictures.

    Args:
        folders: what is judged.
        measurer: detector, judges and networks.
        seed: of the sample of feature vectors.
        examples: how many crops of outputs each method's table keeps.

    Raises:
        EvaluationError: a folder is missing or empty, or not one face could be judged.
    """
    originals = list_pictures(folders.originals)
    outputs = [list_pictures(folder) for folder in (*folders.outputs, *_floor(folders, "outputs"))]
    attributes, groups = read_groups(folders.groups) if folders.groups else ((), {})
    before = FaceTable(attributes=(*attributes, "skin tone"), vectors=[Vectors() for _ in measurer.judges])
    names = (*folders.names, *([FLOOR] if folders.floor else []))
    methods = [_new_method(name, measurer, seed) for name in names]
    gallery = before
    if folders.gallery:
        parrots = [*(folders.parrots or [None] * len(folders.outputs)), *_floor(folders, "gallery")]
        gallery = _collect_gallery(folders.gallery, folders.person_by, measurer, methods, parrots)
    for method, files in zip(methods, outputs, strict=True):
        for name in extra_outputs(originals, files):
            method.problems.add("output without an original", name)
    for key, path in originals.items():
        read = _read_faces(path, "original", measurer, methods)
        if read is None:
            continue
        picture, faces = read
        # Without a gallery every picture is its own person, also where two folders hold the same name.
        person = person_of(key, folders.person_by) if folders.gallery or folders.person_by == "folder" else key
        first = len(before.people)
        known = OriginalFaces(first, *_measure_faces(before, measurer, picture, faces, person, groups))
        for face, measurement in zip(faces, known.measurements, strict=True):
            mirrored = measurer.measure_mirrored(picture, face)
            before.mirrored.add(
                found=mirrored is not None, **utility_differences(measurement, mirrored, eye_distance(face.landmarks))
            )
        for method, files in zip(methods, outputs, strict=True):
            output = read_output(method, key, output_of(key, files), picture)
            if output is not None:
                compare_faces(method, measurer, (picture, output), faces, known, examples)
    _refuse_empty(methods, folders.originals.name)
    floor = methods.pop() if folders.floor else None
    return EvalTables(before, gallery, tuple(methods), floor)


def _floor(folders: Folders, part: str) -> list[Path]:
    return [folders.floor / part] if folders.floor else []


def _refuse_empty(methods: list[MethodTable], originals: str) -> None:
    for method in methods:
        if not len(method.faces["row"]):
            found = ", ".join(f"{count} {problem}" for problem, count in method.problems.counts.items())
            raise EvaluationError(
                f"not one face of {originals} could be judged in {method.name}: {found}. Names must match, and faces "
                "must be detected in the originals"
            )


def _read_faces(
    path: Path, what: str, measurer: FaceMeasurer, methods: list[MethodTable]
) -> tuple[HashedPicture, list[Face]] | None:
    """A picture and its faces, the largest first; None, and a problem of every method, where there are none."""
    try:
        picture = read_picture(path)
    except EvaluationError as error:
        _for_all(methods, f"{what} not readable", path.name, str(error))
        return None
    faces = measurer.faces(picture)
    if not faces:
        _for_all(methods, f"no face detected in the {what}", path.name, "left out")
        return None
    return picture, faces


def _new_method(name: str, measurer: FaceMeasurer, seed: int) -> MethodTable:
    return MethodTable(name, vectors=[Vectors() for _ in measurer.judges], features=ReservoirSample(seed=seed))


def _for_all(methods: list[MethodTable], kind: str, file: str, detail: str = "") -> None:
    for method in methods:
        method.problems.add(kind, file, detail)


def _collect_gallery(
    folder: Path, person_by: str, measurer: FaceMeasurer, methods: list[MethodTable], parrots: Sequence[Path | None]
) -> FaceTable:
    """The gallery's faces; and those of each method's parrot, if there is one, into `method.parrot`."""
    gallery = FaceTable(vectors=[Vectors() for _ in measurer.judges])
    files = [list_pictures(parrot) if parrot else None for parrot in parrots]
    for method, own in zip(methods, files, strict=True):
        method.parrot = None if own is None else FaceTable(vectors=[Vectors() for _ in measurer.judges])
    for key, path in list_pictures(folder).items():
        read = _read_faces(path, "gallery picture", measurer, methods)
        if read is None:
            continue
        picture, faces = read
        person = person_of(key, person_by)
        _, [own_vectors] = _measure_faces(gallery, measurer, picture, faces[:1], person, {})
        for method, own in zip(methods, files, strict=True):
            output = None if own is None else read_output(method, key, output_of(key, own), picture)
            if output is None or method.parrot is None:
                continue
            method.parrot.people.append(person)
            embedded = embed_output(measurer, output, faces[0], own_vectors)
            for vectors, vector in zip(method.parrot.vectors, embedded, strict=True):
                vectors.add(vector)
    return gallery


def _measure_faces(
    table: FaceTable,
    measurer: FaceMeasurer,
    picture: HashedPicture,
    faces: list[Face],
    person: str,
    groups: dict[str, tuple[str, ...]],
) -> tuple[list[FaceMeasurement], list[list[np.ndarray]]]:
    measurements, embedded = [], []
    for number, face in enumerate(faces, start=1):
        # The file's name says who the largest face is; the others are people of their own.
        table.people.append(person if number == 1 else f"{person}#{number}")
        embedded.append(measurer.embeddings(picture, face))
        for vectors, vector in zip(table.vectors, embedded[-1], strict=True):
            vectors.add(vector)
        measurement = measurer.measure_face(picture, face)
        known = groups.get(person) or groups.get(person.rpartition("/")[2])
        missing = ("unknown",) * (len(table.attributes) - 1)
        skin = skin_class(measurement.ita_deg) if np.isfinite(measurement.ita_deg) else "unknown"
        table.groups.append((*(known if known and number == 1 else missing), skin))
        table.conditioning.add(measurement.conditioning())
        if len(measurement.features):
            table.features.add(measurement.features)
        measurements.append(measurement)
    return measurements, embedded
