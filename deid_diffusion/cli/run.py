"""Runs `deid run`: plans, checks, loads the model, works the jobs off, reports."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import complain, exit_code
from .options import parse

NOT_ANONYMIZED = (
    "cloaked: changed for recognisers like those that the change was made against, and still seen by every person. "
    "This is no anonymization"
)
_OF_METHODS = {
    "target": "swap", "attraction": "swap", "against": "perturb", "max_change": "perturb", "max_dssim": "perturb",
}  # fmt: skip


def main(argv: list[str]) -> int:
    """Returns the exit code: 0 all done, 1 something failed or had to stop, 2 nothing could be begun, 130 Ctrl-C.

    3 is as 0, but with faces that are only cloaked and so not anonymized. After another signal it is 128 and its
    number: 143 for SIGTERM.
    """
    options = parse(argv)
    if ("help", None) in options.set:
        return _print_attributes()
    from deid_diffusion.jobs import run as jobs
    from deid_diffusion.jobs.journal import Journal

    try:
        settings, clips = _settings(options), _clips(options)
        references = _references([*options.only, *options.keep])
        plan = _plan(options)
    except ValueError as error:
        return complain(str(error), 2)
    from .show import left_out

    journal = Journal(plan.folder)
    if not options.overwrite:
        foreign = [result for job in plan.jobs if (result := jobs.foreign_output(job, journal))]
        if len(foreign) == len(plan.jobs):
            # Nothing to do for the model: say so at once.
            more = f" (and {len(foreign) - 1} more like it)" if len(foreign) > 1 else ""
            skipped = f"; {left_out(plan.skipped)}" if plan.skipped else ""
            return complain(foreign[0].error + more + skipped, 1)
    anonymize = _load(options)
    try:
        settings = _completed(settings, anonymize, plan, references, options)
    except ValueError as error:
        return complain(str(error), 2)
    if options.preview:
        print("deid: the *_before_after.png files show the source faces; keep them to yourself", file=sys.stderr)
    return _work(plan, anonymize, settings, clips, journal, options)


def _work(plan: Any, anonymize: Any, settings: Any, clips: Any, journal: Any, options: argparse.Namespace) -> int:
    """Runs all jobs and writes the report, however it ends."""
    from deid_diffusion.jobs import run as jobs

    from .show import shown, summary, watch

    start, results, stopped, code = time.perf_counter(), [], "", 0
    if options.report:
        # Empty, to learn now and not in an hour that it cannot be written.
        _report(options, plan, anonymize, settings, [])
    try:
        with shown(len(plan.jobs)) as show:
            for result in jobs.run(
                plan.jobs, anonymize, settings, journal, options.overwrite, clips=clips, watch=watch
            ):
                results.append(result)
                show(result)
    except jobs.JobsStopped as error:
        stopped, code = str(error), 1
    except KeyboardInterrupt as interrupt:
        stopped, code = "interrupted", exit_code(interrupt)
    finally:
        took = time.perf_counter() - start
        if options.report:
            _report(options, plan, anonymize, settings, results)
    print(f"deid: {summary(results, len(plan.jobs), plan.skipped, took)}", file=sys.stderr)
    failed = _say_failures(results) | _say_unreadable(plan.skipped)
    if stopped:
        again = "the same command without --overwrite" if options.overwrite else "the same command"
        return complain(f"{stopped}; no output is half-written, and {again} goes on where this stopped", code)
    if not failed and not plan.keeps_journal:
        journal.remove()
    cloaked = sum(result.cloaked_faces for result in results)
    if cloaked:
        complain(f"{cloaked} face{'s' * (cloaked != 1)} {NOT_ANONYMIZED}", 3)
    return 1 if failed else 3 if cloaked else 0


def _say_failures(results: Sequence[Any]) -> bool:
    """Names on stderr the pictures that failed or have faces on which a model broke; whether there were any."""
    failed = [result for result in results if not result.ok or result.failed_faces]
    for result in failed if len(results) > 1 else ():
        complain(f"failed: {result.job.name}", 1)
    if broken := _first_failure(results):
        complain(f"a model broke, and its faces were hidden; the first reason: {broken}", 1)
    return bool(failed)


def _first_failure(results: Sequence[Any]) -> str:
    """Why a model broke; empty when none did."""
    return next((face["reason"] for result in results for face in result.faces if face["outcome"] == "failed"), "")


def _say_unreadable(skipped: Sequence[Any]) -> bool:
    """Names on stderr the folders that could not be listed; whether there were any."""
    from deid_diffusion.jobs.plan import UNREADABLE

    unreadable = [item for item in skipped if item.reason.startswith(UNREADABLE)]
    for item in unreadable:
        complain(f"failed: {item.path}: {item.reason}; nothing in it was done", 1)
    return bool(unreadable)


def _plan(options: argparse.Namespace) -> Any:
    """What to do; every complaint is a PlanError, and nothing is written or loaded for it."""
    from dataclasses import replace

    from deid_diffusion.jobs.places import check_report, linked_outputs
    from deid_diffusion.jobs.plan import PlanError, plan

    from .boxes import with_boxes

    planned = plan(
        options.inputs, options.out, options.seed, bool(options.preview), options.exclude, options.overwrite
    )
    if options.report:
        boxes = [options.boxes] if options.boxes else []
        check_report(options.report, planned, [*boxes, *options.only, *options.keep], options.overwrite)
    clip = next((job.in_path for job in planned.jobs if job.is_clip), None)
    if clip is not None and (options.boxes or options.method in ("k-same", "perturb")):
        what = "--boxes" if options.boxes else f"--method {options.method}"
        raise PlanError(f"{clip}: {what} is for pictures, and this is a clip; leave one of them out")
    if options.boxes_format and not options.boxes:
        raise PlanError("--boxes-format says what the numbers of --boxes are; give --boxes too")
    if options.boxes:
        boxed, notes = with_boxes(planned.jobs, options.boxes, options.boxes_format)
        planned = replace(planned, jobs=boxed)
        for note in notes:
            print(f"deid: {note}", file=sys.stderr)
    if options.keep_times:
        planned = replace(planned, jobs=tuple(replace(job, keep_times=True) for job in planned.jobs))
    if options.overwrite and (linked := linked_outputs(planned.jobs)):
        more = f" (and {len(linked) - 1} more like it)" if len(linked) > 1 else ""
        complain(f"{linked[0]}{more} is a hard link: this name gets the new picture, its other names keep the old", 0)
    return planned


def _settings(options: argparse.Namespace) -> Any:
    """The anonymizer's Settings. Unknown attributes and values out of range end here, before a weight is read."""
    from deid_diffusion.methods import find_method
    from deid_diffusion.methods.pseudonyms import Pseudonyms, check_pseudonyms
    from deid_diffusion.models.loading import check_speed
    from deid_diffusion.settings import Repulsion, Settings

    find_method(options.method)
    for name, method in _OF_METHODS.items():
        if getattr(options, name) not in (None, []) and options.method != method:
            said = f"--{name.replace('_', '-')}"
            raise ValueError(f"{said} is for --method {method}, got --method {options.method}; leave one of them out")
    check_speed(options.dtype, options.device)

    settings = Settings(
        steps=options.steps,
        candidates=options.candidates,
        guidance_scale=options.guidance,
        prompt=options.prompt,
        landmark_style=options.landmark_style,
        repulsion=Repulsion() if options.repulsion is None else Repulsion(scale=options.repulsion),
        strength=options.strength,
        attributes=dict(options.set),
        drop_attributes=tuple(options.drop),
        redact_with=options.redact_with,
        method=options.method,
        target="random" if options.target is None else options.target,
        attraction=Settings.attraction if options.attraction is None else options.attraction,
        quantization=options.quantization,
        against=tuple(options.against),
        max_change=Settings.max_change if options.max_change is None else options.max_change,
        max_dssim=Settings.max_dssim if options.max_dssim is None else options.max_dssim,
        threshold=options.threshold,
        k=options.k,
        panorama=options.panorama,
        keep_metadata=options.keep_metadata,
        max_pixels=options.max_pixels,
        pseudonyms=Pseudonyms(options.key) if options.key else None,
    )
    check_pseudonyms(settings)
    return settings


def _clips(options: argparse.Namespace) -> Any:
    """What was chosen about clips."""
    from deid_diffusion.video import ClipOptions

    names = ("audio", "crf", "codec", "stride", "motion", "start_s", "stop_s")
    return ClipOptions(**{name: getattr(options, name) for name in names})


def _references(paths: Sequence[Path]) -> list[str]:
    """Reference photos: files as they are, folders as the pictures in them."""
    from deid_diffusion.jobs.plan import PlanError, pictures_in

    photos: list[Path] = []
    for path in paths:
        if not os.path.exists(path):
            raise PlanError(f"{path}: wanted a reference photo or a folder of them, found nothing there")
        photos += pictures_in(path) if os.path.isdir(path) else [path]
    return [str(photo) for photo in photos]


def _completed(settings: Any, anonymize: Any, plan: Any, references: list[str], options: argparse.Namespace) -> Any:
    """The settings with what only a loaded model can add: the people to keep, and the people to average."""
    from dataclasses import replace

    anonymize.check(settings)
    if options.method == "swap":
        settings = _with_target(settings, anonymize, options.seed)
    if references:
        people = anonymize.embed_references(references)
        settings = replace(settings, **{"only" if options.only else "keep": people})
        print(f"deid: {_selection(people, bool(options.only))}", file=sys.stderr)
    return _with_cohort(settings, anonymize, plan) if options.method == "k-same" else settings


def _with_target(settings: Any, anonymize: Any, seed: int) -> Any:
    """Draws the random person once for all files, whose seeds differ; says who it is."""
    from deid_diffusion.methods.swap import same_target

    settings = same_target(settings, anonymize.bank, seed)
    print(f"deid: everybody becomes person {settings.target} of {len(anonymize.bank.embedding)}", file=sys.stderr)
    return settings


def _selection(people: Any, only: bool) -> str:
    """What is done with reference people, in words: the recogniser is weaker than the options sound."""
    count = f"{len(people.embedding)} reference photo{'s' * (len(people.embedding) != 1)}"
    if only:
        return (
            f"--only, {count}: leaves faces whose similarity is below {people.missed:.2f} and hides the rest, most "
            "strangers too, so as not to miss the person; the report names borderline faces"
        )
    limit = people.sure
    return (
        f"--except, {count}: leaves faces whose similarity is {limit:.2f} or more and hides the rest, most other "
        "photos of the person too, so as not to leave a stranger; the report names borderline faces"
    )


def _with_cohort(settings: Any, anonymize: Any, plan: Any) -> Any:
    """Looks at every picture, also at those that are done: whoever is published is averaged."""
    from dataclasses import replace

    print(f"deid: k-same looks at all {len(plan.jobs)} pictures first", file=sys.stderr)
    cohort = anonymize.fit_cohort(((job.in_path, job.boxes) for job in plan.jobs), settings)
    print(f"deid: {cohort.faces} faces, {cohort.people} people told apart", file=sys.stderr)
    return replace(settings, cohort=cohort)


def _load(options: argparse.Namespace) -> Any:
    from deid_diffusion import FaceAnonymizer

    if os.environ.get("TRANSFORMERS_VERBOSITY") == "error":
        import diffusers
        import transformers

        diffusers.utils.logging.disable_progress_bar()
        transformers.utils.logging.disable_progress_bar()
    # What was not given is left to the library's own defaults.
    names = ("pipeline", "revision", "controlnet", "preview_vae", "dtype", "backend")
    how = {name: getattr(options, name) for name in names}
    how = {name: value for name, value in how.items() if value is not None}
    return FaceAnonymizer.from_pretrained(options.model, device=options.device, **how)


def _report(options: argparse.Namespace, plan: Any, anonymize: Any, settings: Any, results: Sequence[Any]) -> None:
    from deid_diffusion.jobs.journal import describe

    from .report import write_report

    about = {
        "versions": anonymize.versions(),
        "seed": options.seed,
        "settings": describe(settings),
        "complete": len(results) == len(plan.jobs),
    }
    if cloaked := sum(result.cloaked_faces for result in results):
        about["warning"] = f"{cloaked} faces {NOT_ANONYMIZED}"
    left_out = [(str(item.path), item.reason) for item in plan.skipped]
    try:
        options.report.parent.mkdir(parents=True, exist_ok=True)
        write_report(options.report, results, about, left_out)
    except OSError as error:
        raise OSError(f"{options.report}: wanted to write the report there, got {error.strerror}") from error


def _print_attributes() -> int:
    from deid_diffusion.pipelines.conditioning import FIELDS

    for name, field in FIELDS.items():
        print(f"{name:<11}{field.low:g} to {field.high:g}: {field.unit}")
    return 0
