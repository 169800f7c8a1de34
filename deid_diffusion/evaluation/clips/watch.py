"""Takes a clip as it was and as it came out, frame by frame, and writes down what can be seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from deid_diffusion.evaluation.clips.motion import MOTIONS, MotionReader
from deid_diffusion.evaluation.clips.pixels import difference, encoder_noise, flicker, is_cut, is_exposed, thumbnail
from deid_diffusion.evaluation.clips.tracks import GAP_S, EvalTrack, Identity, link
from deid_diffusion.evaluation.comparison import MAX_DISPLACEMENT
from deid_diffusion.evaluation.detectors import FaceDetector, match_face
from deid_diffusion.evaluation.judges import Judge
from deid_diffusion.evaluation.metrics import unit_norm
from deid_diffusion.evaluation.utility import landmark_error
from deid_diffusion.evaluation.warp import eye_distance, square_box
from deid_diffusion.faces.masks import is_covered
from deid_diffusion.types import Face

NAN = float("nan")
AROUND = 4.0  # sides of a face that a close-up shows


class ClipWatch:
    """Measures one clip; memory grows by some 150 bytes a face and frame, and by no pixels.

    The columns of a track's rows: `frame`, `time`, `exposed` (by pixels), `uncovered` (by masks; NaN without), `found`
    (in the output), `flicker_before` and `flicker_after`; for each judge J `own_J` (similarity to the source's face of
    the same frame), `other_J` (the highest to a stranger), `adjacent_before_J`, `adjacent_after_J`; for each motion M
    `M_before`, `M_after`.

    Attributes:
        tracks: all faces so far.
        frames: how many frames.
        noise: squared error off the faces, a frame each; NaN where faces are everywhere.
    """

    def __init__(
        self,
        detector: FaceDetector,
        judges: Sequence[Judge],
        motion: MotionReader,
        strangers: Sequence[np.ndarray],
    ) -> None:
        """Nothing is seen yet.

        Args:
            detector: finds the faces, in sources and outputs.
            judges: recognisers.
            motion: reads expression and pose.
            strangers: for each judge, (M, D) embeddings of other people, of norm 1; M may be 0.
        """
        self._detector, self._judges, self._motion, self.strangers = detector, judges, motion, strangers
        self.tracks: list[EvalTrack] = []
        self.frames, self.noise = 0, [0.0, 0]
        self._before: tuple[np.ndarray, np.ndarray] | None = None
        self._thumbnail: np.ndarray | None = None
        self._shot = 0

    def __call__(
        self, time_s: float, source: np.ndarray, output: np.ndarray, changed: np.ndarray | None = None
    ) -> None:
        """One frame.

        Args:
            time_s: of the source's.
            source, output: (H, W, 3) uint8 RGB.
            changed: (H, W) bool, what was replaced, where somebody knows.
        """
        thumb = thumbnail(source)
        if self._thumbnail is None or is_cut(self._thumbnail, thumb):
            self._before, self._shot = None, self.frames
        self._thumbnail = thumb
        faces = self._detector(source)
        changes = difference(source, output)
        noise, off = encoder_noise(changes, faces)
        if np.isfinite(off):
            self.noise = [self.noise[0] + off**2, self.noise[1] + 1]
        if faces:
            found = self._detector(output)
            for track, face in zip(self._linked(time_s, faces), faces, strict=True):
                left = {
                    "exposed": float(is_exposed(source, changes, face, noise)),
                    "uncovered": NAN if changed is None else float(not is_covered(face, changed)),
                }
                self._measure(track, (source, output), match_face(face, found), left)
        self._before, self.frames = (source, output), self.frames + 1

    def _linked(self, time_s: float, faces: Sequence[Face]) -> list[EvalTrack]:
        """The faces' tracks, with the face and this frame in them."""
        going = [t for t in self.tracks[-64:] if t.frame >= self._shot and time_s - t.time_s <= GAP_S]
        tracks = []
        for track, face in zip(link(going, faces), faces, strict=True):
            if track is None:
                track = EvalTrack(
                    len(self.tracks), face, -2, time_s, time_s, identities=[Identity() for _ in self._judges]
                )
                self.tracks.append(track)
            track.face, track.time_s = face, time_s
            tracks.append(track)
        return tracks

    def _measure(
        self, track: EvalTrack, pair: tuple[np.ndarray, np.ndarray], seen: Face | None, left: dict[str, float]
    ) -> None:
        face, follows = track.face, track.frame == self.frames - 1
        row = {"frame": self.frames, "time": track.time_s, "found": float(seen is not None), **left}
        for number, judge in enumerate(self._judges):
            vectors = embed_pair(judge, pair, face, seen)
            near = track.identities[number].add(vectors, seen is not None, follows)
            others = self.strangers[number] @ vectors[1] if len(self.strangers[number]) else np.array([NAN])
            row |= {f"own_{number}": float(vectors[0] @ vectors[1]), f"other_{number}": float(others.max()),
                    f"adjacent_before_{number}": near[0], f"adjacent_after_{number}": near[1]}  # fmt: skip
        moved = (NAN, NAN)
        if follows and self._before is not None:
            moved = flicker(pair, self._before, face)
        row |= {"flicker_before": moved[0], "flicker_after": moved[1]}
        both = zip(pair, (face, seen), strict=True)
        read = [self._motion(*close_up(image, one)) for image, one in both if one is not None]
        for name in MOTIONS:
            row |= {f"{name}_before": read[0][name], f"{name}_after": read[1][name] if len(read) > 1 else NAN}
        track.rows.add(**row)
        track.frame = self.frames
        worst = {"most flicker": moved[1]} | {name: 1.0 for name, value in left.items() if value == 1}
        if self._judges:
            worst["most like the source"] = row["own_0"]
        track.strip.add(track.time_s, pair[1], face, worst)


def embed_pair(
    judge: Judge, pair: tuple[np.ndarray, np.ndarray], face: Face, seen: Face | None
) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings of a face as it was and as it came out.

    Args:
        judge: the recogniser.
        pair: (H, W, 3) uint8 RGB, source and output.
        face: as detected in the source.
        seen: as detected in the output; without it an attacker embeds the place where the face was. Where it is far
            from there, the more similar of both counts.

    Returns:
        (D,) float32 of norm 1, twice.
    """
    before = unit_norm(judge.embed(*close_up(pair[0], face))[None])[0]
    places = [face if seen is None else seen]
    if seen is not None:
        moved = landmark_error(face.landmarks, seen.landmarks, eye_distance(face.landmarks))
        places += [face] if moved >= MAX_DISPLACEMENT else []
    after = [unit_norm(judge.embed(*close_up(pair[1], place))[None])[0] for place in places]
    return before, max(after, key=lambda vector: float(vector @ before))


def close_up(image: np.ndarray, face: Face) -> tuple[np.ndarray, Face]:
    """The part of a frame around a face, and the face in it: networks shrink what they get, and need not all of it.

    Args:
        image: (H, W, 3) uint8 RGB.
        face: box and landmarks in its pixels.

    Returns:
        (h, w, 3) uint8, and the face in its pixels.
    """
    low, high = np.split(square_box(face.box, AROUND), 2)
    size = np.array(image.shape[1::-1])
    low, high = np.clip(np.floor(low), 0, size - 1).astype(int), np.clip(np.ceil(high), 1, size).astype(int)
    there = replace(face, box=face.box - np.tile(low, 2), landmarks=face.landmarks - low)
    return np.ascontiguousarray(image[low[1] : high[1], low[0] : high[0]]), there
