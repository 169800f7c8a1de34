"""Runs a whole evaluation of clips: two clips or folders of them in, `eval.json` and `report.html` out."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deid_diffusion.evaluation.cache import ArrayCache
from deid_diffusion.evaluation.clips.file_checks import check_files
from deid_diffusion.evaluation.clips.files import CLIP_ENDINGS, inspect_clip, list_clips, read_frames
from deid_diffusion.evaluation.clips.measure import clip_metrics, judge_metrics, spans_to_look_at
from deid_diffusion.evaluation.clips.motion import MotionReader
from deid_diffusion.evaluation.clips.notes import clip_notes
from deid_diffusion.evaluation.clips.results import ClipEvaluation, ClipReport
from deid_diffusion.evaluation.clips.strangers import Strangers, read_strangers
from deid_diffusion.evaluation.clips.tracks import EvalTrack
from deid_diffusion.evaluation.clips.watch import ClipWatch
from deid_diffusion.evaluation.command import EvalOptions, versions
from deid_diffusion.evaluation.detectors import FaceDetector, detector_from_spec
from deid_diffusion.evaluation.judges import Judge, id_encoder_hashes, judge_from_spec
from deid_diffusion.evaluation.measure import FaceMeasurer
from deid_diffusion.evaluation.nets import FaceNets, NetOptions
from deid_diffusion.evaluation.pairing import extra_outputs, list_pictures, output_of, person_of
from deid_diffusion.evaluation.results import EvaluationError, Problem
from deid_diffusion.messages import brief_path

Progress = Callable[[str, int], None]  # name of the clip, frames so far
Span = tuple[float | None, float | None]


@dataclass(frozen=True, eq=False)
class ClipMeasurer:
    """All that looks at clips.

    Attributes:
        detector: finds the faces.
        judges: recognisers.
        motion: reads expression and pose.
        strangers: one for each judge.
    """

    detector: FaceDetector
    judges: tuple[Judge, ...]
    motion: MotionReader
    strangers: tuple[Strangers, ...]

    def compare(
        self,
        method: str,
        clip: str,
        paths: tuple[Path, Path],
        span: Span = (None, None),
        masks: Iterable[np.ndarray] | None = None,
        progress: Progress | None = None,
    ) -> tuple[ClipReport, list[EvalTrack]]:
        """Judges one clip.

        Args:
            method: the outputs' label.
            clip: its name.
            paths: of original and output.
            span: start and stop of the part of the original that the output holds.
            masks: (H, W) bool for each frame, what was replaced, where the anonymizer tells it; without it pixels have
                to.
            progress: called after each frame.

        Returns:
            the report, and the faces with a few numbers for each of their frames.

        Raises:
            EvaluationError: one of them cannot be read, or they are not the same clip.
        """
        before, after = map(inspect_clip, paths)
        person = person_of(clip, "stem")
        others = [strangers.without(person) for strangers in self.strangers]
        watch = ClipWatch(self.detector, self.judges, self.motion, others)
        times_s: tuple[list[float], list[float]] = ([], [])
        given = itertools.repeat(None) if masks is None else masks
        for (one, two), mask in zip(_pairs(paths, span), given, strict=masks is not None):
            watch(one[0], one[1], two[1], mask)
            times_s[0].append(one[0])
            times_s[1].append(two[0])
            if progress is not None:
                progress(clip, watch.frames)
        found = zip(self.judges, self.strangers, others, strict=True)
        judged = [judge_metrics(watch, n, judge, known, len(rest)) for n, (judge, known, rest) in enumerate(found)]
        report = ClipReport(
            method, clip, watch.frames, times_s[0][0], times_s[0][-1],
            sum(len(track.rows["frame"]) for track in watch.tracks), len(watch.tracks),
            clip_metrics(watch, self.motion.by), tuple(judged),
            check_files(before, after, times_s, span == (None, None)), spans_to_look_at(watch.tracks),
        )  # fmt: skip
        return report, watch.tracks


def has_clips(options: EvalOptions) -> tuple[bool, bool]:
    """Whether the originals hold clips, and whether they hold pictures.

    Args:
        options: what was asked for; `originals` is a folder, or one clip.

    Raises:
        EvaluationError: no such file or folder, or neither.
    """
    path = options.originals
    if path.is_file():
        if path.suffix.lower() not in CLIP_ENDINGS:
            raise EvaluationError(
                f"need folders of pictures or clips, or a clip and its outputs, got the file {brief_path(path)}"
            )
        return True, False
    clips = bool(list_clips(path))
    try:
        return clips, bool(list_pictures(path))
    except EvaluationError:
        if not clips:
            raise
        return True, False


def run_clip_eval(options: EvalOptions, progress: Progress | None = None) -> ClipEvaluation:
    """Judges every clip of every folder of outputs and writes `eval.json` and `report.html` into `options.out`.

    Args:
        options: of pictures and clips; `originals` and `outputs` may be clips themselves. Parrots, floor, pool and
            groups are for pictures and do not count.
        progress: called after each frame.

    Raises:
        EvaluationError: before anything is written, when a right number cannot be given.
    """
    cases, problems = pair_up(options)
    measurer, setup = build(options)
    reports, tracks = [], []
    try:
        for method, clip, paths in cases:
            try:
                report, faces = measurer.compare(
                    method, clip, paths, (options.start_s, options.stop_s), progress=progress
                )
            except EvaluationError as error:
                if len(cases) == 1:
                    raise
                problems.append((method, Problem("not comparable", clip, str(error))))
                continue
            if not report.face_frames:
                problems.append(
                    (method, Problem("no face found in the original", clip, "files and pixels are judged"))
                )
            reports.append(report)
            tracks.append(faces)
    finally:
        measurer.motion.close()
    if not reports:
        kinds = "; ".join(f"{problem.file}: {problem.kind} ({problem.detail})" for _, problem in problems[:3])
        raise EvaluationError(f"not one clip could be judged: {kinds}")
    notes = clip_notes(measurer.detector, measurer.motion, options)
    found = ClipEvaluation(tuple(reports), tuple(problems), notes, setup)
    write_evaluation(options.out, found, tracks, options.examples > 0)
    return found


def write_evaluation(
    out: Path, found: ClipEvaluation, tracks: Sequence[Sequence[EvalTrack]], shows_faces: bool = True
) -> None:
    """Writes `eval.json` and `report.html`.

    Args:
        out: folder, made when it is missing.
        found: what was measured.
        tracks: for each report, its faces.
        shows_faces: whether the page shows filmstrips of outputs.
    """
    from deid_diffusion.evaluation.clips.page import write_clip_page

    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(found.to_json(), indent=1, allow_nan=False)
    (out / "eval.json").write_text(text + "\n", encoding="utf-8")
    write_clip_page(out / "report.html", found, tracks, shows_faces)


def pair_up(options: EvalOptions) -> tuple[list[tuple[str, str, tuple[Path, Path]]], list[tuple[str, Problem]]]:
    """Every original with each of its outputs as (method, clip, paths), and what has none.

    Args:
        options: what was asked for.

    Raises:
        EvaluationError: not one output belongs to an original.
    """
    problems: list[tuple[str, Problem]] = []
    if options.originals.is_file():
        for path in options.outputs:
            if not path.is_file():
                raise EvaluationError(f"the original is a clip, so outputs must be, got {brief_path(path)}")
        key = options.originals.stem
        return [
            (name, key, (options.originals, path)) for name, path in zip(options.labels, options.outputs, strict=True)
        ], []
    originals, cases = list_clips(options.originals), []
    for method, folder in zip(options.labels, options.outputs, strict=True):
        files = list_clips(folder)
        for key, path in originals.items():
            output = output_of(key, files)
            if output is None:
                problems.append((method, Problem("no output", key, "nothing was published for it")))
            else:
                cases.append((method, key, (path, output)))
        problems += [(method, Problem("output without an original", name)) for name in extra_outputs(originals, files)]
    if not cases:
        raise EvaluationError(
            f"not one clip of {brief_path(options.originals)} has an output; names must match: clip.mp4 and clip.mp4 "
            "or clip_anon.mp4"
        )
    return cases, problems


def build(options: EvalOptions) -> tuple[ClipMeasurer, tuple[tuple[str, str], ...]]:
    """Loads all that looks at clips, and says what it is.

    Args:
        options: what was asked for.

    Raises:
        EvaluationError: a file is missing, or a judge guided the anonymizer.
    """
    forbidden = id_encoder_hashes(options.id_encoder) if options.id_encoder else ()
    judges = tuple(judge_from_spec(spec, forbidden) for spec in options.judges)
    nets, detector = FaceNets(NetOptions.from_specs(options.nets)), detector_from_spec(options.detector)
    motion = MotionReader(nets, len(detector.measured) == 5, options.facemesh)
    with ArrayCache(options.cache) as cache:
        measurer = FaceMeasurer(detector, judges, nets, cache)
        strangers = read_strangers(options.gallery, measurer, options.person_by)
        return ClipMeasurer(detector, judges, motion, strangers), versions(measurer, options.seed)


def _pairs(paths: tuple[Path, Path], span: Span) -> Iterator[tuple]:
    """Frames of original and output that belong together, as (time, picture) each; not one may be alone."""
    before, after = read_frames(paths[0], *span), read_frames(paths[1])
    name, count, one = brief_path(paths[1]), 0, None
    for count, (one, two) in enumerate(itertools.zip_longest(before, after), 1):
        if one is None and count == 1:
            break
        if one is None or two is None:
            ends = f"the {'original' if one is None else 'output'} ends after {count - 1}, the other goes on"
            raise EvaluationError(
                f"{name}: wanted as many frames as the original has, but {ends}; if the output is a part of it, say "
                "which by --from and --to"
            )
        if one[1].shape != two[1].shape:
            raise EvaluationError(
                f"{name}: wanted {_size(one[1])} as the original has, got {_size(two[1])}; only clips of one size are "
                "compared"
            )
        yield one, two
    if count < 2 and one is None:
        raise EvaluationError(
            f"{brief_path(paths[0])}: wanted frames between --from and --to, got none; it is shorter"
        )


def _size(image: np.ndarray) -> str:
    return f"{image.shape[1]} x {image.shape[0]}"
