"""Runs `deid eval`: judges folders of outputs and prints the main findings."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from . import complain
from .options import Parser, clip_time

EVERY_S = 10.0  # between two lines about a clip


def main(argv: list[str]) -> int:
    """Returns 0, or 2 when no valid figure can be given."""
    options = vars(_parser().parse_args(argv))
    from deid_diffusion.evaluation.clips.command import has_clips
    from deid_diffusion.evaluation.results import EvaluationError

    out = options["out"]
    try:
        clips, pictures = has_clips(eval_options(options))
        if clips:
            # Beside pictures, clips have a page and numbers of their own.
            _judge_clips(options | {"out": out / "clips" if pictures else out}, pictures)
        if not pictures:
            return 0
        if code := make_attackers(options):
            return code
        _judge_pictures(options)
    except EvaluationError as error:
        return complain(str(error), 2)
    return 0


def _judge_pictures(options: dict[str, Any]) -> None:
    from deid_diffusion.evaluation.summary import headline, markdown_table

    reports = eval_reports(options)
    print(markdown_table(reports))
    for report in reports:
        print(f"{report.method}: " + " ".join(headline(report)))
    _say_where(options["out"])


def _judge_clips(options: dict[str, Any], pictures: bool) -> None:
    from deid_diffusion.evaluation.clips.command import run_clip_eval
    from deid_diffusion.evaluation.clips.summary import clip_headline, clip_table
    from deid_diffusion.evaluation.results import EvaluationError

    if not pictures and (options["parrots"] or options["floor"] or options["pool"]):
        raise EvaluationError("--parrot, --floor and --pool are for pictures, got clips alone; leave them out")
    found = run_clip_eval(eval_options(options), _progress())
    print(clip_table(found.reports))
    for report in found.reports:
        print(f"{report.method}, {report.clip}: " + " ".join(clip_headline(report)))
    for method, problem in found.problems:
        print(f"deid: {method}: {problem.file}: {problem.kind}: {problem.detail}", file=sys.stderr)
    _say_where(options["out"])


def _progress() -> Callable[[str, int], None]:
    """A line about a clip every ten seconds."""
    last = time.monotonic()

    def show(clip: str, frames: int) -> None:
        nonlocal last
        if time.monotonic() - last >= EVERY_S:
            last = time.monotonic()
            print(f"deid: {clip}: {frames} frames", file=sys.stderr, flush=True)

    return show


def _say_where(out: Path) -> None:
    print(f"deid: numbers in {out / 'eval.json'}, a page in {out / 'report.html'}", file=sys.stderr)


def make_attackers(options: dict[str, Any]) -> int:
    """Makes the pictures of `--parrot run` and `--floor run`, and puts their folders in the place of the words.

    Args:
        options: of the command line.

    Returns:
        the exit code: not 0 when something could not be made.
    """
    wanted = [*(options["parrots"] or []), *([options["floor"]] if options["floor"] else [])]
    if not any(_is_run(spec) for spec in wanted):
        return 0
    if options["gallery"] is None:
        return complain("--parrot and --floor are made from the gallery; give --gallery, too", 2)
    parrots: list[Path] = []
    for number, spec in enumerate(options["parrots"] or [], 1):
        parrots.append(options["out"] / f"parrot-{number}" if _is_run(spec) else Path(spec))
        if _is_run(spec) and (code := anonymized(options["gallery"], parrots[-1], shlex.split(spec)[1:])):
            return code
    options["parrots"] = parrots or None
    if _is_run(options["floor"] or ""):
        return make_floor(options)
    return 0


def make_floor(options: dict[str, Any]) -> int:
    """Gives everybody in originals and gallery one and the same face, below `out`.

    Args:
        options: of the command line; `floor` becomes the folder.

    Returns:
        the exit code: not 0 when something could not be made.
    """
    floor = options["floor"] = options["out"] / "floor"
    for source, name in ((options["originals"], "outputs"), (options["gallery"], "gallery")):
        if code := anonymized(source, floor / name, ["--method", "average"]):
            return code
    return 0


def anonymized(source: Path, out: Path, words: Sequence[str]) -> int:
    """Runs `deid run` into a folder; its exit code, 0 when only single files failed.

    Args:
        source: folder of pictures.
        out: folder for the outputs.
        words: further options of `deid run`.
    """
    from . import run

    print(f"deid: {out.name}: deid run {' '.join(words)}", file=sys.stderr)
    code = run.main([str(source), "-o", str(out), *words])
    return 0 if code == 1 else code


def _is_run(spec: str) -> bool:
    return str(spec).split()[:1] == ["run"]


def eval_reports(options: Mapping[str, Any]) -> tuple[Any, ...]:
    """Runs the evaluation.

    Args:
        options: fields of EvalOptions by name; None stands for the field's default.

    Returns:
        One EvalReport per folder of outputs.

    Raises:
        EvaluationError: no valid figure can be given.
    """
    from deid_diffusion.evaluation.command import run_eval

    return run_eval(eval_options(options))


def eval_options(options: Mapping[str, Any]) -> Any:
    """The EvalOptions that a command line asks for.

    Args:
        options: fields of EvalOptions by name; None stands for the field's default.

    Raises:
        EvaluationError: they do not go together.
    """
    from deid_diffusion.evaluation.command import EvalOptions

    options = dict(options)
    for name in ("parrots", "floor"):
        if isinstance(value := options.get(name), str | list):
            options[name] = Path(value) if isinstance(value, str) else [Path(one) for one in value]
    if options["id_encoder"] is None:
        options["id_encoder"] = _shipped_pipeline()
    given: dict[str, Any] = {n: tuple(value) if isinstance(value, list) else value for n, value in options.items()}
    return EvalOptions(**{name: value for name, value in given.items() if value is not None})


def _shipped_pipeline() -> Path | None:
    """The shipped pipeline, whose identity encoder may not judge; None in an installation without weights."""
    from deid_diffusion.weight_files import weights_dir

    try:
        return weights_dir("face256")
    except FileNotFoundError:
        return None


def _parser() -> argparse.ArgumentParser:
    parser = Parser("deid eval", description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("originals", type=Path, help="folder of the pictures and clips as they were, or one clip")
    add("outputs", type=Path, nargs="+", help="folders of anonymized pictures and clips, same names; or clips")
    add("-o", "--out", type=Path, default=Path("eval"), help="folder for eval.json and report.html (eval)")
    add("--name", action="append", dest="names", help="label of each outputs folder, in order")
    add(
        "--parrot", action="append", dest="parrots", metavar="FOLDER",
        help="the gallery as the same tool anonymized it, one for all outputs or one each; or run, which makes it: "
        "--parrot run, or --parrot 'run --method blur' with options of deid run",
    )  # fmt: skip
    add(
        "--floor", metavar="FOLDER",
        help="originals and gallery with one and the same face in every picture, in its folders outputs and gallery: "
        "what the surroundings tell alone; or run, which makes them",
    )  # fmt: skip
    add(
        "--pool",
        action="store_true",
        help="the outputs are runs of one method with other seeds: judge them pooled, too",
    )
    add("--from", type=clip_time, dest="start_s", metavar="TIME", help="the part of clips that the outputs hold")
    add("--to", type=clip_time, dest="stop_s", metavar="TIME", help="likewise")
    add("--facemesh", metavar="PYTHON", help="a Python with mediapipe, which then reads motion in clips")
    add_judging(add)
    return parser


def add_judging(add: Callable[..., Any]) -> None:
    """Adds the options of detector, judges, networks and gallery, with `ArgumentParser.add_argument`."""
    add(
        "--gallery",
        type=Path,
        help="other photos of the same people, same names; without it the harsher same-photo test",
    )
    add("--gallery-kind", choices=["photos", "views"], help="views: edited copies of the originals (photos)")
    add(
        "--judge",
        action="append",
        dest="judges",
        metavar="SPEC",
        help="evaluation recogniser: dlib, or FILE.onnx or FILE.pt[:OPTION...] with options such as 112, rgb, "
        "mean=127.5, scale=127.5, preset=arcface (these three, usual for .onnx), name=NAME; repeatable (dlib)",
    )
    add("--detector", help="finds the faces: dlib, centerface or yunet:FILE.onnx (dlib)")
    add("--net", action="append", dest="nets", metavar="KIND=FILE", help="network for utility and quality; repeatable")
    add("--groups", type=Path, help="CSV of person,attribute,...")
    add("--person-by", choices=["stem", "folder"], help="what names a person (stem)")
    add(
        "--id-encoder",
        type=Path,
        metavar="FOLDER",
        help="pipeline or id_encoder folder of the anonymizer; this network may not judge (the shipped one)",
    )
    add("--cache", type=Path, help="file to keep embeddings in; none are kept by default")
    add("--seed", type=int, help="of bootstrap and samples (0)")
    add("--examples", type=int, help="outputs to show on the page (6)")
    for old, new in (("--guide", "--id-encoder"), ("--finder", "--detector")):
        add(old, action=_Renamed, nargs="?", const=new, default=argparse.SUPPRESS, help=argparse.SUPPRESS)


class _Renamed(argparse.Action):
    """An option of earlier versions: an error that names the new one."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        parser.error(f"{self.option_strings[0]} is now {self.const}")
