"""What clips cost and what comes out: CPU time by stage in unet forwards a frame, and what `deid eval` measures.

    python benchmarks/video.py CLIP_OR_FOLDER... --out FOLDER --detector yunet:FILE --judge FILE [--gallery FOLDER]
        [--facemesh PYTHON] [--net expression=FILE] [--start 0] [--seconds 4] [--stride N] [--json FILE]

Both are measured in one run, on the files that were written, and exposure by the masks, too. Where a clip ends before
that, its last --seconds are taken.
"""

import argparse
import json
import resource
import statistics
import sys
import time
import zlib
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch

from deid_diffusion import FaceAnonymizer, clip_run
from deid_diffusion.errors import DeidError
from deid_diffusion.evaluation.clips.command import build, write_evaluation
from deid_diffusion.evaluation.clips.files import CLIP_ENDINGS
from deid_diffusion.evaluation.clips.notes import clip_notes
from deid_diffusion.evaluation.clips.results import ClipEvaluation
from deid_diffusion.evaluation.clips.summary import table_rows
from deid_diffusion.evaluation.command import EvalOptions
from deid_diffusion.evaluation.results import Problem
from deid_diffusion.imaging import clips
from deid_diffusion.timing import Timing
from deid_diffusion.video import ClipOptions, VideoAnonymizer


class Masks:
    """What was replaced in each frame of a clip, packed: an hour of 1080p is some hundred megabytes."""

    def __init__(self):
        self.begin()

    def begin(self):
        """Forgets everything: a clip is begun anew where its faces were too alike."""
        self._packed = []

    def add(self, changed):
        """One frame's (H, W) bool."""
        self._shape = changed.shape
        self._packed.append(zlib.compress(np.packbits(changed).tobytes(), 1))

    def __iter__(self):
        count = int(np.prod(self._shape))
        for data in self._packed:
            bits = np.frombuffer(zlib.decompress(data), np.uint8)
            yield np.unpackbits(bits, count=count).astype(bool).reshape(self._shape)


def remembering(masks):
    """A ClipWriter that keeps what was replaced in `masks`."""

    class Remembering(clips.ClipWriter):
        def __init__(self, *given, **named):
            super().__init__(*given, **named)
            masks.begin()

        def write(self, frame, image=None, changed=None):
            masks.add(np.zeros(frame.image.shape[:2], bool) if changed is None else changed)
            super().write(frame, image, changed)

    return Remembering


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


def span_of(path, start_s, seconds):
    """Start and stop in seconds, None for the whole clip; the last `seconds` of one that ends before them."""
    info = clips.probe(path)
    first = float((info.start_pts or 0) * info.time_base)
    end = first + (info.duration_s or seconds)
    start = max(min(first + start_s, end - seconds), first)
    return (None, None) if end <= first + seconds else (round(start, 3), round(start + seconds, 3))


def anonymized(anonymize, path, out, span, stride):
    """Writes the clip, and says what it took: figures by name."""
    unit = unet_forward(anonymize.pipeline)
    video = VideoAnonymizer(anonymize, ClipOptions(start_s=span[0], stop_s=span[1], stride=stride))
    start = time.process_time()
    result = video(path, out, seed=0)
    whole = time.process_time() - start
    share = 1 / max(result.frames, 1) / unit
    stages = {name: seconds * share for name, seconds in result.seconds.items()}
    # Reading and writing files happen in other threads, or are not counted by the run.
    stages["files and the rest"] = whole * share - sum(stages.values())
    outcomes = {}
    for track in result.faces:
        for outcome, count in track.outcomes.items():
            outcomes[outcome.value] = outcomes.get(outcome.value, 0) + count
    review = [(span.start_s, span.stop_s, span.reason, span.track) for span in result.review]
    return {"clip": path.name, "span": span, "unet forward, ms": unit * 1e3, "forwards a frame": whole * share,
            "stages": stages, "outcomes": outcomes, "review": review}  # fmt: skip


def all_clips(paths):
    """The clips among files and folders, in order."""
    found = []
    for path in paths:
        found += sorted(p for p in path.iterdir() if p.suffix.lower() in CLIP_ENDINGS) if path.is_dir() else [path]
    return found


def main():
    """Prints a table; `--json` writes it too, and `--out` gets the report of `deid eval`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clips", nargs="+", type=Path, help="clips, or folders of them")
    parser.add_argument("--out", required=True, type=Path, help="folder for the anonymized clips, and their report")
    parser.add_argument("--detector", default="centerface", help="as for deid eval; an unseen one judges exposure")
    parser.add_argument("--judge", required=True, action="append", help="a recogniser, as for deid eval")
    parser.add_argument("--gallery", type=Path, help="photos of other people, as for deid eval")
    parser.add_argument("--net", action="append", default=[], help="expression=FILE, as for deid eval")
    parser.add_argument("--facemesh", help="a Python with mediapipe, which then reads all motion but smiles")
    parser.add_argument("--start", type=float, default=0.0, help="seconds after the first frame from which on")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each clip")
    parser.add_argument("--stride", type=int)
    parser.add_argument("--json", type=Path, help="write what clips cost to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    wanted = EvalOptions(options.out, (options.out,), options.out, options.gallery, judges=tuple(options.judge),
                         detector=options.detector, nets=tuple(options.net), facemesh=options.facemesh)  # fmt: skip
    measurer, setup = build(wanted)
    anonymize, masks = FaceAnonymizer.from_pretrained(), Masks()
    clips.ClipWriter = remembering(masks)
    clip_run.Timing = partial(Timing, clock=time.thread_time)
    costs, reports, faces, problems = [], [], [], []
    for path in all_clips(options.clips):
        out = options.out / f"{path.stem}_anon{path.suffix}"
        try:
            span = span_of(path, options.start, options.seconds)
            cost = anonymized(anonymize, path, out, span, options.stride)
            report, tracks = measurer.compare("deid", path.name, (path, out), span, masks)
        except DeidError as error:
            problems.append(("deid", Problem("not judged", path.name, str(error))))
            print(f"{path.name}: {error}", file=sys.stderr, flush=True)
            continue
        costs.append(cost)
        reports.append(report)
        faces.append(tracks)
        parts = ", ".join(f"{name} {value:.2f}" for name, value in cost["stages"].items())
        print(f"{path.name}, {report.frames} frames (one forward: {cost['unet forward, ms']:.0f} ms), "
              f"{cost['forwards a frame']:.2f} forwards a frame: {parts}; faces: {cost['outcomes']}",
              file=sys.stderr, flush=True)  # fmt: skip
        # After each clip, for a run of an hour may be stopped.
        notes = clip_notes(measurer.detector, measurer.motion, wanted)
        write_evaluation(options.out, ClipEvaluation(tuple(reports), tuple(problems), notes, setup), faces)
        if options.json:
            options.json.write_text(json.dumps(costs, indent=2) + "\n")
    measurer.motion.close()
    if not reports:
        raise SystemExit("not one clip could be judged")
    titles, rows = table_rows(reports)
    titles.append("forwards a frame")
    print("| " + " | ".join(titles) + " |\n" + "|---" * len(titles) + "|")
    for row, cost in zip(rows, [*costs, None], strict=False):
        print("| " + " | ".join([*row, "" if cost is None else f"{cost['forwards a frame']:.2f}"]) + " |")
    print(f"\npeak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB, judges included")


if __name__ == "__main__":
    main()
