"""Reads the command line of `deid run`."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from deid_diffusion.jobs.urls import place

REDACTIONS = ("blank", "blur", "pixelate")
AVERAGES = ("k-same", "average")
PRIVACY = ("standard", "high", "maximum")
# Repeated here, because their home imports torch; a test compares them.
ATTRIBUTES = """
yaw_deg pitch_deg roll_deg mouth_open smile eyes_open brow_raise gaze_x gaze_y age male skin_l skin_a skin_b light_x
light_y glasses facial_hair sunglasses"""
PIPELINES = ("face256", "sd", "sdxl")
DTYPES = ("float32", "float16", "bfloat16")
LANDMARK_STYLES = ("mediapipe", "dlib68")
DETECTION = ("fast", "thorough")
BACKENDS = ("auto", "torch", "compile", "onnx")
DROPPABLE = (
    *("age", "male", "skin_l", "skin_a", "skin_b", "light_x", "light_y", "glasses", "facial_hair", "sunglasses"),
    "appearance",
)
KEEPABLE = ("copyright", "date", "dpi")
BOX_FORMATS = ("xyxy", "xywh")
_TEXT = """\
Gives every face of pictures and clips to somebody who does not exist, and hides those it cannot replace.

  deid run photo.jpg                                   -> photo_anon.jpg
  deid run clip.mp4                                    -> clip_anon.mp4
  deid run holiday/ -o out/ --report out/report.json   the tree of holiday/, mirrored; run again to go on after a stop
  deid run photo.jpg --set age=60 --set smile=0.8      attributes are listed below
attributes:{attributes}
`deid run --set help` says what they mean and how far they go.
"""


RENAMED = {"--forget": "--drop"}
AUDIO = ("keep", "drop")
MOTION = ("fine", "coarse")


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage above it."""

    def parse_args(self, args: Sequence[str], namespace: None = None) -> argparse.Namespace:  # type: ignore[override]
        """As argparse does, but an option of an earlier version is answered with its name of today."""
        for name in (word.partition("=")[0] for word in args):
            if name in RENAMED and name not in self._option_string_actions:
                self.error(f"{name} is called {RENAMED[name]} now")
        return super().parse_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"deid: {message} ({self.prog} --help lists the options)\n")


def parse(argv: list[str]) -> argparse.Namespace:
    """The options of `deid run`; exits with 2 and a line on stderr when they are wrong."""
    parser = Parser(
        "deid run",
        description=_TEXT.format(attributes=ATTRIBUTES.replace("\n", "\n  ")),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("inputs", nargs="*", type=place, metavar="INPUT", help="picture, clip or folder; also s3://... and gs://...")
    add("-o", "--out", type=place, help="output folder, or the output's name for one picture or clip")
    add(
        "--exclude", action="append", default=[], metavar="PATTERN",
        help="leave out files and folders whose path below the input fits, such as '*_anon.*' or thumbs; repeatable; "
        "* also stands for /",
    )  # fmt: skip
    add("--overwrite", action="store_true", help="make outputs anew that exist already; an input is never overwritten")
    add("--keep-times", action="store_true", help="give outputs the modification time of their source")
    add("--max-pixels", type=natural, metavar="N", help="refuse pictures of more pixels (300 million)")
    add("--report", type=Path, metavar="FILE", help="write a JSON report, one line a face")
    add("--report-seeds", action="store_true", help="put the seeds into the report, which is confidential then")
    add(
        "--preview", choices=["side-by-side"], help="also write *_before_after.png or .mp4; they show the source faces"
    )
    add(
        "--keep-metadata", type=_names, default=(), metavar="NAMES",
        help=f"keep {', '.join(KEEPABLE)}, as named with commas; all else of the metadata always goes (none)",
    )  # fmt: skip
    _add_faces(parser.add_argument_group("which faces"))
    _add_looks(parser.add_argument_group("what becomes of them"))
    _add_clips(parser.add_argument_group("clips"))
    _add_model(parser.add_argument_group("the model"))
    options = parser.parse_args(argv)
    if not options.inputs and ("help", None) not in options.set:
        parser.error("wanted pictures or folders, got none; name at least one")
    return options


def _add_faces(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--boxes",
        type=Path,
        metavar="FILE",
        help="your own boxes instead of detection: JSON or CSV, a report, or for clips what `deid detect` wrote",
    )
    add_detect(group)
    add("--boxes-format", choices=BOX_FORMATS, help="what a box there is: x0 y0 x1 y1 or x y width height, in pixels")
    add(
        "--panorama", action="store_true",
        help="all pictures show 360 degrees, with faces across their seam; those that say so (GPano) need no option",
    )  # fmt: skip
    people = group.add_mutually_exclusive_group()
    people.add_argument(
        "--only", type=Path, action="append", default=[], metavar="REF",
        help="anonymize only this person and whoever may be them, 80 to 90 of 100 strangers with one photo, all with "
        "many; REF: a photo of one person or a folder of such, may be repeated, and several of a person are welcome",
    )  # fmt: skip
    people.add_argument(
        "--except", type=Path, action="append", default=[], metavar="REF", dest="keep",
        help="leave this person as they are where the recogniser is sure: 1 of 100 other photos years apart, 25 of "
        "one session, and 2 of 1,000 strangers (20 references); borderline faces are hidden and named in the report",
    )  # fmt: skip


def add_detect(group: argparse._ActionsContainer) -> None:
    """Adds the option that names the detector.

    Args:
        group: of a parser, or a parser.
    """
    group.add_argument(
        "--detect", choices=DETECTION, default="fast",
        help="how faces are looked for; thorough looks at full size and turned, and takes longer (fast)",
    )  # fmt: skip


def _add_looks(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--method", default="inpaint", metavar="NAME",
        help="inpaint: a new face; swap: one new face for all; k-same: the mean of K people of the pictures given; "
        "perturb: a change that recognisers see and people do not, no anonymization; "
        "average: one face for all, which shows what the surroundings tell; "
        f"{', '.join(REDACTIONS)}: the same redaction for all (inpaint)",
    )  # fmt: skip
    add(
        "--target", type=_target, metavar="NUMBER",
        help="who everybody becomes by --method swap: a number of the bank of people who do not exist, or random",
    )  # fmt: skip
    add(
        "--key", type=Path, metavar="FILE",
        help="the same person becomes the same stranger in all that is run with this key; `deid key new` makes one",
    )  # fmt: skip
    add("--attraction", type=_number, metavar="SCALE", help="how hard --method swap moves faces to that person (30)")
    add(
        "--against", action="append", default=[], metavar="FILE[:OPTION...]",
        help="recogniser beside the shipped one against which --method perturb works: TorchScript, as of eval --judge",
    )  # fmt: skip
    add("--max-change", type=_number, metavar="LEVELS", help="how far --method perturb changes a pixel, of 255 (12)")
    add("--max-dssim", type=_number, metavar="D", help="how unlike a perturbed face may look, (1 - SSIM) / 2 (0.05)")
    add(
        "--quantization", type=_number, default=1.0, metavar="FACTOR",
        help="on the steps in which pose, expression and attributes pass; 0 passes them unrounded: a fingerprint (1)",
    )  # fmt: skip
    add("--k", type=natural, default=5, help="people that share one face by --method k-same (5)")
    add("--redact-with", choices=REDACTIONS, default="blank", help="how to hide a face that could not be replaced")
    add("--set", action="append", default=[], type=_setting, metavar="NAME=VALUE", help="set an attribute")
    add(
        "--drop", action="append", default=[], choices=DROPPABLE, metavar="NAME",
        help=f"do not take this over from the source: {', '.join(DROPPABLE)}",
    )  # fmt: skip
    add(
        "--privacy", choices=PRIVACY, default="standard",
        help="how little of the source passes to the new face: coarser attributes, fewer of them, a larger mask, more "
        "people to become (standard)",
    )  # fmt: skip
    add("--seed", type=natural, help="the same seed gives the same picture (one that nobody knows)")
    add("--repulsion-factor", type=_number, default=1.0, help="factor on the guidance away from the source (1)")
    add("--threshold", type=_number, metavar="COSINE", help="similarity to the source at which a face is tried again")


def _add_clips(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--audio", choices=AUDIO, default="keep", help="copy the sound, though a voice identifies, or drop it (keep)")
    add("--crf", type=natural, default=18, help="quality of the encoder, lower is better and larger (18)")
    add("--codec", metavar="NAME", help="encoder as FFmpeg calls it, such as libx265 (that of the clip's own family)")
    add("--stride", type=_positive, help="generate every so many frames, and carry faces along in between (3)")
    add("--motion", choices=MOTION, default="fine", help="pass speech and blinks, or only what photos pass (fine)")
    add("--from", type=clip_time, dest="start_s", metavar="TIME", help="where to begin, in seconds or as 1:23:45.6")
    add("--to", type=clip_time, dest="stop_s", metavar="TIME", help="where to stop, likewise")


def _add_model(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--model",
        metavar="NAME",
        help="weights folder, or ORG/NAME on the Hub to download (the shipped one)",
    )
    add("--pipeline", choices=PIPELINES, help="the family that --model must be of (what its index says)")
    add("--revision", metavar="COMMIT", help="of a model on the Hub; pin it, a branch can change")
    add("--controlnet", metavar="NAME", help="face-landmark ControlNet: folder, or ORG/NAME[@COMMIT][/SUBFOLDER]")
    add("--landmark-style", choices=LANDMARK_STYLES, default="mediapipe", help="what it was trained on (mediapipe)")
    add("--preview-vae", metavar="NAME", help="tiny autoencoder that makes repulsion cheap; like --controlnet")
    add("--dtype", choices=DTYPES, default="float32", help="precision of the model, float16 on a GPU only (float32)")
    add("--device", default="cpu", help="auto, cpu, cuda, cuda:1, mps (cpu)")
    add(
        "--backend", choices=BACKENDS, default="auto",
        help="what runs the model; auto: onnx on a CPU where onnxruntime is installed, else torch (auto)",
    )  # fmt: skip
    add(
        "--workers", type=_positive, metavar="N",
        help="processes of one thread each that share the files; each takes about 1 GB (as many as cores and memory "
        "allow, where that pays; 1 on a GPU)",
    )  # fmt: skip
    add(
        "--ray", metavar="ADDRESS",
        help="do the work on a Ray cluster: HOST:PORT, auto for the one that this machine belongs to, or local to "
        "start one here",
    )  # fmt: skip
    add("--gpus-per-worker", type=_number, default=0.0, metavar="N", help="of a Ray worker, also 0.25 (0)")
    add("--steps", type=natural, help="denoising steps (4; 25 for Stable Diffusion)")
    add("--candidates", type=natural, help="faces generated for each one, the best is taken (2; 1 likewise)")
    add("--guidance", type=_number, metavar="SCALE", help="classifier-free guidance, 1 for none (1; 5 likewise)")
    add("--prompt", default="", help="words for Stable Diffusion, before what the attributes say")
    add("--repulsion", type=_number, metavar="SCALE", help="scale of the identity repulsion; 0 switches it off")


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    if any(name not in KEEPABLE for name in names):
        raise argparse.ArgumentTypeError(f"wanted any of {','.join(KEEPABLE)}, got {text!r}")
    return names


def natural(text: str) -> int:
    """A whole number from 0 on; for argparse."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"wanted a whole number >= 0, got {text!r}")
    return int(text)


def _target(text: str) -> int | str:
    if text != "random" and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"wanted random or a whole number >= 0, got {text!r}")
    return text if text == "random" else int(text)


def _positive(text: str) -> int:
    if not natural(text):
        raise argparse.ArgumentTypeError("wanted a whole number >= 1, got 0")
    return int(text)


def clip_time(text: str) -> float:
    """Seconds, of "83.5" or "1:23.5"; for argparse."""
    parts = text.split(":")
    if len(parts) > 3:
        raise argparse.ArgumentTypeError(f"wanted seconds or H:MM:SS, got {text!r}")
    return sum(_number(part) * 60**place for place, part in enumerate(reversed(parts)))


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"wanted a number, got {text!r}")
    return value


def _setting(text: str) -> tuple[str, float | None]:
    if text == "help":
        return "help", None
    name, equals, value = text.partition("=")
    try:
        if not equals:
            raise ValueError
        return name.strip(), float(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"wanted NAME=NUMBER such as age=60, got {text!r}") from None
