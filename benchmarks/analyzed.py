"""Photos that are analyzed once and kept on disk, so that benchmarks can generate from them again and again."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

from deid_diffusion import FaceAnonymizer
from deid_diffusion.faces.analyze import erased
from deid_diffusion.faces.geometry import apply
from deid_diffusion.faces.masks import box_ellipse, face_mask
from deid_diffusion.faces.task import FaceTask, ImageAnalysis
from deid_diffusion.imaging.pictures import load_picture
from deid_diffusion.timing import Timing
from deid_diffusion.weight_files import sha256_of

SMALLEST = 0.1  # of the largest face's side; smaller ones are left out


class AnalyzedPhotos:
    """Looks a photo's faces up in a folder, and analyzes it where they are not there yet.

    The folder holds crops and embeddings of the sources, which are biometric data.
    """

    def __init__(self, anonymize: FaceAnonymizer, folder: Path):
        """Makes the folder.

        Args:
            anonymize: what analyzes.
            folder: for one file a photo, named by the photo's content.
        """
        self.anonymize, self.folder = anonymize, folder
        folder.mkdir(parents=True, exist_ok=True)

    def __call__(self, path: Path, growth: float) -> ImageAnalysis:
        """The analysis of a photo, under masks that reach so far.

        Args:
            path: of a photo without transparency.
            growth: see `masks.face_mask`.
        """
        kept = self.folder / f"{sha256_of(path)}.pickle"
        picture = load_picture(path)
        if kept.exists():
            tasks = pickle.loads(kept.read_bytes())
        else:
            found = self.anonymize.analyze(picture)
            if found.image is not found.picture.image or found.roll:
                raise SystemExit(f"{path.name}: wanted an opaque photo, got a transparent one or a panorama")
            tasks = found.tasks
            part = kept.with_suffix(".part")
            part.write_bytes(pickle.dumps(tasks))
            part.replace(kept)
        # Photos of one person each: what is so much smaller is the pattern of a tie, and would take most of the time.
        sides = [float(task.face.box[2] - task.face.box[0]) for task in tasks]
        tasks = [task for task, side in zip(tasks, sides, strict=True) if side >= SMALLEST * max(sides)]
        tasks = [replace(task, number=number) for number, task in enumerate(tasks)]
        analysis = ImageAnalysis(picture, picture.image, tuple(tasks), Timing())
        return replace(analysis, tasks=tuple(grown(analysis, task, growth) for task in tasks))


def grown(analysis: ImageAnalysis, task: FaceTask, growth: float) -> FaceTask:
    """A face under a mask that reaches further or less far.

    Args:
        analysis: of its picture.
        task: of the face; one without a crop stays as it is.
        growth: see `masks.face_mask`.
    """
    if task.crop is None:
        return task
    ellipse = apply(task.crop.crop_from_image, box_ellipse(task.face))
    mask = face_mask(task.crop.landmarks, ellipse, len(task.crop.image), growth)
    others = [other.face for other in analysis.tasks if other.number != task.number]
    crop, inpaint_mask = erased(replace(task.crop, mask=mask), analysis.image.shape, others)
    return replace(task, crop=crop, inpaint_mask=inpaint_mask)
