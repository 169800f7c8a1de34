"""Runs `deid compare`: every method on one folder, then all of them by the same judges."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import complain, run
from .eval import add_judging, eval_reports, make_floor
from .options import REDACTIONS, Parser

METHODS = ("inpaint", "k-same", *REDACTIONS)
# First parts of the names of the weight files that shape a method's outputs; inpaint depends on all.
_WEIGHTS = {"k-same": ("id_encoder", "face_estimator", "thresholds.json"), **dict.fromkeys(REDACTIONS, ())}


def main(argv: list[str]) -> int:
    """Returns 0; 1 when a picture failed in some method, 2 when no comparison can be made, 130 after Ctrl-C."""
    options = vars(_parser().parse_args(argv))
    from deid_diffusion.evaluation.results import EvaluationError
    from deid_diffusion.evaluation.summary import comparison_table

    methods, out = options.pop("methods") or list(METHODS), options["out"]
    k, failed = options.pop("k"), False
    if out.resolve().is_relative_to(options["originals"].resolve()):
        return complain(f"{out}: wanted a folder outside of the originals; give another -o", 2)
    for method in methods:
        given = {"seed": options["seed"]} | ({"k": k} if method == "k-same" else {})
        code = _make(method, options["originals"], out, given)
        if code not in (0, 1):
            return code
        failed |= code == 1
    attackers: dict[str, Any] = {}
    if options.pop("attackers") and options["gallery"] is not None and options["gallery"].is_dir():
        attackers = {"parrots": [out / "parrots" / method for method in methods], "floor": None}
        for method in methods:
            given = {"seed": options["seed"] + 1} | ({"k": k} if method == "k-same" else {})
            code = _make(method, options["gallery"], out / "parrots", given)
            failed |= code == 1
            if code not in (0, 1):
                return code
        made = options | attackers
        if code := make_floor(made):
            return code
        attackers["floor"] = made["floor"]
    folders = [out / method for method in methods]
    try:
        reports = eval_reports(options | {"outputs": folders, "names": methods} | attackers)
    except EvaluationError as error:
        return complain(str(error), 2)
    text = comparison_table(reports)
    (out / "table.md").write_text(text, encoding="utf-8")
    print(text)
    print(f"deid: the table is in {out / 'table.md'}, more in eval.json and report.html beside it", file=sys.stderr)
    return int(failed)


def _make(method: str, originals: Path, out: Path, given: Mapping[str, int]) -> int:
    """Runs a method into its folder, unless it is there already; the exit code of `deid run`."""
    report = out / f"{method}.json"
    state = run_state(report, method, originals, given)
    if state == "done":
        print(f"deid: {method}: done before", file=sys.stderr)
        return 0
    print(f"deid: {method}: {state}", file=sys.stderr)
    words = [str(originals), "-o", str(out / method), "--method", method, "--report", str(report)]
    words += ["--report-seeds"]  # by which the next comparison knows what is done
    words += [word for name, value in given.items() for word in (f"--{name}", str(value))]
    return run.main([*words, *(["--overwrite"] if state.startswith("anew") else [])])


def run_state(report: Path, method: str, originals: Path, given: Mapping[str, int]) -> str:
    """What is to be done for a method whose last run left `report`: "done", "begin", or "go on" or "anew" and why."""
    if not report.is_file():
        return "begin"
    try:
        last = json.loads(report.read_text(encoding="utf-8"))
        settings, weights, seed = last["settings"], last["versions"]["weights"], last["seed"]
        complete, names = last["complete"], {row["file"] for row in last["files"]}
    except (ValueError, KeyError, TypeError):
        return "anew, its report cannot be read"
    if any(weights.get(name) != value for name, value in _present(method).items()):
        return "anew, the weights have changed"
    # A redaction knows no settings; but `deid run` goes on with nothing that was begun under others.
    same = (complete and method in REDACTIONS) or _without_cohort(settings) == _expected_settings(method, given)
    if seed != given["seed"] or not same:
        return "anew, with other settings than before"
    if not complete:
        return "go on"
    outputs = report.with_suffix("")
    if any(not (outputs / row["file"]).exists() for row in last["files"] if not row.get("error")):
        return "go on, outputs are missing"
    from deid_diffusion.jobs.plan import pictures_in

    if names != {path.relative_to(originals).as_posix() for path in pictures_in(originals)}:
        # Who comes or goes changes everybody's average.
        return "anew, the pictures have changed" if method == "k-same" else "go on"
    return "done"


def _expected_settings(method: str, given: Mapping[str, int]) -> dict[str, Any]:
    """The settings that a report will name."""
    from deid_diffusion.jobs.journal import describe
    from deid_diffusion.settings import Settings

    changes: dict[str, Any] = {name: value for name, value in given.items() if name != "seed"} | {"method": method}
    return _without_cohort(json.loads(json.dumps(describe(Settings(**changes)), default=str)))


def _without_cohort(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Without the cohort of k-same, known only when all pictures are analysed, and without what changes no output."""
    return {name: value for name, value in settings.items() if name not in ("cohort", "max_pixels")}


def _present(method: str) -> dict[str, str]:
    """sha256 of the shipped weight files that shape a method's outputs, named as a report names them."""
    from deid_diffusion.weight_files import check_hashes, weights_dir

    hashes = check_hashes(weights_dir("face256"))
    hashes |= {f"face_estimator/{name}": value for name, value in check_hashes(weights_dir("face_estimator")).items()}
    return {name: value for name, value in hashes.items() if _counts(method, name)}


def _counts(method: str, name: str) -> bool:
    return method not in _WEIGHTS or name.split("/")[0] in _WEIGHTS[method]


def _parser() -> argparse.ArgumentParser:
    parser = Parser("deid compare", description=__doc__, allow_abbrev=False)
    add: Any = parser.add_argument
    add("originals", type=Path, help="folder of pictures")
    add("-o", "--out", type=Path, default=Path("compare"), help="folder for outputs, reports and table.md (compare)")
    add(
        "--method", action="append", dest="methods", choices=METHODS,
        help=f"methods to compare; repeatable ({', '.join(METHODS)})",
    )  # fmt: skip
    add(
        "--no-attackers", action="store_false", dest="attackers",
        help="with a gallery, leave out the parrot attackers and the surroundings' floor, which take as long again",
    )  # fmt: skip
    add("--k", type=int, default=5, help="people that share one face by k-same (5)")
    add_judging(add)
    parser.set_defaults(seed=0)
    return parser
