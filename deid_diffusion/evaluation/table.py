"""A columnar store of per-face measurements: 100,000 pictures are some megabytes."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from deid_diffusion.evaluation.results import Problem

MAX_PROBLEMS = 1000


class Columns:
    """Named float32 columns; rows are added one by one."""

    def __init__(self) -> None:
        self._columns: dict[str, array] = {}

    def add(self, **values: float) -> None:
        """Appends one row; every row has the same names."""
        for name, value in values.items():
            self._columns.setdefault(name, array("f")).append(value)

    def extend(self, other: Columns) -> None:
        """Appends the rows of another one with the same names."""
        for name, values in other._columns.items():
            self._columns.setdefault(name, array("f")).extend(values)

    def __getitem__(self, name: str) -> np.ndarray:
        """(n,) float32, empty when no row was added."""
        return np.array(self._columns.get(name, ()), dtype=np.float32)


class Vectors:
    """A growing (n, D) float32 matrix."""

    def __init__(self) -> None:
        self._flat, self._rows = array("f"), 0

    def add(self, vector: np.ndarray) -> None:
        """Appends one (D,) row."""
        self._flat.frombytes(np.ascontiguousarray(vector, dtype=np.float32).tobytes())
        self._rows += 1

    def array(self) -> np.ndarray:
        """(n, D) float32; (0, 0) when empty."""
        return np.array(self._flat, dtype=np.float32).reshape(self._rows, -1) if self._rows else np.zeros((0, 0), "f")


class ReservoirSample:
    """Reservoir sampling (Vitter 1985): at most `size` vectors of a stream of unknown length, all equally likely.

    Args:
        size: how many are kept.
        seed: of the choice.
    """

    def __init__(self, size: int = 5000, seed: int = 0) -> None:
        self._kept: list[np.ndarray] = []
        self._seen, self._size, self._generator = 0, size, np.random.default_rng(seed)

    def add(self, vector: np.ndarray) -> None:
        """Offers one (D,) vector."""
        self._seen += 1
        if len(self._kept) < self._size:
            self._kept.append(np.array(vector, dtype=np.float32))
        elif (slot := int(self._generator.integers(self._seen))) < self._size:
            self._kept[slot] = np.array(vector, dtype=np.float32)

    def array(self) -> np.ndarray:
        """(m, D) float32, m <= size."""
        return np.stack(self._kept) if self._kept else np.zeros((0, 0), "f")


class Problems:
    """Counted lines: every one is counted, the first `MAX_PROBLEMS` are kept."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.kept: list[Problem] = []

    def add(self, kind: str, file: str, detail: str = "") -> None:
        """Counts one file as a problem.

        Args:
            kind: what it is counted under.
            file: the file's name.
            detail: what went wrong.
        """
        self.counts[kind] += 1
        if len(self.kept) < MAX_PROBLEMS:
            self.kept.append(Problem(kind, file, detail))


@dataclass(eq=False)
class FaceTable:
    """Faces of the originals or of the gallery, one row each.

    Attributes:
        people: per row, the person's name.
        groups: per row, the group of each of `attributes`, in their order.
        attributes: names, such as "gender".
        vectors: one (n, D) matrix of embeddings per judge, in the judges' order.
        conditioning: (n, F), see `FaceMeasurement.conditioning`; NaN where not measured.
        features: see `FaceMeasurement.features`.
        mirrored: `utility_differences` between the face and its mirror image; of originals only.
    """

    people: list[str] = field(default_factory=list)
    groups: list[tuple[str, ...]] = field(default_factory=list)
    attributes: tuple[str, ...] = ()
    vectors: list[Vectors] = field(default_factory=list)
    conditioning: Vectors = field(default_factory=Vectors)
    features: ReservoirSample = field(default_factory=ReservoirSample)
    mirrored: Columns = field(default_factory=Columns)


@dataclass(eq=False)
class MethodTable:
    """What one method made of the originals' faces, one row for each face whose output could be judged.

    Attributes:
        name: its label.
        faces: columns per face; "row" is the row in the originals' table.
        pictures: columns per picture.
        vectors, conditioning, features: as in `FaceTable`, of the outputs.
        problems: see `EvalReport`.
        examples: (h, w, 3) uint8 crops of outputs for the page; never of originals.
        parrot: faces of the gallery as the same method anonymized it; None where nobody did.
    """

    name: str
    faces: Columns = field(default_factory=Columns)
    pictures: Columns = field(default_factory=Columns)
    vectors: list[Vectors] = field(default_factory=list)
    conditioning: Vectors = field(default_factory=Vectors)
    features: ReservoirSample = field(default_factory=ReservoirSample)
    problems: Problems = field(default_factory=Problems)
    examples: list[np.ndarray] = field(default_factory=list)
    parrot: FaceTable | None = None


def pooled(methods: Sequence[MethodTable]) -> MethodTable:
    """One table of several runs of one method over the same pictures: several pictures of each person.

    Args:
        methods: with the same judges, in the same order.
    """
    out = MethodTable("pooled", vectors=[Vectors() for _ in methods[0].vectors])
    parrots = [method.parrot for method in methods if method.parrot is not None]
    if parrots:
        out.parrot = FaceTable(vectors=[Vectors() for _ in methods[0].vectors])
        for table in parrots:
            out.parrot.people += table.people
    for method in methods:
        out.faces.extend(method.faces)
        out.pictures.extend(method.pictures)
        out.problems.counts += method.problems.counts
        out.problems.kept += method.problems.kept[: MAX_PROBLEMS - len(out.problems.kept)]
        for row in method.features.array():
            out.features.add(row)
    sources = [(out.conditioning, [method.conditioning for method in methods])]
    for index, vectors in enumerate(out.vectors):
        sources.append((vectors, [method.vectors[index] for method in methods]))
        if out.parrot is not None:
            sources.append((out.parrot.vectors[index], [table.vectors[index] for table in parrots]))
    for into, several in sources:
        for row in (row for one in several for row in one.array()):
            into.add(row)
    return out
