"""Runs `deid eval`: judges folders of outputs and prints the main findings."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from . import complain
from .options import Parser


def main(argv: list[str]) -> int:
    """Returns 0, or 2 when no valid figure can be given."""
    options = vars(_parser().parse_args(argv))
    from deid_diffusion.evaluation.results import EvaluationError
    from deid_diffusion.evaluation.summary import headline, markdown_table

    try:
        reports = eval_reports(options)
    except EvaluationError as error:
        return complain(str(error), 2)
    print(markdown_table(reports))
    for report in reports:
        print(f"{report.method}: " + " ".join(headline(report)))
    print(
        f"deid: numbers in {options['out'] / 'eval.json'}, a page in {options['out'] / 'report.html'}", file=sys.stderr
    )
    return 0


def eval_reports(options: Mapping[str, Any]) -> tuple[Any, ...]:
    """Runs the evaluation.

    Args:
        options: fields of EvalOptions by name; None stands for the field's default.

    Returns:
        One EvalReport per folder of outputs.

    Raises:
        EvaluationError: no valid figure can be given.
    """
    from deid_diffusion.evaluation.command import EvalOptions, run_eval

    options = dict(options)
    if options["id_encoder"] is None:
        options["id_encoder"] = _shipped_pipeline()
    given: dict[str, Any] = {n: tuple(value) if isinstance(value, list) else value for n, value in options.items()}
    return run_eval(EvalOptions(**{name: value for name, value in given.items() if value is not None}))


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
    add("originals", type=Path, help="folder of the pictures as they were")
    add("outputs", type=Path, nargs="+", help="folders of anonymized pictures, same names")
    add("-o", "--out", type=Path, default=Path("eval"), help="folder for eval.json and report.html (eval)")
    add("--name", action="append", dest="names", help="label of each outputs folder, in order")
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
