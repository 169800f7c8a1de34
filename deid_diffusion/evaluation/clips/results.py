"""The result types of judging clips: one file check, one clip's report."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from deid_diffusion.evaluation.results import Metric, Problem, json_ready

EXPOSED = "exposed face-frames"
UNCOVERED = "face-frames that the masks do not cover"
FOUND = "face detection rate in the outputs"
FLICKER, FLICKER_95 = "flicker", "flicker, 95th percentile"
OFF_FACES = "PSNR off the faces"
OWN, BEST, POOLED = "similarity to the same frame", "similarity, best frame", "similarity, pooled"
FRAME_HITS, BEST_HITS, POOLED_HITS = (
    "recognised face-frames",
    "people recognised, best frame",
    "people recognised, pooled",
)
FRAME_RANK, BEST_RANK, POOLED_RANK = "rank-1 by frame", "rank-1, best frame", "rank-1, pooled"
ADJACENT, SPREAD = "adjacent cosine", "identity spread"


def correlation_of(motion: str) -> str:
    """The name of a motion's correlation."""
    return f"{motion}: correlation"


def slope_of(motion: str) -> str:
    """The name of a motion's slope."""
    return f"{motion}: slope"


@dataclass(frozen=True)
class FileCheck:
    """One thing that a file was to keep, or not to hold.

    Attributes:
        name: what.
        wanted, got: in words.
        same: whether it is as it was to be.
    """

    name: str
    wanted: str
    got: str
    same: bool


@dataclass(frozen=True)
class ClipPerson:
    """One person of a clip, as a recogniser tells people apart: what a detector takes for a face is one, too.

    Attributes:
        tracks: numbers of the faces.
        start_s: when they are first seen.
        frames, exposed: face-frames, and how many of them are exposed.
        best, pooled: similarity of the best frame, and of the mean of all.
    """

    tracks: tuple[int, ...]
    start_s: float
    frames: int
    exposed: int
    best: float
    pooled: float


@dataclass(frozen=True)
class ClipJudge:
    """What one recogniser makes of a clip.

    Attributes:
        judge, weight_hash: which.
        threshold: cosine from which it calls two faces one person; None where none is known.
        threshold_from: where that comes from.
        strangers: photos of other people among whom the person is sought.
        people: whom it sees in the clip.
        metrics: similarities, attackers, stability.
    """

    judge: str
    weight_hash: str
    threshold: float | None
    threshold_from: str
    strangers: int
    people: tuple[ClipPerson, ...]
    metrics: tuple[Metric, ...]


@dataclass(frozen=True)
class ClipReport:
    """Everything about one clip of one folder of outputs.

    Attributes:
        method: the outputs' label.
        clip: its name, relative to the folder and without ending.
        frames: how many.
        start_s, stop_s: times of the first and the last, in the original.
        face_frames: faces found in the originals' frames, all together.
        tracks: how many faces were followed.
        metrics: exposure, stability, motion, pixels.
        judges: by recogniser.
        files: what the file kept.
        look_at: (start, stop, why) in seconds, where faces are exposed or not found in the output.
    """

    method: str
    clip: str
    frames: int
    start_s: float
    stop_s: float
    face_frames: int
    tracks: int
    metrics: tuple[Metric, ...]
    judges: tuple[ClipJudge, ...]
    files: tuple[FileCheck, ...]
    look_at: tuple[tuple[float, float, str], ...]

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, strings and lists."""
        return json_ready(asdict(self))


@dataclass(frozen=True)
class ClipEvaluation:
    """All clips of one run.

    Attributes:
        reports: by method, then clip.
        problems: what could not be judged, with the method it is of.
        notes: how it was measured.
        setup: seeds, versions, hashes.
    """

    reports: tuple[ClipReport, ...]
    problems: tuple[tuple[str, Problem], ...]
    notes: tuple[str, ...]
    setup: tuple[tuple[str, str], ...]

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, strings and lists."""
        problems = [{"method": method, **asdict(problem)} for method, problem in self.problems]
        return {
            "clips": [report.to_json() for report in self.reports], "problems": problems,
            "notes": list(self.notes), "setup": dict(self.setup),
        }  # fmt: skip
