"""Runs `deid eval`: judges folders of outputs and prints what to take away."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from . import complain
from .options import Parser


def main(argv: list[str]) -> int:
    """Returns 0, or 2 when a right number cannot be given."""
    options = vars(_parser().parse_args(argv))
    from deid_diffusion.evaluation.results import EvaluationError
    from deid_diffusion.evaluation.words import headline, table

    try:
        reports = judged(options)
    except EvaluationError as error:
        return complain(str(error), 2)
    print(table(reports))
    for report in reports:
        print(f"{report.method}: " + " ".join(headline(report)))
    print(
        f"deid: numbers in {options['out'] / 'eval.json'}, a page in {options['out'] / 'report.html'}", file=sys.stderr
    )
    return 0


def judged(options: Mapping[str, Any]) -> tuple[Any, ...]:
    """The EvalReports for fields of EvalOptions by name; None stands for the field's default.

    Raises:
        EvaluationError: a right number cannot be given.
    """
    from deid_diffusion.evaluation.command import EvalOptions, run_eval

    options = dict(options)
    if options["guide"] is None:
        options["guide"] = _shipped_guide()
    given: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in options.items()
    }
    return run_eval(EvalOptions(**{name: value for name, value in given.items() if value is not None}))


def _shipped_guide() -> Path | None:
    """The shipped pipeline, whose guide may not judge; None in an installation without weights."""
    from deid_diffusion.models.weights import weights_dir

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
    """Adds the options that say who judges by what, with `ArgumentParser.add_argument`."""
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
        help="dlib, or FILE[:OPTION...]; may be repeated (dlib)",
    )
    add("--finder", help="dlib, centerface or yunet:FILE.onnx (dlib)")
    add("--net", action="append", dest="nets", metavar="KIND=FILE", help="network for utility and quality; repeatable")
    add("--groups", type=Path, help="CSV of person,attribute,...")
    add("--person-by", choices=["stem", "folder"], help="what names a person (stem)")
    add("--guide", type=Path, help="the anonymizer's weights folder, whose guide may not judge (the shipped one)")
    add("--cache", type=Path, help="file to keep embeddings in; none are kept by default")
    add("--seed", type=int, help="of bootstrap and samples (0)")
    add("--examples", type=int, help="outputs to show on the page (6)")
