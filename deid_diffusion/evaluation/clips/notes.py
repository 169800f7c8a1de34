"""Says how clips were judged."""

from __future__ import annotations

from deid_diffusion.evaluation.clips.motion import MotionReader
from deid_diffusion.evaluation.command import EvalOptions
from deid_diffusion.evaluation.detectors import FaceDetector


def clip_notes(detector: FaceDetector, motion: MotionReader, options: EvalOptions) -> tuple[str, ...]:
    """How it was measured, in plain words.

    Args:
        detector: found the faces.
        motion: read expression and pose.
        options: what was asked for.
    """
    readers: dict[str, list[str]] = {}
    for name, who in motion.by.items():
        readers.setdefault(who, []).append(name)
    found = [
        f"Faces are those that {detector.name} finds in the original's frames; nobody counted whom it misses.",
        "Exposed by pixels: an eye, the nose or the mouth came out as it went in, but for what the encoder changes "
        "where no face is. A mask that covers less than the face, but all of these, is not seen by that.",
        "Attackers have the original's face of the same frame, of the same light and pose, which is harder to hide "
        "from than other photos. Pooled: the mean of all embeddings of a person, of outputs and originals. Best "
        "frame: the most similar one. Where no face is found in the output they embed the place where it was.",
        "A recogniser other than these may be stronger: a low rate is an observation, not a proof.",
        "Flicker: mean difference to the frame before, moved by the original's optical flow (DIS), over the "
        "original's own. Adjacent cosine and identity spread are over frames in which a face is found in the output.",
        "Motion: correlation and slope of the deviations from each face's own mean. "
        + ("; ".join(f"{' and '.join(what)} by {who}" for who, what in readers.items()) or "Nothing reads it")
        + ". Where the original hardly moves there is none.",
        "Files are read by code that the anonymizer does not share.",
    ]
    if detector.same_as_pipeline:
        found.append(
            f"Faces are detected by {detector.name}, the shipped anonymizer's own detector: faces that it "
            "misses are missing from every figure here."
        )
    if options.gallery:
        found.append("Strangers are the people of the gallery but those who have the clip's name.")
    return tuple(found)
