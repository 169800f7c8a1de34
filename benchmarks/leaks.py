"""What of a person passes to the new face: leaves it out, one thing at a time.

    python benchmarks/leaks.py probe/ gallery/ --judge recogniser.onnx --detector yunet:yunet.onnx --people 40

Both folders hold photos of the same people under the same names. Everybody becomes the same somebody, from the same
noise: without the chance of the draw, whoever is told apart is told apart by what passes. Two attackers search: one
has the gallery as it is, the other (parrot) has it anonymized in the same way. The share of other people whom the own
photo beats (AUC, 0.5 = nothing passes) says more of few people than rank-1. In the rows "one face for all" everybody
has the average face, under masks that reach further and further: what hair, ears, clothes and light tell alone.
In the row "each a target of their own" everybody becomes somebody drawn as deid run draws. The first table needs no
pictures: who is nearest by the numbers that the generator gets, at each stop of the dial.

What is done is not done again: stop it, and go on by the same command. --out may be that of `privacy.py`, whose
analyses it takes; it holds crops and embeddings of the sources: delete it in the end.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from analyzed import AnalyzedPhotos, grown

from deid_diffusion import FaceAnonymizer, FixedTarget, Settings
from deid_diffusion.evaluation.detectors import detector_from_spec
from deid_diffusion.evaluation.judges import judge_from_spec
from deid_diffusion.evaluation.metrics import bootstrap_mean, unit_norm
from deid_diffusion.evaluation.pairing import list_pictures
from deid_diffusion.faces.attributes import QUANTIZATION_STEP, Attributes
from deid_diffusion.faces.masks import GROWTH
from deid_diffusion.faces.task import FaceTask, ImageAnalysis
from deid_diffusion.methods.k_same import fit_cohort
from deid_diffusion.privacy import LEVELS, PrivacyLevel
from deid_diffusion.seeds import derived_seed

# The same for everybody: what is set cannot pass.
GROUPS = {
    "skin shade": {"skin_l": 62.0, "skin_a": 15.0, "skin_b": 17.0},
    "light": {"light_x": 0.0, "light_y": 0.0},
    "pose": {"yaw_deg": 0.0, "pitch_deg": 0.0, "roll_deg": 0.0},
    "expression": {
        "mouth_open": 0.0, "smile": 0.25, "eyes_open": 1.0, "brow_raise": 0.0, "gaze_x": 0.0, "gaze_y": 0.0,
    },
    "age, gender, glasses, beard": {"age": 40.0, "male": 1.0, "glasses": 0.0, "facial_hair": 0.0},
}  # fmt: skip
EVERYTHING = {name: value for group in GROUPS.values() for name, value in group.items()}
WIDE = 0.13  # a mask that reaches over hairline and ears
DRAWS = 8  # of the shift of the skin's colour
NEVER = 2.0  # no cosine reaches it: nothing is tried again


class Pairs:
    """The faces of probes and gallery, read once, and the judge that compares what becomes of them."""

    def __init__(
        self,
        photos: AnalyzedPhotos,
        folders: Sequence[Path],
        people: int | None,
        judge: Any,
        detect: Any,
        out: Path,
    ):
        """Reads every picture.

        Args:
            photos: analyzes, and keeps what was analyzed.
            folders: of probes and gallery.
            people: how many at most.
            judge, detect: of the evaluation.
            out: folder for embeddings.
        """
        self.anonymize, self.judge, self.detect = photos.anonymize, judge, detect
        self._photos = photos
        self._last: tuple[str, list[FaceTask]] | None = None
        files = [list_pictures(folder) for folder in folders]
        keys = [key for key in files[0] if key in files[1]][:people]
        sides = [[self._one(paths[key]) for key in keys] for paths in files]
        whole = [number for number in range(len(keys)) if all(side[number] for side in sides)]
        self.people = len(whole)
        self.faces: list[ImageAnalysis] = [side[number] for side in sides for number in whole if side[number]]
        self.out = out / f"{judge.name}-{self.people}"
        self.out.mkdir(parents=True, exist_ok=True)

    def _one(self, path: Path) -> ImageAnalysis | None:
        """The largest readable face of a picture."""
        analysis = self._photos(path, GROWTH)
        tasks = [task for task in analysis.tasks if task.pending]
        if not tasks:
            return None
        largest = max(tasks, key=lambda task: float(task.face.box[2] - task.face.box[0]))
        return replace(analysis, tasks=(replace(largest, number=0, seed=5),))

    def kept(self, name: str, make: Callable[[], np.ndarray]) -> np.ndarray:
        """The embeddings of a row, made where an earlier run did not.

        Args:
            name: of the row.
            make: gives (2 n, D).
        """
        path = self.out / f"{re.sub('[^a-z0-9.]+', '-', name)}.npy"
        if not path.exists():
            part = path.with_suffix(".part.npy")
            np.save(part, make())
            part.replace(path)
        return np.load(path)

    def generated(
        self, changes: dict[str, float], growth: float = GROWTH, texture: bool = True, drawn: bool = False
    ) -> np.ndarray:
        """Everybody as the same somebody, one candidate a face.

        Args:
            changes: attributes that are the same for all.
            growth: of the masks.
            texture: whether the roughness of the skin passes.
            drawn: everybody is somebody of their own instead, of noise of their own.

        Returns:
            (2 n, D) embeddings of probes, then gallery.
        """
        settings = Settings(attributes=changes, candidates=1, tries=1, threshold=NEVER)
        # Roughness comes in when the picture is put together, so the faces of the row without it are known already.
        case = repr((sorted(changes.items()), growth, drawn))
        if self._last is None or self._last[0] != case:
            self._last = case, self._chosen_and_generated(growth, drawn, settings)
        done = self._last[1]
        return self._judged(done if texture else [replace(task, skin_texture=None) for task in done], settings)

    def _chosen_and_generated(self, growth: float, drawn: bool, settings: Settings) -> list[FaceTask]:
        tasks = self.grown(growth)
        if drawn:
            tasks = [replace(task, seed=derived_seed("leaks", task.picture)) for task in tasks]
        policy = None if drawn else FixedTarget(NEVER, self.anonymize.bank.target(100))
        chosen = []
        for one, task in zip(self.faces, tasks, strict=True):
            own = replace(one, tasks=(task,))
            (with_target,) = self.anonymize.choose_targets(own, policy, task.seed, settings)
            chosen.append(replace(with_target, picture=task.picture))
        return self.anonymize.generate(chosen, settings, policy)

    def averaged(self, growth: float) -> np.ndarray:
        """Everybody with the average face: (2 n, D) embeddings."""
        tasks, same = self.grown(growth), self.anonymize.same_person(Settings())
        cohort = fit_cohort(((task.crop, task.embedding) for task in tasks), 5, same, whole=True)
        settings = Settings(method="average", cohort=cohort)
        return self._judged(self.anonymize.generate(tasks, settings), settings)

    def originals(self) -> np.ndarray:
        """(2 n, D) embeddings of what everybody looks like."""
        return np.stack([self._embedded(one.picture.image) for one in self.faces])

    def grown(self, growth: float) -> list[FaceTask]:
        """The faces with masks that reach further."""
        return [replace(grown(one, one.tasks[0], growth), picture=number) for number, one in enumerate(self.faces)]

    def _judged(self, tasks: Sequence[FaceTask], settings: Settings) -> np.ndarray:
        rows = zip(self.faces, tasks, strict=True)
        done = (self.anonymize.composite(replace(one, tasks=(task,)), [task], settings) for one, task in rows)
        return np.stack([self._embedded(result.image) for result in done])

    def _embedded(self, image: np.ndarray) -> np.ndarray:
        faces = self.detect(image)
        if not faces:
            raise SystemExit("no face was detected in a picture: give other photos, or another --detector")
        return self.judge.embed(image, max(faces, key=lambda face: float(face.box[2] - face.box[0])))


def beaten(probes: np.ndarray, gallery: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How each person fares: the share of others whom the own photo beats, and whether it beats them all (a tie with
    one other counts a half, and so on).

    Args:
        probes, gallery: (n, D) or, as the attributes, any numbers whose product says how alike two are; the same
            people in the same order.

    Returns:
        (n,) and (n,) in [0, 1].
    """
    alike = probes @ gallery.T
    own, others = np.diag(alike)[:, None], ~np.eye(len(alike), dtype=bool)
    below, equal = ((one * others).sum(1) for one in (alike < own, alike == own))
    first = np.where(below + equal == len(alike) - 1, 1 / (1 + equal), 0.0)
    return (below + 0.5 * equal) / (len(alike) - 1), first


def row(name: str, probes: np.ndarray, galleries: Sequence[np.ndarray], base: Sequence[np.ndarray] = ()) -> str:
    """A line of the table, with intervals by person: for each gallery AUC, what it is more than another's, and rank-1.

    Args:
        name: of the line.
        probes, galleries: (n, D) each.
        base: for each gallery (n,) AUC of the line with which this one is compared, in pairs by person.
    """
    cells = []
    for number, gallery in enumerate(galleries):
        share, first = beaten(unit_norm(probes), unit_norm(gallery))
        low, high = bootstrap_mean(share, np.arange(len(share)))
        cells.append(f"{share.mean():.3f} [{low:.3f}, {high:.3f}]")
        if base:
            more = share - base[number]
            low, high = bootstrap_mean(more, np.arange(len(more)), proportion=False)
            cells[-1] += f", {more.mean():+.3f} [{low:+.3f}, {high:+.3f}]"
        low, high = bootstrap_mean(first, np.arange(len(first)))
        cells.append(f"{first.mean():.3f} [{low:.3f}, {high:.3f}]")
    return f"| {name} | " + " | ".join(cells) + " |"


def numbers_table(own: Sequence[Attributes]) -> list[str]:
    """Who is told apart by the attributes alone, as they pass at each stop: a line for each group of them.

    Args:
        own: of the probes, then of the same people's other photos.
    """
    lines = ["| numbers that pass | " + " | ".join(f"{stop}: AUC | rank-1" for stop in LEVELS) + " |"]
    lines.append("|---" * (1 + 2 * len(LEVELS)) + "|")
    for title, names in {**{title: tuple(group) for title, group in GROUPS.items()}, "all": tuple(EVERYTHING)}.items():
        cells = [
            _numbers_told(own, level, [name for name in names if name not in level.drop]) for level in LEVELS.values()
        ]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return lines


def _numbers_told(own: Sequence[Attributes], level: PrivacyLevel, names: Sequence[str]) -> str:
    """AUC and rank-1 of some attributes in the steps of a stop, means of several draws of the skin's shift."""
    if not names:
        return "|"
    steps = [QUANTIZATION_STEP[name] * level.coarser.get(name, 1.0) for name in names]
    found = []
    for draw in range(DRAWS):
        seeds = [derived_seed("leaks", draw, number) for number in range(len(own))]
        rows = [one.shifted(level.jitter(seed)).quantize(level.coarser) for one, seed in zip(own, seeds, strict=True)]
        values = np.array([[row.to_dict()[name] for name in names] for row in rows]) / steps
        probes, gallery = np.split(np.rint(values), 2)
        # |a - b|² = |a|² - 2 ab + |b|², written as a product, so that the nearest are the most alike.
        left = np.column_stack([2 * probes, np.ones(len(probes))])
        found.append(beaten(left, np.column_stack([gallery, -(gallery**2).sum(1)])))
    cells = []
    for one in np.mean(found, axis=0):
        low, high = bootstrap_mean(one, np.arange(len(one)))
        cells.append(f"{one.mean():.3f} [{low:.3f}, {high:.3f}]")
    return " | ".join(cells)


def pictures_table(pairs: Pairs, growths: Sequence[float], groups: Sequence[str]) -> list[str]:
    """Who is told apart by the pictures: a line for each thing that is left out.

    Args:
        pairs: the faces.
        growths: of the masks of the rows with one face for all.
        groups: of `GROUPS` to leave out, one at a time; all of them together come last.
    """
    n, real = pairs.people, pairs.kept("originals", pairs.originals)
    lines = ["| left out | AUC | rank-1 | AUC, parrot | rank-1, parrot |", "|---|---|---|---|---|"]
    print(*lines, sep="\n")
    cases: dict[str, Any] = {f"one face for all, mask + {growth:.0%}": growth for growth in growths}
    cases |= {"nothing": {}, "skin texture": {"texture": False}, "each a target of their own": {"drawn": True}}
    cases |= {name: {"changes": GROUPS[name]} for name in groups}
    cases["hairline, ears"] = {"growth": WIDE}
    cases["all of it"] = {"changes": EVERYTHING, "growth": WIDE, "texture": False}
    base: list[np.ndarray] = []
    for name, case in cases.items():
        make = partial(pairs.averaged, case) if isinstance(case, float) else partial(
            pairs.generated, **{"changes": {}, **case}
        )  # fmt: skip
        found = pairs.kept(name, make)
        galleries = real[n:], found[n:]
        lines.append(row(name, found[:n], galleries, base))
        if name == "nothing":
            base = [beaten(unit_norm(found[:n]), unit_norm(gallery))[0] for gallery in galleries]
        print(lines[-1], flush=True)
    return lines


def main(argv: list[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("probes", type=Path)
    add("gallery", type=Path)
    add("--judge", required=True, help="as deid eval takes it")
    add("--detector", default="dlib", help="likewise (dlib)")
    add("--people", type=int, help="the first so many only (all)")
    add("--numbers", action="store_true", help="only what the numbers tell that the generator gets")
    add("--out", type=Path, default=Path("out/privacy"), help="folder for what is kept (out/privacy)")
    options = parser.parse_args(argv)
    judge, detect = judge_from_spec(options.judge), detector_from_spec(options.detector)
    folders = (options.probes, options.gallery)
    photos = AnalyzedPhotos(FaceAnonymizer.from_pretrained(), options.out / "analyses")
    pairs = Pairs(photos, folders, options.people, judge, detect, options.out / "leaks")
    print(f"{pairs.people} people\n", flush=True)
    own = [one.tasks[0].analysis.attributes for one in pairs.faces if one.tasks[0].analysis]
    print(*numbers_table(own), "", sep="\n", flush=True)
    if not options.numbers:
        pictures_table(pairs, (0.07, GROWTH, WIDE), tuple(GROUPS))


if __name__ == "__main__":
    main()
