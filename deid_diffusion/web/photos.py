"""One photo on the page: its faces, what was decided about each, and the picture that follows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..anonymizer import FaceAnonymizer
from ..faces.masks import blended
from ..faces.panorama import moved, rolled
from ..faces.task import FaceTask, ImageAnalysis
from ..imaging.pictures import FORMATS, load_picture
from ..jobs.plan import Job
from ..jobs.run import JobResult
from ..methods.k_same import Cohort
from ..result import AnonymizedImage
from ..seeds import checked_seed
from ..types import Face, FaceReport, Outcome, Redaction
from ..weight_files import sha256_of
from .choices import CANDIDATES, DECISIONS, KEEP, REPLACE, Choice, Options
from .sessions import VisitError
from .shown import THUMB, at_page_size, cut, jpeg, scaled


class Photo:
    """A photo. Its methods are called by one worker at a time.

    Attributes:
        name: as the visitor's file is called.
        choices: by the face's number.
        images: what the page shows, as JPEG files by name.
        version: counts the changes.
        averaged: the people that k-same averages, of all open photos; or why there are none.
    """

    def __init__(self, path: Path) -> None:
        """Nothing is read yet.

        Args:
            path: the file, in a folder of its own.
        """
        self.path, self.name, self.options = path, path.name, Options()
        self.choices: dict[int, Choice] = {}
        self.images: dict[str, bytes] = {}
        self.version = 0
        self.pixels = 0
        self.result: JobResult | None = None
        self.averaged: Callable[[Options], Cohort | str] = lambda options: "there is nobody to average"
        self._seed, self._averages = 0, ""
        self._outcomes: dict[int, FaceReport] = {}
        self._analysis: ImageAnalysis | None = None
        self._shown: ImageAnalysis | None = None

    @property
    def out_path(self) -> Path:
        """Where the finished picture is written: photo.jpg becomes photo_anon.jpg, as on the command line."""
        suffix = self.path.suffix.lower()
        suffix = {".heic": ".jpg", ".heif": ".jpg", ".gif": ".png"}.get(
            suffix, suffix if suffix in FORMATS else ".jpg"
        )
        return self.path.parent / "out" / f"{self.path.stem}_anon{suffix}"

    def look(self, anonymizer: FaceAnonymizer, max_pixels: int, options: Options) -> None:
        """Finds the faces.

        Args:
            anonymizer: its models are used.
            options: as on the page now.
            max_pixels: a picture of more is refused.

        Raises:
            PictureError: it cannot be read, or is too large.
        """
        picture = load_picture(self.path, max_pixels)
        self.options, self._seed = options, checked_seed(options.seed)
        self._analysis = anonymizer.analyze(picture, settings=options.settings())
        self.pixels = picture.image.shape[0] * picture.image.shape[1]
        self.choices = {task.number: Choice(self.options.decision) for task in self._analysis.tasks}
        self._changed()

    def make(self, anonymizer: FaceAnonymizer, options: Options | None = None) -> None:
        """Generates the faces that are to be replaced and are not yet.

        Args:
            anonymizer: its models are used.
            options: other ones than before; all faces are generated anew.
        """
        if options is not None and options != self.options:
            self._take_over(anonymizer, options)
        cohort = self._cohort() if self.options.making == "k-same" else None
        waiting = [number for number, one in self.choices.items() if one.decision == REPLACE and not one.made]
        if isinstance(cohort, str):
            for number in waiting:
                self.choices[number].made = [(self._task(number).decided(Outcome.REDACTED, cohort), {})]
        elif waiting:
            self._generate(anonymizer, waiting, cohort)
        self._preview(anonymizer)

    def decide(self, anonymizer: FaceAnonymizer, number: int, decision: str) -> None:
        """Says what becomes of a face.

        Args:
            anonymizer: its models are used.
            number: of the face.
            decision: one of DECISIONS.

        Raises:
            VisitError: there is no such face or decision.
        """
        if decision not in DECISIONS:
            raise VisitError(f"decision must be one of {', '.join(DECISIONS)}")
        self._choice(number).decision = decision
        self.make(anonymizer)

    def more(self, anonymizer: FaceAnonymizer, number: int) -> None:
        """Generates further faces to choose from.

        Args:
            anonymizer: its models are used.
            number: of the face.
        """
        choice, task = self._choice(number), self._task(number)
        wanted = range(len(choice.made), CANDIDATES)
        if not (task.pending and choice.made and wanted and self.options.is_choice):
            return
        alone = replace(self.analysis, tasks=(task,))
        settings = self.options.settings(choice.attributes, candidates=1)
        seeds = [self._seed + place for place in wanted]
        tasks = [anonymizer.choose_targets(alone, seed=seed, settings=settings)[0] for seed in seeds]
        done = anonymizer.generate(tasks, settings)
        choice.made += [(one, dict(choice.attributes)) for one in done if one.outcome is Outcome.REPLACED]
        self._changed()

    def take(self, anonymizer: FaceAnonymizer, number: int, place: int) -> None:
        """Chooses one of the generated faces.

        Args:
            anonymizer: its models are used.
            number: of the face.
            place: of the generated one.

        Raises:
            VisitError: there is none.
        """
        choice = self._choice(number)
        if place not in range(len(choice.made)):
            raise VisitError("wanted one of the generated faces, got another; choose again")
        choice.taken, choice.decision = place, REPLACE
        self.adjust(anonymizer, number, choice.attributes)

    def adjust(self, anonymizer: FaceAnonymizer, number: int, attributes: Mapping[str, float]) -> None:
        """Generates one face again, the same somebody with other attributes.

        Args:
            anonymizer: its models are used.
            number: of the face.
            attributes: by name; the others follow the source.

        Raises:
            ValueError: an attribute or a value that does not exist.
        """
        settings = self.options.settings(attributes, candidates=1)
        choice = self._choice(number)
        choice.attributes, choice.decision = dict(attributes), REPLACE
        if not choice.made:
            self.make(anonymizer)
            return
        task, made_with = choice.made[choice.taken]
        if made_with != choice.attributes and task.targets:
            again = replace(task, outcome=None, generated=None, reason="", similarity=None)
            choice.made[choice.taken] = (anonymizer.generate([again], settings)[0], dict(attributes))
        self._preview(anonymizer)

    def draw(self, anonymizer: FaceAnonymizer, box: Sequence[float]) -> int:
        """Adds a face that was missed; where the box shows none, it is hidden and not generated.

        Args:
            anonymizer: its models are used.
            box: x0 y0 x1 y1 as shares of the picture's sides.

        Returns:
            its number.

        Raises:
            ValueError: a box that is none.
        """
        analysis, width = self.analysis, self.analysis.image.shape[1]
        corners = np.asarray(box, np.float64).reshape(2, 2).clip(0, 1) * [width, analysis.image.shape[0]]
        corners = np.rint(corners)
        if analysis.roll:
            start = (corners[0, 0] - analysis.roll) % width
            corners[:, 0] = start, min(start + corners[1, 0] - corners[0, 0], width)
        named = anonymizer.analyze(replace(analysis.picture, image=analysis.image), boxes=[corners.ravel().tolist()])
        face, number = named.tasks[0].face, max(self.choices, default=-1) + 1
        faces = [*(task.face for task in analysis.tasks), face]
        numbers = [*(task.number for task in analysis.tasks), number]
        self._read(anonymizer, faces, numbers)
        self.choices[number] = Choice(self.options.decision, drawn=True)
        self.make(anonymizer)
        return number

    def remove(self, anonymizer: FaceAnonymizer, number: int) -> None:
        """Forgets a detection that is no face: its pixels stay as they are.

        Args:
            anonymizer: its models are used.
            number: of the face.
        """
        self._choice(number)
        del self.choices[number]
        rest = tuple(task for task in self.analysis.tasks if task.number != number)
        self._analysis, self._shown = replace(self.analysis, tasks=rest), None
        self._preview(anonymizer)

    def finish(self, anonymizer: FaceAnonymizer) -> JobResult:
        """Composites at full size and writes the file and its line of the report.

        Args:
            anonymizer: its models are used.

        Raises:
            PictureError: it cannot be written.
        """
        if self.options.making == "k-same":
            self.make(anonymizer)  # other photos, whose people are averaged too, may have changed
        if self.result is None:
            result = anonymizer.composite(self.analysis, self._tasks(), self.options.settings())
            self._note(result)
            self.out_path.parent.mkdir(exist_ok=True)
            result.save(self.out_path)
            height, width = result.image.shape[:2]
            about = {"width": width, "height": height, "sha256": sha256_of(self.path), "notices": list(result.notices)}
            job = Job(Path(self.name), Path(self.out_path.name), self._seed, self.name)
            faces = tuple(face.to_json() for face in result.faces)
            self.result = JobResult(job, faces, dict(result.seconds), about)
        return self.result

    def state(self) -> dict[str, Any]:
        """What the page needs to know."""
        height, width = self.analysis.image.shape[:2]
        faces = [self._face_state(task, width, height) for task in self.analysis.tasks]
        notices = list(self.analysis.picture.notices)
        about = {"name": self.name, "out_name": self.out_path.name, "width": width, "height": height}
        return {**about, "version": self.version, "faces": faces, "notices": notices, "ready": "after" in self.images}

    @property
    def averaging(self) -> list[FaceTask]:
        """The faces that k-same averages with those of the other photos: those that are not kept or hidden."""
        tasks = () if self._analysis is None else self._analysis.tasks
        return [task for task in tasks if task.pending and self.choices[task.number].decision == REPLACE]

    @property
    def analysis(self) -> ImageAnalysis:
        """What was found.

        Raises:
            VisitError: nothing yet.
        """
        if self._analysis is None:
            raise VisitError("wanted a photo that was looked at, got one that was not; add it again")
        return self._analysis

    def _face_state(self, task: FaceTask, width: int, height: int) -> dict[str, Any]:
        choice, done = self.choices[task.number], self._outcomes.get(task.number, self._done(task))
        face = moved(task.face, self.analysis.roll, width) if self.analysis.roll else task.face
        own = task.analysis.attributes.quantize().to_dict() if task.analysis is not None else {}
        return {
            "number": task.number,
            "box": (face.box / [width, height, width, height]).clip(0, 1).round(5).tolist(),
            "decision": choice.decision,
            "drawn": choice.drawn,
            "readable": task.pending,
            "outcome": None if done.outcome is None else done.outcome.value,
            "reason": done.reason,
            "similarity": None if done.similarity is None else round(float(done.similarity), 2),
            "own": own,
            "attributes": choice.attributes,
            "steered": bool(choice.made and choice.made[choice.taken][0].targets),
            "chosen": self.options.is_choice,
            "candidates": sum(one.generated is not None for one, _ in choice.made),
            "taken": choice.taken,
        }

    def _take_over(self, anonymizer: FaceAnonymizer, options: Options) -> None:
        """Other options than before: what was generated goes, and what was not decided otherwise follows them."""
        before, self.options = self.options, options
        for choice in self.choices.values():
            choice.made, choice.taken = [], 0
            if choice.decision == before.decision:
                choice.decision = options.decision
        if (options.draw, options.seed) != (before.draw, before.seed):
            self._seed = checked_seed(options.seed)
        if options.privacy != before.privacy:  # masks reach further
            self._read(anonymizer, *zip(*((task.face, task.number) for task in self.analysis.tasks), strict=True))

    def _read(self, anonymizer: FaceAnonymizer, faces: Sequence[Face] = (), numbers: Sequence[int] = ()) -> None:
        """Reads all faces: neighbours hide each other's pixels from the model."""
        places = [place for place, one in enumerate(faces) if one.score]
        read = anonymizer.read(self.analysis.image, faces, self.options.settings(), places)
        tasks = [
            replace(read[place], number=own) if place in read else _nobody(one, own)
            for place, (one, own) in enumerate(zip(faces, numbers, strict=True))
        ]
        self._analysis, self._shown = replace(self.analysis, tasks=tuple(tasks)), None

    def _cohort(self) -> Cohort | str:
        """Who is averaged; what was made of others goes."""
        people = self.averaged(self.options)
        if str(people) != self._averages:
            self._averages = str(people)
            for choice in self.choices.values():
                choice.made, choice.taken = [], 0
        return people

    def _generate(self, anonymizer: FaceAnonymizer, waiting: Sequence[int], cohort: Cohort | None) -> None:
        tasks = anonymizer.choose_targets(self.analysis, seed=self._seed, settings=self.options.settings())
        groups: dict[tuple, list[FaceTask]] = {}
        for task in tasks:
            if task.number in waiting:
                groups.setdefault(tuple(self.choices[task.number].attributes.items()), []).append(task)
        for attributes, group in groups.items():
            settings = self.options.settings(dict(attributes), cohort=cohort)
            for task in anonymizer.generate(group, settings):
                self.choices[task.number].made = [(task, dict(attributes))]

    def _note(self, result: AnonymizedImage) -> None:
        """What became of the faces: compositing has the last word."""
        self._outcomes = dict(zip((task.number for task in self.analysis.tasks), result.faces, strict=True))

    def _choice(self, number: int) -> Choice:
        if number not in self.choices:
            raise VisitError("wanted a face of this photo, got another; load the page again")
        return self.choices[number]

    def _task(self, number: int) -> FaceTask:
        return next(task for task in self.analysis.tasks if task.number == number)

    def _done(self, task: FaceTask) -> FaceTask:
        """The task as it was decided; undecided while its face is still to be generated."""
        choice = self.choices[task.number]
        if choice.decision == KEEP:
            return task.decided(Outcome.KEPT, "kept, as decided on the page")
        if choice.decision != REPLACE:
            hidden = replace(task, redaction=Redaction(choice.decision))
            return hidden.decided(Outcome.REDACTED, f"{choice.decision}, as decided on the page")
        return choice.made[choice.taken][0] if choice.made else task

    def _tasks(self) -> list[FaceTask]:
        return [self._done(task) for task in self.analysis.tasks]

    def _at_page_size(self) -> ImageAnalysis:
        if self._shown is None:
            self._shown = at_page_size(self.analysis)
        return self._shown

    def _preview(self, anonymizer: FaceAnonymizer) -> None:
        """Composites at the size of the page: what a slider waits for."""
        self._changed()
        shown = self._at_page_size()
        scale = shown.image.shape[1] / self.analysis.image.shape[1]
        tasks = [scaled(task, scale) for task in self._tasks()]
        result = anonymizer.composite(shown, tasks, self.options.settings())
        self._note(result)
        after = result.image
        self.images["after"] = jpeg(after)
        for task in shown.tasks:
            face = moved(task.face, shown.roll, after.shape[1]) if shown.roll else task.face
            self.images[f"face-{task.number}-after"] = jpeg(cut(after, face), THUMB)

    def _changed(self) -> None:
        """What is shown besides the result."""
        self.version += 1
        self.result = None
        shown = self._at_page_size()
        before = rolled(shown.picture, -shown.roll).image if shown.roll else shown.picture.image
        if "before" not in self.images:
            self.images["before"] = jpeg(before)
        for task in self.analysis.tasks:
            small = scaled(task, before.shape[1] / self.analysis.image.shape[1]).face
            face = moved(small, shown.roll, before.shape[1]) if shown.roll else small
            self.images[f"face-{task.number}"] = jpeg(cut(before, face), THUMB)
            for place, (made, _) in enumerate(self.choices[task.number].made):
                if made.crop is not None and made.generated is not None:
                    self.images[f"face-{task.number}-{place}"] = jpeg(blended(made.crop, made.generated), THUMB)


def _nobody(face: Face, number: int) -> FaceTask:
    """A box in which somebody said there is a face, and no face was found: it is hidden, never painted."""
    return FaceTask(face, number).decided(Outcome.REDACTED, "no face was found in this box")
