"""What clips cost and what comes out: CPU time by stage in unet forwards a frame, flicker, identity, motion, exposure.

    python benchmarks/video.py CLIP... --out FOLDER --detector yunet:FILE --judge FILE [--facemesh PYTHON]
        [--net expression=FILE] [--seconds 2] [--stride N] [--json FILE]

Everything is measured in one run, on frames before they are encoded. Only the largest face of a frame counts for all
but exposure. Motion is read by MediaPipe, which the anonymizer never sees, where a Python that has it is given.
"""

import argparse
import json
import resource
import statistics
import sys
import time
from functools import partial
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import torch

from deid_diffusion import FaceAnonymizer, clip_run
from deid_diffusion.evaluation.detectors import detector_from_spec, match_face
from deid_diffusion.evaluation.judges import judge_from_spec
from deid_diffusion.evaluation.nets import FaceNets, NetOptions
from deid_diffusion.evaluation.warp import crop_box, square_box
from deid_diffusion.faces.align import crop_faces
from deid_diffusion.faces.estimator import HAPPY
from deid_diffusion.faces.face_shape import angles_from_rotation, read_expression
from deid_diffusion.faces.facemesh import FaceMesh
from deid_diffusion.faces.masks import is_covered
from deid_diffusion.imaging import clips
from deid_diffusion.timing import Timing
from deid_diffusion.video import ClipOptions, VideoAnonymizer

MOTIONS = ("mouth_open", "eyes_open", "smile", "yaw_deg", "pitch_deg")
# Where the source moves less than this (standard deviation), a correlation says nothing.
STILL = {"mouth_open": 0.04, "eyes_open": 0.05, "smile": 0.1, "yaw_deg": 2.0, "pitch_deg": 2.0}


class Motions:
    """Reads what a face does."""

    def __init__(self, estimator, facemesh, nets):
        self.estimator, self.facemesh, self.nets = estimator, facemesh, nets

    def __call__(self, image, face):
        """Values by name, NaN where nothing can be read."""
        values = dict.fromkeys(MOTIONS, np.nan) | self._points(image, face)
        if self.nets is not None:
            values["smile"] = float(self.nets.expression(image, face)[HAPPY])
        return values

    def _points(self, image, face):
        if self.facemesh is None:
            crop = crop_faces(image, [face], self.estimator)[0]
            return {} if crop is None else self.estimator.analyze(crop.image[None])[0].attributes.to_dict()
        points = self.facemesh(crop_box(image, square_box(face.box, 1.5), 512))
        if points is None:
            return {}
        place = self.estimator.shape.locate(points)
        turned = dict(zip(("yaw_deg", "pitch_deg"), angles_from_rotation(place.rotation), strict=False))
        return read_expression(place.unplace(points)) | turned


class Watch:
    """Takes every frame as it was and as it came out, and measures."""

    def __init__(self, detect, judge, motions):
        self.detect, self.judge, self.motions = detect, judge, motions
        self.begin()

    def begin(self):
        """Forgets everything: a clip is begun anew where its faces were too alike."""
        self.seconds, self.frames, self.faces, self.exposed, self.lost = 0.0, 0, 0, 0, 0
        self.flicker, self.embeddings, self.rows = ([], []), ([], []), ([], [])
        self._before = None

    def __call__(self, source, out, changed):
        """One frame; what it takes is no part of the clip's time."""
        start, self.frames = time.process_time(), self.frames + 1
        found = self.detect(source)
        self.faces += len(found)
        self.exposed += sum(not is_covered(face, changed) for face in found)
        if found:
            face = max(found, key=lambda one: float(np.prod(one.box[2:] - one.box[:2])))
            self._compare(source, out, face)
            self._flicker(source, out, face)
        self._before = (source, out)
        self.seconds += time.process_time() - start

    def _compare(self, source, out, face):
        new = match_face(face, self.detect(out))
        self.lost += new is None
        if new is None:
            return
        for place, (image, one) in enumerate(((source, face), (out, new))):
            row = self.judge.embed(image, one)
            self.embeddings[place].append(row / np.linalg.norm(row))
            self.rows[place].append(self.motions(image, one))

    def _flicker(self, source, out, face):
        """Mean difference, in levels, of a frame and the one before, moved by the source's flow."""
        if self._before is None:
            return
        box = square_box(face.box, 1.3)
        low = np.clip(box[:2], 0, source.shape[1::-1]).astype(int)
        high = np.clip(box[2:], 0, source.shape[1::-1]).astype(int)
        window = slice(low[1], high[1]), slice(low[0], high[0])
        now, before = (cv2.cvtColor(one[window], cv2.COLOR_RGB2GRAY) for one in (source, self._before[0]))
        flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(now, before, None)
        y, x = np.mgrid[: len(now), : now.shape[1]].astype(np.float32)
        inner = np.zeros(now.shape, np.uint8)
        middle, half = (face.box[:2] + face.box[2:]) / 2 - low, (face.box[2:] - face.box[:2]) * 0.45
        cv2.ellipse(inner, [middle.tolist(), (2 * half).tolist(), 0.0], 1, -1)
        for place, (image, old) in enumerate(((source, self._before[0]), (out, self._before[1]))):
            moved = cv2.remap(old[window], x + flow[..., 0], y + flow[..., 1], cv2.INTER_CUBIC)
            self.flicker[place].append(float(cv2.absdiff(image[window], moved)[inner > 0].mean()))

    def summary(self):
        """What was measured, by name."""
        flicker = [float(np.mean(one)) if one else np.nan for one in self.flicker]
        worst = float(np.percentile(self.flicker[1], 95)) if self.flicker[1] else np.nan
        got = {"frames": self.frames, "faces": self.faces, "exposed": self.exposed, "not found": self.lost}
        got |= {"flicker": flicker[1] / flicker[0], "flicker of the source": flicker[0], "95 %": worst / flicker[0]}
        for place, name in enumerate(("adjacent of the source", "adjacent")):
            rows = self.embeddings[place]
            got[name] = float(np.mean([a @ b for a, b in pairwise(rows)])) if len(rows) > 1 else np.nan
        if self.embeddings[0]:
            means = [np.mean(rows, axis=0) for rows in self.embeddings]
            got["pooled"] = float(means[0] @ means[1] / np.linalg.norm(means[0]) / np.linalg.norm(means[1]))
        return got | {name: self._response(name) for name in MOTIONS}

    def _response(self, name):
        """Correlation and slope of a motion; None where the source hardly moves."""
        before, after = (np.array([row[name] for row in rows]) for rows in self.rows)
        known = np.isfinite(before) & np.isfinite(after)
        before, after = before[known], after[known]
        if len(before) < 10 or before.std() < STILL[name] or not after.std():
            return None
        return float(np.corrcoef(before, after)[0, 1]), float(np.polyfit(before, after, 1)[0])


def watched(watch):
    """A ClipWriter that shows every frame to `watch` before it writes it."""

    class Watched(clips.ClipWriter):
        def __init__(self, *given, **named):
            super().__init__(*given, **named)
            watch.begin()

        def write(self, frame, image=None, changed=None):
            watch(frame.image, image, changed)
            super().write(frame, image, changed)

    return Watched


def unet_forward(pipeline):
    """Median CPU seconds of one forward for one face, as clips run it: the unit."""
    config, times = pipeline.unet.config, []
    noise = torch.randn(1, config.in_channels, config.sample_size, config.sample_size)
    vector = torch.zeros(1, config.projection_class_embeddings_input_dim)
    for _ in range(7):
        start = time.process_time()
        with torch.no_grad():
            pipeline.unet(noise, torch.tensor([500.0]), None, class_labels=vector, return_dict=False)
        times.append(time.process_time() - start)
    return statistics.median(times)


def measure(anonymize, path, options, watch):
    """One clip: figures by name."""
    unit = unet_forward(anonymize.pipeline)
    stop_s = options.start + options.seconds
    chosen = ClipOptions(start_s=options.start or None, stop_s=stop_s, stride=options.stride)
    video = VideoAnonymizer(anonymize, chosen)
    out = Path(options.out) / f"{path.stem}_anon{path.suffix}"
    start = time.process_time()
    result = video(path, out, seed=0)
    whole = time.process_time() - start - watch.seconds
    share = 1 / max(result.frames, 1) / unit
    stages = {name: seconds * share for name, seconds in result.seconds.items()}
    # Reading and writing files happen in other threads, or are not counted by the run.
    stages["files and the rest"] = whole * share - sum(stages.values())
    outcomes = {}
    for track in result.faces:
        for outcome, count in track.outcomes.items():
            outcomes[outcome.value] = outcomes.get(outcome.value, 0) + count
    return {"clip": path.name, "unet forward, ms": unit * 1e3, "forwards a frame": whole * share, "stages": stages,
            "outcomes": outcomes, **watch.summary()}  # fmt: skip


def shown(value):
    """A cell of a table."""
    if value is None:
        return "still"
    if isinstance(value, tuple):
        return f"{value[0]:.2f} / {value[1]:.2f}"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def main():
    """Prints a table; `--json` writes it too."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--out", required=True, help="folder for the anonymized clips")
    parser.add_argument("--detector", default="centerface", help="as for deid eval; an unseen one judges exposure")
    parser.add_argument("--judge", required=True, help="a recogniser, as for deid eval")
    parser.add_argument("--net", action="append", default=[], help="expression=FILE, as for deid eval")
    parser.add_argument("--facemesh", help="a Python with mediapipe, which then reads all motion but smiles")
    parser.add_argument("--start", type=float, default=0.0, help="seconds from which on")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each clip")
    parser.add_argument("--stride", type=int)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    Path(options.out).mkdir(parents=True, exist_ok=True)
    anonymize = FaceAnonymizer.from_pretrained()
    facemesh = FaceMesh(options.facemesh) if options.facemesh else None
    nets = FaceNets(NetOptions.from_specs(tuple(options.net))) if options.net else None
    watch = Watch(detector_from_spec(options.detector), judge_from_spec(options.judge),
                  Motions(anonymize.estimator, facemesh, nets))  # fmt: skip
    clips.ClipWriter = watched(watch)
    clip_run.Timing = partial(Timing, clock=time.thread_time)
    names = ("frames", "faces", "exposed", "not found", "forwards a frame", "flicker", "95 %")
    names += ("adjacent of the source", "adjacent", "pooled", *MOTIONS)
    print("| clip | " + " | ".join(names) + " |\n" + "|---" * (len(names) + 1) + "|")
    rows: list[dict] = []
    notes: list[str] = []
    for path in options.clips:
        rows.append(measure(anonymize, path, options, watch))
        print(f"| {path.name} | " + " | ".join(shown(rows[-1].get(name)) for name in names) + " |")
        parts = ", ".join(f"{name} {value:.2f}" for name, value in rows[-1]["stages"].items())
        unit, outcomes = rows[-1]["unet forward, ms"], rows[-1]["outcomes"]
        notes.append(f"{path.name} (one forward: {unit:.0f} ms), in forwards a frame: {parts}; faces: {outcomes}")
        print(notes[-1], file=sys.stderr, flush=True)
    print("", *notes, sep="\n")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
